r"""The Brownian bridge's sums of normals on a GPU, in one launch of a Triton kernel.

A program of the kernel has a block of counters. It keeps their sums in registers while it goes
through the nodes, and touches memory once: the old path is read, the new path and the normals are
written. The words are those of :func:`~dpmpp_core.noise.philox.philox4x32`, for which Triton has
the function, and the normals those of :func:`~dpmpp_core.noise.philox.box_muller`.

Only :mod:`~dpmpp_core.noise.bridge` and :mod:`~dpmpp_core.fused` import this, and only where Triton
is installed. With TRITON_INTERPRET=1 in the environment it runs on a CPU, slowly: so it is tested
where there is no GPU.
"""

# Triton reads the annotations of a kernel's arguments: they must not become strings here.
import math

import triton
import triton.language as tl
from torch import Tensor

__all__ = ["move"]

BLOCK = 128
"""Counters, each of four normals, in a program."""

_TAU = tl.constexpr(math.tau)


@triton.jit
def uniform(word):
    """(word + 1/2) / 2^32, exactly."""
    return (word.to(tl.float64) + 0.5) * (1.0 / 4294967296.0)


@triton.jit
def in_order(a, b, c, d):
    """a[0], b[0], c[0], d[0], a[1], ..."""
    return tl.interleave(tl.interleave(a, c), tl.interleave(b, d))


@triton.jit
def sums(
    seeds, nodes, to_path, to_xi, count, first_quad, quads, counter, inside, BLOCK: tl.constexpr
):
    """Both weighted sums of the normals of a block of counters, in the order of the elements."""
    seed = tl.load(seeds + counter // quads, mask=inside, other=0)
    quad = counter % quads + first_quad
    low, high = (quad & 0xFFFFFFFF).to(tl.uint32), (quad >> 32).to(tl.uint32)
    zero = tl.zeros([BLOCK], dtype=tl.float64)
    p0, p1, p2, p3 = zero, zero, zero, zero
    x0, x1, x2, x3 = zero, zero, zero, zero
    for j in range(count):
        node = tl.load(nodes + j).to(tl.uint32)
        w, v = tl.load(to_path + j), tl.load(to_xi + j)
        none = tl.zeros([BLOCK], dtype=tl.uint32)
        c0, c1, c2, c3 = tl.philox(seed, low, none + node, none, high)
        radius, angle = tl.sqrt(-2.0 * tl.log(uniform(c0))), uniform(c1) * _TAU
        z0, z1 = radius * tl.cos(angle), radius * tl.sin(angle)
        radius, angle = tl.sqrt(-2.0 * tl.log(uniform(c2))), uniform(c3) * _TAU
        z2, z3 = radius * tl.cos(angle), radius * tl.sin(angle)
        p0, p1, p2, p3 = p0 + w * z0, p1 + w * z1, p2 + w * z2, p3 + w * z3
        x0, x1, x2, x3 = x0 + v * z0, x1 + v * z1, x2 + v * z2, x3 + v * z3
    return in_order(p0, p1, p2, p3), in_order(x0, x1, x2, x3)


@triton.jit
def _move(
    path, xi, seeds, nodes, to_path, to_xi, keep, count, first_quad, quads, elements, total,
    BLOCK: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0).to(tl.int64) * BLOCK
    counter = block + tl.arange(0, BLOCK)
    new, out = sums(
        seeds, nodes, to_path, to_xi, count, first_quad, quads, counter, counter < total, BLOCK
    )
    place = 4 * block + tl.arange(0, 4 * BLOCK)
    inside = place < 4 * total
    old = tl.load(path + place, mask=inside, other=0.0)
    tl.store(path + place, new, mask=inside)
    row, column = place // (4 * quads), place % (4 * quads)
    xi_place = row * elements + column
    out = (out - tl.load(keep) * old).to(xi.dtype.element_ty)
    tl.store(xi + xi_place, out, mask=inside & (column < elements))


def move(
    path: Tensor,
    xi: Tensor,
    seeds: Tensor,
    nodes: Tensor,
    to_path: Tensor,
    to_xi: Tensor,
    keep: Tensor,
    first_quad: int = 0,
) -> None:
    """What :func:`dpmpp_core.noise.philox.move` does, in one launch."""
    total = path.numel() // 4
    _move[(triton.cdiv(total, BLOCK),)](
        path, xi, seeds, nodes, to_path, to_xi, keep, len(nodes), first_quad, path.shape[1] // 4,
        xi.shape[1], total, BLOCK=BLOCK,
    )  # fmt: skip
