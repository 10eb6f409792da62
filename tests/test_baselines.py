"""The other samplers against diffusers' schedulers, integrals, and each other where they agree."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

from dpmpp_core import IndependentNoise, Mesh, StepTable, baselines, step_table
from dpmpp_core.sampler import step

LEVELS = [0.99, 0.9, 0.7, 0.4, 0.2, 0.05]
MESHES = {name: Mesh.from_sigmas([*LEVELS, 0.0], name) for name in ("ve", "vp", "flow")}
STATE, ESTIMATE, BEFORE, XI = torch.tensor([1.7, -0.4, 2.3, 0.6], dtype=torch.float64)[:, None]


def close(first: StepTable, second: StepTable) -> bool:
    rows = zip(first, second, strict=True)
    return all(list(a) == pytest.approx(list(b), rel=1e-12, abs=1e-15) for a, b in rows)


def moved(table: StepTable, k: int) -> float:
    return float(step(table[k], STATE, ESTIMATE, BEFORE, XI).x_next)


# --- against diffusers --------------------------------------------------------------------------


def euler_scheduler(kind, mesh):
    scheduler = kind(timestep_spacing="linspace")
    scheduler.set_timesteps(mesh.steps)
    scheduler.sigmas = torch.tensor(mesh.sigma, dtype=torch.float32)
    scheduler.is_scale_input_called = True
    return scheduler


def test_euler_is_diffusers_euler():
    mesh = MESHES["ve"]
    table, scheduler = baselines.euler(mesh), euler_scheduler(EulerDiscreteScheduler, mesh)
    for k in range(mesh.steps):
        scheduler._step_index = k
        slope = (STATE - ESTIMATE) / mesh.sigma[k]
        oracle = scheduler.step(slope, scheduler.timesteps[k], STATE).prev_sample
        assert moved(table, k) == pytest.approx(float(oracle), abs=2e-6)  # it works in float32


def test_euler_ancestral_is_diffusers_euler_ancestral():
    mesh = MESHES["ve"]
    table = baselines.euler_ancestral(mesh)
    scheduler = euler_scheduler(EulerAncestralDiscreteScheduler, mesh)
    for k in range(mesh.steps):
        scheduler._step_index = k
        slope = (STATE - ESTIMATE) / mesh.sigma[k]
        seeded = torch.Generator().manual_seed(k)
        xi = torch.randn(1, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        oracle = scheduler.step(slope, scheduler.timesteps[k], STATE, generator=seeded).prev_sample
        ours = step(table[k], STATE, ESTIMATE, BEFORE, xi).x_next
        assert float(ours) == pytest.approx(float(oracle), abs=2e-6)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_diffusers_ddim(eta):
    scheduler = DDIMScheduler(prediction_type="sample", clip_sample=False)
    scheduler.set_timesteps(10)
    product = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    mesh = Mesh.from_sigmas((1.0 - product).sqrt(), "vp")
    table = baselines.ddim(mesh, eta)
    for k in range(mesh.steps):
        xi = {"variance_noise": XI} if eta else {}
        time = int(scheduler.timesteps[k])
        oracle = scheduler.step(ESTIMATE, time, STATE, eta=eta, **xi).prev_sample
        assert moved(table, k) == pytest.approx(float(oracle), abs=5e-6)  # float32 products


def dpm_scheduler(algorithm, order):
    scheduler = DPMSolverMultistepScheduler(algorithm_type=algorithm, solver_order=order)
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    scheduler.sigmas = levels / (1.0 - levels**2).sqrt()  # it works in VP
    return scheduler


def test_2m_is_diffusers_2m():
    scheduler, table = dpm_scheduler("dpmsolver++", 2), baselines.two_m(MESHES["vp"])
    for k in range(1, len(LEVELS) - 1):
        scheduler._step_index = k
        estimates = [BEFORE, ESTIMATE]
        oracle = scheduler.multistep_dpm_solver_second_order_update(estimates, sample=STATE)
        assert moved(table, k) == pytest.approx(float(oracle), abs=1e-12)


def test_sde_1_is_diffusers_sde_1():
    scheduler, table = dpm_scheduler("sde-dpmsolver++", 1), baselines.sde_1(MESHES["vp"])
    for k in range(len(LEVELS) - 1):
        scheduler._step_index = k
        oracle = scheduler.dpm_solver_first_order_update(ESTIMATE, sample=STATE, noise=XI)
        assert moved(table, k) == pytest.approx(float(oracle), abs=1e-12)


def test_3m_without_noise_is_diffusers_3m():
    scheduler = dpm_scheduler("dpmsolver++", 3)
    estimates = [torch.tensor([v], dtype=torch.float64) for v in (0.3, -1.1, 2.0, 0.4, -0.7)]
    answers, x = iter(estimates), STATE
    mesh = Mesh.from_sigmas(LEVELS, "vp")
    ours = baselines.three_m(lambda x, sigma: next(answers), STATE, mesh, 0.0)
    heun = step_table(mesh, 0.0, solver_type="heun")
    x = step(heun[0], x, estimates[0]).x_next
    x = step(heun[1], x, estimates[1], estimates[0]).x_next
    for k in range(2, 5):
        scheduler._step_index = k
        known = estimates[k - 2 : k + 1]
        x = scheduler.multistep_dpm_solver_third_order_update(known, sample=x)
    assert float(ours) == pytest.approx(float(x), abs=1e-12)


# --- against integrals --------------------------------------------------------------------------


@pytest.mark.parametrize("process", list(MESHES))
@pytest.mark.parametrize("eta", [0.0, 0.6, 2.0])
def test_3m_with_the_whole_bend_integrates_a_parabola(process, eta):
    mesh = Mesh.from_sigmas(LEVELS[:4], process)

    def parabola(lam):
        return 0.7 - 0.3 * lam + 0.45 * lam**2

    def model(x, sigma):
        k = min(range(4), key=lambda k: abs(mesh.sigma[k] - float(sigma[0])))
        return torch.full_like(x, parabola(mesh.lam[k]))

    def still(sigma, sigma_next):
        return torch.zeros_like(STATE)

    before = Mesh.from_sigmas(LEVELS[:3], process)
    second = float(baselines.three_m(model, STATE, before, eta, still))
    third = baselines.three_m(model, STATE, mesh, eta, still, bend=1.0)
    h = mesh.h[2]
    weighted = mpmath.quad(
        lambda u: mpmath.exp(-(1 + eta) * (h - u)) * parabola(mesh.lam[2] + u), [0, h]
    )
    exact = mesh.sigma[3] / mesh.sigma[2] * math.exp(-eta * h) * second
    exact += (1 + eta) * mesh.alpha[3] * float(weighted)
    assert float(third) == pytest.approx(exact, rel=1e-13)
    published = baselines.three_m(model, STATE, mesh, eta, still)
    assert abs(float(published) - exact) > 1e-4


def test_3m_adds_the_noise_of_the_table_and_returns_the_estimate_at_0():
    mesh, zero = MESHES["ve"], torch.zeros(3, 2, dtype=torch.float64)

    def nothing(x, sigma):
        return torch.zeros_like(x)

    draws = IndependentNoise(zero, 5)
    x = zero
    for row in step_table(Mesh.from_sigmas(LEVELS), 1.0):
        x = row.A * x + row.D * draws(torch.tensor(1.0), torch.tensor(0.5))
    short = Mesh.from_sigmas(LEVELS)
    ours = baselines.three_m(nothing, zero, short, 1.0, IndependentNoise(zero, 5))
    assert torch.allclose(ours, x, rtol=1e-14)
    ends = baselines.three_m(nothing, zero, mesh, 1.0, IndependentNoise(zero, 5))
    assert torch.equal(ends, zero)


# --- where they agree ---------------------------------------------------------------------------


@pytest.mark.parametrize("process", list(MESHES))
def test_five_names_are_three_methods(process):
    mesh = MESHES[process]
    assert close(baselines.euler(mesh), baselines.ddim(mesh, 0.0))
    assert close(baselines.euler(mesh), baselines.sde_1(mesh, 0.0))
    assert close(baselines.sde_1(mesh, 1.0), baselines.ddim(mesh, 1.0))
    assert close(baselines.two_m(mesh), step_table(mesh, 0.0))


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_on_ve_euler_ancestral_is_ddim_with_the_same_eta(eta):
    mesh = MESHES["ve"]
    assert close(baselines.euler_ancestral(mesh, eta), baselines.ddim(mesh, eta))
    other = baselines.sde_1(mesh, eta)
    assert close(baselines.euler_ancestral(mesh, eta), other) == (eta in (0.0, 1.0))


def test_the_ancestral_noise_stops_at_the_next_level():
    table = baselines.euler_ancestral(MESHES["ve"], 9.0)
    assert table[2] == (0.0, 1.0, 0.0, 0.4)
    assert table[-1] == (0.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: baselines.ddim(MESHES["ve"], 1.5), "eta must be a number from 0 to 1, got 1.5"),
        (
            lambda: baselines.euler_ancestral(MESHES["flow"]),
            "mesh must be of process 've', got 'flow'",
        ),
        (
            lambda: baselines.euler_ancestral(MESHES["ve"], -1.0),
            "eta must be a finite number >= 0, got -1.0",
        ),
        (
            lambda: baselines.sde_1(MESHES["ve"], math.nan),
            "eta must be a finite number >= 0, got nan",
        ),
        (
            lambda: baselines.three_m(lambda x, s: x, STATE, MESHES["ve"]),
            "noise_sampler must be given where eta is above 0, got None and 1.0",
        ),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == message
