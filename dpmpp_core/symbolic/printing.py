"""The coefficients printed as JavaScript, in forms that keep their digits in floating point."""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache

import sympy
from sympy.codegen.rewriting import expm1_opt, optimize

from . import derivation
from .derivation import alpha_next, eta, h, h_prev, s_noise, sigma, sigma_next, symbolic_step, z

__all__ = ["IDENTIFIERS", "Decayed", "accurate", "javascript", "javascript_function"]

IDENTIFIERS = {
    h: "h",
    h_prev: "h_prev",
    z: "z",
    eta: "eta",
    s_noise: "s_noise",
    alpha_next: "alpha_next",
    sigma: "sigma",
    sigma_next: "sigma_next",
}
"""What the symbols are called in code; their own names are LaTeX."""

_SERIES_BELOW = 1
_SERIES_TERMS = 18
"""The first term left out is below 1 / 19! = 8e-18 of the sum's scale at z = 1: under an ulp."""


class Decayed(sympy.Function):  # type: ignore[misc]
    """``Decayed(a, b)`` is exp(-a b), with what rounding takes from the product a b put back."""

    nargs = 2


# Veltkamp's splitting and Dekker's product: rest is a b - p exactly. exp(-p) alone is off by the
# rounding of p, which is a b / 2 ulps: ten at a b = 20.
_DECAYED = """\
// exp(-a b). The rounding of the product, which exp would multiply, is found and put back.
function decayed(a, b) {
  const high = c => { const d = 134217729 * c; return d - (d - c); };
  const p = a * b, ah = high(a), bh = high(b), al = a - ah, bl = b - bh;
  const rest = al * bl - (((p - ah * bh) - al * bh) - ah * bl);
  return Math.exp(-p) * (1 - rest);
}"""


def accurate(expression: sympy.Expr) -> sympy.Expr:
    r"""An equal expression that keeps its digits in floating point.

    * :math:`1 - e^{-z}` becomes :math:`-\mathrm{expm1}(-z)`: at z = 1e-10 the first has 6 digits.
    * :math:`1 + \mathrm{expm1}(-z)/z`, heun's weight, still takes two numbers near 1 from each
      other when z is small. Below z = 1 its Taylor polynomial stands in, derived here from the
      expression and nested by Horner's rule: terms that shrink, no difference of near numbers.
    * :math:`e^{-\eta h}` becomes :class:`Decayed`.
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
    return optimize(in_z, [expm1_opt]).subs(sympy.exp(-eta * h), Decayed(eta, h))


def _z() -> sympy.Expr:
    return (1 + eta) * h


def javascript_function(name: str, expression: sympy.Expr) -> str:
    """An exported JavaScript function of that name; its argument is an object with the symbols.

    For ``A`` it is ``export function A({ eta, h, sigma, sigma_next }) { ... }``.
    """
    body = accurate(expression)
    arguments = ", ".join(sorted(IDENTIFIERS[symbol] for symbol in expression.free_symbols))
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
        " Do not edit:\n// this text is made anew each time."
    )
    names = [field.name for field in fields(derivation.SymbolicStep)]
    functions = [javascript_function(name, getattr(step, name)) for name in names]
    return "\n\n".join([head, _DECAYED, *functions]) + "\n"


def _jscode(expression: sympy.Expr) -> str:
    named = expression.subs({symbol: sympy.Symbol(name) for symbol, name in IDENTIFIERS.items()})
    printed = str(sympy.jscode(named, user_functions={"expm1": "Math.expm1", "Decayed": "decayed"}))
    # sympy breaks a Piecewise over several lines.
    return " ".join(printed.split())
