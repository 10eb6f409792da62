r"""The step in one pass over memory on the host, compiled by numba.

.. math:: x_{k+1} = A_k x_k + B_k \hat x_{0,k} + C_k (\hat x_{0,k} - \hat x_{0,k-1}) + D_k \xi_k

The plain step of :mod:`~dpmpp_core.sampler` takes one pass for each term, and one more to see that
the new state is finite. Here everything is read once and written once, and what is not finite is
noticed on the way. The sums are the same, in the state's dtype.

Only :mod:`~dpmpp_core.sampler` imports this, and only where numba is installed.
"""

from __future__ import annotations

from typing import Any

import torch
from numba import njit
from torch import Tensor

from .coefficients import Coefficients
from .noise.compiled import in_parts

__all__ = ["DTYPES", "advance"]

DTYPES = (torch.float32, torch.float64)
"""What :func:`advance` takes; half precision is left to torch."""

LEAST = 1 << 18
"""Elements for which a thread of their own pays."""


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})  # type: ignore[untyped-decorator]
def _advance(out: Any, x: Any, denoised: Any, previous: Any, xi: Any, row: Any) -> Any:
    """Fills ``out``; returns whether a number of it is not finite."""
    kind = out.dtype.type
    a, b, c, d = kind(row[0]), kind(row[1]), kind(row[2]), kind(row[3])
    lost = False
    # A tensor whose factor is 0 is not read: where there is none, x stands in its place.
    if row[2] == 0.0 and row[3] == 0.0:
        for i in range(out.size):
            out[i] = a * x[i] + b * denoised[i]
            lost |= out[i] - out[i] != 0.0
    elif row[3] == 0.0:
        for i in range(out.size):
            out[i] = a * x[i] + b * denoised[i] + c * (denoised[i] - previous[i])
            lost |= out[i] - out[i] != 0.0
    elif row[2] == 0.0:
        for i in range(out.size):
            out[i] = a * x[i] + b * denoised[i] + d * xi[i]
            lost |= out[i] - out[i] != 0.0
    else:
        for i in range(out.size):
            out[i] = a * x[i] + b * denoised[i] + c * (denoised[i] - previous[i]) + d * xi[i]
            lost |= out[i] - out[i] != 0.0
    return lost


def advance(
    coefficients: Coefficients,
    x: Tensor,
    denoised: Tensor,
    previous: Tensor | None = None,
    xi: Tensor | None = None,
) -> tuple[Tensor, bool]:
    """The new state, and whether all its numbers are finite.

    Args:
        coefficients: A, B, C, D.
        x: the state, on the host, of one of :data:`DTYPES`; all tensors have its shape and dtype.
        denoised: the estimate at x.
        previous: the estimate of the step before; may be None where C = 0.
        xi: the unit normal; may be None where D = 0.
    """
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    given = (out, x, denoised, x if previous is None else previous, x if xi is None else xi)
    arrays = [t.detach().contiguous().numpy().reshape(-1) for t in given]
    if x.numel() < 2 * LEAST:
        lost = _advance(*arrays, coefficients)
    else:
        lost = any(
            in_parts(
                lambda begin, end: _advance(*(a[begin:end] for a in arrays), coefficients),
                x.numel(),
                LEAST,
            )
        )
    # The new state lies in memory as the old one does.
    return out if x.is_contiguous() else torch.empty_like(x).copy_(out), not lost
