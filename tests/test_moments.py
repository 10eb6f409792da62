"""Exact moments against 50-digit weights, the sampler itself, Monte Carlo and closed forms."""

from __future__ import annotations

import dataclasses
import math
from decimal import Decimal, localcontext
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpmpp_core import Mesh, gaussian, sample, schedule, step_table, trajectory
from dpmpp_core.moments import (
    StepGrid,
    affine_moments,
    gaussian_denoiser,
    gaussian_moments,
    noise_response,
    step_grid,
)

EPS = 2.0**-52
SOLVERS = ["midpoint", "heun"]
ENDS = {"ve": (80.0, 0.002), "vp": (0.9999, 0.01), "flow": (0.9999, 0.005)}
PROCESSES = list(ENDS)


def levels(process, steps, zero=False):
    """Karras's spacing between the ends; the last level may be 0 instead."""
    high, low = (end ** (1 / 7) for end in ENDS[process])
    s = torch.linspace(high, low, steps + 1 - zero, dtype=torch.float64) ** 7
    return s.tolist() + [0.0] * zero


def a_mesh(process, steps, zero=False):
    return Mesh.from_sigmas(levels(process, steps, zero), process)


def even_mesh(steps, high=20.0, low=0.05):
    """Even in lambda under VE."""
    return Mesh.from_sigmas(
        torch.linspace(math.log(high), math.log(low), steps + 1, dtype=torch.float64).exp()
    )


# --- an oracle in 50 digits ---------------------------------------------------------------------


def exact_final_variance(mesh, eta, s_noise, solver_type, variance):
    """Var x_N for N(m, variance) data: follow x_0 and each noise to the end, add the squares.

    The formulas are those of the design's table as they stand, with 50 digits to lose.
    """
    with localcontext() as context:
        context.prec = 50
        v, rate, s = Decimal(variance), Decimal(eta), [Decimal(level) for level in mesh.sigma]
        alpha = {
            "ve": lambda t: Decimal(1),
            "vp": lambda t: (1 - t * t).sqrt(),
            "flow": lambda t: 1 - t,
        }[mesh.process.name]
        a = [alpha(t) for t in s]
        lam = [(b / t).ln() if t else None for b, t in zip(a, s, strict=True)]
        gain = [
            b * v / (b * b * v + t * t) if v else v for b, t in zip(a[:-1], s[:-1], strict=True)
        ]
        rows = []
        for k in range(mesh.steps):
            if s[k + 1] == 0:
                rows.append((gain[k], Decimal(0), Decimal(0)))
                continue
            h = lam[k + 1] - lam[k]
            z = (1 + rate) * h
            whole = 1 - (-z).exp()
            weight = whole / 2 if solver_type == "midpoint" else 1 - whole / z
            past = a[k + 1] * weight * h / (lam[k] - lam[k - 1]) if k else Decimal(0)
            keep = s[k + 1] / s[k] * (-rate * h).exp()
            noise = Decimal(s_noise) * s[k + 1] * (1 - (-2 * rate * h).exp()).sqrt()
            own = keep + (a[k + 1] * whole + past) * gain[k]
            rows.append((own, past * gain[k - 1] if k else past, noise))

        def to_the_end(first, value):
            before = Decimal(0)
            for own, past, _ in rows[first:]:
                value, before = own * value - past * before, value
            return value

        total = to_the_end(0, Decimal(1)) ** 2 * (a[0] ** 2 * v + s[0] ** 2)
        for k, (_, _, noise) in enumerate(rows):
            if noise:
                total += to_the_end(k + 1, noise) ** 2
        return total


def relative(value, exact):
    with localcontext() as context:
        context.prec = 50
        return float(abs(Decimal(float(value)) - exact) / exact)


@pytest.mark.parametrize("solver_type", SOLVERS)
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("process", PROCESSES)
def test_the_final_variance_has_twelve_digits(process, zero, solver_type):
    for steps in (2, 3, 7, 30):
        mesh = a_mesh(process, steps, zero)
        for eta in (0.0, 0.3, 1.0, 2.0):
            for variance in (1.0, 1e-4, 25.0):
                exact = exact_final_variance(mesh, eta, 1.1, solver_type, variance)
                got = gaussian_moments(mesh, eta, 1.1, solver_type, 0.7, variance).variance[-1]
                # Some ulps for each of 2 steps and more; measured 4e-15.
                assert relative(got, exact) <= 1e-13


@pytest.mark.parametrize(
    ("process", "eta", "solver_type"),
    [("ve", 1.0, "midpoint"), ("vp", 0.0, "heun"), ("flow", 2.0, "midpoint")],
)
def test_a_thousand_steps_keep_the_digits(process, eta, solver_type):
    mesh = a_mesh(process, 1000)
    exact = exact_final_variance(mesh, eta, 1.0, solver_type, 1.0)
    got = gaussian_moments(mesh, eta, 1.0, solver_type).variance[-1]
    assert relative(got, exact) <= 1e-13


@st.composite
def meshes(draw):
    """2 to 9 steps, neighbours apart by 1% of themselves or more."""
    process = draw(st.sampled_from(PROCESSES))
    first = (
        10.0 ** draw(st.floats(-1.0, 2.0)) if process == "ve" else draw(st.floats(0.1, 1.0 - 1e-6))
    )
    s = [first]
    for _ in range(draw(st.integers(2, 9))):
        s.append(s[-1] / (1.0 + 10.0 ** draw(st.floats(-2.0, 1.0))))
    if draw(st.booleans()):
        s[-1] = 0.0
    return Mesh.from_sigmas(s, process)


etas = st.one_of(st.just(0.0), st.floats(0.0, 2.0), st.floats(-9.0, 0.0).map(lambda e: 10.0**e))
spreads = st.one_of(st.just(0.0), st.floats(-4.0, 2.0).map(lambda e: 10.0**e))
solvers = st.sampled_from(SOLVERS)


@settings(max_examples=150)
@given(mesh=meshes(), eta=etas, variance=spreads, solver_type=solvers)
def test_any_mesh_gives_the_variance_of_the_unrolled_run(mesh, eta, variance, solver_type):
    exact = exact_final_variance(mesh, eta, 1.0, solver_type, variance)
    got = gaussian_moments(mesh, eta, 1.0, solver_type, 0.0, variance).variance[-1]
    if exact == 0:  # no spread in the data, and the last state is the last estimate
        assert got == 0.0
        return
    # Differences of estimates lose the digits that h_k / h_{k-1} <= 250 gives back as a factor.
    assert relative(got, exact) <= 1e-12


# --- the sampler itself -------------------------------------------------------------------------


class Basis:
    """Hands sample 1 + k the noise 1 in step k, and everybody else 0."""

    def __init__(self, x):
        self.x, self.k = x, 0

    def __call__(self, sigma, sigma_next):
        xi = torch.zeros_like(self.x)
        xi[1 + self.k] = 1.0
        self.k += 1
        return xi


def basis_run(model, sigmas, process, **knobs):
    """Every state of a run on a basis: row 0 starts at 1, the others at 0. Shape (N + 1, N + 1)."""
    x = torch.zeros(len(sigmas), 1, dtype=torch.float64)
    x[0] = 1.0
    run = trajectory(model, x, sigmas, process=process, noise_sampler=Basis(x), **knobs)
    return torch.stack([x, *(t.x_next for t in run)])[..., 0]


@pytest.mark.parametrize("solver_type", SOLVERS)
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("process", PROCESSES)
def test_the_moments_are_those_of_the_sampler_fed_with_basis_noises(process, zero, solver_type):
    sigmas, v = levels(process, 12, zero), 0.6
    target = gaussian(torch.zeros(1), v)
    for eta, s_noise in ((0.0, 1.0), (0.5, 1.3), (1.0, 1.0), (2.0, 0.4)):
        knobs = {"eta": eta, "s_noise": s_noise, "solver_type": solver_type}
        states = basis_run(target.model(process), sigmas, process, **knobs)
        mesh = Mesh.from_sigmas(sigmas, process)
        start = mesh.alpha[0] ** 2 * v + mesh.sigma[0] ** 2
        variance = states[:, 0] ** 2 * start + (states[:, 1:] ** 2).sum(1)
        got = gaussian_moments(mesh, **knobs, variance=v)
        torch.testing.assert_close(got.variance, variance, rtol=1e-13, atol=0.0)
        response = noise_response(step_table(mesh, **knobs), gaussian_denoiser(mesh, 0.0, v).gain)
        weights = torch.cat([response.initial[None], response.noise])
        torch.testing.assert_close(weights, states[-1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_mean_is_the_run_without_noise_from_the_mean(process):
    sigmas, m, v = levels(process, 9, True), -1.7, 0.3
    target = gaussian(torch.tensor([m], dtype=torch.float64), v)
    x = torch.tensor([[0.8]], dtype=torch.float64)
    run = trajectory(
        target.model(process), x, sigmas, eta=0.7, s_noise=0.0, solver_type="heun", process=process
    )
    states = torch.stack([x, *(t.x_next for t in run)]).flatten()
    got = gaussian_moments(
        Mesh.from_sigmas(sigmas, process), 0.7, 1.2, "heun", m, v, initial=(0.8, 0.0)
    )
    torch.testing.assert_close(got.mean, states, rtol=1e-13, atol=1e-14)


def test_monte_carlo_agrees_within_its_error_at_every_step():
    n, m, v = 250_000, 0.5, 0.49
    sigmas = levels("vp", 7, True)
    mesh = Mesh.from_sigmas(sigmas, "vp")
    generator = torch.Generator().manual_seed(20)
    target = gaussian(torch.tensor([m], dtype=torch.float64), v)
    x = target.sample(n, sigmas[0], "vp", generator)

    def noise(sigma, sigma_next):
        return torch.randn(x.shape, generator=generator, dtype=torch.float64)

    knobs = {"eta": 1.0, "s_noise": 1.2, "solver_type": "heun"}
    run = trajectory(target.model("vp"), x, sigmas, process="vp", noise_sampler=noise, **knobs)
    states = [x, *(t.x_next for t in run)]
    mean, variance = gaussian_moments(mesh, **knobs, mean=m, variance=v)
    scores = []
    for k, state in enumerate(states):
        # Gaussian states: standard errors sqrt(V / n) and V sqrt(2 / n).
        scores.append((float(state.mean()) - float(mean[k])) / math.sqrt(variance[k] / n))
        spread = float((state - mean[k]).square().mean())
        scores.append((spread / float(variance[k]) - 1.0) / math.sqrt(2.0 / n))
    # 16 comparisons: a right answer fails with another seed with probability below 1.1e-3.
    assert 16 * math.erfc(4.0 / math.sqrt(2.0)) < 1.1e-3
    assert len(scores) == 16
    assert max(map(abs, scores)) < 4.0


def test_a_million_samples_end_with_the_exact_variance():
    n = 1_000_000
    sigmas = schedule.karras(5, 0.0292, 14.6146)
    target = gaussian(torch.zeros(1))
    generator = torch.Generator().manual_seed(6)
    x = target.sample(n, float(sigmas[0]), generator=generator)

    def noise(sigma, sigma_next):
        return torch.randn(x.shape, generator=generator, dtype=torch.float64)

    last = sample(target.model(), x, sigmas, noise_sampler=noise, solver_type="heun", disable=True)
    exact = float(gaussian_moments(Mesh.from_sigmas(sigmas), solver_type="heun").variance[-1])
    # Two-sided tail of 4 standard errors: 6.4e-5. The run's variance is far from the data's.
    assert abs(float(last.square().mean()) / exact - 1.0) < 4.0 * math.sqrt(2.0 / n)
    assert abs(exact - 1.0) > 0.1


# --- published numbers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver_type", "errors"),
    [("midpoint", (1.12e-2, 2.85e-3, 7.16e-4)), ("heun", (2.47e-2, 5.98e-3, 1.47e-3))],
)
def test_the_error_of_the_variance_falls_as_in_the_table(solver_type, errors):
    # Unit Gaussian, sigma 20 to 0.05, even in lambda, eta = 1; exact: 1 + 0.05^2.
    for steps, error in zip((32, 64, 128), errors, strict=True):
        got = gaussian_moments(even_mesh(steps), 1.0, 1.0, solver_type).variance[-1]
        assert float(got) - 1.0025 == pytest.approx(error, rel=5e-3)


@pytest.mark.parametrize(
    ("solver_type", "spreads"),
    [("midpoint", (1.102, 1.032, 1.007)), ("heun", (1.276, 1.063, 1.013))],
)
def test_the_final_spread_of_a_karras_run_is_the_published_one(solver_type, spreads):
    for steps, spread in zip((10, 20, 40), spreads, strict=True):
        mesh = Mesh.from_sigmas(schedule.karras(steps, 0.0292, 14.6146))
        variance = gaussian_moments(mesh, 1.0, [0.0, 1.0], solver_type).variance[-1]
        assert float(variance[0]) ** 0.5 == pytest.approx(0.068, abs=5e-4)
        assert float(variance[1]) ** 0.5 == pytest.approx(spread, abs=5e-4)


@pytest.mark.parametrize("solver_type", SOLVERS)
def test_the_weak_order_is_2_with_history_and_1_without(solver_type):
    rates = torch.tensor([0.0, 0.25, 0.5, 1.0, 2.0], dtype=torch.float64)
    errors = {"with": [], "without": []}
    for steps in (256, 512):
        mesh = even_mesh(steps)
        table = step_grid(mesh, rates, 1.0, solver_type)
        tables = {"with": table, "without": table._replace(C=torch.zeros_like(table.C))}
        for name, columns in tables.items():
            gain = gaussian_denoiser(mesh).gain
            start = 1.0 + mesh.sigma[0] ** 2
            moments = affine_moments(columns, gain, initial=(0.0, start))
            errors[name].append((moments.variance[-1] - 1.0025).abs())
    for name, order in (("with", 2.0), ("without", 1.0)):
        coarse, fine = errors[name]
        slopes = torch.log2(coarse / fine)
        assert ((slopes - order).abs() < 0.1).all(), (name, slopes)


# --- identities ---------------------------------------------------------------------------------


@settings(max_examples=60)
@given(mesh=meshes(), eta=etas, mean=st.floats(-5.0, 5.0), solver_type=solvers)
def test_a_perfect_model_keeps_the_exact_law(mesh, eta, mean, solver_type):
    # Data at one point: the estimate is that point always, and x_k = alpha_k m + sigma_k eps.
    got = gaussian_moments(mesh, eta, 1.0, solver_type, mean, 0.0)
    alpha, sigma = (torch.tensor(v, dtype=torch.float64) for v in (mesh.alpha, mesh.sigma))
    torch.testing.assert_close(got.mean, alpha * mean, rtol=8 * EPS, atol=0.0)
    torch.testing.assert_close(got.variance, sigma**2, rtol=200 * EPS, atol=0.0)


@settings(max_examples=60)
@given(mesh=meshes(), eta=etas, mean=st.floats(-5.0, 5.0), variance=spreads, solver_type=solvers)
def test_the_mean_of_the_exact_start_stays_exact(mesh, eta, mean, variance, solver_type):
    got = gaussian_moments(mesh, eta, 1.3, solver_type, mean, variance).mean
    alpha = torch.tensor(mesh.alpha, dtype=torch.float64)
    assert torch.equal(got, alpha * mean)
    # and by the general recursion, which does not know the process
    start = mesh.alpha[0] * mean, 1.0
    table = step_table(mesh, eta, 1.3, solver_type)
    general = affine_moments(table, *gaussian_denoiser(mesh, mean, variance), initial=start).mean
    torch.testing.assert_close(general, alpha * mean, rtol=1e-12, atol=1e-12)


@settings(max_examples=60)
@given(mesh=meshes(), variance=spreads, start=st.floats(0.0, 9.0), solver_type=solvers)
def test_without_eta_a_point_goes_to_a_point(mesh, variance, start, solver_type):
    point = gaussian_moments(mesh, 0.0, 7.0, solver_type, 1.0, variance, initial=(0.4, 0.0))
    assert (point.variance == 0.0).all()
    one = gaussian_moments(mesh, 0.0, 1.0, solver_type, 1.0, variance, initial=(0.4, 1.0))
    cloud = gaussian_moments(mesh, 0.0, 1.0, solver_type, 1.0, variance, initial=(0.4, start))
    torch.testing.assert_close(cloud.variance, start * one.variance, rtol=8 * EPS, atol=0.0)
    assert torch.equal(cloud.mean, point.mean)


@settings(max_examples=60)
@given(
    mesh=meshes(),
    eta=etas,
    s_noise=st.floats(0.0, 3.0),
    variance=spreads,
    solver_type=solvers,
)
def test_the_noise_adds_its_square(mesh, eta, s_noise, variance, solver_type):
    got = gaussian_moments(mesh, eta, [0.0, 1.0, s_noise], solver_type, 2.0, variance)
    none, one, some = got.variance.unbind(1)
    # one - none cancels to the rounding of the larger.
    torch.testing.assert_close(some - none, s_noise**2 * (one - none), rtol=1e-10, atol=1e-13)
    assert torch.equal(got.mean[:, 0], got.mean[:, 2])
    assert (one >= none).all()


@pytest.mark.parametrize("solver_type", SOLVERS)
@pytest.mark.parametrize("process", PROCESSES)
def test_one_step_to_zero_has_the_moments_of_the_estimate(process, solver_type):
    # E[x0 | x] has the mean m and the variance a^2 v^2 / (a^2 v + s^2).
    mesh = Mesh.from_sigmas([0.8, 0.0], process)
    a, s, v = mesh.alpha[0], mesh.sigma[0], 0.3
    mean, variance = gaussian_moments(mesh, 1.0, 1.0, solver_type, 2.0, v)
    assert float(mean[-1]) == pytest.approx(2.0, rel=4 * EPS)
    assert float(variance[-1]) == pytest.approx(a * a * v * v / (a * a * v + s * s), rel=8 * EPS)


def test_a_tail_step_returns_the_law_of_the_last_estimate():
    short, tail = a_mesh("flow", 6), Mesh.from_sigmas([*levels("flow", 6), 0.0], "flow")
    eta, s_noise = [0.0, 1.0, 2.0], 1.1
    before = gaussian_moments(short, eta, s_noise, "heun", 0.4, 0.7)
    after = gaussian_moments(tail, eta, s_noise, "heun", 0.4, 0.7)
    gain, offset = gaussian_denoiser(tail, 0.4, 0.7)
    torch.testing.assert_close(after.variance[:-1], before.variance, rtol=0.0, atol=0.0)
    last = gain[-1] ** 2 * before.variance[-1]
    torch.testing.assert_close(after.variance[-1], last, rtol=8 * EPS, atol=0.0)
    estimate = gain[-1] * before.mean[-1] + offset[-1]
    torch.testing.assert_close(after.mean[-1], estimate, rtol=8 * EPS, atol=0.0)


def test_the_denoiser_is_the_conditional_mean_by_the_formula_of_bayes():
    # Integrals over x0 in 30 digits, at one x.
    mp = mpmath.MPContext()
    mp.dps = 30
    mesh = Mesh.from_sigmas([0.9, 0.6, 0.2], "flow")
    m, v, x = 1.5, 0.4, -0.3
    gain, offset = gaussian_denoiser(mesh, m, v)
    for k in range(2):
        a, s = mesh.alpha[k], mesh.sigma[k]

        def joint(x0, a=a, s=s):
            return mp.exp(-((x0 - m) ** 2) / (2 * v) - (x - a * x0) ** 2 / (2 * s * s))

        ends = [-8, 0, 2, 10]
        mean = mp.quad(lambda x0, f=joint: x0 * f(x0), ends) / mp.quad(joint, ends)
        assert float(gain[k]) * x + float(offset[k]) == pytest.approx(float(mean), rel=1e-14)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_denoiser_of_the_moments_is_that_of_the_target(process):
    mesh = a_mesh(process, 8)
    target = gaussian(torch.tensor([0.3], dtype=torch.float64), 1.7)
    gain, offset = gaussian_denoiser(mesh, 0.3, 1.7)
    x = torch.tensor([[-2.0], [0.0], [5.0]], dtype=torch.float64)
    for k in range(mesh.steps):
        expected = target.denoise(x, mesh.sigma[k], process)
        torch.testing.assert_close(gain[k] * x + offset[k], expected, rtol=1e-13, atol=1e-13)


# --- several dimensions -------------------------------------------------------------------------


def rotation(d, seed):
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(square)[0]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("process", PROCESSES)
def test_rotating_the_data_rotates_the_moments(process, seed):
    mesh, eta = a_mesh(process, 10, True), torch.tensor([0.0, 1.0])
    m = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    v = torch.tensor([1.5, 0.0, 0.2], dtype=torch.float64)
    turn = rotation(3, seed)
    axes = gaussian_moments(mesh, eta, 0.9, "heun", m, v)
    turned = gaussian_moments(mesh, eta, 0.9, "heun", turn @ m, turn @ v.diag() @ turn.mT)
    assert axes.mean.shape == (11, 2, 3)
    assert axes.variance.shape == (11, 2, 3, 3)
    torch.testing.assert_close(turned.mean, axes.mean @ turn.mT, rtol=1e-13, atol=1e-13)
    expected = turn @ axes.variance @ turn.mT
    scale = float(expected.abs().max())
    torch.testing.assert_close(turned.variance, expected, rtol=1e-12, atol=1e-14 * scale)
    assert torch.equal(turned.variance, turned.variance.mT)
    for i in range(3):
        line = gaussian_moments(mesh, eta, 0.9, "heun", m[i], v[i])
        torch.testing.assert_close(axes.variance[..., i, i], line.variance, rtol=1e-14, atol=0.0)
        torch.testing.assert_close(axes.mean[..., i], line.mean, rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("solver_type", SOLVERS)
def test_a_start_with_other_axes_follows_the_full_matrices(solver_type):
    # The joint covariance of (x_k, estimate k - 1), 2d x 2d, by matrices.
    mesh, d = a_mesh("vp", 9), 3
    eta, s_noise = 0.8, 1.1
    turn, other = rotation(d, 5), rotation(d, 6)
    V = turn @ torch.tensor([2.0, 0.5, 0.01], dtype=torch.float64).diag() @ turn.mT
    V = 0.5 * (V + V.mT)
    start = other @ torch.tensor([1.0, 3.0, 0.0], dtype=torch.float64).diag() @ other.mT
    m = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    first = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    got = gaussian_moments(mesh, eta, s_noise, solver_type, m, V, initial=(first, start))

    eye, zero = torch.eye(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
    mean = torch.cat([first, torch.zeros_like(first)])
    joint = torch.block_diag(start, zero)
    for k, (A, B, C, D) in enumerate(step_table(mesh, eta, s_noise, solver_type)):
        alpha, sigma = mesh.alpha[k], mesh.sigma[k]
        G = alpha * V @ torch.linalg.inv(alpha**2 * V + sigma**2 * eye)
        b = m - alpha * G @ m
        M = torch.cat([torch.cat([A * eye + (B + C) * G, -C * eye], 1), torch.cat([G, zero], 1)])
        mean = M @ mean + torch.cat([(B + C) * b, b])
        joint = M @ joint @ M.mT + torch.block_diag(D * D * eye, zero)
        torch.testing.assert_close(got.mean[k + 1], mean[:d], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(got.variance[k + 1], joint[:d, :d], rtol=1e-12, atol=1e-12)


def test_numbers_and_vectors_are_short_for_matrices():
    mesh = a_mesh("ve", 4)
    one = gaussian_moments(mesh, variance=np.eye(2) * 0.3, mean=[1.0, 2.0])
    for variance in (0.3, [0.3, 0.3]):
        other = gaussian_moments(mesh, variance=variance, mean=[1.0, 2.0])
        torch.testing.assert_close(other.mean, one.mean, rtol=0.0, atol=0.0)
        torch.testing.assert_close(other.variance, one.variance, rtol=1e-15, atol=0.0)
    centred = gaussian_moments(mesh, variance=np.eye(2) * 0.3, initial=(0.5, 2.0))
    line = gaussian_moments(mesh, variance=0.3, initial=(0.5, 2.0))
    torch.testing.assert_close(centred.mean, line.mean[:, None].expand(5, 2), rtol=1e-15, atol=0.0)
    torch.testing.assert_close(centred.variance[:, 1, 1], line.variance, rtol=1e-15, atol=0.0)


def test_a_singular_covariance_in_any_axes_is_taken():
    turn = rotation(4, 3)
    V = turn @ torch.tensor([1.0, 0.0, 0.0, 2.0], dtype=torch.float64).diag() @ turn.mT
    mesh = a_mesh("ve", 5, True)
    got = gaussian_moments(mesh, variance=0.5 * (V + V.mT)).variance[-1]
    assert torch.linalg.eigvalsh(got)[:2].abs().max() < 1e-14


# --- grids --------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver_type", SOLVERS)
@pytest.mark.parametrize("process", PROCESSES)
def test_a_grid_holds_what_each_setting_gives_alone(process, solver_type):
    mesh = a_mesh(process, 6, True)
    eta, s_noise = np.array([0.0, 1e-9, 0.7, 2.0]), torch.tensor([0.0, 0.5, 1.0])
    got = gaussian_moments(mesh, eta[:, None], s_noise, solver_type, 0.2, 0.9)
    assert got.mean.shape == got.variance.shape == (7, 4, 3)
    assert got.mean.dtype == got.variance.dtype == torch.float64
    for i, e in enumerate(eta.tolist()):
        for j, s in enumerate(s_noise.tolist()):
            mean, variance = gaussian_moments(mesh, e, s, solver_type, 0.2, 0.9)
            assert mean.shape == variance.shape == (7,)
            torch.testing.assert_close(got.mean[:, i, j], mean, rtol=1e-14, atol=0.0)
            torch.testing.assert_close(got.variance[:, i, j], variance, rtol=1e-14, atol=0.0)


@settings(max_examples=60)
@given(mesh=meshes(), eta=st.floats(0.0, 30.0), s_noise=st.floats(0.0, 3.0), solver_type=solvers)
def test_the_grid_of_coefficients_is_the_table(mesh, eta, s_noise, solver_type):
    table = step_table(mesh, eta, s_noise, solver_type)
    grid = step_grid(mesh, [[eta], [0.5]], [s_noise, 1.0, 2.0], solver_type)
    for name in "ABCD":
        column = getattr(grid, name)
        assert column.shape == (mesh.steps, 2, 3)
        exact = torch.tensor(getattr(table, name), dtype=torch.float64)
        torch.testing.assert_close(column[:, 0, 0], exact, rtol=4 * EPS, atol=1e-300)


@pytest.mark.parametrize("eta", [0.0, 1e-300, 1e5, 1e308])
def test_any_finite_eta_gives_finite_moments(eta):
    mesh = Mesh.from_sigmas([0.99, 0.5, 0.1, 1e-170, 0.0], "vp")
    for variance in (0.0, 1e-300, 1.0, 1e300):
        got = gaussian_moments(mesh, [eta, 1.0], 1.0, "heun", 1.0, variance, initial=(0.0, 1.0))
        assert got.mean.isfinite().all()
        assert got.variance.isfinite().all()
        assert (got.variance >= 0.0).all()


def test_the_start_may_be_a_grid_too():
    mesh = a_mesh("flow", 5)
    start = torch.tensor([0.5, 1.0, 2.0])
    got = gaussian_moments(mesh, [[0.0], [1.0]], initial=(1.0, start))
    assert got.variance.shape == (6, 2, 3)
    alone = gaussian_moments(mesh, 1.0, initial=(1.0, 2.0))
    torch.testing.assert_close(got.variance[:, 1, 2], alone.variance, rtol=1e-14, atol=0.0)
    torch.testing.assert_close(got.mean[:, 1, 2], alone.mean, rtol=1e-14, atol=0.0)
    wider = gaussian_moments(mesh, 1.0, initial=(1.0, start))
    torch.testing.assert_close(wider.variance, got.variance[:, 1], rtol=1e-14, atol=0.0)


def test_arguments_are_not_changed_and_gradients_not_asked_for():
    eta = torch.tensor([0.5, 1.0], requires_grad=True)
    got = gaussian_moments(a_mesh("ve", 3), eta)
    assert not got.variance.requires_grad
    assert eta.tolist() == [0.5, 1.0]


# --- a model that is wrong ----------------------------------------------------------------------


@pytest.mark.parametrize("solver_type", SOLVERS)
@pytest.mark.parametrize("process", PROCESSES)
def test_a_biased_model_has_the_moments_that_the_sampler_gives_it(process, solver_type):
    sigmas = levels(process, 8, True)
    mesh = Mesh.from_sigmas(sigmas, process)
    gain, offset = gaussian_denoiser(mesh, 0.5, 0.8)
    # Estimates too bold at high noise, and off by some.
    gain, offset = gain * torch.linspace(1.2, 0.9, 8), offset + torch.linspace(0.3, -0.1, 8)
    place = {s: k for k, s in enumerate(sigmas)}

    def model(x, sigma):
        return gain[place[float(sigma[0])]] * x + offset[place[float(sigma[0])]]

    def centred(x, sigma):
        return gain[place[float(sigma[0])]] * x

    knobs = {"eta": 0.6, "s_noise": 1.1, "solver_type": solver_type}
    states = basis_run(centred, sigmas, process, **knobs)
    x = torch.tensor([[1.4]], dtype=torch.float64)
    run = trajectory(model, x, sigmas, process=process, **{**knobs, "s_noise": 0.0})
    mean = torch.stack([x, *(t.x_next for t in run)]).flatten()
    table = step_table(mesh, **knobs)
    got = affine_moments(table, gain, offset, initial=(1.4, 2.5))
    torch.testing.assert_close(got.mean, mean, rtol=1e-12, atol=1e-13)
    variance = states[:, 0] ** 2 * 2.5 + (states[:, 1:] ** 2).sum(1)
    torch.testing.assert_close(got.variance, variance, rtol=1e-12, atol=0.0)


def test_a_constant_model_forgets_everything_else():
    # gain 0, offset c: x_N -> alpha_N c + what A leaves of the start, and fact 1's noise.
    mesh = a_mesh("ve", 20)
    table = step_table(mesh, 0.7)
    got = affine_moments(table, 0.0, 3.0, initial=(10.0, 0.0))
    kept = math.prod(table.A)
    assert float(got.mean[-1]) == pytest.approx(10.0 * kept + 3.0 * (1.0 - kept), rel=1e-13)
    left = mesh.sigma[-1] ** 2 - kept**2 * mesh.sigma[0] ** 2
    assert float(got.variance[-1]) == pytest.approx(left, rel=1e-13)


def test_gains_may_be_a_grid_of_models():
    mesh = a_mesh("flow", 5)
    gain, offset = gaussian_denoiser(mesh, [0.0, 1.0, 2.0], 0.5)
    assert gain.shape == offset.shape == (5, 3)
    bias = torch.tensor([0.9, 1.0, 1.1], dtype=torch.float64)
    grid = step_grid(mesh, [[0.0], [1.0]])
    got = affine_moments(grid, gain * bias, offset, initial=(0.0, 1.0))
    assert got.mean.shape == (6, 2, 3)
    alone = affine_moments(
        step_table(mesh), gain[:, 2] * 1.1, offset[:, 2].tolist(), initial=(0.0, 1.0)
    )
    torch.testing.assert_close(got.mean[:, 1, 2], alone.mean, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(got.variance[:, 1, 2], alone.variance, rtol=1e-13, atol=0.0)


# --- the response to each noise -----------------------------------------------------------------


@settings(max_examples=80)
@given(mesh=meshes(), eta=etas, variance=spreads, start=st.floats(0.0, 5.0), solver_type=solvers)
def test_the_squares_of_the_weights_are_the_variance(mesh, eta, variance, start, solver_type):
    grid = step_grid(mesh, [eta, 1.0], 1.2, solver_type)
    gain = gaussian_denoiser(mesh, 0.0, variance).gain
    response = noise_response(grid, gain)
    assert response.initial.shape == (2,)
    assert response.noise.shape == (mesh.steps, 2)
    total = response.initial**2 * start + (response.noise**2).sum(0)
    got = gaussian_moments(mesh, [eta, 1.0], 1.2, solver_type, 0.0, variance, initial=(0.0, start))
    torch.testing.assert_close(total, got.variance[-1], rtol=1e-11, atol=1e-300)


@pytest.mark.parametrize("eta", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("process", PROCESSES)
def test_a_perfect_model_answers_a_brownian_path_the_same_on_any_mesh(process, eta):
    # The clock tau = exp(2 eta lambda): a coarse noise is the sum of the fine ones, weighted by
    # the roots of their shares of its time. Without a model the meshes then agree path by path.
    fine = a_mesh(process, 24)
    coarse = Mesh.from_sigmas(fine.sigma[::4], process)
    small, large = (noise_response(step_table(mesh, eta), 0.0) for mesh in (fine, coarse))
    tau = [math.exp(2.0 * eta * (lam - fine.lam[-1])) for lam in fine.lam]
    shares = []
    for k, (a, b) in enumerate(pairwise(tau)):
        first = 4 * (k // 4)
        shares.append(math.sqrt((b - a) / (tau[first + 4] - tau[first])))
    spread = large.noise.repeat_interleave(4) * torch.tensor(shares, dtype=torch.float64)
    torch.testing.assert_close(spread, small.noise, rtol=1e-11, atol=1e-15)
    torch.testing.assert_close(large.initial, small.initial, rtol=1e-12, atol=0.0)


# --- refusals -----------------------------------------------------------------------------------

MESH = Mesh.from_sigmas([4.0, 2.0, 1.0, 0.0])
TABLE = step_table(MESH)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, [0.5, -1e-300], [1.0, math.nan]])
@pytest.mark.parametrize("argument", ["eta", "s_noise", "variance"])
def test_a_setting_below_0_or_not_finite_is_refused(argument, value):
    with pytest.raises(ValueError, match=f"^{argument} must (be|have) .*, got ") as caught:
        gaussian_moments(MESH, **{argument: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    ["1", b"1", None, True, 1j, [True], [1j], ["a"], [[1.0], [1.0, 2.0]], {}, [], 10**400,
     torch.tensor(True), torch.tensor(1j)],
)  # fmt: skip
@pytest.mark.parametrize("argument", ["eta", "s_noise", "mean", "variance"])
def test_what_is_no_number_is_refused(argument, value):
    with pytest.raises(ValueError, match=f"^{argument} must be "):
        gaussian_moments(MESH, **{argument: value})


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"eta": [1.0, 2.0], "s_noise": [1.0, 2.0, 3.0]},
         r"eta and s_noise must have shapes that broadcast .*got \(2,\), \(3,\)"),
        ({"solver_type": "euler"}, "solver_type must be 'midpoint' or 'heun', got 'euler'"),
        ({"mean": [[1.0]]}, r"mean must be a number or of shape \(d,\), got shape \(1, 1\)"),
        ({"mean": [1.0, 2.0], "variance": [1.0, 2.0, 3.0]},
         r"variance must be a number or of shape \(2,\) or \(2, 2\), got shape \(3,\)"),
        ({"variance": [[1.0, 0.5], [0.4, 1.0]]}, "variance must be symmetric, got a gap of 0.1"),
        ({"variance": [[1.0, 2.0], [2.0, 1.0]]},
         "variance must have eigenvalues >= 0, got an eigenvalue of -1"),
        ({"variance": [1.0, 1.0], "initial": ([0.0, 0.0, 0.0], 1.0)},
         r"initial mean must be a number or of shape \(2,\), got shape \(3,\)"),
        ({"variance": [1.0, 1.0], "initial": (0.0, [[1.0, 0.0], [0.0, -2.0]])},
         "initial variance must have eigenvalues >= 0, got an eigenvalue of -2"),
        ({"initial": (0.0, -1.0)}, "initial variance must be at least 0, got -1"),
        ({"initial": (math.nan, 1.0)}, "initial mean must be a finite number, got nan"),
        ({"initial": 1.0}, "initial must be a pair of a mean and a variance, got 1.0"),
        ({"initial": (0.0, 1.0, 2.0)}, "initial must be a pair of a mean and a variance"),
        ({"initial": ([0.0, 1.0], [1.0, 1.0, 1.0])},
         "initial mean and initial variance must have shapes that broadcast"),
        ({"eta": [1.0, 2.0], "initial": ([0.0, 1.0, 2.0], 1.0)}, "must have shapes that broadcast"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_sentence(knobs, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        gaussian_moments(MESH, **knobs)
    assert "\n" not in str(caught.value)


def test_the_layers_refuse_what_does_not_fit():
    start = (0.0, 1.0)
    with pytest.raises(ValueError, match="mesh must be a Mesh"):
        gaussian_moments([4.0, 2.0, 1.0])
    with pytest.raises(ValueError, match="mesh must be a Mesh"):
        gaussian_denoiser(TABLE)
    with pytest.raises(ValueError, match="table must be a StepTable or a StepGrid"):
        affine_moments(MESH, 0.0, initial=start)
    with pytest.raises(ValueError, match=r"gain must be a number or have shape \(3, \.\.\.\)"):
        affine_moments(TABLE, [0.1, 0.2], initial=start)
    with pytest.raises(ValueError, match=r"offset must be a number or have shape \(3, \.\.\.\)"):
        affine_moments(TABLE, 0.1, [0.0] * 4, initial=start)
    with pytest.raises(ValueError, match="gain must be finite, got nan"):
        noise_response(TABLE, [0.1, math.nan, 0.2])
    with pytest.raises(ValueError, match="table must have C = 0 in its first step"):
        noise_response(dataclasses.replace(TABLE, C=(0.1, 0.0, 0.0)), 0.5)
    short = StepGrid(*(column[:2] for column in step_grid(MESH)[:3]), step_grid(MESH).D)
    with pytest.raises(ValueError, match=r"D must be a number or have shape \(2, \.\.\.\)"):
        noise_response(short, 0.5)
