"""A, B, C, D against integrals, 50-digit arithmetic, Gaussian conditioning and diffusers."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import mpmath
import pytest
import sympy
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from dpmpp_core import (
    VE,
    VP,
    Coefficients,
    Flow,
    Mesh,
    StepTable,
    history_weight,
    step_table,
    symbolic,
)

MP = mpmath.MPContext()
MP.dps = 60
EPS = 2.0**-52
PROCESSES = [VE(), VP(), Flow(), Flow(3.0)]
SOLVERS = ["midpoint", "heun"]
# Neighbours from 2.5e-9 to 30 times apart, near sigma = 1 and near 0.
LEVELS = [0.999999, 0.9, 0.9 - 2.25e-9, 0.5, 0.3, 0.01, 0.0099999, 1e-6]
MESHES = [Mesh.from_sigmas(LEVELS, process) for process in PROCESSES]

fixed = settings(derandomize=True, deadline=None, max_examples=100)
# A subnormal product of eta and h has lost digits already.
etas = st.one_of(st.just(0.0), st.floats(1e-290, 3.0), st.floats(-12.0, 1.7).map(lambda e: 10.0**e))
processes = st.sampled_from(PROCESSES)


def alpha_sigma(process, sigma):
    s = MP.mpf(sigma)
    return {"ve": MP.mpf(1), "vp": MP.sqrt((1 - s) * (1 + s)), "flow": 1 - s}[process.name], s


def exact_rise(process, sigma, sigma_next):
    (a, s), (b, t) = alpha_sigma(process, sigma), alpha_sigma(process, sigma_next)
    return MP.log(b * s / (t * a))


def ulps(value, exact):
    if exact == 0:
        return 0.0 if value == 0.0 else math.inf
    return float(abs(MP.mpf(value) - exact) / MP.mpf(math.ulp(float(exact))))


@st.composite
def two_steps(draw):
    """A process and three levels of it, neighbours apart by 1e-9 of themselves or more."""
    process = draw(processes)
    sigma = (
        10.0 ** draw(st.floats(-3.0, 2.0))
        if process.name == "ve"
        else draw(st.floats(1e-3, 1.0 - 1e-6))
    )
    levels = [sigma]
    for _ in range(2):
        levels.append(levels[-1] / (1.0 + 10.0 ** draw(st.floats(-9.0, 3.0))))
    return process, levels


# --- the four columns --------------------------------------------------------------------------


@pytest.mark.parametrize("solver_type", SOLVERS)
@settings(derandomize=True, deadline=None, max_examples=200)
@given(run=two_steps(), eta=etas, s_noise=st.floats(0.0, 2.0))
def test_every_coefficient_keeps_its_digits(solver_type, run, eta, s_noise):
    process, levels = run
    table = step_table(Mesh.from_sigmas(levels, process), eta, s_noise, solver_type)
    h = [exact_rise(process, s, t) for s, t in pairwise(levels)]
    for k, (s, t) in enumerate(pairwise(levels)):
        alpha, sigma = alpha_sigma(process, t)
        rate, z = MP.mpf(eta), (1 + MP.mpf(eta)) * h[k]
        # exp(-eta h) multiplies the rounding of its argument by eta h: no formula avoids that.
        assert ulps(table.A[k], sigma / MP.mpf(s) * MP.exp(-rate * h[k])) <= 4 + 4 * eta * h[k]
        assert ulps(table.B[k], alpha * -MP.expm1(-z)) <= 6.0
        noise = MP.mpf(s_noise) * sigma * MP.sqrt(-MP.expm1(-2 * rate * h[k]))
        assert ulps(table.D[k], noise) <= 6.0
        weight = -MP.expm1(-z) / 2 if solver_type == "midpoint" else 1 + MP.expm1(-z) / z
        history = alpha * weight * h[k] / h[k - 1] if k else MP.mpf(0)
        assert ulps(table.C[k], history) <= 12.0


@pytest.mark.parametrize("mesh", MESHES, ids=lambda mesh: repr(mesh.process))
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 2.0])
def test_the_drift_and_heun_integrate_the_straight_line_through_two_estimates(mesh, eta):
    # Variation of constants: with x0(tau) = m0 + (m0 - m1) tau / h_prev the step is
    # alpha_t (1 + eta) int_0^h exp(-(1 + eta)(h - tau)) x0(tau) dtau + A x.
    heun = step_table(mesh, eta, solver_type="heun")
    for k in range(1, mesh.steps):
        h, previous = MP.mpf(mesh.h[k]), MP.mpf(mesh.h[k - 1])
        rate = 1 + MP.mpf(eta)

        def kernel(tau, h=h, rate=rate):
            return rate * MP.exp(-rate * (h - tau))

        alpha = MP.mpf(mesh.alpha[k + 1])
        whole = alpha * MP.quad(kernel, [0, h])
        line = alpha * MP.quad(lambda tau, f=kernel: f(tau) * tau, [0, h]) / previous
        assert ulps(heun.B[k], whole) <= 6.0
        assert ulps(heun.C[k], line) <= 8.0


@pytest.mark.parametrize("mesh", MESHES, ids=lambda mesh: repr(mesh.process))
def test_midpoint_moves_the_estimate_to_the_middle_of_the_step(mesh):
    # B x0(h / 2): the whole drift weight at the middle of the extrapolated line.
    table = step_table(mesh, 0.7)
    for k in range(1, mesh.steps):
        assert table.C[k] == pytest.approx(
            table.B[k] * (mesh.h[k] / 2.0) / mesh.h[k - 1], rel=4 * EPS, abs=0.0
        )


@pytest.mark.parametrize("solver_type", SOLVERS)
def test_eta_1_agrees_with_the_sde_solver_of_diffusers(solver_type):
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="sde-dpmsolver++", solver_type=solver_type, solver_order=2
    )
    # diffusers keeps sigma / alpha and works in VP; its expm1-free formulas in float64 lose up to
    # 1 / h of the digits, and h is 0.3 and more here.
    levels = torch.tensor([0.99, 0.9, 0.7, 0.4, 0.2, 0.05], dtype=torch.float64)
    scheduler.sigmas = levels / (1.0 - levels**2).sqrt()
    table = step_table(Mesh.from_sigmas(levels, "vp"), 1.0, 1.0, solver_type)
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for k in range(len(table)):
        scheduler._step_index = k

        def step(x, m0, m1, xi, k=k):
            if k == 0:
                return scheduler.dpm_solver_first_order_update(m0, sample=x, noise=xi).item()
            estimates = [m1, m0]
            return scheduler.multistep_dpm_solver_second_order_update(
                estimates, sample=x, noise=xi
            ).item()

        a, b, c, d = table[k]
        assert step(one, zero, zero, zero) == pytest.approx(a, rel=1e-13)
        assert step(zero, one, one, zero) == pytest.approx(b, rel=1e-13)
        assert step(zero, zero, -one, zero) == pytest.approx(c, rel=1e-12, abs=0.0)
        assert step(zero, zero, zero, one) == pytest.approx(d, rel=1e-13)


@pytest.mark.parametrize("solver_type", SOLVERS)
def test_eta_0_agrees_with_the_ode_solver_of_diffusers(solver_type):
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_type=solver_type, solver_order=2
    )
    levels = torch.tensor([0.99, 0.9, 0.7, 0.4, 0.2, 0.05], dtype=torch.float64)
    scheduler.sigmas = levels / (1.0 - levels**2).sqrt()
    table = step_table(Mesh.from_sigmas(levels, "vp"), 0.0, 1.0, solver_type)
    x, m0, m1 = (torch.tensor(v, dtype=torch.float64) for v in (1.7, -0.4, 2.3))
    for k in range(1, len(table)):
        scheduler._step_index = k
        oracle = scheduler.multistep_dpm_solver_second_order_update([m1, m0], sample=x)
        a, b, c, d = table[k]
        assert d == 0.0
        # Terms of size 1 to 5, each to the digits that diffusers' exp(-h) - 1 leaves.
        assert a * 1.7 - b * 0.4 + c * (-0.4 - 2.3) == pytest.approx(oracle.item(), abs=1e-12)


def end_of_third_order_run(steps, bend=None):
    """How far a run of the third-order multistep ends from the ODE's solution, N(0, 1/4) data.

    Even steps of lambda from -2 to 2 and exact states at the first three levels. By diffusers, or
    with a weight of the second divided difference, as a function of z, in a loop here.
    """
    lam = torch.linspace(-2.0, 2.0, steps + 1, dtype=torch.float64)
    sigmas = torch.exp(-lam)
    alpha = 1.0 / torch.sqrt(1.0 + sigmas**2)
    exact = alpha * torch.sqrt(0.25 + sigmas**2)  # VP, of which the solution is a multiple
    gain = 0.25 / (0.25 + sigmas**2) / alpha
    scheduler = DPMSolverMultistepScheduler(
        solver_order=3,
        prediction_type="sample",
        lower_order_final=False,
        final_sigmas_type="sigma_min",  # with "zero" the last step is of first order
    )
    scheduler.set_timesteps(steps)
    scheduler.sigmas, scheduler.timesteps = sigmas, torch.arange(steps)
    h, x, estimates = 4.0 / steps, exact[:1], []
    for k in range(steps):
        estimates.append(gain[k] * x)
        if bend is None:
            scheduler._step_index = k
            x = scheduler.step(estimates[-1], k, x).prev_sample
        elif k >= 2:
            newest, before, long_before = estimates[:-4:-1]
            second = (newest - 2.0 * before + long_before) / 2.0
            slope = newest - before + second
            way = -math.expm1(-h)
            aim = way * newest + (1.0 - way / h) * slope + bend(h) * second
            x = sigmas[k + 1] * alpha[k + 1] / (sigmas[k] * alpha[k]) * x + alpha[k + 1] * aim
        if k < 2:
            x = exact[k + 1 : k + 2]
    return abs(float(x) - float(exact[-1]))


def test_the_third_order_solver_of_diffusers_converges_with_order_2():
    """Its weight of the second divided difference is half the integral of t^2; the whole has 3."""
    full = sympy.lambdify(symbolic.z, symbolic.weighed(symbolic.t**2))
    for bend, order in [(None, 2.0), (lambda z: full(z) / 2.0, 2.0), (full, 3.0)]:
        coarse, fine = (end_of_third_order_run(steps, bend) for steps in (80, 160))
        assert abs(math.log2(coarse / fine) - order) < 0.25
    # With more steps its float32 shows.
    halved = end_of_third_order_run(20, lambda z: full(z) / 2.0)
    assert end_of_third_order_run(20) == pytest.approx(halved, rel=0.02)


def test_one_step_by_hand():
    # sigma 4 to 2 to 1: h = log 2 both times; eta = 1: exp(-h) = 1/2, exp(-2 h) = 1/4
    table = step_table(Mesh.from_sigmas([4.0, 2.0, 1.0]), eta=1.0, s_noise=3.0)
    first, second = table
    assert first == pytest.approx((0.25, 0.75, 0.0, 6.0 * math.sqrt(0.75)), rel=4 * EPS)
    assert second == pytest.approx((0.25, 0.75, 0.375, 3.0 * math.sqrt(0.75)), rel=4 * EPS)
    heun = step_table(Mesh.from_sigmas([4.0, 2.0, 1.0]), solver_type="heun")
    assert heun.C[1] == pytest.approx(1.0 - 0.75 / math.log(4.0), rel=4 * EPS)


# --- the weight of the history -----------------------------------------------------------------


@pytest.mark.parametrize("solver_type", SOLVERS)
@settings(derandomize=True, deadline=None, max_examples=300)
@given(exponent=st.floats(-12.0, math.log10(700.0)))
def test_the_history_weight_keeps_its_digits(solver_type, exponent):
    z = 10.0**exponent
    # Confluent hypergeometric functions, of which both weights are special cases.
    exact = {
        "midpoint": MP.mpf(z) / 2 * MP.hyp1f1(1, 2, -MP.mpf(z)),
        "heun": MP.mpf(z) / 2 * MP.hyp1f1(1, 3, -MP.mpf(z)),
    }[solver_type]
    assert ulps(history_weight(z, solver_type), exact) <= 4.0


@pytest.mark.parametrize("z", [1.0 - 2.0**-53, 1.0, 1.0 + EPS])
def test_series_and_closed_form_of_heun_meet_at_one(z):
    assert ulps(history_weight(z, "heun"), MP.mpf(z) / 2 * MP.hyp1f1(1, 3, -MP.mpf(z))) <= 4.0


def test_the_weights_have_the_expansions_that_sympy_finds():
    z = sympy.Symbol("z", positive=True)
    tau = sympy.Symbol("tau", positive=True)
    forms = {
        "midpoint": sympy.integrate(sympy.exp(tau - z), (tau, 0, z)) / 2,
        "heun": sympy.integrate(tau * sympy.exp(tau - z), (tau, 0, z)) / z,
    }
    leading = {"midpoint": z / 2 - z**2 / 4, "heun": z / 2 - z**2 / 6}
    for solver_type, form in forms.items():
        series = sympy.series(form, z, 0, 6).removeO()
        assert sympy.expand(sympy.series(series, z, 0, 3).removeO() - leading[solver_type]) == 0
        for value in (0.001, 0.01):
            exact = float(series.subs(z, sympy.Rational(str(value))))
            # The first omitted term is at most z^6 / 1440.
            assert history_weight(value, solver_type) == pytest.approx(
                exact, rel=value**5 / 700 + 4 * EPS
            )


@pytest.mark.parametrize("z", [1e-3, 1e-5, 1e-8])
def test_heun_and_midpoint_agree_as_the_step_shrinks(z):
    # (1 - z/3 + z^2/12 - ...) / (1 - z/2 + z^2/6 - ...) = 1 + z/6 + 0 z^2 + O(z^3)
    ratio = history_weight(z, "heun") / history_weight(z, "midpoint")
    assert ratio - 1.0 == pytest.approx(z / 6.0, rel=z, abs=4 * EPS)


@fixed
@given(z=st.floats(1e-12, 700.0))
def test_heun_weighs_the_history_more_than_midpoint_but_less_than_twice(z):
    midpoint, heun = (history_weight(z, solver_type) for solver_type in SOLVERS)
    assert 0.0 < midpoint <= 0.5
    assert midpoint * (1 - 4 * EPS) <= heun <= min(1.0, 2.0 * midpoint * (1 + 4 * EPS))


@fixed
@given(exponent=st.floats(-12.0, 2.8), factor=st.floats(1.001, 10.0))
def test_both_weights_grow_with_the_step(exponent, factor):
    z = 10.0**exponent
    for solver_type in SOLVERS:
        assert history_weight(z, solver_type) <= history_weight(factor * z, solver_type)
        assert z > 10.0 or history_weight(z, solver_type) < history_weight(factor * z, solver_type)


@pytest.mark.parametrize(("solver_type", "limit"), [("midpoint", 0.5), ("heun", 1.0)])
def test_an_infinite_step_has_the_limit_of_the_weight(solver_type, limit):
    assert history_weight(math.inf, solver_type) == limit
    assert history_weight(0.0, solver_type) == 0.0


# --- identities --------------------------------------------------------------------------------


@fixed
@given(run=two_steps(), eta=etas, solver_type=st.sampled_from(SOLVERS))
def test_a_perfect_model_keeps_the_mean_and_the_variance(run, eta, solver_type):
    # x0_k = x0 always: the mean alpha_s x0 goes to alpha_t x0, the variance sigma_s^2 to sigma_t^2.
    process, levels = run
    mesh = Mesh.from_sigmas(levels, process)
    for k, (a, b, _, d) in enumerate(step_table(mesh, eta, 1.0, solver_type)):
        assert a * mesh.alpha[k] + b == pytest.approx(mesh.alpha[k + 1], rel=8 * EPS)
        spread = math.hypot(a * mesh.sigma[k], d)
        assert spread == pytest.approx(mesh.sigma[k + 1], rel=8 * EPS)


@pytest.mark.parametrize("mesh", MESHES, ids=lambda mesh: repr(mesh.process))
def test_eta_1_is_the_bridge_between_the_data_and_the_state(mesh):
    """Given x0, (x_t, x_s) is Gaussian; the step is x_t given x_s by conditioning it."""
    table = step_table(mesh, eta=1.0)
    for k, (s, t) in enumerate(pairwise(mesh.sigma)):
        (alpha_s, sigma_s), (alpha_t, sigma_t) = (alpha_sigma(mesh.process, v) for v in (s, t))
        # x_s is x_t noised further: x_s = (alpha_s / alpha_t) x_t + independent noise.
        ratio = alpha_s / alpha_t
        covariance = MP.matrix([[sigma_t**2, ratio * sigma_t**2], [ratio * sigma_t**2, sigma_s**2]])
        gain = covariance[0, 1] / covariance[1, 1]
        variance = covariance[0, 0] - gain * covariance[1, 0]
        a, b, _, d = table[k]
        assert ulps(a, gain) <= 16.0
        assert ulps(b, alpha_t - gain * alpha_s) <= 8.0
        assert ulps(d, MP.sqrt(variance)) <= 8.0


@pytest.mark.parametrize("mesh", MESHES, ids=lambda mesh: repr(mesh.process))
def test_eta_0_is_ddim(mesh):
    # DDIM: x_t = alpha_t x0 + sigma_t eps with eps = (x_s - alpha_s x0) / sigma_s
    table = step_table(mesh, eta=0.0)
    for k, (s, t) in enumerate(pairwise(mesh.sigma)):
        (alpha_s, sigma_s), (alpha_t, sigma_t) = (alpha_sigma(mesh.process, v) for v in (s, t))
        assert ulps(table.A[k], sigma_t / sigma_s) <= 1.0
        assert ulps(table.B[k], alpha_t - alpha_s * sigma_t / sigma_s) <= 8.0
        assert table.D[k] == 0.0


@pytest.mark.parametrize("mesh", MESHES, ids=lambda mesh: repr(mesh.process))
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0, 3.0])
def test_the_drift_and_the_noise_of_sub_steps_compose_into_the_whole_step(mesh, eta):
    sub = step_table(mesh, eta)
    whole = step_table(Mesh.from_sigmas([mesh.sigma[0], mesh.sigma[-1]], mesh.process), eta)
    drift, variance, data = 1.0, 0.0, 0.0
    for a, b, _, d in sub:
        drift, variance, data = a * drift, a * a * variance + d * d, a * data + b
    loss = (8 + 8 * eta * math.fsum(mesh.h)) * EPS * mesh.steps
    assert drift == pytest.approx(whole.A[0], rel=loss, abs=0.0)
    assert math.sqrt(variance) == pytest.approx(whole.D[0], rel=loss, abs=0.0)
    assert data == pytest.approx(whole.B[0], rel=loss)


@pytest.mark.parametrize("mesh", MESHES, ids=lambda mesh: repr(mesh.process))
def test_more_eta_means_less_of_the_state_and_more_noise(mesh):
    tables = [step_table(mesh, eta) for eta in (0.0, 0.1, 0.5, 1.0, 2.0)]
    for less, more in pairwise(tables):
        for k in range(mesh.steps):
            assert more.A[k] < less.A[k]
            assert more.D[k] > less.D[k]
            assert more.B[k] > less.B[k]


# --- first step, last step, extremes -----------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("solver_type", SOLVERS)
@pytest.mark.parametrize("eta", [0.0, 1.0, 7.5])
def test_the_first_step_has_no_history_and_the_last_returns_the_estimate(process, solver_type, eta):
    mesh = Mesh.from_sigmas([0.9, 0.4, 0.1, 0.0], process)
    table = step_table(mesh, eta, 1.1, solver_type)
    assert table.C[0] == 0.0
    assert all(c > 0.0 for c in table.C[1:-1])
    assert table[-1] == Coefficients(0.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize("process", PROCESSES)
def test_a_run_of_one_step_to_zero_is_the_estimate(process):
    (row,) = step_table(Mesh.from_sigmas([0.9, 0.0], process))
    assert row == Coefficients(0.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize("mesh", MESHES, ids=lambda mesh: repr(mesh.process))
@pytest.mark.parametrize("solver_type", SOLVERS)
def test_s_noise_scales_the_noise_and_nothing_else(mesh, solver_type):
    one = step_table(mesh, 0.8, 1.0, solver_type)
    for s_noise in (0.0, 0.5, 4.0):
        other = step_table(mesh, 0.8, s_noise, solver_type)
        assert (other.A, other.B, other.C) == (one.A, one.B, one.C)
        # Powers of two: exact.
        assert all(s_noise * a.D == b.D for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("mesh", MESHES, ids=lambda mesh: repr(mesh.process))
def test_the_solver_type_changes_the_history_and_nothing_else(mesh):
    midpoint, heun = (step_table(mesh, 0.8, 1.1, solver_type) for solver_type in SOLVERS)
    assert (midpoint.A, midpoint.B, midpoint.D) == (heun.A, heun.B, heun.D)
    assert all(m < h for m, h in list(zip(midpoint.C, heun.C, strict=True))[1:])


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("solver_type", SOLVERS)
@pytest.mark.parametrize("eta", [5e-324, 1e-300, 50.0, 1e5, 1e308, 1.7976931348623157e308])
def test_any_finite_eta_gives_finite_coefficients(process, solver_type, eta):
    levels = [0.999, 0.5, 0.5 * (1 - 1e-12), 1e-20, 0.0]
    table = step_table(Mesh.from_sigmas(levels, process), eta, 1.0, solver_type)
    assert all(math.isfinite(value) and value >= 0.0 for row in table for value in row)


@pytest.mark.parametrize("solver_type", SOLVERS)
def test_a_huge_eta_forgets_the_state_and_draws_afresh(solver_type):
    mesh = Mesh.from_sigmas([0.9, 0.5, 0.1], "flow")
    table = step_table(mesh, 1e308, 1.0, solver_type)
    for k, (a, b, _, d) in enumerate(table):
        assert (a, b, d) == (0.0, mesh.alpha[k + 1], mesh.sigma[k + 1])
    limit = 0.5 if solver_type == "midpoint" else 1.0
    assert table.C[1] == pytest.approx(mesh.alpha[2] * limit * mesh.h[1] / mesh.h[0], rel=4 * EPS)


def test_a_tiny_eta_draws_a_tiny_noise_and_is_otherwise_the_ode():
    mesh = Mesh.from_sigmas([4.0, 2.0, 1.0])
    ode, sde = step_table(mesh, 0.0), step_table(mesh, 1e-300)
    assert (sde.A, sde.B, sde.C) == (ode.A, ode.B, ode.C)
    expected = [s * math.sqrt(2.0 * math.log(2.0)) * 1e-150 for s in (2.0, 1.0)]
    assert [row.D for row in sde] == pytest.approx(expected, rel=8 * EPS, abs=0.0)


# --- the table as an object --------------------------------------------------------------------


def test_a_table_has_rows_and_columns():
    mesh = Mesh.from_sigmas([4.0, 2.0, 1.0, 0.0])
    table = step_table(mesh)
    assert isinstance(table, StepTable)
    assert len(table) == mesh.steps == len(table.A) == len(table.D) == 3
    assert list(table) == [table[k] for k in range(3)]
    assert [row.B for row in table] == list(table.B)
    assert table[1] == (table.A[1], table.B[1], table.C[1], table.D[1])
    assert table[-1] == table[2]
    with pytest.raises(IndexError):
        table[3]
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.A = ()
    assert all(type(value) is float for row in table for value in row)


def test_the_defaults_are_eta_1_s_noise_1_midpoint():
    mesh = Mesh.from_sigmas([4.0, 2.0, 1.0, 0.0])
    assert step_table(mesh) == step_table(mesh, 1.0, 1.0, "midpoint")


@pytest.mark.parametrize("number", [1, torch.tensor(1.0), sympy.Integer(1)])
def test_eta_may_be_any_number(number):
    mesh = Mesh.from_sigmas([4.0, 2.0, 1.0, 0.0])
    assert step_table(mesh, number, number) == step_table(mesh, 1.0, 1.0)


BAD_NUMBERS = [-1.0, -1e-300, math.nan, math.inf, "1", b"1", None, True, 1j, [1.0], 10**400]


@pytest.mark.parametrize("value", BAD_NUMBERS)
@pytest.mark.parametrize("argument", ["eta", "s_noise"])
def test_a_factor_that_is_negative_or_no_number_is_refused(argument, value):
    mesh = Mesh.from_sigmas([4.0, 2.0, 1.0])
    with pytest.raises(ValueError, match=f"^{argument} must be a finite number >= 0") as caught:
        step_table(mesh, **{argument: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("solver_type", ["Heun", "euler", "", None, 2, ["heun"]])
def test_an_unknown_solver_type_is_refused(solver_type):
    mesh = Mesh.from_sigmas([4.0, 2.0, 1.0])
    with pytest.raises(ValueError, match="solver_type must be 'midpoint' or 'heun'") as caught:
        step_table(mesh, solver_type=solver_type)
    assert repr(solver_type) in str(caught.value)


def test_the_history_weight_refuses_an_unknown_solver_and_a_step_backwards():
    with pytest.raises(ValueError, match=r"solver_type must be .* got 'Heun'"):
        history_weight(1.0, "Heun")
    with pytest.raises(ValueError, match=r"z must be at least 0, got -1\.0"):
        history_weight(-1.0, "heun")
