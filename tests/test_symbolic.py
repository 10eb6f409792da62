"""The sympy expressions against step_table, against their integrals, and printed as JavaScript."""

from __future__ import annotations

import math
import random
from typing import Any

import mpmath
import pytest
import sympy
from browser import run_js
from hypothesis import given, settings
from hypothesis import strategies as st

from dpmpp_core import VE, VP, Flow, Mesh, history_weight, step_table, symbolic

EXACT = symbolic.symbolic_step()
NAMES = ("A", "B", "C_midpoint", "C_heun", "D")
SYMBOLS = (
    symbolic.h,
    symbolic.h_prev,
    symbolic.eta,
    symbolic.s_noise,
    symbolic.alpha_next,
    symbolic.sigma,
    symbolic.sigma_next,
)
ARGUMENTS = tuple(symbolic.IDENTIFIERS[symbol] for symbol in SYMBOLS)
FUNCTIONS = {name: sympy.lambdify(SYMBOLS, getattr(EXACT, name), "mpmath") for name in NAMES}
DIGITS = 50


def ulps(value: float, exact: Any) -> float:
    """The distance in units of the last place of the exact value, as a float64 has it."""
    if exact == 0:
        return 0.0 if value == 0.0 else math.inf
    return float(abs(mpmath.mpf(value) - exact) / math.ulp(float(exact)))


def exact_row(values: dict[str, float]) -> dict[str, Any]:
    """The five expressions at these floats, with 50 digits after all cancellation."""
    # 1 - exp(-z) at z = 1e-12 takes 12 of the digits, heun's weight 24.
    with mpmath.workdps(DIGITS + 30):
        numbers = [mpmath.mpf(values[name]) for name in ARGUMENTS]
        return {name: FUNCTIONS[name](*numbers) for name in NAMES}


ALLOWED = 4.0


# --- against the numbers ------------------------------------------------------------------------


@st.composite
def runs(draw: st.DrawFn) -> tuple[Mesh, float, float]:
    """A mesh of three levels under any process, eta and s_noise; h from 1e-8 to 20."""
    process = draw(st.sampled_from([VE(), VP(), Flow(), Flow(3.0)]))
    top = 10.0 ** draw(st.floats(-3.0, 2.0 if process.name == "ve" else -1e-4))
    levels = [top]
    for _ in range(2):
        levels.append(levels[-1] / (1.0 + 10.0 ** draw(st.floats(-8.0, 8.7))))
    eta = draw(st.one_of(st.just(0.0), st.floats(1e-12, 3.0), st.floats(1e-12, 1e-3)))
    s_noise = draw(st.one_of(st.just(0.0), st.floats(1e-6, 2.0)))
    return Mesh.from_sigmas(levels, process), eta, s_noise


@settings(max_examples=300)
@given(run=runs())
def test_every_expression_is_what_step_table_computes(run: tuple[Mesh, float, float]) -> None:
    mesh, eta, s_noise = run
    table = step_table(mesh, eta, s_noise, "midpoint")
    computed = {
        "A": table.A[1],
        "B": table.B[1],
        "C_midpoint": table.C[1],
        "C_heun": step_table(mesh, eta, s_noise, "heun").C[1],
        "D": table.D[1],
    }
    values = {
        "h": mesh.h[1],
        "h_prev": mesh.h[0],
        "eta": eta,
        "s_noise": s_noise,
        "alpha_next": mesh.alpha[2],
        "sigma": mesh.sigma[1],
        "sigma_next": mesh.sigma[2],
    }
    exact = exact_row(values)
    off = {name: ulps(computed[name], exact[name]) for name in NAMES}
    assert max(off.values()) <= ALLOWED, off


def test_the_accurate_form_equals_the_expression() -> None:
    """Above the switch symbol by symbol; below it to the term that the series leaves out."""
    for name in NAMES:
        form = symbolic.accurate(getattr(EXACT, name))
        form = form.subs(symbolic.z, (1 + symbolic.eta) * symbolic.h)
        for piecewise in form.atoms(sympy.Piecewise):
            form = form.subs(piecewise, piecewise.args[-1].expr)
        plain = form.replace(sympy.codegen.cfunctions.expm1, lambda y: sympy.exp(y) - 1)
        plain = plain.replace(symbolic.Decayed, lambda a, b: sympy.exp(-a * b))
        assert sympy.simplify(plain - getattr(EXACT, name)) == 0
    (piecewise,) = symbolic.accurate(EXACT.C_heun).atoms(sympy.Piecewise)
    gap = sympy.series(piecewise.args[0].expr - symbolic.heun_weight(), symbolic.z, 0, 20)
    assert gap.getO().getn() >= 18
    assert abs(gap.removeO().subs(symbolic.z, 1)) < 2.0**-53 * 0.36


# --- the derivation, line by line -----------------------------------------------------------------

s = symbolic
u, t, x, lam, eta, z = s.u, s.t, s.x, s.lam, s.eta, s.z
GROWTH = {s.alpha_of.diff(lam): s.alpha_of * (1 + s.sigma_of.diff(lam) / s.sigma_of)}
"""The derivative of log(alpha / sigma) = lambda."""


def same(a: Any, b: Any) -> bool:
    return bool(sympy.simplify(a - b) == 0)


@pytest.mark.parametrize("process", [VE(), VP(), Flow()], ids=lambda process: process.name)
def test_the_levels_at_the_lambda_of_a_sigma_are_that_sigma_and_its_alpha(process: Any) -> None:
    found = s.levels(process.name)
    at_lambda = sympy.lambdify(lam, [found.alpha, found.sigma], "mpmath")
    for place in (1e-3, 0.02, 0.5, 0.9, 0.999):
        level = place * 30.0 if process.name == "ve" else place
        alpha, sigma = at_lambda(mpmath.mpf(process.half_log_snr(level)))
        assert float(sigma) == pytest.approx(level, rel=1e-13)
        assert float(alpha) == pytest.approx(process.alpha(level), rel=1e-13)


def test_half_log_snr_is_the_logarithm_of_alpha_over_sigma_under_every_process() -> None:
    for process in ("ve", "vp", "flow"):
        level = s.levels(process)
        ratio = s.half_log_snr().rhs.subs({s.alpha_of: level.alpha, s.sigma_of: level.sigma})
        assert same(ratio, lam)


@pytest.mark.parametrize("process", ["ve", "vp", "flow", None])
def test_noisy_data_obeys_the_fokker_planck_equation_of_every_member(process: str | None) -> None:
    level = s.levels(process) if process else None
    density = s.point_mass(level)
    sde = s.family(s.score(density), level)
    residual = sympy.diff(density, lam) - s.adjoint(sde, density).subs(s.s_noise, 1)
    assert sympy.simplify(residual.subs(GROWTH)) == 0


def test_the_terms_of_eta_cancel_for_any_density_if_and_only_if_s_noise_is_1() -> None:
    density = sympy.Function("p", positive=True)(x, lam)
    change = s.adjoint(s.family(s.score(density)), density)
    left = sympy.simplify(change - change.subs(eta, 0))
    assert same(left, eta * (s.s_noise**2 - 1) * s.sigma_of**2 * density.diff(x, 2))


def test_generator_and_adjoint_differ_by_a_total_derivative() -> None:
    density = sympy.Function("p", positive=True)(x, lam)
    observable = sympy.Function("f")(x)
    sde = s.SDE(x, sympy.Function("b")(x, lam), sympy.Function("g")(lam))
    half = sde.diffusion**2 / 2
    flux = -observable * sde.drift * density + half * (
        observable * density.diff(x) - density * observable.diff(x)
    )
    difference = observable * s.adjoint(sde, density) - density * s.generator(sde, observable)
    assert same(difference, flux.diff(x))


def test_the_mean_of_an_ornstein_uhlenbeck_process_follows_from_its_generator() -> None:
    pull, strength = sympy.symbols("a b", positive=True)
    sde = s.SDE(x, -pull * x, strength)
    assert same(s.generator(sde, x), -pull * x)
    assert same(s.generator(sde, x**2), strength**2 - 2 * pull * x**2)


def test_with_the_estimate_for_the_score_the_sde_is_linear_in_the_state() -> None:
    sde, estimated = s.in_estimate(), s.estimate_of(lam)
    by_hand = (s.sigma_of.diff(lam) / s.sigma_of - eta) * x + (1 + eta) * s.alpha_of * estimated
    assert same(sde.drift, by_hand)
    assert same(sde.diffusion**2, 2 * eta * s.s_noise**2 * s.sigma_of**2)


def test_rescaled_the_state_has_no_linear_term() -> None:
    sde = s.rescaled()
    assert x not in sde.drift.free_symbols
    assert same(sde.drift, (1 + eta) * sympy.exp((1 + eta) * lam) * s.estimate_of(lam))
    assert same(sde.diffusion**2, 2 * eta * s.s_noise**2 * sympy.exp(2 * eta * lam))


def test_the_exact_step_solves_the_equation_that_it_was_derived_from() -> None:
    """For an estimate exp(c lambda), on VE, without noise: both sides by h."""
    c = sympy.Symbol("c", positive=True)
    estimate = sympy.exp(c * (lam + u))
    levels = {s.sigma: sympy.exp(-lam), s.sigma_next: sympy.exp(-lam - s.h), s.alpha_next: 1}
    kernel = s.estimate_kernel().subs(levels)
    state = s.decay().subs(levels) * s.x_k + sympy.integrate(kernel * estimate, (u, 0, s.h))
    drift = -(1 + eta) * state + (1 + eta) * sympy.exp(c * (lam + s.h))
    assert same(state.diff(s.h), drift)
    assert same(state.subs(s.h, 0), s.x_k)


def test_every_coefficient_is_the_integral_it_stands_for() -> None:
    """Over a step, with u the lambda passed: the decay exp(-(h - u)) of what enters at u."""
    h, rate = s.h, 1 + eta
    positive = sympy.Symbol("eta", positive=True)
    decay = s.alpha_next * rate * sympy.exp(-rate * (h - u))
    line = u / s.h_prev
    noise = 2 * positive * sympy.exp(-2 * positive * (h - u))
    pairs = [
        (EXACT.B, sympy.integrate(decay, (u, 0, h))),
        (EXACT.C_heun, sympy.integrate(decay * line, (u, 0, h))),
        (EXACT.C_midpoint, sympy.integrate(decay, (u, 0, h)) * line.subs(u, h / 2)),
        (
            (EXACT.D / (s.s_noise * s.sigma_next)).subs(eta, positive) ** 2,
            sympy.integrate(noise, (u, 0, h)),
        ),
    ]
    for expression, integral in pairs:
        assert same(expression, integral)


@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
def test_the_assembled_step_has_the_coefficients_for_its_factors(solver_type: Any) -> None:
    step = s.assembled_step(solver_type)
    right = sympy.expand(step.right.subs(z, (1 + eta) * s.h))
    C = EXACT.C_heun if solver_type == "heun" else EXACT.C_midpoint
    for symbol, factor in [
        (s.x_k, EXACT.A), (s.estimate, EXACT.B + C), (s.estimate_prev, -C), (s.xi, EXACT.D),
    ]:  # fmt: skip
        assert same(right.coeff(symbol), factor)


def test_the_line_and_the_parabola_pass_through_the_estimates_they_are_drawn_through() -> None:
    before, long_before = -s.h_prev / s.h, -(s.h_prev + s.h_prev2) / s.h
    for shape in (s.extrapolated(), s.quadratic()):
        assert same(shape.subs(t, 0), s.estimate)
        assert same(shape.subs(t, before), s.estimate_prev)
    assert same(s.quadratic().subs(t, long_before), s.estimate_prev2)


def test_the_3m_sampler_of_k_diffusion_takes_the_slope_and_half_the_bend_of_the_parabola() -> None:
    """Its phi_2, phi_3, divided differences and signs, as its source has them.

    The integral of the parabola has twice its last term.
    """
    r0, r1 = s.h_prev / s.h, s.h_prev2 / s.h
    first, before = (s.estimate - s.estimate_prev) / r0, (s.estimate_prev - s.estimate_prev2) / r1
    slope = first + (first - before) * r0 / (r0 + r1)
    bend = (first - before) / (r0 + r1)
    phi2 = (sympy.exp(-z) - 1) / z + 1
    phi3 = phi2 / z - sympy.Rational(1, 2)
    theirs = (1 - sympy.exp(-z)) * s.estimate + phi2 * slope - phi3 * bend
    parabola = sympy.Poly(sympy.expand(s.quadratic()), t).all_coeffs()[::-1]
    ours = sum(part * s.weighed(t**power) for power, part in enumerate(parabola))
    assert same(parabola[1], slope)
    assert same(parabola[2], bend)
    assert same(ours - theirs, -phi3 * bend)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_phi_functions_are_their_power_series(n: int) -> None:
    """phi_n(-z) = sum over j of (-z)^j / (j + n)!."""
    with mpmath.workdps(60):
        for value in ("0.01", "1", "7"):
            at = mpmath.mpf(value)
            exact = sum((-at) ** j / mpmath.factorial(j + n) for j in range(90))
            found = sympy.lambdify(z, s.phi(n), "mpmath")(at)
            assert abs(found / exact - 1) < mpmath.mpf(10) ** -45


@pytest.mark.parametrize("solver_type", [None, "midpoint", "heun"])
def test_the_leading_local_error_is_what_a_small_step_misses(solver_type: Any) -> None:
    """Against the integral of a cubic path by mpmath's quadrature, at h = 1e-6."""
    with mpmath.workdps(60):
        h, rate, growth = mpmath.mpf("1e-6"), mpmath.mpf("1.7"), mpmath.mpf("1.3")
        path = [mpmath.mpf(value) for value in ("0.9", "-0.4", "2.1", "0.6")]
        at = lambda d: sum(c * d**j / mpmath.factorial(j) for j, c in enumerate(path))  # noqa: E731
        exact = mpmath.quad(lambda v: rate * mpmath.exp(-rate * (h - v)) * at(v), [0, h])
        way = -mpmath.expm1(-rate * h)
        weights = {None: 0, "midpoint": way / 2, "heun": 1 - way / (rate * h)}
        change = at(0) - at(-h / growth)
        missed = exact - way * at(0) - weights[solver_type] * growth * change
        values = {**dict(zip(s.slopes, path, strict=True)), s.h: h, eta: rate - 1, s.rho: growth}
        one, two = (s.local_error(solver_type, n).subs(values) for n in (1, 2))
        assert abs(missed / one - 1) < 1e-4
        assert abs(missed / two - 1) < 1e-10


@pytest.mark.parametrize("solver_type", [None, "midpoint", "heun"])
def test_the_matrix_of_a_linear_step_is_what_the_table_does(solver_type: Any) -> None:
    """Three steps on an even mesh with the denoiser 0.6 x."""
    kappa, rate, length = 0.6, 1.4, 0.3
    mesh = Mesh.from_sigmas([math.exp(-length * k) for k in range(5)])
    table = step_table(mesh, rate, 0.0, solver_type or "midpoint")
    states = [1.0, 0.7]
    for row in list(table)[1:]:
        C = row.C if solver_type else 0.0
        states.append((row.A + (row.B + C) * kappa) * states[-1] - C * kappa * states[-2])
    matrix = s.linear_step(solver_type).subs({z: (1 + rate) * length, s.kappa: kappa})
    found = matrix**3 * sympy.Matrix([states[1], states[0]])
    assert [float(value) for value in found] == pytest.approx(states[:2:-1], rel=1e-12)


def test_euler_maruyama_is_the_step_without_history_to_first_order_in_h() -> None:
    ve = {s.alpha_next: 1, s.sigma_next: s.sigma * sympy.exp(-s.h), z: (1 + eta) * s.h}
    step, euler = s.assembled_step(), s.euler_maruyama()
    drift = sympy.series(step.drift.subs(ve).doit(), s.h, 0, 2).removeO()
    assert same(sympy.expand(drift), sympy.expand(euler.drift))
    rate = sympy.Symbol("rate", positive=True)
    noise = ((step.noise.doit() / euler.noise).subs(ve).subs(eta, rate)) ** 2
    assert sympy.limit(sympy.simplify(noise), s.h, 0) == 1


def test_without_noise_the_drift_is_ddim() -> None:
    step = s.assembled_step().drift.doit().subs(z, (1 + eta) * s.h).subs(eta, 0)
    assert same(s.on_mesh(step), s.on_mesh(s.ddim()))


def test_at_eta_1_drift_and_noise_are_mean_and_variance_of_the_bridge() -> None:
    step = s.assembled_step().drift.doit().subs(z, (1 + eta) * s.h).subs(eta, 1)
    mean, variance = s.bridge()
    assert same(s.on_mesh(step), s.on_mesh(mean))
    D2 = s.noise_variance().subs({eta: 1, s.s_noise: 1})
    assert same(s.on_mesh(D2), s.on_mesh(variance))


def test_the_bridge_is_a_normal_law_conditioned_on_one_of_its_two_coordinates() -> None:
    """By the covariance alpha_k / alpha_{k+1} sigma_{k+1}^2 of x_k and x_{k+1}."""
    covariance = s.alpha / s.alpha_next * s.sigma_next**2
    gain = covariance / s.sigma**2
    mean, variance = s.bridge()
    assert same(mean, s.alpha_next * s.estimate + gain * (s.x_k - s.alpha * s.estimate))
    assert same(variance, s.sigma_next**2 - gain * covariance)


def test_a_perfect_estimate_keeps_mean_and_variance_on_the_mesh() -> None:
    assert same(s.on_mesh(EXACT.A * s.alpha + EXACT.B), s.on_mesh(s.alpha_next))
    spread = (EXACT.A * s.sigma) ** 2 + EXACT.D.subs(s.s_noise, 1) ** 2
    assert same(spread, s.sigma_next**2)


def test_the_three_terms_are_printed_in_their_order_and_colours() -> None:
    printed = s.assembled_step(named=True)._repr_latex_()
    places = [printed.index(rf"\textcolor{{{colour}}}") for colour in s.TERM_COLOURS.values()]
    assert places == sorted(places)
    assert [printed.index(f"{name}_{{k}}") for name in "ABCD"] == sorted(
        printed.index(f"{name}_{{k}}") for name in "ABCD"
    )
    without = s.exact_step()._repr_latex_()
    assert s.TERM_COLOURS["history"] not in without
    assert r"\, dW_{u}" in without


def test_an_sde_is_printed_without_noise_where_it_has_none() -> None:
    assert "dW" in s.in_estimate()._repr_latex_()
    assert "dW" not in s.SDE(x, -x, sympy.S.Zero)._repr_latex_()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: s.levels("edm"), "process"),
        (lambda: s.assembled_step("euler"), "solver_type"),
        (lambda: s.linear_step("euler"), "solver_type"),
        (lambda: s.local_error("euler"), "solver_type"),
        (lambda: s.local_error("heun", 3), "terms"),
        (lambda: s.phi(0), "n"),
    ],
)
def test_what_is_not_offered_is_refused_by_name(call: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be"):
        call()


# --- as JavaScript ------------------------------------------------------------------------------


def test_the_module_exports_one_function_for_each_coefficient() -> None:
    source = symbolic.javascript()
    assert [
        line.split("(")[0].removeprefix("export function ")
        for line in source.splitlines()
        if line.startswith("export")
    ] == list(NAMES)


@pytest.mark.browser
def test_the_printed_javascript_keeps_every_digit_in_a_browser() -> None:
    """For z from 1e-12 to 700, any eta and any levels."""
    chance = random.Random(1)
    settings_: list[dict[str, float]] = []
    for k in range(4000):
        z = 10.0 ** chance.uniform(-12.0, math.log10(700.0)) if k else 700.0
        eta = chance.choice([0.0, 1.0, chance.uniform(0.0, 3.0), 10.0 ** chance.uniform(-6.0, 0.0)])
        sigma = 10.0 ** chance.uniform(-3.0, 2.0)
        settings_.append(
            {
                "h": z / (1.0 + eta),
                "h_prev": 10.0 ** chance.uniform(-9.0, 1.0),
                "eta": eta,
                "s_noise": chance.uniform(0.0, 2.0),
                "alpha_next": chance.uniform(1e-3, 1.0),
                "sigma": sigma,
                "sigma_next": sigma * chance.uniform(0.01, 1.0),
            }
        )
    script = """({ coefficients }, settings) => settings.map(step =>
        Object.fromEntries(Object.entries(coefficients).map(([name, f]) => [name, f(step)])))"""
    found = run_js(script, settings_, {"coefficients": symbolic.javascript()})
    worst = dict.fromkeys(NAMES, 0.0)
    for values, row in zip(settings_, found, strict=True):
        exact = exact_row(values)
        for name in NAMES:
            off = ulps(row[name], exact[name])
            assert off <= ALLOWED, (name, off, values)
            worst[name] = max(worst[name], off)
    print("\nlargest deviation of the page's coefficients, in ulps:", worst)


@pytest.mark.browser
def test_heuns_weight_has_no_seam_where_the_series_takes_over() -> None:
    script = """({ coefficients }, zs) => zs.map(z =>
        coefficients.C_heun({ alpha_next: 1, eta: 0, h: z, h_prev: z }))"""
    zs = [1e-12, 1e-6, 0.5, math.nextafter(1.0, 0.0), 1.0, math.nextafter(1.0, 2.0), 5.0, 700.0]
    for z, weight in zip(
        zs, run_js(script, zs, {"coefficients": symbolic.javascript()}), strict=True
    ):
        with mpmath.workdps(80):
            exact = 1 + mpmath.expm1(-mpmath.mpf(z)) / mpmath.mpf(z)
        assert ulps(weight, exact) <= 4.0
        assert weight == pytest.approx(history_weight(z, "heun"), rel=1e-15)


# --- means of a step ----------------------------------------------------------------------------

LAM, Y, H = symbolic.lam, symbolic.y, symbolic.h


@pytest.mark.parametrize("power", [1, 2, 3])
def test_the_exact_mean_is_the_series_of_a_solved_ornstein_uhlenbeck_process(power: int) -> None:
    """For the estimate kappa y the SDE is linear, and its mean and variance have closed forms."""
    kappa = sympy.Rational(2, 5)
    rate, s = sympy.Rational(3, 4), sympy.Rational(6, 5)
    grown = sympy.exp((1 + rate) * (LAM + H)) - sympy.exp((1 + rate) * LAM)
    mean = Y * sympy.exp(kappa * grown)
    at = sympy.Symbol("at", positive=True)
    # Noise of level `at` counts at the end what a deviation there has grown to.
    later = kappa * (sympy.exp((1 + rate) * (LAM + H)) - sympy.exp((1 + rate) * at))
    entering = s**2 * 2 * rate * sympy.exp(2 * rate * at) * sympy.exp(2 * later)
    # The integral of it over the step, to h^2, by the derivatives at h = 0.
    first = entering.subs({at: LAM + H})
    second = sympy.diff(entering, H)
    variance = H * first.subs(H, 0) + H**2 / 2 * (
        sympy.diff(first, H).subs(H, 0) + second.subs(at, LAM).subs(H, 0)
    )
    closed = {1: mean, 2: mean**2 + variance, 3: mean**3 + 3 * mean * variance}[power]
    series = sum(sympy.diff(closed, H, j).subs(H, 0) * H**j / sympy.factorial(j) for j in range(3))
    ours = symbolic.exact_mean(Y**power).subs(symbolic.estimate_at, kappa * Y).doit()
    ours = ours.subs({symbolic.eta: rate, symbolic.s_noise: s})
    values = {LAM: sympy.Rational(-1, 3), Y: sympy.Rational(7, 5)}
    assert same(ours.subs(values), series.subs(values))


@pytest.mark.parametrize("solver_type", ["midpoint", "heun", None])
def test_the_mean_of_a_step_is_what_the_table_gives_but_for_h_cubed(
    solver_type: Any,
) -> None:
    """The fourth moment after a step, with the change of the estimate of the size of root h."""
    with mpmath.workdps(DIGITS):
        eta, s_noise, lam, growth, y, wide, estimate = map(
            mpmath.mpf, ("0.7", "1.2", "-0.4", "1.5", "0.8", "0.6", "1.3")
        )
        known = {symbolic.eta: eta, symbolic.s_noise: s_noise, symbolic.rho: growth}
        formula = symbolic.step_mean(solver_type, Y**4).subs(symbolic.estimate_at, estimate)
        formula = sympy.lambdify(
            (H, symbolic.change), formula.subs(known | {LAM: lam, Y: y}), "mpmath"
        )
        gaps = []
        for h in (mpmath.mpf("2e-8"), mpmath.mpf("1e-8")):
            change = wide * mpmath.sqrt(h)
            sigma, sigma_next = mpmath.exp(-lam), mpmath.exp(-lam - h)  # VE
            values = (h, h / growth, eta, s_noise, mpmath.mpf(1), sigma, sigma_next)
            a, b, d = (FUNCTIONS[name](*values) for name in "ABD")
            c = FUNCTIONS[f"C_{solver_type}"](*values) if solver_type else 0
            scale = mpmath.exp((1 + eta) * (lam + h))
            x = y * mpmath.exp(-(1 + eta) * lam)
            mean, variance = scale * (a * x + b * estimate + c * change), (scale * d) ** 2
            exact = mean**4 + 6 * mean**2 * variance + 3 * variance**2
            gaps.append(exact - formula(h, change))
        assert abs(mpmath.log(gaps[0] / gaps[1], 2) - 3) < 0.01


@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
def test_what_a_step_without_history_misses_in_the_mean_is_what_the_history_adds(
    solver_type: Any,
) -> None:
    slope = sympy.diff(symbolic.observable, Y)
    pull = (1 + symbolic.eta) * sympy.exp((1 + symbolic.eta) * LAM)
    crossed = symbolic.cross_rate(symbolic.estimate_at, slope)
    without = symbolic.step_mean(None)
    assert same(symbolic.exact_mean() - without, H**2 / 2 * pull * crossed)
    added = sympy.expand(symbolic.step_mean(solver_type) - without)
    assert same(added.coeff(H, 1), pull * symbolic.rho / 2 * symbolic.change * slope)
    assert added.subs(symbolic.change, 0) == 0


def test_the_cross_rate_is_the_rate_of_one_times_the_other_and_ito_s_term() -> None:
    f, g = (sympy.Function(name)(LAM, Y) for name in "fg")
    sde = symbolic.in_state()
    ito = sde.diffusion**2 * sympy.diff(f, Y) * sympy.diff(g, Y)
    assert same(symbolic.cross_rate(f, g), g * symbolic.rate(f) + ito)


def test_the_mean_of_a_step_refuses_another_solver() -> None:
    with pytest.raises(ValueError, match="solver_type must be 'midpoint' or 'heun', got 'euler'"):
        symbolic.step_mean("euler")  # type: ignore[arg-type]
