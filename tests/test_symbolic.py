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
ARGUMENTS = (
    symbolic.h,
    symbolic.h_prev,
    symbolic.eta,
    symbolic.s_noise,
    symbolic.alpha_next,
    symbolic.sigma,
    symbolic.sigma_next,
)
FUNCTIONS = {name: sympy.lambdify(ARGUMENTS, getattr(EXACT, name), "mpmath") for name in NAMES}
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
        numbers = [mpmath.mpf(values[str(symbol)]) for symbol in ARGUMENTS]
        return {name: FUNCTIONS[name](*numbers) for name in NAMES}


def allowed(name: str, values: dict[str, float]) -> float:
    # exp(-eta h) multiplies the rounding of its argument by eta h: no formula avoids that.
    return 4.0 + (values["eta"] * values["h"] if name == "A" else 0.0)


# --- against the numbers ------------------------------------------------------------------------


@st.composite
def runs(draw: st.DrawFn) -> tuple[Mesh, float, float]:
    """A mesh of three levels under any process, eta and s_noise."""
    process = draw(st.sampled_from([VE(), VP(), Flow(), Flow(3.0)]))
    top = 10.0 ** draw(st.floats(-3.0, 2.0 if process.name == "ve" else -1e-4))
    levels = [top]
    for _ in range(2):
        levels.append(levels[-1] / (1.0 + 10.0 ** draw(st.floats(-9.0, 3.0))))
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
    assert all(off[name] <= allowed(name, values) for name in NAMES), off


def test_every_coefficient_is_the_integral_it_stands_for() -> None:
    """Over a step, with u the lambda passed: the decay exp(-(h - u)) of what enters at u."""
    h, rate = symbolic.h, 1 + symbolic.eta
    u = sympy.Symbol("u", positive=True)
    eta = sympy.Symbol("eta", positive=True)
    decay = symbolic.alpha_next * rate * sympy.exp(-rate * (h - u))
    line = u / symbolic.h_prev
    noise = 2 * eta * sympy.exp(-2 * eta * (h - u))
    pairs = [
        (EXACT.B, sympy.integrate(decay, (u, 0, h))),
        (EXACT.C_heun, sympy.integrate(decay * line, (u, 0, h))),
        (EXACT.C_midpoint, sympy.integrate(decay, (u, 0, h)) * line.subs(u, h / 2)),
        (
            (EXACT.D / (symbolic.s_noise * symbolic.sigma_next)).subs(symbolic.eta, eta) ** 2,
            sympy.integrate(noise, (u, 0, h)),
        ),
    ]
    for expression, integral in pairs:
        assert sympy.simplify(expression - integral) == 0


def test_the_accurate_form_equals_the_expression() -> None:
    """Above the switch symbol by symbol; below it to the term that the series leaves out."""
    for name in NAMES:
        form = symbolic.accurate(getattr(EXACT, name)).subs(symbolic.z, symbolic._z())
        for piecewise in form.atoms(sympy.Piecewise):
            form = form.subs(piecewise, piecewise.args[-1].expr)
        plain = form.replace(sympy.codegen.cfunctions.expm1, lambda y: sympy.exp(y) - 1)
        assert sympy.simplify(plain - getattr(EXACT, name)) == 0
    (piecewise,) = symbolic.accurate(EXACT.C_heun).atoms(sympy.Piecewise)
    gap = sympy.series(piecewise.args[0].expr - symbolic.heun_weight(), symbolic.z, 0, 20)
    assert gap.getO().getn() >= 18
    assert abs(gap.removeO().subs(symbolic.z, 1)) < 2.0**-53 * 0.36


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
            assert off <= allowed(name, values), (name, off, values)
            if name != "A" or values["eta"] * values["h"] < 1.0:
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
