"""The scheduler in diffusers' pipelines, against diffusers' own, and diffusers' models as ours."""

from __future__ import annotations

import copy
import inspect
import json
import math
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    CogVideoXDDIMScheduler,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
    UniPCMultistepScheduler,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpmpp_core import GaussianMixture, PhiloxBridge, sample
from dpmpp_core.adapters.diffusers import DPMSolverPlusPlus2MSDEScheduler as Ours
from dpmpp_core.adapters.diffusers import denoiser

# Its set_timesteps hands numpy a tensor in a way that numpy 2 announces it will refuse.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SOLVERS = ["midpoint", "heun"]
TARGET = GaussianMixture(
    torch.tensor([[-1.0, 0.5], [2.0, 1.0], [0.3, -1.5]]),
    torch.tensor([0.2, 0.05, 0.4]),
    torch.tensor([0.5, 0.2, 0.3]),
)


def factors(scheduler: Any, k: int) -> tuple[float, float]:
    """alpha and sigma at level k, from what diffusers calls sigmas."""
    s = float(scheduler.sigmas[k])
    if scheduler.config.use_flow_sigmas:
        return 1.0 - s, s
    return 1.0 / math.hypot(1.0, s), s / math.hypot(1.0, s)


def answer(scheduler: Any, x: Tensor, k: int) -> Tensor:
    """What a model that knows TARGET exactly returns at step k, in the scheduler's kind."""
    alpha, sigma = factors(scheduler, k)
    x0 = TARGET.denoise(x.double() / alpha, sigma / alpha)
    eps = (x.double() - alpha * x0) / sigma
    kinds = {
        "epsilon": eps,
        "sample": x0,
        "v_prediction": alpha * eps - sigma * x0,
        "flow_prediction": eps - x0,
    }
    return kinds[scheduler.config.prediction_type].to(x.dtype)


def normals(steps: int, *shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, *shape, generator=generator, dtype=torch.float64)


def walk(scheduler: Any, x: Tensor, xi: Tensor | None = None, **step: Any) -> list[Tensor]:
    """Every state of a run through the model that knows TARGET."""
    states = []
    for k, t in enumerate(scheduler.timesteps):
        noise = {} if xi is None else {"variance_noise": xi[k]}
        x = scheduler.step(answer(scheduler, x, k), t, x, **noise, **step).prev_sample
        states.append(x)
    return states


def apart(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest distance between two walks, in units of the larger state."""
    return max(
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True)
    )


# --- diffusers' own, live ---

SETTINGS: dict[str, dict[str, Any]] = {
    "linspace": BETAS,
    "leading": {**BETAS, "timestep_spacing": "leading", "steps_offset": 1},
    "trailing": {**BETAS, "timestep_spacing": "trailing"},
    "linear betas": {},
    # epsilon there is divided by alpha = 5e-5, and float32 keeps too little of it to compare.
    "cosine betas": {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
    "given betas": {"trained_betas": [0.001 + 0.00002 * k for k in range(1000)]},
    "karras": {**BETAS, "use_karras_sigmas": True},
    "exponential": {**BETAS, "use_exponential_sigmas": True},
    "beta": {**BETAS, "use_beta_sigmas": True, "prediction_type": "sample"},
    "sample": {**BETAS, "prediction_type": "sample"},
    "v": {**BETAS, "prediction_type": "v_prediction"},
    "zero snr": {
        **BETAS,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    },
    "to sigma_min": {**BETAS, "final_sigmas_type": "sigma_min"},
    "flow": FLOW,
    "flow, shifted": {**FLOW, "flow_shift": 3.0},
    "flow, dynamic": {**FLOW, "use_dynamic_shifting": True},
    "flow, sample": {**FLOW, "prediction_type": "sample"},
    "flow, epsilon": {**FLOW, "prediction_type": "epsilon"},
}


def theirs_of(
    config: dict[str, Any], solver_type: str = "midpoint", algorithm_type: str = "sde-dpmsolver++"
) -> Any:
    return DPMSolverMultistepScheduler(
        algorithm_type=algorithm_type,
        solver_order=2,
        solver_type=solver_type,
        lower_order_final=False,
        **config,
    )


@pytest.mark.parametrize("solver_type", SOLVERS)
@pytest.mark.parametrize("name", SETTINGS)
def test_at_eta_one_it_walks_with_diffusers_own_second_order(name: str, solver_type: str) -> None:
    config = SETTINGS[name]
    dynamic = {"mu": 0.8} if config.get("use_dynamic_shifting") else {}
    theirs, ours = theirs_of(config, solver_type), Ours(solver_type=solver_type, **config)
    theirs.set_timesteps(12, **dynamic)
    ours.set_timesteps(12, **dynamic)
    torch.testing.assert_close(ours.sigmas, theirs.sigmas, rtol=2e-6, atol=0.0)
    x, xi = normals(1, 64, 2, seed=3)[0].float(), normals(12, 64, 2).float()
    assert apart(walk(ours, x, xi), walk(theirs, x, xi)) < 1e-5


@pytest.mark.parametrize("solver_type", SOLVERS)
@pytest.mark.parametrize("name", ["karras", "flow, shifted"])
def test_at_eta_zero_it_walks_with_diffusers_solver_without_noise(
    name: str, solver_type: str
) -> None:
    """For flow too: diffusers takes r from lambda, unlike the 2M of k-diffusion and ComfyUI."""
    config = SETTINGS[name]
    theirs = theirs_of(config, solver_type, "dpmsolver++")
    ours = Ours(solver_type=solver_type, eta=0.0, **config)
    theirs.set_timesteps(12)
    ours.set_timesteps(12)
    x = normals(1, 64, 2, seed=3)[0].float()
    assert apart(walk(ours, x), walk(theirs, x)) < 1e-5


@pytest.mark.parametrize("name", SETTINGS)
def test_the_model_is_told_the_nearest_time_and_diffusers_the_one_below(name: str) -> None:
    """Karras alone is rounded there; the other ladders and flow are cut down to integers. For flow
    the exact time is told here."""
    config = SETTINGS[name]
    dynamic = {"mu": 0.8} if config.get("use_dynamic_shifting") else {}
    theirs, ours = theirs_of(config), Ours(**config)
    theirs.set_timesteps(20, **dynamic)
    ours.set_timesteps(20, **dynamic)
    times = ours.timesteps.double()
    if "flow" in name:
        torch.testing.assert_close(times, ours.sigmas[:-1].double() * 1000, rtol=1e-6, atol=0.0)
        assert torch.equal(times.floor().long(), theirs.timesteps)
    elif name in ("exponential", "beta"):
        assert set((times - theirs.timesteps).tolist()) == {0.0, 1.0}
    else:
        assert torch.equal(times.long(), theirs.timesteps)


@pytest.mark.parametrize("kind", ["karras", "exponential", "beta"])
def test_to_sigma_min_every_step_of_a_ladder_moves(kind: str) -> None:
    """diffusers repeats the last level there: its last model call goes into a step of length 0."""
    config = {**BETAS, f"use_{kind}_sigmas": True, "final_sigmas_type": "sigma_min"}
    ours, theirs = Ours(**config), theirs_of(config)
    ours.set_timesteps(10)
    theirs.set_timesteps(10)
    assert len(ours.timesteps) == 10
    assert all(a > b for a, b in pairwise(ours.sigmas.tolist()))
    assert float(theirs.sigmas[-1]) == float(theirs.sigmas[-2])
    assert float(ours.sigmas[-1]) == pytest.approx(float(theirs.sigmas[-1]), rel=1e-6)


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@settings(max_examples=15)
@given(steps=st.integers(1, 999))
def test_for_any_number_of_steps_times_are_those_of_diffusers(spacing: str, steps: int) -> None:
    config = {**BETAS, "timestep_spacing": spacing, "steps_offset": 0}
    ours, theirs = Ours(**config), theirs_of(config)
    ours.set_timesteps(steps)
    theirs.set_timesteps(steps)
    assert len(ours.timesteps) == steps
    # With "trailing", rounding of the stride leaves diffusers at 61 steps with a 62nd time, of -1,
    # and lets a half fall to either side.
    pairs = enumerate(zip(ours.timesteps.tolist(), theirs.timesteps.tolist(), strict=False))
    assert all(a == b or (2000 * k % steps == 0 and abs(a - b) == 1) for k, (a, b) in pairs)


@pytest.mark.parametrize("end", [[], [0.0]], ids=["without 0", "with 0"])
def test_given_sigmas_are_the_levels_and_their_nearest_times_are_told(end: list[float]) -> None:
    scheduler = Ours(**BETAS)
    table = [scheduler.sigmas[999 - t].item() for t in (900, 400, 3)]
    between = (table[1] * scheduler.sigmas[999 - 401].item()) ** 0.5
    scheduler.set_timesteps(sigmas=np.array([table[0], 1.001 * table[1], table[2], *end]))
    assert scheduler.timesteps.tolist() == [900, 400, 3]
    expected = torch.tensor([table[0], 1.001 * table[1], table[2], 0.0])
    torch.testing.assert_close(scheduler.sigmas, expected)
    assert between / table[1] > 1.001  # it lies nearer to 400 than to 401


def flow_match(**config: Any) -> Any:
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    scheduler.set_timesteps(
        sigmas=torch.linspace(1.0, 0.1, 10).tolist(),
        mu=0.9 if config.get("use_dynamic_shifting") else None,
    )
    return scheduler


@pytest.mark.parametrize(
    "config",
    [
        {"shift": 3.0},
        {"use_dynamic_shifting": True},
        {"use_dynamic_shifting": True, "time_shift_type": "linear"},
        {"use_dynamic_shifting": True, "shift_terminal": 0.02},
        {"shift": 2.0, "use_karras_sigmas": True},
        {"shift": 2.0, "use_exponential_sigmas": True},
    ],
    ids=str,
)
def test_given_sigmas_make_the_schedule_of_flow_matching_euler(config: dict[str, Any]) -> None:
    """All but the first level, at which there is no data: lambda is -inf there."""
    theirs = flow_match(**config)
    ours = Ours.from_config(theirs.config)
    ours.set_timesteps(sigmas=torch.linspace(1.0, 0.1, 10), mu=0.9)
    torch.testing.assert_close(ours.sigmas[1:], theirs.sigmas[1:], rtol=1e-5, atol=0.0)
    torch.testing.assert_close(ours.timesteps[1:], theirs.timesteps[1:], rtol=1e-5, atol=0.0)
    assert 0.999 < float(ours.sigmas[0]) < 1.0


# --- what the settings of diffusers' own do, which chapters speak of ---


def own_walk(**config: Any) -> list[Tensor]:
    scheduler = DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", **BETAS, **config)
    scheduler.set_timesteps(12)
    return walk(scheduler, normals(1, 8, 2)[0].float(), normals(12, 8, 2).float())


@pytest.mark.parametrize("setting", ["lower_order_final", "euler_at_final"])
def test_the_last_step_to_zero_is_of_first_order_whatever_is_set(setting: str) -> None:
    on, off = {setting: True}, {setting: False}
    others = {"lower_order_final": False} if setting == "euler_at_final" else {}
    assert apart(own_walk(**{**others, **on}), own_walk(**{**others, **off})) == 0.0
    others["final_sigmas_type"] = "sigma_min"
    assert apart(own_walk(**{**others, **on}), own_walk(**{**others, **off})) > 1e-4


def test_to_sigma_min_the_last_step_of_diffusers_karras_ladder_moves_nothing() -> None:
    before, last = own_walk(use_karras_sigmas=True, final_sigmas_type="sigma_min")[-2:]
    assert torch.equal(before, last)


def test_diffusers_counts_steps_wrongly_at_1000_linspace_and_at_61_trailing() -> None:
    """A time twice: a step of length 0, whose successor divides by it. And one time too many."""
    linspace = theirs_of(BETAS)
    linspace.set_timesteps(1000)
    assert len(set(linspace.timesteps.tolist())) == 999
    linspace.set_begin_index(490)
    x = normals(1, 1, 2)[0].float()
    for t in linspace.timesteps[490:510]:
        x = linspace.step(torch.tanh(x), t, x).prev_sample
    assert bool(x.isnan().any())
    trailing = theirs_of({**BETAS, "timestep_spacing": "trailing"})
    trailing.set_timesteps(61)
    assert (len(trailing.timesteps), int(trailing.timesteps[-1])) == (62, -1)


def test_before_set_timesteps_diffusers_adds_the_noise_of_the_other_end() -> None:
    theirs, ours, times = theirs_of(BETAS), Ours(**BETAS), torch.tensor([999, 0])
    one, zero = torch.ones(2, 1), torch.zeros(2, 1)
    trained = DDPMScheduler(**BETAS).alphas_cumprod.sqrt()[times]
    torch.testing.assert_close(ours.add_noise(one, zero, times)[:, 0], trained)
    torch.testing.assert_close(theirs.add_noise(one, zero, times)[:, 0], trained.flip(0))


def test_the_ddim_pipeline_puts_ddim_in_the_place_of_any_scheduler() -> None:
    assert isinstance(DDIMPipeline(unet(), Ours(**BETAS)).scheduler, DDIMScheduler)
    assert "eta" in inspect.signature(DDIMScheduler.step).parameters
    assert "eta" not in inspect.signature(DPMSolverMultistepScheduler.step).parameters


# --- the same steps as the rest of the package ---


def process_levels(scheduler: Any) -> list[float]:
    """sigma of x = alpha x0 + sigma eps, at every level of the run."""
    return [factors(scheduler, k)[1] for k in range(len(scheduler.sigmas))]


def known(process: str, scheduler: Any) -> Any:
    """TARGET's exact denoiser, as a model of the package."""
    return lambda x, sigma: TARGET.denoise(x, float(sigma[0]), process)


@pytest.mark.parametrize("solver_type", SOLVERS)
@pytest.mark.parametrize("config", [{**BETAS, "use_karras_sigmas": True}, FLOW], ids=["vp", "flow"])
def test_a_run_is_that_of_the_package_for_any_eta_and_s_noise(
    config: dict[str, Any], solver_type: Any
) -> None:
    scheduler = Ours(eta=0.6, s_noise=1.03, solver_type=solver_type, seed=[5, 9, 2], **config)
    scheduler.set_timesteps(12)
    process, levels = "flow" if "use_flow_sigmas" in config else "vp", process_levels(scheduler)
    x = normals(1, 3, 2, seed=4)[0]
    path = PhiloxBridge(x, levels, [5, 9, 2], process=process, eta=0.6)
    there = sample(
        known(process, scheduler), x, levels, eta=0.6, s_noise=1.03, solver_type=solver_type,
        process=process, noise_sampler=path, disable=True,
    )  # fmt: skip
    torch.testing.assert_close(walk(scheduler, x)[-1], there, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("config", [BETAS, FLOW], ids=["vp", "flow"])
@pytest.mark.parametrize("eta", [0.3, 1.0, 2.0])
def test_a_fine_path_adds_up_to_a_coarse_one(config: dict[str, Any], eta: float) -> None:
    """With an estimate of 0 the state is its start, contracted, and noise: the same for 5 steps and
    for 40 through the same levels, if they are steps along one path."""
    config = {**config, "prediction_type": "sample", "eta": eta, "seed": 11, "s_noise": 1.2}
    fine, coarse = Ours(**config), Ours(**config)
    times = [960 - 24 * k for k in range(40)]
    fine.set_timesteps(timesteps=times)
    coarse.set_timesteps(timesteps=times[::8])
    x = normals(1, 2, 3, 4)[0]
    zero = torch.zeros_like(x)
    ends = {}
    for scheduler in (fine, coarse):
        state = x
        for t in scheduler.timesteps[:-1]:
            state = scheduler.step(zero, t, state).prev_sample
            ends[scheduler, scheduler.step_index] = state
    for k in range(1, 5):
        torch.testing.assert_close(ends[fine, 8 * k], ends[coarse, k], rtol=1e-9, atol=1e-9)
    # Not for want of noise: without it the state would be the contracted start.
    assert float((ends[coarse, 4] - x * float(ends[coarse, 4].norm() / x.norm())).abs().max()) > 0.1


def test_with_independent_noise_coarse_and_fine_have_nothing_in_common() -> None:
    """So that the test above sees the path."""
    config = {**BETAS, "prediction_type": "sample", "noise": "independent"}
    ends = []
    for stride in (1, 8):
        scheduler = Ours(**config)
        scheduler.set_timesteps(timesteps=[960 - 24 * k for k in range(40)][::stride])
        state, generator = normals(1, 2, 3, 4)[0], torch.Generator().manual_seed(0)
        for t in scheduler.timesteps[: 32 // stride]:
            state = scheduler.step(torch.zeros_like(state), t, state, generator=generator)[0]
        ends.append(state)
    assert float((ends[0] - ends[1]).abs().max()) > 0.1


@pytest.mark.parametrize("config", [BETAS, FLOW], ids=["vp", "flow"])
def test_a_sample_does_not_depend_on_the_rest_of_its_batch(config: dict[str, Any]) -> None:
    def run(x: Tensor, seed: Any) -> Tensor:
        scheduler = Ours(seed=seed, **config)
        scheduler.set_timesteps(10)
        return walk(scheduler, x)[-1]

    x = normals(1, 4, 2, seed=8)[0]
    whole = run(x, 100)
    for i in range(4):
        torch.testing.assert_close(run(x[i : i + 1], 100 + i)[0], whole[i], rtol=1e-12, atol=1e-12)
    listed = run(x[[2, 0]], [102, 100])
    torch.testing.assert_close(listed, whole[[2, 0]], rtol=1e-12, atol=1e-12)


def test_each_generator_of_a_list_gives_its_sample_a_path_and_then_another() -> None:
    def run(x: Tensor, generators: list[torch.Generator]) -> Tensor:
        scheduler = Ours(**BETAS)
        scheduler.set_timesteps(10)
        return walk(scheduler, x, generator=generators)[-1]

    def seeded(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    x = normals(1, 2, 2, seed=8)[0]
    generators = seeded(3, 4)
    both = run(x, generators)
    torch.testing.assert_close(run(x[1:], seeded(4))[0], both[1], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(run(x, generators), both)


def test_without_seed_and_generator_the_path_follows_torchs_generator() -> None:
    def run(seed: int) -> Tensor:
        scheduler = Ours(**BETAS)
        scheduler.set_timesteps(10)
        torch.manual_seed(seed)
        return walk(scheduler, normals(1, 2, 2, seed=8)[0])[-1]

    assert torch.equal(run(1), run(1))
    assert not torch.allclose(run(1), run(2))


def test_a_run_may_start_later_on_the_same_path_and_without_history() -> None:
    """Image to image: noise is added at the level of the first step, and the steps from there are a
    run of their own, whose noise is that of the whole run."""
    scheduler = Ours(seed=7, eta=0.8, **BETAS)
    scheduler.set_timesteps(12)
    scheduler.set_begin_index(5)
    x0, eps = normals(2, 2, 3, seed=6)
    alpha, sigma = factors(scheduler, 5)
    x = scheduler.add_noise(x0, eps, scheduler.timesteps[5:6].repeat(2))
    torch.testing.assert_close(x, alpha * x0 + sigma * eps, rtol=1e-6, atol=1e-6)

    levels = process_levels(scheduler)
    whole = PhiloxBridge(x[:, :2], levels, 7, process="vp", eta=0.8)
    state, there = x[:, :2], None
    for k, t in enumerate(scheduler.timesteps[5:], start=5):
        state = scheduler.step(answer(scheduler, state, k), t, state).prev_sample
    there = sample(
        known("vp", scheduler), x[:, :2], levels[5:], eta=0.8, process="vp",
        noise_sampler=whole, disable=True,
    )  # fmt: skip
    torch.testing.assert_close(state, there, rtol=1e-10, atol=1e-12)


def test_noise_is_added_at_the_next_step_in_a_run_and_at_its_time_outside_one() -> None:
    x0, eps = normals(2, 2, 3, seed=6)
    trained, ddpm = Ours(**BETAS), DDPMScheduler(**BETAS)
    times = torch.tensor([999, 12])
    torch.testing.assert_close(
        trained.add_noise(x0, eps, times), ddpm.add_noise(x0, eps, times), rtol=1e-5, atol=1e-6
    )
    flow = Ours(**FLOW)
    flow.set_timesteps(10)
    t = flow.timesteps[[3]]
    sigma = float(t) / 1000
    torch.testing.assert_close(
        flow.scale_noise(x0, t, eps), (1 - sigma) * x0 + sigma * eps, rtol=1e-6, atol=1e-6
    )
    trained.set_timesteps(10)
    trained.set_begin_index(0)
    trained.step(x0, trained.timesteps[0], x0)
    alpha, sigma = factors(trained, 1)
    between = trained.add_noise(x0, eps, trained.timesteps[[7]])
    torch.testing.assert_close(between, alpha * x0 + sigma * eps, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("config", [BETAS, FLOW], ids=["vp", "flow"])
def test_what_the_model_predicts_makes_no_difference(config: dict[str, Any]) -> None:
    walks = []
    for kind in ("sample", "epsilon", "flow_prediction" if "use_flow_sigmas" in config else
                 "v_prediction"):  # fmt: skip
        scheduler = Ours(**{**config, "prediction_type": kind, "seed": 3})
        scheduler.set_timesteps(10)
        walks.append(walk(scheduler, normals(1, 5, 2)[0]))
    assert max(apart(walks[0], other) for other in walks[1:]) < 1e-6


def test_a_learned_variance_is_left_out() -> None:
    scheduler = Ours(seed=1, **BETAS)
    scheduler.set_timesteps(5)
    x, output, variance = normals(3, 2, 3, 4, 4)
    plain = scheduler.step(output, scheduler.timesteps[0], x).prev_sample
    scheduler.set_timesteps(5)
    both = torch.cat([output, variance], dim=1)
    assert torch.equal(scheduler.step(both, scheduler.timesteps[0], x).prev_sample, plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("config", [BETAS, FLOW], ids=["vp", "flow"])
def test_half_precision_is_rounded_once_a_step(config: dict[str, Any], dtype: torch.dtype) -> None:
    x = normals(1, 6, 2)[0].to(dtype)
    half, single = Ours(seed=2, **config), Ours(seed=2, **config)
    half.set_timesteps(8)
    single.set_timesteps(8)
    for k, t in enumerate(half.timesteps):
        output = answer(single, x.float(), k).to(dtype)
        exact = single.step(output.float(), t, x.float()).prev_sample
        x = half.step(output, t, x).prev_sample
        assert x.dtype == dtype
        assert torch.equal(x, exact.to(dtype))


def test_a_gradient_goes_through_a_step() -> None:
    """The step is linear: at eta = 1 the factor of the estimate is alpha (1 - exp(-2h)), and that
    of the state, with an estimate that does not depend on it, sigma' / sigma exp(-h)."""
    scheduler = Ours(seed=0, **{**BETAS, "prediction_type": "sample"})
    scheduler.set_timesteps(10)
    x, x0 = (v.requires_grad_() for v in normals(2, 1, 3))
    scheduler.step(x0, scheduler.timesteps[0], x).prev_sample.sum().backward()
    (a0, s0), (a1, s1) = factors(scheduler, 0), factors(scheduler, 1)
    h = math.log(a1 / s1) - math.log(a0 / s0)
    assert x0.grad is not None
    assert x.grad is not None
    torch.testing.assert_close(x0.grad, torch.full_like(x0, a1 * -math.expm1(-2 * h)))
    torch.testing.assert_close(x.grad, torch.full_like(x, s1 / s0 * math.exp(-h)))


# --- configs ---


def test_a_config_goes_to_a_file_and_back(tmp_path: Any) -> None:
    scheduler = Ours(
        eta=0.4, s_noise=1.05, seed=[3, 1], use_karras_sigmas=True, solver_type="heun", **BETAS
    )
    scheduler.save_config(tmp_path)
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert (saved["eta"], saved["s_noise"], saved["seed"]) == (0.4, 1.05, [3, 1])
    for loaded in (Ours.from_pretrained(tmp_path), Ours.from_config(scheduler.config)):
        loaded.set_timesteps(9)
        scheduler.set_timesteps(9)
        x = normals(1, 2, 2)[0]
        assert torch.equal(walk(loaded, x)[-1], walk(scheduler, x)[-1])
        names = inspect.signature(Ours.__init__).parameters.keys() - {"self"}
        assert {n: loaded.config[n] for n in names} == {n: scheduler.config[n] for n in names}


def test_what_other_schedulers_keep_is_kept_and_given_back() -> None:
    theirs = DDIMScheduler(**BETAS, set_alpha_to_one=False, clip_sample=False, steps_offset=1)
    ours = Ours.from_config(theirs.config, eta=0.5)
    assert (ours.config.steps_offset, ours.config.beta_schedule) == (1, "scaled_linear")
    back = DDIMScheduler.from_config(ours.config)
    assert back.config.set_alpha_to_one is False
    assert back.config.clip_sample is False


def test_a_flow_matching_config_means_flow_with_its_shift() -> None:
    """From which diffusers' own makes an epsilon scheduler with betas, without a word."""
    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
    ours = Ours.from_config(flow.config)
    config = ours.config
    assert (config.use_flow_sigmas, config.prediction_type) == (True, "flow_prediction")
    assert config.flow_shift == 3.0
    theirs = DPMSolverMultistepScheduler.from_config(flow.config)
    assert (theirs.config.use_flow_sigmas, theirs.config.prediction_type) == (False, "epsilon")
    again = Ours.from_config(config, flow_shift=5.0)
    assert (again.config.use_flow_sigmas, again.config.flow_shift) == (True, 5.0)


def test_the_type_of_another_solver_is_not_taken_for_ours() -> None:
    theirs = UniPCMultistepScheduler(solver_type="bh1", flow_shift=5.0, **FLOW)
    ours = Ours.from_config(theirs.config)
    assert (ours.config.solver_type, ours.config.flow_shift) == ("midpoint", 5.0)
    with pytest.raises(ValueError, match="solver_type must be 'midpoint' or 'heun', got 'bh1'"):
        Ours.from_config(theirs.config, solver_type="bh1")


def test_a_setting_changed_between_runs_counts_from_the_next_run_on() -> None:
    x = normals(1, 2, 2)[0]
    scheduler, other = Ours(seed=1, **BETAS), Ours(seed=4, eta=0.2, **BETAS)
    scheduler.set_timesteps(8)
    first = walk(scheduler, x)[-1]
    scheduler.register_to_config(seed=4, eta=0.2)
    scheduler.set_timesteps(8)
    other.set_timesteps(8)
    second = walk(scheduler, x)[-1]
    assert torch.equal(second, walk(other, x)[-1])
    assert not torch.allclose(first, second)


def test_a_scheduler_may_be_copied_in_the_middle_of_a_run() -> None:
    scheduler = Ours(seed=1, **BETAS)
    scheduler.set_timesteps(6)
    x = normals(1, 2, 2)[0]
    for k, t in enumerate(scheduler.timesteps[:3]):
        x = scheduler.step(answer(scheduler, x, k), t, x).prev_sample
    ends = []
    for one in (scheduler, copy.deepcopy(scheduler)):
        state = x
        for k, t in enumerate(one.timesteps[3:], start=3):
            state = one.step(answer(one, state, k), t, state).prev_sample
        ends.append(state)
    assert torch.equal(*ends)


def test_pipelines_find_a_generator_to_fill_in_and_no_eta() -> None:
    """Stable Diffusion's pipelines pass eta = 0 to a step that has an argument of that name."""
    names = inspect.signature(Ours.step).parameters
    assert "generator" in names
    assert "eta" not in names


# --- pipelines, of tiny networks with random weights ---


def unet() -> Any:
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, norm_num_groups=4,
        block_out_channels=(8, 16), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=4,
    ).eval()  # fmt: skip


def dit(scheduler: Any) -> Any:
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        sample_size=4, in_channels=4, out_channels=8, num_layers=1, num_attention_heads=2,
        attention_head_dim=4, patch_size=2, num_embeds_ada_norm=1000, norm_num_groups=4,
    ).eval()  # fmt: skip
    # The last layer starts at 0, and the model would say 0.
    torch.nn.init.normal_(transformer.proj_out_2.weight, std=0.3)
    vae = AutoencoderKL(
        latent_channels=4, block_out_channels=(4,), norm_num_groups=2, sample_size=8
    ).eval()
    pipeline = DiTPipeline(transformer, vae, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def unconditional(scheduler: Any, model: Any = None) -> Any:
    pipeline = DDPMPipeline(unet() if model is None else model, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("karras", [False, True])
def test_a_pipeline_paints_diffusers_own_picture_at_eta_one(karras: bool) -> None:
    """With the noise drawn as diffusers draws it, from the pipeline's generator."""
    pictures = []
    model = unet()
    config = {**BETAS, "use_karras_sigmas": karras}
    for scheduler in (theirs_of(config), Ours(noise="independent", **config)):
        generator = torch.Generator().manual_seed(5)
        pipeline = unconditional(scheduler, model)
        pictures.append(pipeline(2, generator, num_inference_steps=8, output_type="pt").images)
    torch.testing.assert_close(pictures[1], pictures[0], rtol=0.0, atol=1e-5)
    assert float(pictures[0].std()) > 0.1


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_guided_latent_pipeline_paints_diffusers_own_picture_at_eta_one(guidance: float) -> None:
    pictures = []
    for scheduler in (theirs_of(BETAS), Ours(noise="independent", **BETAS)):
        pipeline = dit(scheduler)
        torch.manual_seed(6)
        generator = torch.Generator().manual_seed(5)
        pictures.append(
            pipeline([3, 7], guidance, generator, num_inference_steps=8, output_type="pt").images
        )
    torch.testing.assert_close(pictures[1], pictures[0], rtol=0.0, atol=1e-5)
    assert float(pictures[0].std()) > 0.01


def test_in_a_pipeline_eta_and_the_solver_change_the_picture_and_the_seed_repeats_it() -> None:
    model = unet()

    def paint(**config: Any) -> Tensor:
        pipeline = unconditional(Ours.from_config(DDPMScheduler(**BETAS).config, **config), model)
        generator = torch.Generator().manual_seed(5)
        images: Tensor = pipeline(1, generator, num_inference_steps=6, output_type="pt").images
        return images

    first = paint(seed=1)
    assert torch.equal(paint(seed=1), first)
    for other in (
        {"use_karras_sigmas": True},
        {"eta": 0.5},
        {"s_noise": 0.9},
        {"solver_type": "heun"},
        {"seed": 2},
    ):
        assert float((paint(**{"seed": 1, **other}) - first).abs().max()) > 1e-3


def test_in_a_pipeline_a_picture_does_not_depend_on_its_batch() -> None:
    pipeline = unconditional(Ours(**BETAS))

    def paint(*seeds: int) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        images: Tensor = pipeline(
            len(seeds), generators, num_inference_steps=6, output_type="pt"
        ).images
        return images

    three = paint(1, 2, 3)
    torch.testing.assert_close(paint(2), three[1:2], rtol=0.0, atol=1e-5)
    torch.testing.assert_close(paint(3, 1), three[[2, 0]], rtol=0.0, atol=1e-5)


def test_a_pipeline_is_saved_and_loaded_with_its_scheduler(tmp_path: Any) -> None:
    pipeline = unconditional(Ours(seed=3, eta=0.7, **BETAS))
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["scheduler"] == ["dpmpp_core.adapters.diffusers", Ours.__name__]
    loaded = DDPMPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    loaded.set_progress_bar_config(disable=True)
    assert (type(loaded.scheduler), loaded.scheduler.config.eta) == (Ours, 0.7)
    pictures = [
        p(1, torch.Generator().manual_seed(0), num_inference_steps=4, output_type="pt").images
        for p in (pipeline, loaded)
    ]
    torch.testing.assert_close(*pictures, rtol=0.0, atol=1e-5)


# --- the other way ---


def test_a_model_of_diffusers_is_a_denoiser() -> None:
    """In VE and in VP coordinates it is sampled along the scheduler's own run."""
    model, scheduler = unet(), Ours(seed=4, eta=0.8, **BETAS)
    scheduler.set_timesteps(8)
    x = normals(1, 2, 3, 8, 8, seed=2)[0].float()
    state = x
    with torch.no_grad():
        for t in scheduler.timesteps:
            state = scheduler.step(model(state, t).sample, t, state).prev_sample
    for process in ("vp", "ve"):
        levels = process_levels(scheduler) if process == "vp" else scheduler.sigmas.tolist()
        start = x if process == "vp" else x / factors(scheduler, 0)[0]
        there = sample(
            denoiser(model, scheduler, process), start, levels, eta=0.8, process=process,
            noise_sampler=PhiloxBridge(start, levels, 4, process=process, eta=0.8),
            extra_args={"seed": 4}, disable=True,
        )  # fmt: skip
        torch.testing.assert_close(there, state, rtol=0.0, atol=2e-5 * float(state.abs().max()))


@pytest.mark.parametrize("process", ["ve", "vp"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_denoiser_of_a_model_that_knows_unit_noise_is_exact(kind: str, process: str) -> None:
    """Data N(0, I) under VP: the best x0 is alpha x, the best epsilon sigma x, the best v is 0. So
    under VE the denoiser is x / (1 + sigma^2), and under VP alpha x, at any level."""
    scheduler = DDPMScheduler(**BETAS, prediction_type=kind)
    kept, told = scheduler.alphas_cumprod.double(), []

    def model(x: Tensor, timestep: Tensor, label: int) -> tuple[Tensor]:
        told.append((timestep, label))
        alpha = kept[timestep.round().long()].sqrt().view(-1, 1)
        return ({"epsilon": (1 - alpha**2).sqrt() * x, "sample": alpha * x}.get(kind, 0.0 * x),)

    times = torch.tensor([0, 137, 600, 999])
    s = ((1 - kept[times]) / kept[times]).sqrt()
    sigma = s if process == "ve" else s / (1 + s**2).sqrt()
    x = normals(1, 4, 3)[0]
    exact = x / (1 + s**2).view(-1, 1) if process == "ve" else x * kept[times].sqrt().view(-1, 1)
    denoise = denoiser(model, scheduler, process)
    torch.testing.assert_close(denoise(x, sigma, label=3, seed=1), exact, rtol=1e-9, atol=1e-9)
    timestep, label = told[0]
    torch.testing.assert_close(timestep, times.float(), rtol=1e-5, atol=1e-3)
    assert label == 3


def test_the_denoiser_of_a_flow_model_is_exact() -> None:
    """Data N(0, I) under flow: x0 given x is alpha x / (alpha^2 + sigma^2), and the best flow
    (sigma - alpha) x / (alpha^2 + sigma^2)."""
    told = []

    def model(x: Tensor, timestep: Tensor) -> Tensor:
        told.append(timestep)
        sigma = timestep.double().view(-1, 1) / 1000
        return (2 * sigma - 1) * x / (sigma**2 + (1 - sigma) ** 2)

    sigma = torch.tensor([0.9, 0.5, 0.02], dtype=torch.float64)
    x, level = normals(1, 3, 2)[0], sigma.view(-1, 1)
    exact = (1 - level) * x / (level**2 + (1 - level) ** 2)
    denoise = denoiser(model, FlowMatchEulerDiscreteScheduler(shift=3.0))
    torch.testing.assert_close(denoise(x, sigma), exact, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(told[0], 1000 * sigma.float())


def test_a_flow_pipeline_paints_what_the_package_samples_from_its_model() -> None:
    """Two ways to one picture: the scheduler in a pipeline, and the pipeline's model in ours."""
    model, flow = unet(), FlowMatchEulerDiscreteScheduler(shift=2.0)
    scheduler = Ours.from_config(flow.config, seed=6, eta=0.7)
    pipeline = unconditional(scheduler, model)
    picture = pipeline(
        2, torch.Generator().manual_seed(1), num_inference_steps=7, output_type="pt"
    ).images
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    levels = scheduler.sigmas
    assert float(levels[0]) == pytest.approx(2 * 0.999 / 1.999, rel=1e-6)
    path = PhiloxBridge(x, levels, 6, process="flow", eta=0.7)
    there = sample(
        denoiser(model, flow), x, levels, eta=0.7, process="flow", noise_sampler=path, disable=True
    )
    torch.testing.assert_close(picture, (there / 2 + 0.5).clamp(0, 1), rtol=0.0, atol=1e-5)
    assert float(picture.std()) > 0.1


# --- refusals ---


def prepared(**config: Any) -> Ours:
    scheduler = Ours(**{**BETAS, **config})
    scheduler.set_timesteps(5)
    return scheduler


X = torch.zeros(2, 3, 4, 4)


def after(scheduler: Any, steps: int) -> Any:
    for t in scheduler.timesteps[:steps]:
        scheduler.step(X, t, X)
    return scheduler


REFUSED: dict[str, tuple[Any, str]] = {
    "step first": (
        lambda: Ours().step(X, 999, X),
        "set_timesteps must be called before step",
    ),
    "one step too many": (
        lambda: after(prepared(), 5).step(X, 0, X),
        "step may be called 5 times after set_timesteps",
    ),
    "another batch": (
        lambda: after(prepared(), 1).step(X[:1], 799, X[:1]),
        "sample must keep the shape (2, 3, 4, 4) it had in the first step until set_timesteps is "
        "called again, got (1, 3, 4, 4)",
    ),
    "another output": (
        lambda: prepared().step(X[:, :2], 999, X),
        "model_output must be a tensor of the sample's shape (2, 3, 4, 4), or with twice its "
        "channels, got shape (2, 2, 4, 4)",
    ),
    "an output object": (lambda: prepared().step(3.0, 999, X), "model_output must be a tensor"),
    "an integer sample": (
        lambda: prepared().step(X, 999, X.long()),
        "sample must be a tensor of shape (B, ...) of floats, got torch.int64",
    ),
    "another noise": (
        lambda: prepared().step(X, 999, X, variance_noise=X[0]),
        "variance_noise must have the sample's shape (2, 3, 4, 4), got (3, 4, 4)",
    ),
    "unknown time": (
        lambda: prepared().step(X, 500, X),
        "timestep must be one of the scheduler's timesteps, from 999 to 200, got 500",
    ),
    "begin beyond": (
        lambda: (s := prepared(), s.set_begin_index(5), s.step(X, 999, X)),
        "begin_index must be an index of the 5 timesteps, got 5",
    ),
    "seeds of another batch": (
        lambda: prepared(seed=[1, 2, 3]).step(X, 999, X),
        "one per sample of the batch of 2, got a list of 3",
    ),
    "a negative seed": (lambda: prepared(seed=-1).step(X, 999, X), "seed must be an integer from"),
    "prediction": (
        lambda: Ours(prediction_type="eps"),
        "prediction_type must be one of 'epsilon', 'v_prediction', 'sample' with "
        "use_flow_sigmas=False, got 'eps'",
    ),
    "flow prediction of VP": (lambda: Ours(prediction_type="flow_prediction"), "prediction_type"),
    "v of flow": (
        lambda: Ours(use_flow_sigmas=True, prediction_type="v_prediction"),
        "prediction_type must be one of 'epsilon', 'sample', 'flow_prediction' with "
        "use_flow_sigmas=True, got 'v_prediction'",
    ),
    "eta": (lambda: Ours(eta=-0.5), "eta must be a finite number >= 0, got -0.5"),
    "eta, later": (
        lambda: (s := Ours(), s.register_to_config(eta=math.nan), s.set_timesteps(3)),
        "eta must be a finite number >= 0, got nan",
    ),
    "s_noise": (lambda: Ours(s_noise=math.inf), "s_noise must be a finite number >= 0, got inf"),
    "solver": (lambda: Ours(solver_type="euler"), "solver_type must be 'midpoint' or 'heun'"),
    "noise": (lambda: Ours(noise="white"), "noise must be 'brownian' or 'independent'"),
    "a seed that nobody reads": (
        lambda: Ours(noise="independent", seed=1),
        "seed must be None with noise='independent'",
    ),
    "betas": (lambda: Ours(beta_schedule="sigmoid"), "beta_schedule must be 'linear' or"),
    "betas beyond 1": (lambda: Ours(beta_end=1.5), "betas must be 1000 numbers above 0 and below"),
    "betas of another T": (lambda: Ours(trained_betas=[0.1, 0.2]), "betas must be 1000 numbers"),
    "two ladders": (
        lambda: Ours(use_karras_sigmas=True, use_beta_sigmas=True),
        "at most one of use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas may be True",
    ),
    "spacing": (lambda: Ours(timestep_spacing="even"), "timestep_spacing must be 'linspace' or"),
    "sigma_min of flow": (
        lambda: Ours(**FLOW, final_sigmas_type="sigma_min"),
        "final_sigmas_type must be 'zero' with use_flow_sigmas=True, got 'sigma_min'",
    ),
    "shift": (lambda: Ours(flow_shift=0.0), "flow_shift must be a finite number above 0, got 0.0"),
    "terminal": (
        lambda: Ours(**FLOW, shift_terminal=1.0),
        "shift_terminal must be None or a number between 0 and 1, got 1.0",
    ),
    "no schedule": (
        lambda: Ours().set_timesteps(),
        "exactly one of num_inference_steps, timesteps and sigmas must be given, got none of them",
    ),
    "two schedules": (
        lambda: Ours().set_timesteps(3, timesteps=[3, 2, 1]),
        "got num_inference_steps and timesteps",
    ),
    "steps": (lambda: Ours().set_timesteps(0), "num_inference_steps must be an integer of at"),
    "steps that repeat a time": (
        lambda: Ours().set_timesteps(1000),
        "num_inference_steps must give descending integers from 999 to 0, each once, got 1000 with "
        "timestep_spacing='linspace'",
    ),
    "times": (
        lambda: Ours().set_timesteps(timesteps=[900, 1000]),
        "timesteps must give descending integers from 999 to 0, each once, got [900.0, 1000.0]",
    ),
    "half a time": (lambda: Ours().set_timesteps(timesteps=[9.5, 3]), "timesteps must give desc"),
    "one time": (
        lambda: Ours().set_timesteps(timesteps=999),
        "timesteps must hold at least one number in one dimension, got 999",
    ),
    "a time that is no number": (
        lambda: Ours().set_timesteps(timesteps=[999, math.nan]),
        "timesteps must be finite numbers, got nan",
    ),
    "no times": (lambda: Ours().set_timesteps(timesteps=[]), "timesteps must hold at least one"),
    "times of a ladder": (
        lambda: Ours(use_karras_sigmas=True).set_timesteps(timesteps=[9, 3]),
        "timesteps must be None with use_karras_sigmas=True, got [9.0, 3.0]",
    ),
    "rising sigmas": (
        lambda: Ours().set_timesteps(sigmas=[1.0, 2.0]),
        "sigmas must be strictly decreasing",
    ),
    "no mu": (
        lambda: Ours(**FLOW, use_dynamic_shifting=True).set_timesteps(4),
        "mu must be a finite number with use_dynamic_shifting=True, got None",
    ),
    "no process": (
        lambda: Ours.from_config(EDMEulerScheduler().config),
        "config must hold betas (beta_schedule, beta_start, beta_end, trained_betas), "
        "use_flow_sigmas or a flow matching scheduler's shift, to name a process, got",
    ),
    "thresholding": (
        lambda: Ours.from_config(DDPMScheduler(thresholding=True).config),
        "config must have thresholding = False, for this scheduler does nothing else, got True",
    ),
    "other levels": (
        lambda: Ours.from_config(CogVideoXDDIMScheduler().config),
        "config must have snr_shift_scale = 1.0, for this scheduler does nothing else, got 3.0",
    ),
    "lu": (
        lambda: Ours.from_config(DPMSolverMultistepScheduler(use_lu_lambdas=True).config),
        "config must have use_lu_lambdas = False",
    ),
    "denoiser's process": (
        lambda: denoiser(unet(), FlowMatchEulerDiscreteScheduler(), "ve"),
        "process must be 'flow' for a flow model, got 've'",
    ),
    "denoiser's process, with betas": (
        lambda: denoiser(unet(), DDPMScheduler(), "flow"),
        "process must be 've' or 'vp' for a model with betas, got 'flow'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_meets_one_sentence(name: str) -> None:
    call, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(sentence)) as refusal:
        call()
    assert "\n" not in str(refusal.value)


def test_what_is_refused_in_a_config_can_be_given_up_by_name() -> None:
    theirs = EulerDiscreteScheduler(**BETAS, sigma_min=0.1, sigma_max=10.0)
    with pytest.raises(ValueError, match="config must have sigma_max = None"):
        Ours.from_config(theirs.config)
    ours = Ours.from_config(theirs.config, sigma_min=None, sigma_max=None)
    assert Ours.from_config(ours.config).config.beta_schedule == "scaled_linear"
