r"""Unit normals as a pure function of (seed, node, element): Philox4x32-10 and Box-Muller.

A generator with a state gives the next number; this one gives *the* number of a place. A key (the
seed) and a counter (the place) go through ten rounds of multiply and xor, and four 32-bit words
come out. So any device, in any order, and the page's JavaScript (``widgets/philox.js``) draw the
same: words bit for bit, normals to an ulp or so of float64.

The counter of the normals of four neighbouring elements of a sample is

===== ==================================================
word  value
===== ==================================================
0     element // 4, low 32 bits
1     node, the name of one normal of the path
2     :data:`STREAM`
3     element // 4, high 32 bits
===== ==================================================

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3",
https://doi.org/10.1145/2063384.2063405, section 3.3; Box and Muller 1958.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

__all__ = ["STREAM", "box_muller", "key_words", "move", "philox4x32", "unit_normals"]

STREAM = 0
"""The counter's third word. Another use of the same seed takes another number, and its normals are
independent of these."""

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
# The key grows each round by the golden ratio and by sqrt(3) - 1, as fractions of 2^32.
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORD = 0xFFFFFFFF

_TILE_HOST, _TILE_DEVICE = 1 << 17, 1 << 20
"""Counters per call of Philox in :func:`move`, about 120 bytes of working memory each. On a host,
fewer cost more in calls and more gain nothing; an accelerator needs more to be busy."""

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox4x32(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """Ten rounds of Philox4x32.

    Args:
        counter: four int64 tensors of 32-bit words (0 to 2^32 - 1).
        key: two int64 tensors of 32-bit words. All six broadcast against each other. Words that
            few places share should come in small shapes: the first rounds then stay small.

    Returns:
        Four int64 tensors of 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # A product of two words fills all 64 bits and may wrap to a negative number: its two's
        # complement holds the right bits, and `& _WORD` takes 32 of them. c1 and c3 are only ever
        # xor-ed, so what they carry above bit 31 is cut off with the rest.
        left, right = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = ((right >> 32) ^ c1 ^ k0) & _WORD, right
        c2, c3 = ((left >> 32) ^ c3 ^ k1) & _WORD, left
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1 & _WORD, c2, c3 & _WORD


def box_muller(radius: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    r"""Two unit normals from two words, in float64.

    .. math:: \sqrt{-2 \log u}\, (\cos 2\pi v, \sin 2\pi v), \qquad
              u, v = (\text{word} + \tfrac12) / 2^{32} \in (0, 1)

    The half keeps u away from 0, so that the largest normal is 6.77.
    """
    r = radius.double().add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    phi = angle.double().add_(0.5).mul_(math.tau * 2.0**-32)
    return r * phi.cos(), phi.sin_().mul_(r)


def unit_normals(key: tuple[Tensor, Tensor], nodes: Tensor, quads: Tensor) -> Tensor:
    """The normals of K nodes for the elements 4 q, 4 q + 1, 4 q + 2, 4 q + 3 of S samples.

    Args:
        key: the low and the high words of the seeds, shape ``(S, 1)``: see :func:`key_words`.
        nodes: shape ``(K,)``, int64 from 0 to 2^32 - 1.
        quads: the numbers q = element // 4, shape ``(Q,)``, int64, not negative.

    Returns:
        float64 of shape ``(K, 4, S, Q)``: entry ``[k, j, i, q]`` belongs to element ``4 q + j``.
    """
    stream = torch.full_like(nodes[:1], STREAM)
    w0, w1, w2, w3 = philox4x32((quads & _WORD, nodes[:, None, None], stream, quads >> 32), key)
    return torch.stack((*box_muller(w0, w1), *box_muller(w2, w3)), dim=1)


def key_words(seeds: Iterable[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """The low and the high 32 bits of each seed in [0, 2^64), as int64 of shape ``(S, 1)``."""
    seeds = list(seeds)
    low = torch.tensor([s & _WORD for s in seeds], dtype=torch.int64, device=device)
    high = torch.tensor([s >> 32 for s in seeds], dtype=torch.int64, device=device)
    return low[:, None], high[:, None]


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

    This is the reference: plain torch, on any device. ``compiled.py`` and
    ``kernels.py`` beside this file have the same function in one pass over memory.

    Args:
        path: p, float64 of shape ``(B, 4 Q)``, contiguous; modified.
        xi: shape ``(B, E)``, E <= 4 Q, float32 or float64, contiguous; overwritten.
        seeds: shape ``(B,)``, int64 whose 64 bits are the seeds.
        nodes: shape ``(J,)``, int64 from 0 to 2^32 - 1.
        to_path, to_xi: the weights w and v, float64 of shape ``(J,)``.
        keep: the factor c, float64 without dimensions.
        first_quad: the number, element // 4, of the first four elements.
    """
    elements, quads = xi.shape[1], path.shape[1] // 4
    key = ((seeds & _WORD)[:, None], ((seeds >> 32) & _WORD)[:, None])
    size = _TILE_HOST if path.device.type == "cpu" else _TILE_DEVICE
    for rows, columns in _tiles(len(path), quads, size):
        numbers = torch.arange(columns.start, columns.stop, device=path.device) + first_quad
        part = path[rows, 4 * columns.start : 4 * columns.stop].view(len(path[rows]), -1, 4)
        new, out = torch.zeros_like(part), part * -keep
        at_once = max(1, size // part[..., 0].numel())
        for i in range(0, len(nodes), at_once):
            group = slice(i, i + at_once)
            normals = unit_normals((key[0][rows], key[1][rows]), nodes[group], numbers)
            for z, w, v in zip(normals, to_path[group], to_xi[group], strict=True):
                z = z.permute(1, 2, 0)
                new.add_(w * z)
                out.add_(v * z)
        end = min(4 * columns.stop, elements)
        xi[rows, 4 * columns.start : end] = out.flatten(1)[:, : end - 4 * columns.start]
        part.copy_(new)


def _tiles(rows: int, columns: int, size: int) -> Iterator[tuple[slice, slice]]:
    """A table cut into pieces of at most ``size`` entries."""
    width = min(columns, size)
    height = size // width
    for row in range(0, rows, height):
        for column in range(0, columns, width):
            yield (
                slice(row, min(row + height, rows)),
                slice(column, min(column + width, columns)),
            )
