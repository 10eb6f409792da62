r"""The step in one launch of a Triton kernel: everything is read once, the new state written once.

.. math:: x_{k+1} = A_k x_k + B_k \hat x_{0,k} + C_k (\hat x_{0,k} - \hat x_{0,k-1}) + D_k \xi_k

Where the noise comes from a :class:`~dpmpp_core.PhiloxBridge`, its normals are made in registers
and never written. The sums are those of the plain step in :mod:`~dpmpp_core.sampler`, in float32
for half precision and else in the state's dtype, so that both agree to its rounding.

Only :mod:`~dpmpp_core.sampler` imports this, and only where Triton is installed; on a CPU it runs
with TRITON_INTERPRET=1 in the environment, slowly, for the tests.
"""

# Triton reads the annotations of a kernel's arguments: they must not become strings here.
import torch
import triton
import triton.language as tl
from torch import Tensor

from .noise.kernels import BLOCK, sums
from .noise.protocol import working_dtype

__all__ = ["advance", "advance_along"]

_FLAT = 1024  # elements in a program of the kernel without a path
_WORK = {torch.float32: tl.float32, torch.float64: tl.float64}


@triton.jit
def combine(
    out, x, denoised, previous, xi, coefficients, found, place, inside,
    HISTORY: tl.constexpr, NOISE: tl.constexpr, WORK: tl.constexpr,
):  # fmt: skip
    """Writes the new state of a block, and in ``found`` what of it is not finite."""
    state = tl.load(x + place, mask=inside, other=0.0).to(WORK)
    estimate = tl.load(denoised + place, mask=inside, other=0.0).to(WORK)
    new = tl.load(coefficients).to(WORK) * state + tl.load(coefficients + 1).to(WORK) * estimate
    if HISTORY:
        before = tl.load(previous + place, mask=inside, other=0.0).to(WORK)
        new += tl.load(coefficients + 2).to(WORK) * (estimate - before)
    if NOISE:
        new += tl.load(coefficients + 3).to(WORK) * xi.to(WORK)
    new = new.to(out.dtype.element_ty)
    tl.store(out + place, new, mask=inside)
    # Infinity and NaN, and no other number, are not 0 when they are multiplied by 0.
    lost = tl.sum(tl.where(new.to(WORK) * 0.0 == 0.0, 0.0, new.to(tl.float32)), axis=0)
    tl.store(found, lost, mask=lost != 0.0)


@triton.jit
def _advance(
    out, x, denoised, previous, xi, coefficients, found, total,
    HISTORY: tl.constexpr, NOISE: tl.constexpr, WORK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < total
    noise = tl.load(xi + place, mask=inside, other=0.0)
    combine(
        out, x, denoised, previous, noise, coefficients, found, place, inside, HISTORY, NOISE, WORK
    )


@triton.jit
def _advance_along(
    out, x, denoised, previous, path, seeds, nodes, to_path, to_xi, keep, coefficients, found,
    count, quads, elements, total,
    HISTORY: tl.constexpr, WORK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0).to(tl.int64) * BLOCK
    counter = block + tl.arange(0, BLOCK)
    new, xi = sums(seeds, nodes, to_path, to_xi, count, 0, quads, counter, counter < total, BLOCK)
    on_path = 4 * block + tl.arange(0, 4 * BLOCK)
    inside = on_path < 4 * total
    old = tl.load(path + on_path, mask=inside, other=0.0)
    tl.store(path + on_path, new, mask=inside)
    row, column = on_path // (4 * quads), on_path % (4 * quads)
    xi -= tl.load(keep) * old
    inside = inside & (column < elements)
    combine(
        out, x, denoised, previous, xi, coefficients, found, row * elements + column, inside,
        HISTORY, True, WORK,
    )  # fmt: skip


def advance(
    coefficients: Tensor,
    x: Tensor,
    denoised: Tensor,
    previous: Tensor | None,
    xi: Tensor | None,
    found: Tensor,
    out: Tensor | None = None,
) -> Tensor:
    """The new state, with noise that is there already.

    Args:
        coefficients: A, B, C, D, float64 of shape ``(4,)`` on the state's device.
        x: the state; all tensors have its shape, device and dtype.
        denoised: the estimate at x.
        previous: the estimate of the step before; None where C = 0.
        xi: the unit normal; None where D = 0.
        found: float32 of one element; infinity or NaN is written to it if the new state holds one.
        out: where the new state is written; it may be x itself. None for a new tensor.
    """
    x, denoised = x.contiguous(), denoised.contiguous()
    out = torch.empty_like(x) if out is None else out
    _advance[(triton.cdiv(x.numel(), _FLAT),)](
        out, x, denoised, x if previous is None else previous.contiguous(),
        x if xi is None else xi.contiguous(), coefficients, found, x.numel(),
        HISTORY=previous is not None, NOISE=xi is not None, WORK=_WORK[working_dtype(x.dtype)],
        BLOCK=_FLAT,
    )  # fmt: skip
    return out


def advance_along(
    coefficients: Tensor,
    x: Tensor,
    denoised: Tensor,
    previous: Tensor | None,
    path: Tensor,
    seeds: Tensor,
    move: tuple[Tensor, Tensor, Tensor, Tensor],
    found: Tensor,
    out: Tensor | None = None,
) -> Tensor:
    """The new state, with the noise of Brownian paths, which are taken to the step's end.

    ``path``, ``seeds`` and ``move`` (nodes, their two weights, and c) are those of
    :func:`dpmpp_core.noise.philox.move`, the rest those of :func:`advance`.
    """
    x, denoised = x.contiguous(), denoised.contiguous()
    out = torch.empty_like(x) if out is None else out
    total = path.numel() // 4
    _advance_along[(triton.cdiv(total, BLOCK),)](
        out, x, denoised, x if previous is None else previous.contiguous(), path, seeds, *move,
        coefficients, found, len(move[0]), path.shape[1] // 4, x.numel() // len(x), total,
        HISTORY=previous is not None, WORK=_WORK[working_dtype(x.dtype)], BLOCK=BLOCK,
    )  # fmt: skip
    return out
