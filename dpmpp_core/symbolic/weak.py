r"""Why the sampler has weak order 2: the means of a step, by powers of its length.

In :math:`y = x e^{\eta \lambda} / \sigma` the SDE has no linear term (:func:`~.rescaled`), and its
noise does not depend on the state. With the estimate as a function :math:`\hat x_0(\lambda, y)` it
reads :math:`dy = m\, \hat x_0\, d\lambda + g\, dW`, with :math:`m = (1 + \eta)
e^{(1 + \eta) \lambda}` and :math:`g = s_\text{noise} \sqrt{2 \eta}\, e^{\eta \lambda}`. A mean of
:math:`f(\lambda, y)` changes at the rate :math:`\mathcal G f = \partial_\lambda f + \mathcal L f`.

Sources: Kloeden and Platen 1992, chapter 14 (weak Taylor expansions); Talay and Tubaro 1990,
https://doi.org/10.1080/07362999008809220 (the sum of the local errors of a mean).
"""

from __future__ import annotations

import sympy
from sympy import Expr, Function, Symbol, exp

from .derivation import (
    SDE,
    SolverType,
    _history_weight,
    estimate_of,
    eta,
    generator,
    h,
    lam,
    noise_variance,
    rescaled,
    rho,
    sigma_next,
    weighed,
    y,
    z,
)

change = Symbol(r"\Delta_k", real=True)
r"""What the history sees, :math:`\hat x_{0,k} - \hat x_{0,k-1}`; of size :math:`\sqrt h`."""
estimate_at = Function(r"\hat{x}_0", real=True)(lam, y)
"""The estimate as a function of level and state."""
observable = Function(r"\varphi", real=True)(y)
"""A smooth function of the state, whose mean is asked for."""


def in_state() -> SDE:
    r"""The SDE in y, with the estimate as a function of the state."""
    sde = rescaled()
    return SDE(y, sde.drift.subs(estimate_of(lam), estimate_at), sde.diffusion)


def rate(f: Expr) -> Expr:
    r""":math:`\mathcal G f = \partial_\lambda f + \mathcal L f`: how the mean of f changes."""
    return sympy.diff(f, lam) + generator(in_state(), f)


def cross_rate(f: Expr, g: Expr) -> Expr:
    r""":math:`\Gamma(f, g) = \mathcal G (f g) - f\, \mathcal G g = g\, \mathcal G f + g_W^2\,
    \partial_y f\, \partial_y g`, with :math:`g_W` the diffusion.

    For a step of length h from a known state, :math:`E[(f_\text{after} - f_\text{before})\,
    g_\text{after}] = h\, \Gamma(f, g) + O(h^2)`. The last part is Ito's: both move with one noise.
    """
    return sympy.expand(rate(f * g) - f * rate(g))


def exact_mean(f: Expr = observable) -> Expr:
    r""":math:`E f(y_{k+1})` of the SDE, given :math:`y_k`, to :math:`h^2`.

    .. math:: f + h\, \mathcal L f + \tfrac12 h^2\, \mathcal G \mathcal L f, \qquad f = f(y)
    """
    first = rate(f)
    return f + h * first + h**2 / 2 * rate(first)


def step_mean(solver_type: SolverType | None = "midpoint", f: Expr = observable) -> Expr:
    r""":math:`E f(y_{k+1})` of the sampler, given :math:`y_k` and :data:`change`, to
    :math:`h^{5/2}`.

    The change counts as :math:`\sqrt h`; the step before was :math:`h / \rho` long.

    Args:
        solver_type: ``"midpoint"``, ``"heun"``, or None for a step without history.
        f: a function of the state alone.

    Raises:
        ValueError: for another solver type.
    """
    history = _by_powers(_history_weight(solver_type) * rho)
    before = exp((1 + eta) * lam)
    estimated = [before * part * estimate_at for part in _by_powers(weighed(sympy.S.One))]
    remembered = [before * part * change for part in history]
    # By powers of the root of h: index 2 is h, and the change, which counts 1, is at 3 and 5.
    shift = [0, 0, estimated[1], remembered[1], estimated[2], remembered[2]]
    scaled = sympy.expand(noise_variance() * exp(2 * eta * (lam + h)) / sigma_next**2)
    spread = sympy.series(scaled, h, 0, 3).removeO()
    variance = [0, 0, spread.coeff(h, 1), 0, spread.coeff(h, 2), 0]

    def times(p: list[Expr], q: list[Expr]) -> list[Expr]:
        return [sum(p[i] * q[n - i] for i in range(n + 1)) for n in range(6)]

    # The moments of shift and noise together, as far as they are not smaller.
    second = [a + b for a, b in zip(times(shift, shift), variance, strict=True)]
    third = [3 * part for part in times(shift, variance)]
    fourth = [3 * part for part in times(variance, variance)]
    mean = f + sum(
        sympy.diff(f, y, j)
        / sympy.factorial(j)
        * part
        * h ** sympy.Rational(power, 2)
        # The change is itself what counts as one root.
        / (sympy.sqrt(h) if power % 2 else 1)
        for j, parts in enumerate((shift, second, third, fourth), start=1)
        for power, part in enumerate(parts)
    )
    return sympy.expand(mean)


def _by_powers(weight: Expr) -> list[Expr]:
    """A weight at the end of a step, counted at its beginning: of h^0, h^1 and h^2."""
    series = sum(z**j / sympy.factorial(j) for j in range(6))
    grown = sympy.expand(sympy.expand(weight * exp(z)).subs(exp(z), series))
    return [(1 + eta) ** j * grown.coeff(z, j) for j in range(3)]
