"""The Triton kernels, through Triton's interpreter where there is no GPU, against plain torch."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

import dpmpp_core as dp
from dpmpp_core.noise import philox

try:
    from dpmpp_core import fused
    from dpmpp_core.noise import kernels
except ImportError:
    if os.environ.get("CI") == "true":
        raise
    pytest.skip("Triton is not installed: its kernels were not tested", allow_module_level=True)

F64 = torch.float64
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float16, torch.bfloat16, torch.float32, F64]
ROW = (0.7, 0.29, 0.11, 1.3)


def draw(*shape: int, seed: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(
        DEVICE, dtype
    )


def model(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
    return 0.2 * x + x.tanh()


def furthest(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


@pytest.mark.parametrize("first_quad", [0, 2**32 - 5])
@pytest.mark.parametrize("elements", [1, 7, 1001])
def test_the_kernel_moves_a_path_as_the_plain_function_does(elements: int, first_quad: int) -> None:
    """Sizes that fill no block, and an element whose number does not fit into 34 bits."""
    seeds = torch.tensor([-1, 5, 2**40 + 3], device=DEVICE)
    nodes = torch.tensor([0, 2**31, 2**32 - 1, 77, 78], device=DEVICE)
    w, v = draw(2, 5, seed=1)
    keep = torch.tensor(0.7, dtype=F64, device=DEVICE)
    path, xi = draw(3, 4 * -(-elements // 4), seed=2), draw(3, elements, seed=3)
    plain_path, plain_xi = path.clone(), xi.clone()
    philox.move(plain_path, plain_xi, seeds, nodes, w, v, keep, first_quad)
    kernels.move(path, xi, seeds, nodes, w, v, keep, first_quad)
    assert furthest(path, plain_path) < 1e-14
    assert furthest(xi, plain_xi) < 1e-14


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("history", "noise"), [(False, False), (True, False), (True, True)])
def test_a_fused_step_is_the_plain_step(dtype: torch.dtype, history: bool, noise: bool) -> None:
    x, denoised, previous, xi = (draw(2, 3, 401, seed=i, dtype=dtype) for i in range(4))
    row = dp.Coefficients(ROW[0], ROW[1], ROW[2] if history else 0.0, ROW[3] if noise else 0.0)
    given = (previous if history else None, xi if noise else None)
    expected = dp.step(row, x, denoised, *given).x_next
    found = torch.zeros(1, device=DEVICE)
    coefficients = torch.tensor(row, dtype=F64, device=DEVICE)
    before = x.clone()
    new = fused.advance(coefficients, x, denoised, *given, found)
    assert new.dtype == dtype
    assert furthest(new, expected) <= 4 * torch.finfo(dtype).eps * float(expected.abs().max())
    assert torch.equal(x, before)
    assert found.item() == 0.0
    # In place, for the owner of the state.
    assert fused.advance(coefficients, x, denoised, *given, found, out=x) is x
    assert torch.equal(x, new)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("process", ["ve", "flow"])
@pytest.mark.parametrize("noise", ["bridge", "tree", "none"])
def test_a_fused_run_is_the_plain_run(dtype: torch.dtype, process: str, noise: str) -> None:
    sigmas = dp.schedule.karras(4, 0.03, 14.6) if process == "ve" else dp.schedule.flow(4, 3.0)
    x = draw(2, 3, 5, seed=4) * float(sigmas[0])
    x, eta = x.to(dtype), 0.0 if noise == "none" else 0.8

    def run(fused: bool) -> Tensor:
        bridge = dp.PhiloxBridge(x, sigmas, 3, process=process, eta=eta)
        return dp.sample(
            model, x, sigmas, eta=eta, process=process, disable=True, fused=fused,
            noise_sampler=bridge if noise == "bridge" else None, extra_args={"seed": 3},
        )  # fmt: skip

    plain = run(False)
    assert furthest(run(True), plain) <= 16 * torch.finfo(dtype).eps * float(plain.abs().max())


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning:triton")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_found_with_its_step(value: float) -> None:
    sigmas = dp.schedule.karras(5, 0.03, 14.6)

    def broken(x: Tensor, sigma: Tensor) -> Tensor:
        estimate = 0.5 * x
        if sigma[0] == float(sigmas[2]):
            estimate[1, 4] = value
        return estimate

    with pytest.raises(dp.StepError, match=f"got {value} in the state after step 2") as caught:
        dp.sample(broken, draw(3, 9, seed=0), sigmas, eta=0.0, disable=True, fused=True)
    assert caught.value.step == 2
    assert caught.value.x is not None
    assert bool(caught.value.x[0].isfinite().all())


def test_without_a_gpu_fused_is_refused_and_nothing_else_than_a_truth_value_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    x, sigmas = torch.zeros(1, 2), dp.schedule.karras(3, 0.03, 14.6)
    with pytest.raises(ValueError, match="fused=True needs x on a CUDA device, got x on cpu"):
        dp.sample(model, x, sigmas, fused=True)
    with pytest.raises(ValueError, match="fused must be None, True or False, got 'yes'"):
        dp.sample(model, x, sigmas, fused="yes")  # type: ignore[arg-type]


def test_a_path_departs_only_for_the_next_level() -> None:
    sigmas = dp.schedule.karras(4, 0.03, 14.6)
    bridge = dp.PhiloxBridge(torch.zeros(1, 2), sigmas)
    with pytest.raises(ValueError, match="sigma and sigma_next must be neighbours"):
        bridge.depart(sigmas[0], sigmas[2])
