from __future__ import annotations

import inspect
import math
import pickle
import re
import warnings
from itertools import pairwise
from typing import Any

import pytest
import torch
from conftest import golden_cases
from diffusers import DPMSolverMultistepScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import dpmpp_core
from dpmpp_core import (
    GaussianMixture,
    IndependentNoise,
    Mesh,
    PhiloxBridge,
    StepError,
    gaussian,
    prepare,
    sample,
    sample_dpmpp_2m_sde,
    sample_dpmpp_2m_sde_gpu,
    schedule,
    step,
    step_table,
    trajectory,
)

PROCESS = {"EPS": "ve", "CONST": "flow"}
NAMES = [
    "sample_dpmpp_2m_sde",
    "sample_dpmpp_2m_sde_gpu",
    "sample_dpmpp_2m_sde_heun",
    "sample_dpmpp_2m_sde_heun_gpu",
]
SOLVERS = ["midpoint", "heun"]
KARRAS = schedule.karras(10, 0.03, 14.6)


def unit_gaussian(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
    """The exact denoiser of N(0, I) under VE."""
    return x / (1.0 + sigma.view(-1, *[1] * (x.ndim - 1)) ** 2)


def state(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    draw = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (14.6 * draw).to(dtype)


def normals(steps: int, x: Tensor, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, *x.shape, dtype=torch.float64, generator=generator)


def injected(sigmas: Tensor, xi: Tensor) -> Any:
    """A noise sampler that hands out xi[k] for the step into sigmas[k + 1]."""
    index = {float(s): k - 1 for k, s in enumerate(sigmas)}
    return lambda sigma, sigma_next: xi[index[float(sigma_next)]]


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


# --- ComfyUI ---


@pytest.mark.parametrize("case", golden_cases("comfyui_injected_noise"))
def test_every_state_and_estimate_is_comfyuis_when_the_noise_is_handed_in(case: Any) -> None:
    g = case["arrays"]
    process = PROCESS[case["model_sampling"]]
    model = GaussianMixture(g["means"], g["variances"], g["weights"]).model(process)
    seen: list[dict[str, Any]] = []
    drawn: list[int] = []
    hand_out = injected(g["sigmas"], g["xi"])

    def noise(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        drawn.append(len(seen) - 1)
        return hand_out(sigma, sigma_next)

    out = sample_dpmpp_2m_sde_gpu(
        model,
        g["x_T"],
        g["sigmas"],
        callback=seen.append,
        disable=True,
        eta=case["eta"],
        s_noise=case["s_noise"],
        noise_sampler=noise,
        solver_type=case["solver_type"],
        process=process,
    )
    assert drawn == case["noise_used"]
    assert relative(out, g["out"]) < 1e-11
    for k, call in enumerate(seen):
        assert relative(call["x"], g["x"][k]) < 1e-11
        assert relative(call["denoised"], g["denoised"][k]) < 1e-11


@pytest.mark.parametrize("case", golden_cases("comfyui_brownian_tree_cpu"))
def test_the_default_noise_is_comfyuis_brownian_tree(case: Any) -> None:
    g = case["arrays"]
    flow = case["model_sampling"] == "CONST"

    def model(x: Tensor, sigma: Tensor, seed: Any) -> Tensor:
        s = sigma.view(-1, 1, 1, 1)
        return (1 - s) * x / ((1 - s) ** 2 + s**2) if flow else x / (1 + s**2)

    out = getattr(dpmpp_core, case["function"])(
        model,
        g["x_T"],
        g["sigmas"],
        extra_args={"seed": case["seed"]},
        disable=True,
        eta=case["eta"],
        s_noise=case["s_noise"],
        solver_type=case["solver_type"],
        process=PROCESS[case["model_sampling"]],
    )
    assert out.dtype == torch.float32
    assert relative(out, g["out"]) < 2e-6


@pytest.mark.parametrize("name", NAMES)
def test_the_signature_is_comfyuis_and_ours_is_keyword_only(name: str) -> None:
    parameters = inspect.signature(getattr(dpmpp_core, name)).parameters
    solver = "heun" if "heun" in name else "midpoint"
    theirs = [
        ("model", inspect.Parameter.empty),
        ("x", inspect.Parameter.empty),
        ("sigmas", inspect.Parameter.empty),
        ("extra_args", None),
        ("callback", None),
        ("disable", None),
        ("eta", 1.0),
        ("s_noise", 1.0),
        ("noise_sampler", None),
        ("solver_type", solver),
    ]
    assert [(p.name, p.default) for p in parameters.values()][:10] == theirs
    assert all(p.kind == p.KEYWORD_ONLY for p in list(parameters.values())[10:])


@pytest.mark.parametrize("name", NAMES)
def test_the_four_names_differ_in_solver_and_in_where_the_tree_is_asked(name: str) -> None:
    x = state(2, 3, dtype=torch.float32)
    sigmas = KARRAS.float()
    args = {"extra_args": {"seed": 5}, "disable": True}
    ours = getattr(dpmpp_core, name)(unit_gaussian, x, sigmas, **args)
    same = sample(
        unit_gaussian, x, sigmas, solver_type="heun" if "heun" in name else "midpoint", **args
    )
    assert torch.equal(ours, same)


def test_at_most_one_level_returns_the_state_itself() -> None:
    x = state(2, 3)
    for sigmas in (torch.tensor([1.0]), torch.tensor([]), [14.6]):
        assert sample_dpmpp_2m_sde_gpu(unit_gaussian, x, sigmas, disable=True) is x
        assert list(trajectory(unit_gaussian, x, sigmas)) == []


def test_the_callback_sees_comfyuis_five_keys_before_each_update() -> None:
    x, seen = state(2, 3), []
    sample(unit_gaussian, x, KARRAS, eta=0.0, callback=seen.append, disable=True)
    assert [set(call) for call in seen] == [{"x", "i", "sigma", "sigma_hat", "denoised"}] * 10
    assert [call["i"] for call in seen] == list(range(10))
    assert [float(call["sigma"]) for call in seen] == KARRAS[:-1].tolist()
    assert all(call["sigma"] is call["sigma_hat"] for call in seen)
    assert torch.equal(seen[0]["x"], x)


def test_extra_args_reach_the_model_whole() -> None:
    seen = []

    def model(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        seen.append(extra)
        return unit_gaussian(x, sigma)

    sample(model, state(2, 3), KARRAS, extra_args={"seed": 1, "cond": "a cat"}, disable=True)
    assert seen == [{"seed": 1, "cond": "a cat"}] * 10


def test_the_progress_bar_counts_the_steps_unless_disabled(capsys: Any) -> None:
    sample(unit_gaussian, state(2, 3), KARRAS, disable=True)
    assert capsys.readouterr().err == ""
    sample(unit_gaussian, state(2, 3), KARRAS, disable=False)
    assert "10/10" in capsys.readouterr().err


# --- diffusers, live ---

# Its set_timesteps hands numpy a tensor in a way that numpy 2 announces it will refuse.
diffusers_warns = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)


def diffusers_run(
    scheduler: Any, x: Tensor, xi: Tensor, target: GaussianMixture, flow: bool
) -> Any:
    """States of diffusers' scheduler, brought to our coordinates, with the exact denoiser.

    diffusers keeps the state in VP coordinates, x_vp = x_ve / sqrt(1 + sigma^2), where its list of
    sigmas is ours; with flow sigmas its coordinates are already ours.
    """
    sigmas = scheduler.sigmas.double()
    scale = torch.ones_like(sigmas) if flow else (1 + sigmas**2) ** -0.5
    z = scale[0] * x
    states = []
    for k, t in enumerate(scheduler.timesteps):
        x0 = target.denoise(z.double() / scale[k], sigmas[k], "flow" if flow else "ve")
        z = scheduler.step(x0.float(), t, z.float(), variance_noise=xi[k].float()).prev_sample
        states.append(z.double() / scale[k + 1])
    return sigmas, states


MIXTURE = GaussianMixture(
    torch.tensor([[-1.0, 0.5], [2.0, 1.0], [0.3, -1.5]]),
    torch.tensor([0.2, 0.05, 0.4]),
    torch.tensor([0.5, 0.2, 0.3]),
)


@diffusers_warns
@pytest.mark.parametrize("solver_type", SOLVERS)
@pytest.mark.parametrize("ladder", ["karras", "exponential", "flow"])
def test_diffusers_sde_scheduler_walks_the_same_path_at_eta_one(
    solver_type: str, ladder: str
) -> None:
    """With ``final_sigmas_type="zero"`` diffusers ends as we do: its last step, first order with h
    infinite, returns the estimate. Its other choice, "sigma_min", repeats the last level and ends
    in a step of length zero; ours has no such step."""
    flow = ladder == "flow"
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="sde-dpmsolver++",
        solver_order=2,
        solver_type=solver_type,
        prediction_type="sample",
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        final_sigmas_type="zero",
        use_karras_sigmas=ladder == "karras",
        use_exponential_sigmas=ladder == "exponential",
        use_flow_sigmas=flow,
        flow_shift=3.0 if flow else 1.0,
    )
    scheduler.set_timesteps(20)
    x = state(64, 2) / (14.6 if flow else 1.0)
    xi = normals(20, x)
    sigmas, theirs = diffusers_run(scheduler, x, xi, MIXTURE, flow)
    process = "flow" if flow else "ve"
    ours = trajectory(
        MIXTURE.model(process),
        x,
        sigmas,
        process=process,
        solver_type=solver_type,
        noise_sampler=injected(sigmas, xi),
    )
    assert max(relative(t.x_next, s) for t, s in zip(ours, theirs, strict=True)) < 1e-5


@diffusers_warns
@pytest.mark.parametrize("solver_type", SOLVERS)
def test_without_noise_it_is_the_2m_solver_on_ve(solver_type: str) -> None:
    """With diffusers' deterministic ``dpmsolver++`` as the other 2M."""
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type=solver_type,
        prediction_type="sample",
        beta_schedule="scaled_linear",
        use_karras_sigmas=True,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(20)
    x = state(64, 2)
    sigmas, theirs = diffusers_run(scheduler, x, normals(20, x), MIXTURE, flow=False)
    ours = trajectory(MIXTURE.model(), x, sigmas, eta=0.0, solver_type=solver_type)
    assert max(relative(t.x_next, s) for t, s in zip(ours, theirs, strict=True)) < 1e-5


def two_m(target: GaussianMixture, x: Tensor, sigmas: Tensor, process: str) -> Tensor:
    """k-diffusion's 2M: its clock is -log sigma whatever the process; one combined estimate."""
    old, h_last = None, 0.0
    for s, t in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        x0 = target.denoise(x, s, process)
        if t == 0.0:
            return x0
        h = math.log(s / t)
        r = h_last / h
        mixed = x0 if old is None else (1 + 1 / (2 * r)) * x0 - old / (2 * r)
        x = (t / s) * x - math.expm1(-h) * mixed
        old, h_last = x0, h
    return x


def test_without_noise_midpoint_is_k_diffusions_2m_to_rounding_on_ve_but_not_on_flow() -> None:
    ve = sample(MIXTURE.model(), state(64, 2), KARRAS, eta=0.0, disable=True)
    assert relative(ve, two_m(MIXTURE, state(64, 2), KARRAS, "ve")) < 1e-13

    x = state(64, 2) / 14.6
    sigmas = schedule.flow(12, shift=3.0)
    flow = sample(MIXTURE.model("flow"), x, sigmas, eta=0.0, process="flow", disable=True)
    sigmas[0] = 1 - 1e-4
    assert relative(flow, two_m(MIXTURE, x, sigmas, "flow")) > 1e-3


# --- exact statistics: the sampler is linear in its noise when the denoiser is linear ---


def final_spread(steps: int, **settings: Any) -> float:
    """Standard deviation of the result for N(0, 1), without sampling.

    Run the sampler once on a batch in which each source of randomness (the initial state and every
    xi_k) is 1 in one sample and 0 in the others: the responses' squares add up to the variance.
    """
    table = schedule.discrete_table()
    sigmas = schedule.karras(steps, float(table[0]), float(table[-1]))
    x = torch.zeros(steps, 1, dtype=torch.float64)
    x[0] = (1 + sigmas[0] ** 2) ** 0.5
    xi = torch.eye(steps, dtype=torch.float64)[1:, :, None]
    out = sample(
        unit_gaussian, x, sigmas, noise_sampler=injected(sigmas, xi), disable=True, **settings
    )
    return float(out.square().sum().sqrt())


@pytest.mark.parametrize(
    ("solver_type", "spreads"),
    [("midpoint", (1.102, 1.032, 1.007)), ("heun", (1.276, 1.063, 1.013))],
)
def test_few_steps_overshoot_the_spread_of_a_gaussian(solver_type: str, spreads: Any) -> None:
    """Between Stable Diffusion's ends, 0.0292 and 14.6146. From 14.6 to 0.029 it would be 1.277."""
    for steps, spread in zip((10, 20, 40), spreads, strict=True):
        assert final_spread(steps, solver_type=solver_type) == pytest.approx(spread, abs=5e-4)


@pytest.mark.parametrize("steps", [10, 20, 40])
def test_s_noise_zero_is_not_eta_zero_the_drift_still_contracts(steps: int) -> None:
    assert final_spread(steps, s_noise=0.0) == pytest.approx(0.068, abs=5e-3)
    assert final_spread(steps, eta=0.0) > 0.9


levels = st.lists(
    st.floats(0.01, 50.0), min_size=2, max_size=8, unique_by=lambda s: round(s, 3)
).map(lambda values: sorted(values, reverse=True))


@given(
    levels,
    st.sampled_from(["ve", "vp", "flow"]),
    st.floats(0.0, 3.0),
    st.sampled_from(SOLVERS),
    st.booleans(),
)
def test_a_perfect_model_leaves_the_exact_marginals(
    sigmas: list[float], process: str, eta: float, solver_type: Any, to_zero: bool
) -> None:
    """With x0 known, the state stays distributed as alpha x0 + sigma N(0, 1)."""
    if process != "ve":
        sigmas = [s / 51.0 for s in sigmas]
    if to_zero:
        sigmas = [*sigmas, 0.0]
    mesh = Mesh.from_sigmas(sigmas, process)
    steps = mesh.steps
    x0 = torch.full((steps + 1, 1), 3.0, dtype=torch.float64)
    x = mesh.alpha[0] * x0
    x[0] += mesh.sigma[0]
    xi = torch.eye(steps + 1, dtype=torch.float64)[1:, :, None]
    run = trajectory(
        lambda x, sigma: x0,
        x,
        sigmas,
        eta=eta,
        solver_type=solver_type,
        process=process,
        noise_sampler=injected(torch.tensor(mesh.sigma, dtype=torch.float64), xi),
    )
    for t in run:
        responses = t.x_next - mesh.alpha[t.k + 1] * x0
        spread = float(responses.square().sum().sqrt())
        assert spread == pytest.approx(mesh.sigma[t.k + 1], rel=1e-12, abs=1e-12)


# --- the terms ---


@given(
    levels,
    st.floats(0.0, 3.0),
    st.floats(0.0, 2.0),
    st.sampled_from(SOLVERS),
)
def test_drift_history_and_noise_add_up_to_the_step(
    sigmas: list[float], eta: float, s_noise: float, solver_type: Any
) -> None:
    x = state(5, 2)
    run = trajectory(
        MIXTURE.model(),
        x,
        [*sigmas, 0.0],
        eta=eta,
        s_noise=s_noise,
        solver_type=solver_type,
        noise_sampler=IndependentNoise(x, seed=3),
    )
    for t in run:
        total = t.drift + t.history + t.noise
        scale = max(float(part.abs().max()) for part in (t.x, t.drift, t.history, t.noise))
        assert float((t.x + total - t.x_next).abs().max()) < 1e-14 * scale
        row, previous = t.coefficients, t.denoised if t.previous is None else t.previous
        assert torch.allclose(t.drift, (row.A - 1) * t.x + row.B * t.denoised, rtol=0, atol=1e-13)
        assert torch.allclose(t.history, row.C * (t.denoised - previous), rtol=1e-14)
        assert torch.allclose(t.noise, row.D * (0 * x if t.xi is None else t.xi), rtol=1e-14)


def test_a_trajectory_is_a_chain_and_its_end_is_the_sample() -> None:
    x = state(4, 2)
    args = {"noise_sampler": None, "extra_args": {"seed": 9}}
    run = list(trajectory(MIXTURE_WITH_EXTRAS, x, KARRAS, **args))
    assert [t.k for t in run] == list(range(10))
    assert [t.sigma for t in run] == KARRAS[:-1].tolist()
    assert all(a.x_next is b.x for a, b in pairwise(run))
    assert all(a.denoised is b.previous for a, b in pairwise(run))
    assert run[0].previous is None
    assert run[-1].xi is None
    assert torch.equal(run[-1].x_next, run[-1].denoised)
    assert torch.equal(run[-1].x_next, sample(MIXTURE_WITH_EXTRAS, x, KARRAS, disable=True, **args))


def MIXTURE_WITH_EXTRAS(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
    return MIXTURE.denoise(x, sigma)


def test_a_step_that_lacks_a_tensor_it_needs_is_refused() -> None:
    row = step_table(Mesh.from_sigmas([3.0, 2.0, 1.0]))[1]
    x = state(2, 2)
    with pytest.raises(ValueError, match=r"previous must be a tensor where C is not 0, got None"):
        step(row, x, x, None, x)
    with pytest.raises(ValueError, match=r"xi must be a tensor where D is not 0, got None"):
        step(row, x, x, x, None)


# --- non-anticipation ---


@pytest.mark.parametrize("first_changed", range(9))
def test_no_state_depends_on_noise_that_is_drawn_later(first_changed: int) -> None:
    x = state(4, 2)
    xi = normals(10, x)
    other = xi.clone()
    other[first_changed:] += 1.0

    def states(noise: Tensor) -> list[Tensor]:
        run = list(trajectory(MIXTURE.model(), x, KARRAS, noise_sampler=injected(KARRAS, noise)))
        return [run[0].x, *[t.x_next for t in run]]

    before, after = states(xi), states(other)
    for k in range(first_changed + 1):
        assert torch.equal(before[k], after[k])
    assert not torch.equal(before[first_changed + 1], after[first_changed + 1])


# --- edges ---


@pytest.mark.parametrize("eta", [0.0, 1e-300, 1e-12, 50.0, 1e6])
@pytest.mark.parametrize("s_noise", [0.0, 1e-12, 50.0])
@pytest.mark.parametrize("solver_type", SOLVERS)
def test_extreme_settings_give_finite_states(eta: float, s_noise: float, solver_type: Any) -> None:
    out = sample(
        unit_gaussian,
        state(3, 2),
        KARRAS[:-1],
        eta=eta,
        s_noise=s_noise,
        solver_type=solver_type,
        disable=True,
    )
    assert out.isfinite().all()


def test_a_tiny_eta_is_close_to_none_and_a_huge_one_forgets_the_state() -> None:
    a, b = state(3, 2, seed=0), state(3, 2, seed=1)
    quiet = {"noise_sampler": IndependentNoise(a, 0), "disable": True}
    ode = sample(unit_gaussian, a, KARRAS, eta=0.0, disable=True)
    assert relative(sample(unit_gaussian, a, KARRAS, eta=1e-12, **quiet), ode) < 1e-5

    xi = normals(10, a)
    flat = {"eta": 1e3, "noise_sampler": injected(KARRAS, xi), "disable": True}
    one, other = (sample(lambda x, sigma: 0.0 * x, x, KARRAS[:-1], **flat) for x in (a, b))
    assert torch.equal(one, other)
    assert torch.allclose(one, KARRAS[-2] * xi[8], rtol=1e-12)


def test_one_step_to_zero_is_one_denoising_and_draws_no_noise() -> None:
    def refuse(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        raise AssertionError("noise was drawn")

    x = state(3, 2)
    for noise in (None, refuse):
        out = sample(unit_gaussian, x, [2.0, 0.0], noise_sampler=noise, disable=True)
        assert torch.equal(out, x / 5.0)


def test_one_step_above_zero_is_the_first_order_step() -> None:
    x = state(3, 2)
    xi = normals(1, x)
    out = sample(unit_gaussian, x, [2.0, 1.0], noise_sampler=lambda s, t: xi[0], disable=True)
    # VE, eta = 1: A = (1/2)(1/2), B = 1 - 1/4, D = sqrt(1 - 1/4).
    assert torch.allclose(out, 0.25 * x + 0.75 * x / 5.0 + 0.75**0.5 * xi[0], rtol=1e-14)


def test_a_thousand_steps_reach_the_ode_solution() -> None:
    """The probability-flow ODE of N(0, 1) has the solution x(s) = x(S) sqrt((1+s^2)/(1+S^2))."""
    sigmas = schedule.exponential(1001, 0.01, 14.6)[:-1]
    x = state(3, 2)
    out = sample(unit_gaussian, x, sigmas, eta=0.0, disable=True)
    exact = x * ((1 + 0.01**2) / (1 + 14.6**2)) ** 0.5
    assert relative(out, exact) < 1e-5


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        # A state is rounded once a step; the errors of 10 steps stay within a few half ulps.
        (torch.float16, 5e-3),
        (torch.bfloat16, 4e-2),
        (torch.float32, 1e-6),
        (torch.float64, 1e-15),
    ],
)
@pytest.mark.parametrize("process", ["ve", "flow"])
def test_every_floating_dtype_is_kept_and_close_to_float64(
    dtype: torch.dtype, tolerance: float, process: str
) -> None:
    sigmas = KARRAS if process == "ve" else schedule.flow(10)
    target = gaussian(torch.zeros(3), 1.0)
    x = state(16, 3) / (1.0 if process == "ve" else 14.6)
    xi = normals(10, x)
    args = {"process": process, "disable": True}
    mesh = Mesh.from_sigmas(sigmas, process)
    exact_levels = torch.tensor(mesh.sigma, dtype=torch.float64)
    noise = injected(exact_levels, xi)
    out = sample(target.model(process), x.to(dtype), sigmas, noise_sampler=noise, **args)
    exact = sample(target.model(process), x, sigmas, noise_sampler=noise, **args)
    assert out.dtype == dtype
    assert relative(out.double(), exact) <= tolerance


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_step_in_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    row = step_table(Mesh.from_sigmas([3.0, 2.0, 1.0]))[1]
    x, x0, before, xi = (state(500, seed=k).div(14.6).to(dtype) for k in range(4))
    exact = step(row, *(t.double() for t in (x, x0, before, xi))).x_next
    out = step(row, x, x0, before, xi).x_next
    one_rounding = exact.to(dtype)
    apart = (out.double() - exact).abs() - (one_rounding.double() - exact).abs()
    # Summed in float32: at most float32's own error above the best possible rounding.
    assert float(apart.max()) < 1e-6


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("seed", ["int", "list"])
def test_empty_and_single_batches_pass_through(batch: int, seed: str) -> None:
    x = state(batch, 3, 4)
    seeds = 7 if seed == "int" else [7] * batch
    out = sample(unit_gaussian, x, KARRAS, extra_args={"seed": seeds}, disable=True)
    assert out.shape == x.shape


def test_a_non_contiguous_state_gives_the_same_numbers() -> None:
    x = state(4, 6)[:, ::2].T
    assert not x.is_contiguous()
    xi = normals(10, x)
    args = {"noise_sampler": injected(KARRAS, xi), "disable": True}
    assert torch.equal(
        sample(unit_gaussian, x, KARRAS, **args),
        sample(unit_gaussian, x.contiguous(), KARRAS, **args),
    )


@pytest.mark.parametrize("keep", [1, 9])
def test_no_argument_is_modified(keep: int) -> None:
    x, sigmas, xi = state(4, 3), schedule.flow(10), normals(10, state(4, 3))
    before = x.clone(), sigmas.clone(), xi.clone()
    estimates = []

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        estimates.append((0.5 * x, 0.5 * x))
        return estimates[-1][0]

    sample(model, x, sigmas, process="flow", noise_sampler=lambda s, t: xi[keep], disable=True)
    for now, then in zip((x, sigmas, xi), before, strict=True):
        assert torch.equal(now, then)
    assert all(torch.equal(now, then) for now, then in estimates)


def test_a_model_that_returns_its_input_is_not_written_into() -> None:
    x = state(4, 3)
    before = x.clone()
    sample(lambda x, sigma: x, x, KARRAS, disable=True)
    assert torch.equal(x, before)


def test_no_gradient_is_recorded() -> None:
    x = state(4, 3).requires_grad_()
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    run = list(trajectory(lambda x, sigma: 0.5 * weight * x, x, KARRAS))
    assert not any(t.x_next.requires_grad or t.denoised.requires_grad for t in run)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor, "float32", "non-contiguous"])
def test_the_result_does_not_depend_on_how_the_levels_are_held(kind: Any) -> None:
    held = [8.0, 4.0, 2.0, 1.0, 0.5, 0.0]
    if kind == "float32":
        sigmas: Any = torch.tensor(held, dtype=torch.float32)
    elif kind == "non-contiguous":
        sigmas = torch.tensor(held).repeat_interleave(2)[::2]
    else:
        sigmas = kind(held)
    x = state(4, 3)
    xi = normals(5, x)
    noise = injected(torch.tensor(held), xi)
    out = sample(unit_gaussian, x, sigmas, noise_sampler=noise, disable=True)
    same = sample(unit_gaussian, x, torch.tensor(held), noise_sampler=noise, disable=True)
    assert torch.equal(out, same)


def test_ordinary_schedules_raise_no_warning() -> None:
    table = schedule.discrete_table().float()
    for sigmas in (
        schedule.karras(20, 0.0292, 14.6146).float(),
        schedule.simple(20, table).float(),
        schedule.beta(20, table).float(),
        schedule.flow(20, 3.0).float(),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            process = "flow" if sigmas[0] == 1 else "ve"
            x = state(2, 3, dtype=torch.float32)
            sample_dpmpp_2m_sde(
                lambda x, sigma, **extra: x / (1 + sigma[:, None] ** 2),
                x,
                sigmas,
                extra_args={"seed": 0},
                process=process,
                disable=True,
            )


# --- waiting for the device ---


def test_a_run_reads_its_schedule_once_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__"):
        original = getattr(torch.Tensor, name)

        def count(self: Tensor, *args: Any, _original: Any = original, _name: str = name) -> Any:
            counted.append(_name)
            return _original(self, *args)

        monkeypatch.setattr(torch.Tensor, name, count)
    x, sigmas = torch.ones(2, 3), KARRAS.float()
    sample(unit_gaussian, x, sigmas, noise_sampler=lambda s, t: x, disable=True)
    assert counted == ["tolist"]


def test_no_step_looks_at_a_value_on_an_accelerator() -> None:
    """A tensor on the meta device has no values: whatever looks at one raises."""
    x = torch.ones(2, 3, device="meta")
    run = trajectory(unit_gaussian, x, KARRAS.float(), noise_sampler=lambda s, t: x)
    for _ in range(10):
        assert next(run).x_next.device.type == "meta"
    with pytest.raises((NotImplementedError, RuntimeError)):
        # Only after the last step, to tell whether every estimate was finite.
        next(run)


# --- prepared runs ---


class NothingFromTheHost(TorchDispatchMode):
    """Refuses every operation that makes a tensor of the device out of one of the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        before, after = (
            {t.device.type for t in pytree.tree_leaves(tree) if isinstance(t, torch.Tensor)}
            for tree in ((args, kwargs), result)
        )
        assert not ("cpu" in before and "meta" in after), f"{func} brings a tensor of the host"
        return result


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_prepared_run_sends_nothing_to_the_device_and_reads_nothing_from_it(
    dtype: torch.dtype,
) -> None:
    """What a CUDA graph asks for. A tensor on the meta device has no values to be read."""
    x, sigmas = torch.ones(2, 3, device="meta", dtype=dtype), KARRAS.float()[:-1]
    run = prepare(unit_gaussian, x, sigmas, noise_sampler=PhiloxBridge(x, sigmas))
    with NothingFromTheHost():
        for _ in range(2):
            assert run(x).device.type == "meta"
        with pytest.raises(AssertionError, match="the host"):
            x + torch.ones(3).to("meta")


@pytest.mark.parametrize("fused", [None, True])
def test_a_prepared_run_is_the_run_of_sample_each_time(fused: bool | None) -> None:
    if fused:
        pytest.importorskip("triton")
    x, sigmas = 14.6 * state(2, 3), schedule.karras(3, 0.03, 14.6)
    noise = PhiloxBridge(x, sigmas, seed=4)
    run = prepare(unit_gaussian, x, sigmas, eta=0.7, noise_sampler=noise, fused=fused)
    expected = {}
    for seed in (4, 5):
        path = PhiloxBridge(x, sigmas, seed=seed)
        expected[seed] = sample(
            unit_gaussian, x, sigmas, eta=0.7, noise_sampler=path, fused=fused, disable=True
        )
    assert not torch.equal(expected[4], expected[5])
    for seed in (4, 5, 4):
        noise.reseed(seed)
        assert torch.equal(run(x), expected[seed])
        assert torch.equal(run(x), expected[seed])


def test_a_prepared_run_refuses_a_state_of_another_form() -> None:
    run = prepare(unit_gaussian, torch.ones(2, 3), KARRAS.float())
    for other in (torch.ones(3, 3), torch.ones(2, 3).double(), torch.ones(2, 3, device="meta")):
        with pytest.raises(ValueError, match=r"x must have shape \(2, 3\), torch.float32"):
            run(other)


@pytest.mark.parametrize("run", [sample, prepare])
def test_a_wrong_fused_is_refused_even_where_there_is_no_step(run: Any) -> None:
    with pytest.raises(ValueError, match="fused must be None, True or False, got 'yes'"):
        run(unit_gaussian, state(2, 3), [1.0], fused="yes")


def test_a_prepared_run_without_steps_returns_its_state() -> None:
    x = state(2, 3)
    assert prepare(unit_gaussian, x, [1.0])(x) is x


# --- refusals ---

X = state(2, 3)
REFUSED = [
    ("model", {"model": None}, "None"),
    ("model", {"model": 3.0}, "3.0"),
    ("x", {"x": [[1.0]]}, "[[1.0]]"),
    ("x", {"x": torch.ones(2, 3, dtype=torch.int64)}, "torch.int64"),
    ("x", {"x": torch.ones(2, 3, dtype=torch.complex64)}, "torch.complex64"),
    ("x", {"x": torch.tensor(1.0)}, "torch.float32, ()"),
    ("x", {"x": torch.ones(2, 3).to_sparse()}, "torch.sparse_coo"),
    ("sigmas", {"sigmas": "10"}, "'10'"),
    ("sigmas", {"sigmas": {2.0: 1.0}}, "{2.0: 1.0}"),
    ("sigmas", {"sigmas": [True, False]}, "[True, False]"),
    ("sigmas", {"sigmas": [10**400, 1.0]}, "1000"),
    ("sigmas", {"sigmas": [1e5, 1.0], "x": torch.ones(2, 3).half()}, "100000.0"),
    ("sigmas", {"sigmas": [1.0, 1e-9, 0.0], "x": torch.ones(2, 3).half()}, "1e-09"),
    ("s_noise", {"s_noise": 1e39, "x": torch.ones(2, 3)}, "D = "),
    ("eta", {"eta": True}, "True"),
    ("eta", {"eta": torch.tensor(True)}, "tensor(True)"),
    ("eta", {"eta": 10**400}, "1000"),
    ("extra_args", {"extra_args": {1: 2}}, "{1: 2}"),
    ("x", {"x": torch.tensor([[1.0, math.nan]])}, "nan"),
    ("x", {"x": torch.tensor([[1.0, -math.inf]])}, "-inf"),
    ("sigmas", {"sigmas": torch.tensor([1.0, 2.0])}, "2.0"),
    ("sigmas", {"sigmas": torch.tensor([2.0, 1.0, 1.0])}, "1.0"),
    ("sigmas", {"sigmas": torch.tensor([2.0, -1.0])}, "-1.0"),
    ("sigmas", {"sigmas": torch.tensor([2.0, math.nan, 0.0])}, "nan"),
    ("sigmas", {"sigmas": torch.tensor([math.inf, 1.0])}, "inf"),
    ("sigmas", {"sigmas": torch.tensor([2.0, 0.0, 0.0])}, "sigmas[1] = 0.0"),
    ("sigmas", {"sigmas": torch.tensor([0.0, 0.0])}, "sigmas[0] = 0.0"),
    ("sigmas", {"sigmas": torch.ones(2, 2)}, "shape (2, 2)"),
    ("sigmas", {"sigmas": torch.tensor(1.0)}, "shape ()"),
    ("sigmas", {"sigmas": 14.6}, "14.6"),
    ("sigmas", {"sigmas": "karras"}, "'karras'"),
    ("sigmas", {"sigmas": torch.tensor([2j, 1j])}, "torch.complex64"),
    ("sigmas", {"sigmas": torch.tensor([1.5, 1.0]), "process": "vp"}, "1.5"),
    ("sigmas", {"sigmas": torch.tensor([1.0, 0.99995]), "process": "flow"}, "0.99994"),
    ("eta", {"eta": -0.1}, "-0.1"),
    ("eta", {"eta": math.nan}, "nan"),
    ("eta", {"eta": math.inf}, "inf"),
    ("eta", {"eta": "1"}, "'1'"),
    ("eta", {"eta": None}, "None"),
    ("eta", {"eta": torch.ones(2)}, "tensor([1., 1.])"),
    ("s_noise", {"s_noise": -1.0}, "-1.0"),
    ("s_noise", {"s_noise": math.inf}, "inf"),
    ("solver_type", {"solver_type": "euler"}, "'euler'"),
    ("solver_type", {"solver_type": None}, "None"),
    ("solver_type", {"solver_type": ["heun"]}, "['heun']"),
    ("process", {"process": "edm"}, "'edm'"),
    ("process", {"process": None}, "None"),
    ("seed", {"extra_args": {"seed": -1}}, "-1"),
    ("seed", {"extra_args": {"seed": 1.5}}, "1.5"),
    ("seed", {"extra_args": {"seed": "7"}}, "'7'"),
    ("seed", {"extra_args": {"seed": 2**64}}, str(2**64)),
    ("seed", {"extra_args": {"seed": [1, 2, 3]}}, "3"),
    ("seed", {"extra_args": {"seed": [1, None]}}, "None"),
    ("extra_args", {"extra_args": [1]}, "[1]"),
    ("callback", {"callback": 1}, "1"),
    ("noise_sampler", {"noise_sampler": "tree"}, "'tree'"),
]


@pytest.mark.parametrize("run", [sample_dpmpp_2m_sde_gpu, sample_dpmpp_2m_sde, sample, trajectory])
@pytest.mark.parametrize(("argument", "changed", "value"), REFUSED)
def test_bad_input_is_refused_in_a_sentence_before_the_model_is_called(
    run: Any, argument: str, changed: dict[str, Any], value: str
) -> None:
    calls = []

    def model(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        calls.append(x)
        return x

    arguments = {"model": model, "x": X, "sigmas": KARRAS, **changed}
    with pytest.raises(ValueError, match=re.escape(argument)) as refusal:
        run(**arguments)
    message = str(refusal.value)
    assert value in message
    assert "must" in message or "may" in message
    assert calls == []


@pytest.mark.parametrize(
    ("returned", "named"),
    [
        (lambda x: None, "NoneType"),
        (lambda x: x[:, :1], "shape (2, 1)"),
        (lambda x: x.float(), "torch.float32"),
        (lambda x: x.to("meta"), "device meta"),
        (lambda x: x * math.nan, "nan"),
        (lambda x: torch.where(x == x.max(), math.inf, x), "inf"),
        (lambda x: torch.where(x == x.max(), -math.inf, x), "-inf"),
    ],
)
def test_a_bad_estimate_is_refused_with_its_step_and_the_state_so_far(
    returned: Any, named: str
) -> None:
    states = []

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        states.append(x)
        return returned(x) if len(states) == 4 else unit_gaussian(x, sigma)

    with pytest.raises(StepError) as refusal:
        sample(model, X, KARRAS, disable=True)
    message = str(refusal.value)
    assert message.startswith("model must return ")
    assert named in message
    assert "at step 3" in message
    assert refusal.value.step == 3
    assert refusal.value.x is states[-1]


@pytest.mark.parametrize("returned", [None, torch.zeros(2, 2), 1.0, torch.ones(2, 3).int()])
def test_noise_of_another_form_is_refused_with_the_state_so_far(returned: Any) -> None:
    with pytest.raises(
        StepError, match=r"noise_sampler must return a tensor of shape \(2, 3\)"
    ) as e:
        sample(unit_gaussian, X, KARRAS, noise_sampler=lambda s, t: returned, disable=True)
    assert e.value.step == 0
    assert torch.equal(e.value.x, X)


@pytest.mark.parametrize("sigmas", [[3.0, 2.0, 1.0], [3.0, 2.0]])
def test_noise_that_is_not_finite_is_blamed_on_the_noise_sampler(sigmas: list[float]) -> None:
    def noise(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return torch.full_like(X, math.nan) if sigma_next == sigmas[-1] else X

    with pytest.raises(StepError, match="noise_sampler must return finite values, got nan") as e:
        sample(unit_gaussian, X, sigmas, noise_sampler=noise, disable=True)
    assert e.value.step == len(sigmas) - 2


def test_a_state_that_outgrows_its_dtype_is_refused() -> None:
    x = torch.ones(2, 3).half()
    with pytest.raises(StepError, match=r"the state must stay within torch.float16"):
        sample(unit_gaussian, x, [3.0, 2.0], s_noise=1e6, noise_sampler=lambda s, t: x)


def test_a_step_error_survives_pickling_with_its_step_and_state() -> None:
    copied = pickle.loads(pickle.dumps(StepError("message", 3, X)))
    assert (str(copied), copied.step) == ("message", 3)
    assert torch.equal(copied.x, X)


@pytest.mark.parametrize("cpu", [True, False])
def test_levels_that_float32_cannot_tell_apart_are_stepped_through(cpu: bool) -> None:
    x = torch.zeros(4000, 1)
    run = sample_dpmpp_2m_sde if cpu else sample_dpmpp_2m_sde_gpu
    for sigmas in (
        torch.tensor([1.0 + 1e-9, 1.0, 0.5, 0.0], dtype=torch.float64),
        [2**24 + 1, 2**24],
    ):
        out = run(
            lambda x, sigma, **extra: 0.0 * x, x, sigmas, extra_args={"seed": 0}, disable=True
        )
        assert out.isfinite().all()
    # The only randomness is one noise arrow of size D; its spread tells that xi has variance 1.
    d = step_table(Mesh.from_sigmas([2**24 + 1, 2**24]))[0].D
    assert float(out.std()) == pytest.approx(d, rel=5 / math.sqrt(2 * 4000))


def test_the_default_device_of_torch_does_not_matter() -> None:
    x = state(2, 3)
    noise = normals(10, x)
    here = sample(unit_gaussian, x, KARRAS, noise_sampler=injected(KARRAS, noise), disable=True)
    # Whatever would be made on the default device would have no values.
    torch.set_default_device("meta")
    try:
        levels = schedule.karras(10, 0.03, 14.6)
        args = {"noise_sampler": injected(KARRAS, noise), "disable": True}
        there = sample(unit_gaussian, x, levels, **args)
        tree = sample(unit_gaussian_with_extras, x, levels, extra_args={"seed": 1}, disable=True)
    finally:
        torch.set_default_device(None)
    assert torch.equal(here, there)
    assert tree.isfinite().all()


def unit_gaussian_with_extras(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
    return unit_gaussian(x, sigma)


def test_the_exact_targets_take_an_empty_batch() -> None:
    for shape in ((0, 2), (0, 1, 2)):
        out = sample(MIXTURE.model(), torch.zeros(shape), KARRAS, eta=0.0, disable=True)
        assert out.shape == shape


# --- what a run depends on, and how it converges ---


@pytest.mark.parametrize("solver_type", SOLVERS)
def test_a_run_remembers_the_state_and_the_last_estimate_and_nothing_else(solver_type: Any) -> None:
    """Each step is taken anew from copies of these two, of its noise and of its row."""
    x = state(4, 2)
    noise = normals(10, x)
    settings = {"solver_type": solver_type, "noise_sampler": injected(KARRAS, noise)}
    run = list(trajectory(MIXTURE.model(), x, KARRAS, **settings))
    table = step_table(Mesh.from_sigmas(KARRAS), solver_type=solver_type)
    previous = None
    for t, row, xi in zip(run, table, noise, strict=True):
        estimate = MIXTURE.denoise(x, t.sigma)
        x, previous = step(row, x.clone(), estimate, previous, xi).x_next, estimate.clone()
        assert torch.equal(x, t.x_next)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_run_calls_the_model_once_in_every_step(eta: float) -> None:
    levels: list[float] = []

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        assert torch.equal(sigma, sigma[:1].expand(len(x)))
        levels.append(float(sigma[0]))
        return unit_gaussian(x, sigma)

    sample(model, state(3, 2), KARRAS, eta=eta, disable=True)
    assert levels == KARRAS[:-1].tolist()


def run_on_shared_path(steps: int, eta: float, fine: int, solver_type: Any) -> Tensor:
    """Responses of the result, at level 0.05, to the start and to ``fine`` short Brownian steps.

    The data is N(0, 1). In the time exp(2 eta lambda) a step's noise is the sum of the noises of
    its parts, so runs with fewer steps are driven by the same path.
    """
    lam = torch.linspace(-math.log(20.0), -math.log(0.05), fine + 1, dtype=torch.float64)
    ticks = (torch.exp(2.0 * eta * lam) if eta else lam).diff().reshape(steps, -1)
    parts = torch.zeros(steps, steps, fine // steps, dtype=torch.float64)
    parts[range(steps), range(steps)] = (ticks / ticks.sum(1, keepdim=True)).sqrt()
    draws = iter(torch.nn.functional.pad(parts.flatten(1), (1, 0))[:, :, None])
    start = torch.zeros(fine + 1, 1, dtype=torch.float64)
    start[0] = math.sqrt(1.0 + 20.0**2)
    out = sample(
        unit_gaussian,
        start,
        torch.exp(-lam[:: fine // steps]),
        eta=eta,
        solver_type=solver_type,
        noise_sampler=lambda s, t: next(draws),
        disable=True,
    )
    return out[:, 0]


@pytest.mark.parametrize("solver_type", SOLVERS)
@pytest.mark.parametrize(("eta", "strong"), [(0.0, 2.0), (0.5, 1.0), (1.0, 1.0)])
def test_the_law_converges_with_order_two_and_a_path_with_noise_with_order_one(
    eta: float, strong: float, solver_type: Any
) -> None:
    path = run_on_shared_path(1024, eta, 1024, solver_type)
    errors = []
    for steps in (32, 64):
        response = run_on_shared_path(steps, eta, 1024, solver_type)
        in_law = float(response.square().sum()) - (1.0 + 0.05**2)
        errors.append((abs(in_law), float((response - path).norm())))
    orders = [math.log2(coarse / fine) for coarse, fine in zip(*errors, strict=True)]
    assert orders[0] == pytest.approx(2.0, abs=0.1)
    assert orders[1] == pytest.approx(strong, abs=0.1)
