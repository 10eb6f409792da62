r"""The step in one pass over memory on the host, compiled by numba.

.. math:: x_{k+1} = A_k x_k + B_k \hat x_{0,k} + C_k (\hat x_{0,k} - \hat x_{0,k-1}) + D_k \xi_k

The plain step of :mod:`~dpmpp_core.sampler` takes one pass for each term, and one more to see that
the new state is finite. Here everything is read once and written once, and what is not finite is
noticed on the way. The sums are the same, in the state's dtype.

Only :mod:`~dpmpp_core.sampler` imports this, and only where numba is installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import carray, njit, types
from numba.extending import intrinsic
from torch import Tensor

from .coefficients import Coefficients
from .noise.compiled import in_parts

__all__ = ["DTYPES", "advance"]

_ONE = {torch.float32: np.float32(1.0), torch.float64: np.float64(1.0)}

DTYPES = tuple(_ONE)
"""What :func:`advance` takes; half precision is left to torch."""

LEAST = 1 << 18
"""Elements for which a thread of their own pays."""


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(context: Any, address: Any, one: Any) -> Any:
    """The address of numbers of the type of ``one``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(one)(address, one), generate


# Addresses, because five arrays of numpy around tensors cost more than a small step.
@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})  # type: ignore[untyped-decorator]
def _advance(
    out_at: Any, x_at: Any, denoised_at: Any, previous_at: Any, xi_at: Any,
    a: Any, b: Any, c: Any, d: Any, count: Any, one: Any,
) -> Any:  # fmt: skip
    """Fills ``count`` numbers of ``out``; returns whether one of them is not finite."""
    out = carray(_pointer(out_at, one), count)
    x = carray(_pointer(x_at, one), count)
    denoised = carray(_pointer(denoised_at, one), count)
    previous = carray(_pointer(previous_at, one), count)
    xi = carray(_pointer(xi_at, one), count)
    kind = out.dtype.type
    a, b, c, d = kind(a), kind(b), kind(c), kind(d)
    lost = False
    # A tensor whose factor is 0 is not read: where there is none, x stands in its place.
    if c == 0.0 and d == 0.0:
        for i in range(out.size):
            out[i] = a * x[i] + b * denoised[i]
            lost |= out[i] - out[i] != 0.0
    elif d == 0.0:
        for i in range(out.size):
            out[i] = a * x[i] + b * denoised[i] + c * (denoised[i] - previous[i])
            lost |= out[i] - out[i] != 0.0
    elif c == 0.0:
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
    # The list keeps what had to be copied alive while the addresses are in use.
    given = [t.contiguous() for t in (x, denoised, x if previous is None else previous)]
    given += [given[0] if xi is None else xi.contiguous()]
    at = [t.data_ptr() for t in (out, *given)]
    one, count, size = _ONE[x.dtype], x.numel(), x.element_size()

    def part(begin: int, end: int) -> bool:
        there = (address + begin * size for address in at)
        found: bool = _advance(*there, *coefficients, end - begin, one)
        return found

    small = count < 2 * LEAST
    lost = part(0, count) if small else any(in_parts(part, count, LEAST))
    # The new state lies in memory as the old one does.
    return out if x.is_contiguous() else torch.empty_like(x).copy_(out), not lost
