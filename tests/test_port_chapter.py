"""What chapters/port.md promises of the sampler, and its listing as a port that stands alone."""

from __future__ import annotations

import builtins
import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dpmpp_core import Flow, IndependentNoise, PhiloxBridge, StepError, prepare, sample, trajectory
from dpmpp_core.conformance import check, read_answers
from dpmpp_core.conformance.cases import text

CHAPTER = (Path(__file__).parent.parent / "chapters" / "port.md").read_text(encoding="utf-8")
CELLS = re.findall(r"```\{code-cell\} ipython3\n(.*?)```", CHAPTER, re.DOTALL)
F64 = torch.float64


def cell(first: str) -> str:
    """The code cell of the page that begins with this line."""
    (found,) = (code for code in CELLS if code.startswith(first))
    return found


def listing(*firsts: str) -> dict[str, Any]:
    """The names that some cells of the page define, with math and pairwise and nothing else."""
    allowed = {name: getattr(builtins, name) for name in dir(builtins) if name != "__import__"}
    names: dict[str, Any] = {"__builtins__": allowed, "math": math, "pairwise": pairwise}
    for first in firsts:
        exec(compile(cell(first), first, "exec"), names)
    return names


# --- the listing ---------------------------------------------------------------------------------


def test_the_pages_listing_is_a_port_by_itself() -> None:
    page = listing("ALPHA = {")
    answers = []
    for case in json.loads(text())["cases"]:
        levels = page["started"](case["sigmas"], case["process"], case.get("shift", 1.0))
        setting = case["eta"], case["s_noise"], case["solver_type"]
        rows = page["factors"](levels, case["process"], *setting)
        asked, told = iter(range(len(rows))), dict(zip(levels[1:], case["noise"], strict=True))

        def model(x: list[float], s: float, case: Any = case, asked: Any = asked) -> list[float]:
            k = next(asked)
            if case["denoiser"] == "given":
                return list(case["denoised"][k])
            a = {"ve": 1.0, "vp": math.sqrt(1.0 - min(s, 1.0) ** 2), "flow": 1.0 - s}
            alpha = a[case["process"]]
            if case["denoiser"] == "gaussian":
                return [alpha * v / (alpha**2 + s**2) for v in x]
            size = len(x) // case.get("batch", 1)
            seen = x
            if case["denoiser"] == "joint":
                seen = [sum(x[i // size * size : i // size * size + size]) for i in range(len(x))]
            v = alpha**2 / 4 + s**2
            return [
                (alpha * p / 4 + s**2 * math.tanh(alpha * q / v)) / v
                for p, q in zip(x, seen, strict=True)
            ]

        noise = lambda s, t, told=told: told[t]  # noqa: E731
        states = list(page["run"](model, case["x"], levels, rows, noise))
        answers.append({"name": case["name"], "states": states})
    verdicts = check(read_answers(json.dumps({"cases": answers})))
    assert [verdict.case.name for verdict in verdicts if verdict.step is not None] == []


def test_the_pages_bridge_needs_math_alone_and_draws_what_the_package_draws() -> None:
    page = listing("ALPHA = {", "WORD = ", "LAM = {")
    sigmas, seed = [9.0, 4.0, 0.9, 0.2, 0.06, 0.0], 11
    x = torch.zeros(2, 5, dtype=F64)
    draw = PhiloxBridge(x, sigmas, seed, eta=0.7, clock="tau", backend="torch")
    time = page["clock_of"]("ve", "tau", 0.7)
    for s, t in pairwise(sigmas[:-1]):
        ours = draw(s, t)
        for i in range(2):
            for e in range(5):
                found = page["xi"](
                    page["LAM"]["ve"](s),
                    page["LAM"]["ve"](t),
                    time,
                    lambda node, i=i, e=e: page["normal"](seed + i, node, e),
                )
                assert found == pytest.approx(float(ours[i, e]), abs=1e-11)


# --- the contract --------------------------------------------------------------------------------


def linear(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
    return x / 2


def start(*shape: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_a_step_asks_the_model_then_the_callback_then_the_noise() -> None:
    asked = []

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        asked.append("model")
        return x / 2

    def noise(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        asked.append("noise")
        return torch.ones(1, 2, dtype=F64)

    sample(
        model,
        start(1, 2),
        [3.0, 2.0, 1.0, 0.0],
        noise_sampler=noise,
        callback=lambda seen: asked.append("callback"),
        disable=True,
    )
    assert asked == ["model", "callback", "noise"] * 2 + ["model", "callback"]


@pytest.mark.parametrize("setting", [{"eta": 0.0}, {"s_noise": 0.0}])
def test_a_step_without_noise_still_keeps_its_estimate(setting: dict[str, float]) -> None:
    steps = list(trajectory(linear, start(1, 2), [4.0, 3.0, 1.5, 0.5], **setting))
    for step, after in pairwise(steps):
        assert step.xi is None
        assert after.previous is step.denoised
        assert after.coefficients.C > 0.0


def test_s_noise_0_leaves_the_other_factors_as_they_are() -> None:
    def rows(**setting: float) -> list[tuple[float, ...]]:
        run = trajectory(linear, start(1, 2), [4.0, 3.0, 1.5, 0.5], **setting)
        return [tuple(step.coefficients[:3]) for step in run]

    assert rows(eta=1.0, s_noise=0.0) == rows(eta=1.0, s_noise=1.0) != rows(eta=0.0)


def test_a_step_to_0_returns_the_models_own_tensor() -> None:
    given = []

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        given.append(x / 2)
        return given[-1]

    for levels in ([3.0, 1.0, 0.0], [3.0, 0.0]):
        result = sample(model, start(1, 2), levels, eta=0.0, disable=True)
        assert result.data_ptr() == given[-1].data_ptr()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_types_are_those_of_the_pages_table(dtype: torch.dtype) -> None:
    told: list[Tensor] = []
    asked: list[Tensor] = []

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        told.append(sigma)
        return x / 2

    def noise(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        asked.append(sigma)
        return torch.ones(2, 3, dtype=F64)

    levels = torch.tensor([1.0, 0.7, 0.3, 0.0])
    x = start(2, 3, dtype=dtype)
    steps = list(trajectory(model, x, levels, process=Flow(3.0), noise_sampler=noise))
    assert {(sigma.dtype, tuple(sigma.shape)) for sigma in told} == {(dtype, (2,))}
    assert {(sigma.dtype, sigma.ndim) for sigma in asked} == {(torch.float32, 0)}
    assert {step.x_next.dtype for step in steps} == {dtype}
    assert steps[0].xi is not None
    assert steps[0].xi.dtype == dtype
    first = float(torch.tensor(Flow(3.0).first_sigma, dtype=torch.float32))
    assert float(asked[0]) == steps[0].sigma == first
    # In half precision the model is told 1.
    assert (float(told[0][0]) == 1.0) == (dtype != torch.float32)
    for other in {torch.float16, F64} - {dtype}:
        with pytest.raises(StepError, match="model must return"):
            sample(lambda x, s, other=other: x.to(other), x, levels, process="flow", disable=True)


def test_levels_in_float32_are_widened_before_anything_is_computed() -> None:
    levels = torch.tensor([3.0, 2.9, 0.7, 0.1])
    narrow, wide = (
        [step.coefficients for step in trajectory(linear, start(1, 2), given)]
        for given in (levels, levels.double())
    )
    assert narrow == wide


def test_what_is_not_finite_is_refused_but_for_a_prepared_run() -> None:
    def broken(x: Tensor, sigma: Tensor) -> Tensor:
        return x * (math.nan if float(sigma[0]) < 2.5 else 0.5)

    x, levels = start(1, 2), [3.0, 2.0, 1.0, 0.0]
    with pytest.raises(StepError, match="step 1") as refused:
        sample(broken, x, levels, eta=0.0, disable=True)
    assert refused.value.step == 1
    assert bool(prepare(broken, x, levels, eta=0.0)(x).isnan().all())
    for argument in ("eta", "s_noise"):
        for value in (math.nan, math.inf):
            with pytest.raises(ValueError, match=f"^{argument} must"):
                sample(broken, x, levels, disable=True, **{argument: value})


# --- seeds ---------------------------------------------------------------------------------------


def test_the_seeds_of_a_batch_are_those_of_the_pages_table() -> None:
    levels, two, one = [3.0, 1.0], torch.zeros(2, 3, dtype=F64), torch.zeros(1, 3, dtype=F64)
    asked = torch.tensor(3.0, dtype=F64), torch.tensor(1.0, dtype=F64)
    ours = PhiloxBridge(two, levels, 7)(*asked)
    assert torch.equal(ours, PhiloxBridge(two, levels, [7, 8])(*asked))
    assert torch.equal(ours[1:], PhiloxBridge(one, levels, 8)(*asked))
    last = PhiloxBridge(two, levels, 2**64 - 1)(*asked)
    assert torch.equal(last, PhiloxBridge(two, levels, [2**64 - 1, 0])(*asked))

    whole = IndependentNoise(two, 7)(*asked)
    listed = IndependentNoise(two, [7, 8])(*asked)
    assert not torch.allclose(whole, listed)
    assert torch.equal(listed[1:], IndependentNoise(one, [8])(*asked))
