"""The host's compiled sums of normals, against the plain ones and against 30 digits."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from dpmpp_core import PhiloxBridge, schedule
from dpmpp_core.noise import compiled, philox

F64 = torch.float64
ULP = 2.0**-52
LARGEST = 6.78  # of a normal: sqrt(-2 log(2^-33))


@njit
def elementary(words: Any) -> Any:
    """log u, cos 2 pi u and sin 2 pi u for u = (word + 1/2) / 2^32, as the module computes them."""
    out = np.empty((3, len(words)))
    for i in range(len(words)):
        u = compiled._uniform(words[i])
        out[0, i] = compiled._log(u)
        out[1, i], out[2, i] = compiled._cos_sin(u)
    return out


def test_log_cosine_and_sine_are_good_to_two_ulps_of_30_digits() -> None:
    edges = [0, 1, 2**30 - 1, 2**30, 2**31 - 1, 2**31, 3 * 2**30, 2**32 - 1, 3037000499]
    words = np.array([*edges, *np.random.default_rng(0).integers(0, 2**32, 4000)], dtype=np.uint64)
    found = elementary(words)
    with mpmath.workdps(30):
        for word, values in zip(words.tolist(), found.T.tolist(), strict=True):
            u = mpmath.mpf(2 * word + 1) / 2**33
            exact = (mpmath.log(u), mpmath.cos(2 * mpmath.pi * u), mpmath.sin(2 * mpmath.pi * u))
            # The angle is rounded before its cosine is taken, so those have an absolute bound.
            bounds = (2 * ULP * float(-exact[0]), 2 * ULP, 2 * ULP)
            for value, true, bound in zip(values, exact, bounds, strict=True):
                assert abs(mpmath.mpf(value) - true) <= bound, word


seeds = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    seeds=seeds,
    elements=st.integers(1, 2100),
    count=st.integers(1, 27),
    first_quad=st.one_of(st.just(0), st.integers(2**31, 2**40)),
    draw=st.integers(0, 2**32),
)
def test_it_moves_a_path_as_the_plain_function_does(
    seeds: list[int], elements: int, count: int, first_quad: int, draw: int
) -> None:
    """Elements beyond 2^31, where the counter's high word is not 0, among them."""
    generator = torch.Generator().manual_seed(draw)
    nodes = torch.randint(0, 2**32, (count,), generator=generator)
    w, v = torch.randn(2, count, generator=generator, dtype=F64)
    keep = torch.tensor(0.7, dtype=F64)
    quads = -(-elements // 4)
    path = torch.randn(len(seeds), 4 * quads, generator=generator, dtype=F64)
    xi = torch.full((len(seeds), elements), math.nan, dtype=F64)
    arguments = (torch.tensor(seeds), nodes, w, v, keep, first_quad)
    plain_path, plain_xi = path.clone(), xi.clone()
    philox.move(plain_path, plain_xi, *arguments)
    compiled.move(path, xi, *arguments)
    size = LARGEST * float(w.abs().sum().maximum(v.abs().sum()))
    assert float((path - plain_path).abs().max()) <= 4 * ULP * size
    assert float((xi - plain_xi).abs().max()) <= 4 * ULP * size


def test_the_number_of_threads_does_not_show() -> None:
    sigmas = schedule.karras(4, 0.03, 14.6)
    x = torch.zeros(3, 5000, dtype=F64)
    threads = torch.get_num_threads()
    drawn = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            drawn.append(PhiloxBridge(x, sigmas, 5)(sigmas[0], sigmas[1]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_the_bridge_takes_it_on_a_host_and_can_be_told_not_to(dtype: torch.dtype) -> None:
    sigmas = schedule.karras(4, 0.03, 14.6)
    x = torch.zeros(2, 3, 7, dtype=dtype)
    default, numba, plain = (
        PhiloxBridge(x, sigmas, 5, backend=backend)  # type: ignore[arg-type]
        for backend in (None, "numba", "torch")
    )
    assert default._move is numba._move is compiled.move
    assert plain._move is philox.move
    for a, b in ((0, 1), (1, 2), (0, 3)):
        levels = sigmas[a], sigmas[b]
        assert torch.equal(default(*levels), numba(*levels))
        found, expected = default(*levels).double(), plain(*levels).double()
        assert float((found - expected).abs().max()) <= 7 * torch.finfo(dtype).eps
