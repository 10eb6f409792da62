r"""The coefficients of a step as sympy expressions, and the JavaScript printed from them.

With :math:`z = (1 + \eta) h` and primes for the level that the step goes to:

==========  ===============================================================  =======
expression  value                                                            term
==========  ===============================================================  =======
A           :math:`\frac{\sigma'}{\sigma} e^{-\eta h}`                       drift
B           :math:`\alpha' (1 - e^{-z})`                                     drift
C midpoint  :math:`\alpha' \frac{1 - e^{-z}}{2} \frac{h}{h_{k-1}}`           history
C heun      :math:`\alpha' (1 - \frac{1 - e^{-z}}{z}) \frac{h}{h_{k-1}}`     history
D           :math:`s_\text{noise}\, \sigma' \sqrt{1 - e^{-2 \eta h}}`        noise
==========  ===============================================================  =======

Source: Lu et al. 2022, https://arxiv.org/abs/2211.01095 (SDE-DPM-Solver++(2M), eta = 1, midpoint);
k-diffusion's ``sample_dpmpp_2m_sde`` for every eta and heun.

Nothing here computes with floats: :func:`~dpmpp_core.step_table` does, and the tests compare the
two. The page's copy of the formulas is :func:`javascript`, printed anew wherever it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import sympy
from sympy.codegen.rewriting import expm1_opt, optimize

__all__ = [
    "SymbolicStep",
    "accurate",
    "alpha_next",
    "eta",
    "h",
    "h_prev",
    "heun_weight",
    "javascript",
    "javascript_function",
    "midpoint_weight",
    "s_noise",
    "sigma",
    "sigma_next",
    "symbolic_step",
    "z",
]

h, h_prev = sympy.symbols("h h_prev", positive=True)
eta, s_noise = sympy.symbols("eta s_noise", nonnegative=True)
alpha_next, sigma, sigma_next = sympy.symbols("alpha_next sigma sigma_next", positive=True)
z = sympy.Symbol("z", positive=True)
r"""Stands for :math:`(1 + \eta) h` where a weight is a function of it alone."""

_SERIES_BELOW = 1
_SERIES_TERMS = 18
"""The first term left out is below 1 / 19! = 8e-18 of the sum's scale at z = 1: under an ulp."""


@dataclass(frozen=True)
class SymbolicStep:
    """A, B, C (one for each solver type) and D as sympy expressions.

    The symbols are those of this module: ``h``, ``h_prev``, ``eta``, ``s_noise``, ``alpha_next``,
    ``sigma`` and ``sigma_next``.
    """

    A: sympy.Expr
    B: sympy.Expr
    C_midpoint: sympy.Expr
    C_heun: sympy.Expr
    D: sympy.Expr


def symbolic_step() -> SymbolicStep:
    """The five expressions of the table above, in the form in which one reads them."""
    growth = h / h_prev
    return SymbolicStep(
        A=sigma_next / sigma * sympy.exp(-eta * h),
        B=alpha_next * (1 - sympy.exp(-_z())),
        C_midpoint=alpha_next * midpoint_weight().subs(z, _z()) * growth,
        C_heun=alpha_next * heun_weight().subs(z, _z()) * growth,
        D=s_noise * sigma_next * sympy.sqrt(1 - sympy.exp(-2 * eta * h)),
    )


def midpoint_weight() -> sympy.Expr:
    r""":math:`w(z) = (1 - e^{-z}) / 2`: the extrapolated line, by its value in the middle."""
    return (1 - sympy.exp(-z)) / 2


def heun_weight() -> sympy.Expr:
    r""":math:`w(z) = 1 - (1 - e^{-z}) / z`: the extrapolated line, integrated exactly."""
    return 1 - (1 - sympy.exp(-z)) / z


# --- for floating point ------------------------------------------------------------------------


def accurate(expression: sympy.Expr) -> sympy.Expr:
    r"""An equal expression that keeps its digits in floating point.

    * :math:`1 - e^{-z}` becomes :math:`-\mathrm{expm1}(-z)`: at z = 1e-10 the first has 6 digits.
    * :math:`1 + \mathrm{expm1}(-z)/z`, heun's weight, still takes two numbers near 1 from each
      other when z is small. Below z = 1 its Taylor polynomial stands in, derived here from the
      expression and nested by Horner's rule: terms that shrink, no difference of near numbers.
    """
    in_z = expression.subs(_z(), z)
    factor, rest = in_z.as_independent(z)
    if rest.subs(z, 0) is sympy.nan:
        # Undefined at z = 0 as it is written: the sign of a quotient that cancels there.
        series = sympy.series(rest, z, 0, _SERIES_TERMS).removeO()
        rest = sympy.Piecewise(
            (sympy.horner(series), z < _SERIES_BELOW), (optimize(rest, [expm1_opt]), True)
        )
        return factor * rest
    return optimize(in_z, [expm1_opt])


def _z() -> sympy.Expr:
    return (1 + eta) * h


# --- JavaScript --------------------------------------------------------------------------------


def javascript_function(name: str, expression: sympy.Expr) -> str:
    """An exported JavaScript function of that name; its argument is an object with the symbols.

    For ``A`` it is ``export function A({ eta, h, sigma, sigma_next }) { ... }``.
    """
    body = accurate(expression)
    arguments = ", ".join(sorted(str(symbol) for symbol in expression.free_symbols))
    lines = [f"export function {name}({{ {arguments} }}) {{"]
    if z in body.free_symbols:
        lines.append(f"  const z = {_jscode(_z())};")
    lines += [f"  return {_jscode(body)};", "}"]
    return "\n".join(lines)


@lru_cache(maxsize=1)
def javascript() -> str:
    """The ES module ``coefficients.js``: a function for each field of :class:`SymbolicStep`.

    It is made where it is needed, when a widget is loaded or the book is built, and kept nowhere.
    """
    step = symbolic_step()
    head = (
        "// Printed by dpmpp_core.symbolic.javascript() from its sympy expressions."
        " Do not edit:\n// this text is made anew each time.\n"
    )
    parts = (javascript_function(f.name, getattr(step, f.name)) for f in fields(step))
    return "\n\n".join([head + next(parts), *parts]) + "\n"


def _jscode(expression: sympy.Expr) -> str:
    printed = str(sympy.jscode(expression, user_functions={"expm1": "Math.expm1"}))
    # sympy breaks a Piecewise over several lines.
    return " ".join(printed.split())
