"""The host's step in one pass, against the plain sum of four terms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import dpmpp_core as dp
from dpmpp_core import fused_host

ROW = dp.Coefficients(0.7, 0.29, 0.11, 1.3)
SIZES = [1, 7, 4096, 3 * fused_host.LEAST + 5]


def draw(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def expected(
    row: dp.Coefficients, x: Tensor, denoised: Tensor, previous: Tensor | None, xi: Tensor | None
) -> Tensor:
    """In float64, from the formula."""
    x, denoised = x.double(), denoised.double()
    new = row.A * x + row.B * denoised
    if previous is not None:
        new = new + row.C * (denoised - previous.double())
    return new if xi is None else new + row.D * xi.double()


@pytest.mark.parametrize("dtype", fused_host.DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("history", "noise"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_it_is_the_sum_of_the_terms(
    dtype: torch.dtype, size: int, history: int, noise: int
) -> None:
    x, denoised, previous, xi = (draw(1, size, seed=i, dtype=dtype) for i in range(4))
    row = ROW._replace(C=ROW.C * history, D=ROW.D * noise)
    given = (previous if history else None, xi if noise else None)
    before = [tensor.clone() for tensor in (x, denoised, previous, xi)]
    new, finite = fused_host.advance(row, x, denoised, *given)
    assert finite
    assert (new.dtype, new.shape) == (dtype, x.shape)
    terms = 0.7 * x.abs() + 0.29 * denoised.abs() + 0.22 * (denoised.abs() + previous.abs())
    bound = 4 * torch.finfo(dtype).eps * (terms + 1.3 * xi.abs()).double()
    assert bool(((new - expected(row, x, denoised, *given)).abs() <= bound).all())
    for old, tensor in zip(before, (x, denoised, previous, xi), strict=True):
        assert torch.equal(old, tensor)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", fused_host.DTYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_is_seen_wherever_it_is(
    dtype: torch.dtype, value: float, threads: int
) -> None:
    size = 3 * fused_host.LEAST + 5
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for place in (0, 1, 17, size // 2, size - 1):
            tensors = [draw(size, seed=i, dtype=dtype) for i in range(4)]
            for tensor in tensors:
                kept = float(tensor[place])
                tensor[place] = value
                new, finite = fused_host.advance(ROW, *tensors)
                assert not finite
                assert not bool(new[place].isfinite())
                tensor[place] = kept
            assert fused_host.advance(ROW, *tensors)[1]
    finally:
        torch.set_num_threads(before)


def test_a_sum_beyond_the_dtype_is_seen() -> None:
    x = torch.full((5,), 3e38)
    new, finite = fused_host.advance(ROW, x, 10 * x / 4, None, None)
    assert not finite
    assert bool(new.isinf().all())


@given(st.permutations([0, 1, 2, 3]))
def test_the_new_state_lies_in_memory_as_the_old_one_does(order: list[int]) -> None:
    """channels_last among the orders: a model that was told of it keeps its speed."""
    x = draw(2, 3, 4, 5, seed=0, dtype=torch.float32).permute(order)
    denoised = draw(*x.shape, seed=1, dtype=torch.float32)
    new, _ = fused_host.advance(ROW._replace(C=0.0, D=0.0), x, denoised)
    assert new.stride() == x.stride()
    plain, _ = fused_host.advance(ROW._replace(C=0.0, D=0.0), x.contiguous(), denoised)
    assert torch.equal(new, plain)


def test_the_sampler_takes_it_on_the_host() -> None:
    """A run with it is a run of plain steps, to rounding, and in half precision torch steps in."""
    sigmas = dp.schedule.karras(6, 0.03, 14.6)
    for dtype in (torch.float16, torch.float32, torch.float64):
        x = draw(2, 3, 8, seed=5, dtype=dtype) * 14.6
        run = list(dp.trajectory(lambda x, sigma: 0.3 * x, x, sigmas, extra_args={}))
        state = x
        for t in run:
            state = expected(t.coefficients, t.x, t.denoised, t.previous, t.xi)
            bound = 8 * torch.finfo(dtype).eps * float(t.x.abs().max().double() + 15.0)
            assert float((t.x_next.double() - state).abs().max()) <= bound


def test_a_state_that_records_gradients_is_stepped_too() -> None:
    x = torch.ones(3, requires_grad=True)
    step = dp.step(ROW._replace(C=0.0, D=0.0), x, torch.ones(3))
    assert torch.equal(step.x_next, torch.full((3,), 0.7) + 0.29)
