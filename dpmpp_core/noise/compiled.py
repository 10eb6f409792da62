r"""The Brownian bridge's sums of normals on the host, compiled by numba.

The same words as :func:`~dpmpp_core.noise.philox.philox4x32` and the same normals to a few ulps of
float64, at a fraction of the time: a tile of the state stays in the cache while the normals of all
nodes are added to it, and everything in the inner loop is arithmetic on 64-bit lanes, so that the
compiler turns it into vector instructions. That is why log, cosine and sine are polynomials here:
a call of a library would end the vector. Their coefficients are the classical minimax ones of
Sun's fdlibm (``e_log.c``, ``k_sin.c``, ``k_cos.c``), good to an ulp in the ranges they are given.

Only :mod:`~dpmpp_core.noise.bridge` imports this, and only where numba is installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

__all__ = ["in_parts", "move"]

TILE = 256
"""Counters, each of four normals, that are worked on together: 24 kB."""

LEAST = 512
"""Counters for which a thread of their own pays."""

U64, I64 = np.uint64, np.int64
_M0, _M1 = U64(0xD2511F53), U64(0xCD9E8D57)
_W0, _W1 = U64(0x9E3779B9), U64(0xBB67AE85)
_WORD, _HALF = U64(0xFFFFFFFF), U64(32)

# A double in [2^52, 2^53) has its integer part in its low bits.
_AS_2_52, _2_52 = I64(0x4330000000000000), 2.0**52
_ROUND = 1.5 * 2.0**52  # x + _ROUND - _ROUND is x rounded to an integer
_ROOT_HALF = I64(0x3FE6A09E667F3BCD)  # the bits of sqrt(1/2)
_BIAS = U64(1024)  # keeps exponents positive: there is no arithmetic shift of 64-bit lanes
_MANTISSA = U64(52)
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10


@intrinsic  # type: ignore[untyped-decorator]
def _bits(context: Any, x: Any) -> Any:
    """The 64 bits of a double, as an integer."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return types.int64(types.float64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _double(context: Any, x: Any) -> Any:
    """The double that has these 64 bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), generate


@njit(inline="always")  # type: ignore[untyped-decorator]
def _uniform(word: Any) -> Any:
    """(word + 1/2) / 2^32, exactly."""
    return (_double(I64(word) | _AS_2_52) - (_2_52 - 0.5)) * 2.0**-32


@njit(inline="always")  # type: ignore[untyped-decorator]
def _log(x: Any) -> Any:
    """log x = k log 2 + log(1 + f) with 1 + f in [sqrt(1/2), sqrt(2))."""
    bits = _bits(x)
    exponent = (U64(bits - _ROOT_HALF) + (_BIAS << _MANTISSA)) >> _MANTISSA
    f = _double(bits - I64((exponent << _MANTISSA) - (_BIAS << _MANTISSA))) - 1.0
    k = _double(I64(exponent) | _AS_2_52) - (_2_52 + 1024.0)
    s = f / (2.0 + f)
    z = s * s
    r = z * (
        6.666666666666735130e-01
        + z * (3.999999999940941908e-01
        + z * (2.857142874366239149e-01
        + z * (2.222219843214978396e-01
        + z * (1.818357216161805012e-01
        + z * (1.531383769920937332e-01
        + z * 1.479819860511658591e-01)))))
    )  # fmt: skip
    half = 0.5 * f * f
    return k * _LN2_HIGH - ((half - (s * (half + r) + k * _LN2_LOW)) - f)


@njit(inline="always")  # type: ignore[untyped-decorator]
def _cos_sin(v: Any) -> Any:
    """cos and sin of 2 pi v for v in (0, 1): v is 4 v quarter turns, q whole ones and a rest."""
    shifted = 4.0 * v + _ROUND
    q = _bits(shifted)
    t = (4.0 * v - (shifted - _ROUND)) * (0.5 * math.pi)
    z = t * t
    sin = t + t * z * (
        -1.66666666666666324348e-01
        + z * (8.33333333332248946124e-03
        + z * (-1.98412698298579493134e-04
        + z * (2.75573137070700676789e-06
        + z * (-2.50507602534068634195e-08
        + z * 1.58969099521155010221e-10))))
    )  # fmt: skip
    cos = 1.0 - (0.5 * z - z * z * (
        4.16666666666666019037e-02
        + z * (-1.38888888888741095749e-03
        + z * (2.48015872894767294178e-05
        + z * (-2.75573143513906633035e-07
        + z * (2.08757232129817482790e-09
        + z * -1.13596475577881948265e-11))))
    ))  # fmt: skip
    odd = (q & I64(1)) != I64(0)
    along, across = (sin, cos) if odd else (cos, sin)
    # Cosine is negative in the quarters 1 and 2, sine in 2 and 3: bit 1 of q moves to the sign's.
    of_cos = I64(((U64(q) + U64(1)) & U64(2)) << U64(62))
    of_sin = I64((U64(q) & U64(2)) << U64(62))
    return _double(_bits(along) ^ of_cos), _double(_bits(across) ^ of_sin)


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})  # type: ignore[untyped-decorator]
def _move_part(
    path: Any, xi: Any, seeds: Any, nodes: Any, to_path: Any, to_xi: Any, keep: Any,
    first_quad: Any, begin: Any, end: Any,
) -> None:  # fmt: skip
    """The counters ``begin`` to ``end``, numbered through all samples. See :func:`move`."""
    elements, quads = xi.shape[1], path.shape[1] // 4
    key_low, key_high = np.empty(TILE, np.uint64), np.empty(TILE, np.uint64)
    quad_low, quad_high = np.empty(TILE, np.uint64), np.empty(TILE, np.uint64)
    new, out = np.empty((4, TILE)), np.empty((4, TILE))
    for start in range(begin, end, TILE):
        count = min(TILE, end - start)
        for i in range(count):
            seed, quad = seeds[(start + i) // quads], U64(first_quad + (start + i) % quads)
            key_low[i], key_high[i] = seed & _WORD, seed >> _HALF
            quad_low[i], quad_high[i] = quad & _WORD, quad >> _HALF
        new[:] = 0.0
        out[:] = 0.0
        for j in range(len(nodes)):
            node, w, v = nodes[j], to_path[j], to_xi[j]
            for i in range(count):
                c0, c1, c2, c3 = quad_low[i], node, U64(0), quad_high[i]
                k0, k1 = key_low[i], key_high[i]
                for _ in range(10):
                    left, right = c0 * _M0, c2 * _M1
                    c0, c1 = (right >> _HALF) ^ c1 ^ k0, right & _WORD
                    c2, c3 = (left >> _HALF) ^ c3 ^ k1, left & _WORD
                    k0, k1 = (k0 + _W0) & _WORD, (k1 + _W1) & _WORD
                radius = math.sqrt(-2.0 * _log(_uniform(c0)))
                cos, sin = _cos_sin(_uniform(c1))
                z0, z1 = radius * cos, radius * sin
                radius = math.sqrt(-2.0 * _log(_uniform(c2)))
                cos, sin = _cos_sin(_uniform(c3))
                z2, z3 = radius * cos, radius * sin
                new[0, i] += w * z0
                new[1, i] += w * z1
                new[2, i] += w * z2
                new[3, i] += w * z3
                out[0, i] += v * z0
                out[1, i] += v * z1
                out[2, i] += v * z2
                out[3, i] += v * z3
        for i in range(count):
            sample, first = (start + i) // quads, 4 * ((start + i) % quads)
            for e in range(4):
                if first + e < elements:
                    xi[sample, first + e] = out[e, i] - keep * path[sample, first + e]
                path[sample, first + e] = new[e, i]


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
    r"""Take a batch of paths from one level to the next, and give the normals of that step.

    .. math:: \xi = \sum_j v_j Z_j - c\, p, \qquad p \leftarrow \sum_j w_j Z_j

    Args:
        path: p, float64 of shape ``(B, 4 Q)``, contiguous, on the host; modified.
        xi: shape ``(B, E)``, E <= 4 Q, float32 or float64, contiguous, on the host; overwritten.
        seeds: shape ``(B,)``, int64 whose bits are the seeds.
        nodes: shape ``(J,)``, int64 from 0 to 2^32 - 1.
        to_path, to_xi: the weights w and v, float64 of shape ``(J,)``.
        keep: the factor c, float64 without dimensions.
        first_quad: the number, element // 4, of the first four elements.

    The work is shared among as many threads as torch has.
    """
    arguments = (
        path.numpy(), xi.numpy(), seeds.numpy().view(U64), nodes.numpy().view(U64), to_path.numpy(),
        to_xi.numpy(), float(keep), first_quad,
    )  # fmt: skip
    in_parts(lambda begin, end: _move_part(*arguments, begin, end), path.numel() // 4, LEAST)


def in_parts(work: Callable[[int, int], Any], count: int, least: int) -> list[Any]:
    """What ``work(begin, end)`` returns for the parts of 0 to ``count``.

    There are as many parts, and threads, as torch has threads, if none is to have less than
    ``least``. numba's own threads are not used: they may not be entered from two places at once.
    """
    threads = max(1, min(torch.get_num_threads(), count // least))
    if threads == 1:
        return [work(0, count)]
    ends = [count * i // threads for i in range(threads + 1)]
    return list(_pool(threads).map(lambda part: work(*part), pairwise(ends)))


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "dpmpp")
