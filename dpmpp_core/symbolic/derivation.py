r"""The derivation of a step, each line a function that returns the line as a sympy object.

The order is that of the chapters: levels in the half log-SNR, a family of SDEs, its Fokker-Planck
equation, the variation-of-constants formula, the integrals for a constant and for a linear
estimate, the variance of the noise, the assembled step. A line is computed from the line before
it. Where the state is a vector, ``x`` stands for one of its coordinates: every coefficient is a
number, the same for all.

Sources: Song et al. 2021, https://arxiv.org/abs/2011.13456 (forward and reverse SDE); Lu et al.
2022, https://arxiv.org/abs/2211.01095 (the estimate as the variable of the exponential integrator,
SDE-DPM-Solver++(2M) at eta = 1); Hochbruck and Ostermann 2010,
https://doi.org/10.1017/S0962492910000048 (phi functions).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import sympy
from sympy import Eq, Expr, Function, Integral, Symbol, exp, sqrt

SolverType = Literal["midpoint", "heun"]

# --- symbols -----------------------------------------------------------------------------------
#
# Named by what LaTeX is to print; the names in Python are those of the package.

lam = Symbol(r"\lambda", real=True)
r"""Half log-SNR, :math:`\log(\alpha / \sigma)`; it grows along the mesh."""
h, h_prev, h_prev2 = sympy.symbols("h h_{k-1} h_{k-2}", positive=True)
u = Symbol("u", positive=True)
r"""How far :math:`\lambda` has come within a step: 0 to h."""
t = Symbol("t", positive=True)
"""The same as a fraction of the step, u / h."""
z = Symbol("z", positive=True)
r"""Stands for :math:`(1 + \eta) h` where a weight is a function of it alone."""
rho = Symbol(r"\rho", positive=True)
r"""The growth of the steps, :math:`h_k / h_{k-1}`."""
eta, s_noise = sympy.symbols(r"\eta s_{\mathrm{noise}}", nonnegative=True)
alpha, alpha_next = sympy.symbols(r"\alpha_k \alpha_{k+1}", positive=True)
sigma, sigma_next = sympy.symbols(r"\sigma_k \sigma_{k+1}", positive=True)
x, y = sympy.symbols("x y", real=True)
"""The state of an SDE, and the same rescaled."""
x0 = Symbol("x_0", real=True)
"""A point of clean data."""
x_k, x_next, xi = sympy.symbols(r"x_k x_{k+1} \xi_k", real=True)
estimate, estimate_prev, estimate_prev2 = sympy.symbols(
    r"\hat{x}_{0\,k} \hat{x}_{0\,k-1} \hat{x}_{0\,k-2}", real=True
)
slopes = sympy.symbols(r"\hat{x}_0 \hat{x}_0' \hat{x}_0'' \hat{x}_0'''", real=True)
r"""The estimate along the path and its derivatives by :math:`\lambda`, at the start of a step."""
kappa = Symbol(r"\kappa")
r"""The factor of a linear denoiser :math:`\hat x_0 = \kappa x`."""

alpha_of = Function(r"\alpha", positive=True)(lam)
sigma_of = Function(r"\sigma", positive=True)(lam)
estimate_of = Function(r"\hat{x}_0", real=True)

TERM_COLOURS = {"drift": "#1F7FBD", "history": "#A87000", "noise": "#008A65"}
"""Shades as legible on a white page as on a dark one; the book's pages put their own in place."""

_LINE = 200  # characters of LaTeX above which each term has a line of its own, to fit the page


# --- what the lines are made of ----------------------------------------------------------------


class Ito(Function):  # type: ignore[misc]
    r"""``Ito(g)`` is :math:`\int_0^h g(u)\, dW_u`, normal with mean 0 for a g that is not random.

    Its variance is :math:`\int_0^h g(u)^2 du`, the Ito isometry (Kloeden and Platen 1992,
    section 3.2).
    """

    nargs = 1

    @property
    def variance(self) -> Integral:
        """The integral of the isometry, not yet evaluated."""
        return Integral(self.args[0] ** 2, (u, 0, h))

    def _latex(self, printer: sympy.printing.latex.LatexPrinter) -> str:
        return rf"\int_{{0}}^{{h}} {printer._print(self.args[0])}\, dW_{{u}}"


@dataclass(frozen=True)
class Terms:
    """An equation whose right side is drift + history + noise; printed in the book's colours."""

    left: Expr
    drift: Expr
    history: Expr
    noise: Expr

    @property
    def right(self) -> Expr:
        """The sum of the three."""
        return self.drift + self.history + self.noise

    def _repr_latex_(self) -> str:
        named = {"drift": self.drift, "history": self.history, "noise": self.noise}
        parts = [
            rf"\textcolor{{{TERM_COLOURS[name]}}}{{{sympy.latex(term, order='none')}}}"
            for name, term in named.items()
            if term != 0
        ]
        left = sympy.latex(self.left)
        if sum(map(len, parts)) < _LINE:
            return rf"$\displaystyle {left} = {' + '.join(parts)}$"
        lines = r" \\ & + ".join(parts)
        return rf"$\displaystyle \begin{{aligned}} {left} = {{}} & {lines} \end{{aligned}}$"


@dataclass(frozen=True)
class SDE:
    r""":math:`dx = b\, d\lambda + g\, dW`, with b the drift and g the diffusion.

    Args:
        variable: what moves.
        drift: b, of the variable and of :data:`lam`.
        diffusion: g, of :data:`lam` alone.
    """

    variable: Symbol
    drift: Expr
    diffusion: Expr

    def _repr_latex_(self) -> str:
        moved, drift = sympy.latex(self.variable), sympy.latex(_primed(self.drift))
        noise = rf"+ {sympy.latex(self.diffusion)}\, dW" if self.diffusion != 0 else ""
        return rf"$\displaystyle d{moved} = \left({drift}\right) d\lambda {noise}$"


def _primed(expression: Expr) -> Expr:
    """For print: the derivative of a function of one argument as the function with a prime."""
    return expression.replace(
        lambda part: isinstance(part, sympy.Derivative) and len(part.expr.args) == 1,
        lambda part: Function(part.expr.func.__name__ + "'" * part.derivative_count)(
            *part.expr.args
        ),
    )


@dataclass(frozen=True)
class Levels:
    r""":math:`\alpha` and :math:`\sigma` as functions of :data:`lam`."""

    alpha: Expr
    sigma: Expr


# --- the mesh ----------------------------------------------------------------------------------


def half_log_snr() -> Eq:
    r""":math:`\lambda = \log(\alpha / \sigma)`."""
    return Eq(lam, sympy.log(alpha_of / sigma_of), evaluate=False)


def levels(process: Literal["ve", "vp", "flow"]) -> Levels:
    r"""The levels that a process has at :math:`\lambda`.

    Solved from :math:`\alpha = \sigma e^\lambda` and what defines the process: :math:`\alpha = 1`
    (VE), :math:`\alpha^2 + \sigma^2 = 1` (VP) or :math:`\alpha + \sigma = 1` (flow).

    Raises:
        ValueError: for another process.
    """
    level = Symbol(r"\sigma", positive=True)
    signal = level * exp(lam)
    rules = {"ve": signal - 1, "vp": signal**2 + level**2 - 1, "flow": signal + level - 1}
    if process not in rules:
        raise ValueError(f"process must be one of {', '.join(rules)}, got {process!r}")
    (solution,) = sympy.solve(rules[process], level)
    return Levels(alpha=sympy.simplify(solution * exp(lam)), sigma=solution)


def on_mesh(expression: Expr) -> Expr:
    r"""The levels of a step in terms of :math:`\sigma_k, \sigma_{k+1}, \lambda` and h.

    :math:`\alpha_k = \sigma_k e^\lambda`, :math:`\alpha_{k+1} = \sigma_{k+1} e^{\lambda + h}`.
    """
    return expression.subs({alpha: sigma * exp(lam), alpha_next: sigma_next * exp(lam + h)})


# --- a family of SDEs --------------------------------------------------------------------------


def score(density: Expr) -> Expr:
    r""":math:`\partial_x \log p`."""
    return sympy.diff(density, x) / density


def family(score: Expr, level: Levels | None = None) -> SDE:
    r"""The SDEs that share their marginals, one for each eta.

    .. math::

        dx = \Big(\tfrac{\alpha'}{\alpha}\, x + (1 + \eta)\, \sigma^2\, \partial_x \log p\Big)\,
            d\lambda + s_\text{noise} \sqrt{2 \eta}\, \sigma\, dW

    eta = 0 is the probability-flow ODE, eta = 1 the reverse SDE of Anderson and of Song et al.
    (2021, equation 6), in :math:`\lambda` for time: the forward process
    :math:`dx = f x\, dt + g\, dw` has :math:`f dt = d \log \alpha` and
    :math:`g^2 dt = d\sigma^2 - 2 f \sigma^2 dt = -2 \sigma^2 d\lambda`.

    Args:
        score: :math:`\partial_x \log p_\lambda(x)`, or what stands for it.
        level: the levels of a process; functions of :data:`lam` without a formula if None.
    """
    level = level or Levels(alpha_of, sigma_of)
    pull = sympy.diff(level.alpha, lam) / level.alpha * x
    return SDE(x, pull + (1 + eta) * level.sigma**2 * score, s_noise * sqrt(2 * eta) * level.sigma)


def generator(sde: SDE, observable: Expr) -> Expr:
    r""":math:`\mathcal L \varphi = b\, \varphi' + \tfrac12 g^2 \varphi''`: how means change.

    :math:`\tfrac{d}{d\lambda} E\, \varphi(x) = E\, \mathcal L \varphi(x)`.
    """
    first = sympy.diff(observable, sde.variable)
    return sde.drift * first + sde.diffusion**2 / 2 * sympy.diff(first, sde.variable)


def adjoint(sde: SDE, density: Expr) -> Expr:
    r""":math:`\mathcal L^* p = -(b p)' + \tfrac12 (g^2 p)''`: how densities change.

    The Fokker-Planck equation is :math:`\partial_\lambda p = \mathcal L^* p`.
    """
    flux = sde.drift * density - sympy.diff(sde.diffusion**2 * density, sde.variable) / 2
    return -sympy.diff(flux, sde.variable)


def point_mass(level: Levels | None = None) -> Expr:
    r"""The density of x when the data is one point: normal with mean :math:`\alpha x_0`.

    Every density of noisy data is a mixture of these.
    """
    level = level or Levels(alpha_of, sigma_of)
    gap = (x - level.alpha * x0) / level.sigma
    return exp(-(gap**2) / 2) / (sqrt(2 * sympy.pi) * level.sigma)


# --- the exponential integrator ----------------------------------------------------------------


def in_estimate() -> SDE:
    r"""The family with the estimate in place of the score.

    Tweedie's formula, :math:`\sigma^2\, \partial_x \log p = \alpha \hat x_0 - x`, and
    :math:`\alpha'/\alpha = 1 + \sigma'/\sigma`, the derivative of :func:`half_log_snr`, give

    .. math:: dx = \Big(\big(\tfrac{\sigma'}{\sigma} - \eta\big)\, x + (1 + \eta)\, \alpha\,
        \hat x_0\Big)\, d\lambda + s_\text{noise} \sqrt{2 \eta}\, \sigma\, dW .
    """
    estimated = estimate_of(lam)
    sde = family((alpha_of * estimated - x) / sigma_of**2)
    growth = alpha_of * (1 + sympy.diff(sigma_of, lam) / sigma_of)
    drift = sympy.expand(sde.drift.subs(sympy.diff(alpha_of, lam), growth))
    linear = sympy.expand(drift.coeff(x))
    return SDE(x, linear * x + sympy.factor(drift - x * linear), sde.diffusion)


def rescaled() -> SDE:
    r"""The same in :math:`y = x e^{\eta \lambda} / \sigma`, which has no linear term.

    .. math:: dy = (1 + \eta)\, e^{(1 + \eta) \lambda}\, \hat x_0\, d\lambda
        + s_\text{noise} \sqrt{2 \eta}\, e^{\eta \lambda}\, dW
    """
    factor = exp(eta * lam) / sigma_of
    sde = in_estimate()
    # y is linear in x, so Ito's formula is the ordinary product rule.
    drift = sympy.diff(factor, lam) * x + factor * sde.drift
    drift = sympy.factor(sympy.expand(drift).subs(alpha_of, sigma_of * exp(lam)))
    return SDE(y, _tidy(drift), _tidy(factor * sde.diffusion))


def estimate_kernel() -> Expr:
    r"""What the estimate at u counts at the end of the step.

    .. math:: (1 + \eta)\, \alpha_{k+1}\, e^{-(1 + \eta)(h - u)}
    """
    at_the_end = _back(rescaled().drift.subs(estimate_of(lam), 1))
    return _tidy(at_the_end.subs(sigma_next, alpha_next * exp(-lam - h)))


def noise_kernel() -> Expr:
    r"""What noise that enters at u counts at the end of the step.

    .. math:: s_\text{noise}\, \sigma_{k+1} \sqrt{2 \eta}\, e^{-\eta (h - u)}
    """
    return _tidy(_back(rescaled().diffusion))


def _back(change: Expr) -> Expr:
    """A change of y at lambda + u, as the change of x at the end of the step that it leads to."""
    return change.subs(lam, lam + u) * sigma_next * exp(-eta * (lam + h))


def _tidy(expression: Expr) -> Expr:
    """One exponential, its exponent factored."""
    together = sympy.powsimp(expression)
    return together.replace(exp, lambda exponent: exp(sympy.factor(exponent)))


def decay() -> Expr:
    r""":math:`\tfrac{\sigma_{k+1}}{\sigma_k} e^{-\eta h}`: what is left of x, y standing still."""
    return _tidy(exp(eta * lam) / sigma * sigma_next * exp(-eta * (lam + h)))


def exact_step() -> Terms:
    r"""The variation-of-constants formula: a step of any length, without error.

    .. math::

        x_{k+1} = \tfrac{\sigma_{k+1}}{\sigma_k} e^{-\eta h} x_k
            + (1 + \eta)\, \alpha_{k+1} \int_0^h e^{-(1 + \eta)(h - u)}\, \hat x_0(\lambda + u)\, du
            + s_\text{noise}\, \sigma_{k+1} \sqrt{2 \eta} \int_0^h e^{-\eta (h - u)}\, dW_u
    """
    factor, kernel = estimate_kernel().as_independent(u)
    integral = factor * Integral(kernel * estimate_of(lam + u), (u, 0, h))
    drift = sympy.Add(sympy.Mul(decay(), x_k, evaluate=False), integral, evaluate=False)
    factor, kernel = noise_kernel().as_independent(u)
    return Terms(x_next, drift, sympy.S.Zero, factor * Ito(kernel))


@lru_cache
def weighed(shape: Expr) -> Expr:
    r"""The weight of an estimate that goes like ``shape``, a function of t = u / h in 0 to 1.

    .. math:: w(z) = \int_0^1 z\, e^{-z (1 - t)}\, \text{shape}(t)\, dt, \qquad z = (1 + \eta) h,

    the integral of :func:`exact_step` divided by :math:`\alpha_{k+1}`.
    """
    kernel = (estimate_kernel() / alpha_next * h).subs(u, h * t).subs(h, z / (1 + eta))
    kernel = sympy.cancel(kernel).replace(exp, lambda exponent: exp(sympy.factor(exponent)))
    integral = sympy.integrate(sympy.expand(kernel * shape), (t, 0, 1))
    # By what it is to read: 1 - exp(-z) is how far the state goes to a constant estimate.
    way = Symbol("way")
    in_way = sympy.expand(sympy.expand(integral).subs(exp(-z), 1 - way))
    return in_way.subs(way, 1 - exp(-z))


def constant() -> Expr:
    """The estimate held constant through the step: first order."""
    return estimate


def extrapolated() -> Expr:
    r"""The line through the last two estimates, at t = u / h: second order.

    .. math:: \hat x_{0,k} + t\, \tfrac{h}{h_{k-1}}\, (\hat x_{0,k} - \hat x_{0,k-1})
    """
    return estimate + t * h / h_prev * (estimate - estimate_prev)


def quadratic() -> Expr:
    """The parabola through the last three estimates: what the 3M sampler integrates."""
    first = (estimate - estimate_prev) / h_prev
    before = (estimate_prev - estimate_prev2) / h_prev2
    second = (first - before) / (h_prev + h_prev2)
    passed = t * h
    return estimate + passed * first + passed * (passed + h_prev) * second


def midpoint_weight() -> Expr:
    r""":math:`w(z) = (1 - e^{-z}) / 2`: the line, by its value in the middle of the step."""
    return sympy.factor_terms(weighed(sympy.S.One) * t.subs(t, sympy.Rational(1, 2)))


def heun_weight() -> Expr:
    r""":math:`w(z) = 1 - (1 - e^{-z}) / z`: the line, integrated exactly."""
    return weighed(t)


def noise_variance() -> Expr:
    r""":math:`D^2 = s_\text{noise}^2\, \sigma_{k+1}^2\, (1 - e^{-2 \eta h})`."""
    rate = Symbol("rate", positive=True)  # eta where it is not 0; at 0 both sides are
    integral = Ito(noise_kernel()).variance.subs(eta, rate).doit()
    return sympy.factor_terms(sympy.expand(integral).subs(rate, eta))


@dataclass(frozen=True)
class SymbolicStep:
    """A, B, C (one for each solver type) and D as sympy expressions.

    The symbols are those of this module: ``h``, ``h_prev``, ``eta``, ``s_noise``, ``alpha_next``,
    ``sigma`` and ``sigma_next``.
    """

    A: Expr
    B: Expr
    C_midpoint: Expr
    C_heun: Expr
    D: Expr


def symbolic_step() -> SymbolicStep:
    """The coefficients, read off the lines above."""
    in_h = {z: (1 + eta) * h}
    growth = h / h_prev
    return SymbolicStep(
        A=decay(),
        B=alpha_next * weighed(sympy.S.One).subs(in_h),
        C_midpoint=alpha_next * midpoint_weight().subs(in_h) * growth,
        C_heun=alpha_next * heun_weight().subs(in_h) * growth,
        D=sqrt(noise_variance()),
    )


def assembled_step(solver_type: SolverType = "midpoint", *, named: bool = False) -> Terms:
    r"""The step that the sampler takes, with :data:`z` for :math:`(1 + \eta) h`.

    .. math::

        x_{k+1} = A x_k + B \hat x_{0,k} + C (\hat x_{0,k} - \hat x_{0,k-1}) + D \xi_k

    Args:
        solver_type: ``"midpoint"`` or ``"heun"``.
        named: with the letters A, B, C, D in place of their values.

    Raises:
        ValueError: for another solver type.
    """
    weight = _history_weight(solver_type)
    if named:
        A, B, C, D = sympy.symbols("A_k B_k C_k D_k", nonnegative=True)
    else:
        A, D = symbolic_step().A, symbolic_step().D
        B = alpha_next * weighed(sympy.S.One)
        C = alpha_next * weight * h / h_prev
    # Unevaluated, to be printed in the order in which one reads it.
    change = sympy.Add(estimate, -estimate_prev, evaluate=False)
    product = partial(sympy.Mul, evaluate=False)
    drift = sympy.Add(product(A, x_k), product(B, estimate), evaluate=False)
    return Terms(x_next, drift, product(C, change), product(D, xi))


def _history_weight(solver_type: SolverType | None) -> Expr:
    if solver_type is None:
        return sympy.S.Zero
    weights = {"midpoint": midpoint_weight, "heun": heun_weight}
    if solver_type not in weights:
        raise ValueError(f"solver_type must be 'midpoint' or 'heun', got {solver_type!r}")
    return weights[solver_type]()


# --- orders ------------------------------------------------------------------------------------


def phi(n: int) -> Expr:
    r""":math:`\varphi_n(-z) = \int_0^1 e^{-(1 - t) z}\, \tfrac{t^{n - 1}}{(n - 1)!}\, dt`.

    The functions of Hochbruck and Ostermann 2010, equation 2.10, for n >= 1.

    Raises:
        ValueError: for n below 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n!r}")
    return weighed(t ** (n - 1)) / z / sympy.factorial(n - 1)


def local_error(solver_type: SolverType | None = "midpoint", terms: int = 1) -> Expr:
    r"""What one step misses on a smooth path, by powers of h.

    On the path the estimate is :math:`\hat x_0 + u \hat x_0' + \tfrac12 u^2 \hat x_0'' + \dots`
    (:data:`slopes`); the step before was :math:`h / \rho` long. The result is exact step less
    step, divided by :math:`\alpha_{k+1}`.

    Args:
        solver_type: ``"midpoint"``, ``"heun"``, or None for a step without history.
        terms: how many powers of h, from the lowest that does not vanish: 1 or 2.

    Raises:
        ValueError: for values outside these.
    """
    if terms not in (1, 2):
        raise ValueError(f"terms must be 1 or 2, got {terms!r}")
    taylor = [slope * h**j / sympy.factorial(j) for j, slope in enumerate(slopes)]
    exact = sum(part * weighed(t**j) for j, part in enumerate(taylor))
    before = sum(part * (-1 / rho) ** j for j, part in enumerate(taylor))
    history = _history_weight(solver_type) * rho * (slopes[0] - before)
    missed = exact - weighed(sympy.S.One) * slopes[0] - history
    # No weight divides by more than z^3, so twelve terms give every power of h below 9.
    series = sum((-z) ** j / sympy.factorial(j) for j in range(12))
    in_h = sympy.expand(sympy.expand(missed).subs(exp(-z), series)).subs(z, (1 + eta) * h)
    powers = sympy.Poly(sympy.expand(in_h), h).as_dict()
    lowest = min(power for (power,) in powers)
    kept = [powers[(p,)] * h**p for p in range(lowest, lowest + terms)]
    return sum(sympy.collect(sympy.expand(part), slopes, sympy.factor) for part in kept)


def linear_step(solver_type: SolverType | None = "midpoint") -> sympy.Matrix:
    r"""The matrix of a step for the denoiser :math:`\hat x_0 = \kappa x`, on VE and equal steps.

    It takes :math:`(x_k, x_{k-1})` to :math:`(x_{k+1}, x_k)`, without noise. The method is stable
    where both eigenvalues lie in the unit disc.

    Args:
        solver_type: ``"midpoint"``, ``"heun"``, or None for a step without history.

    Raises:
        ValueError: for another solver type.
    """
    C = _history_weight(solver_type)
    return sympy.Matrix([[exp(-z) + (weighed(sympy.S.One) + C) * kappa, -C * kappa], [1, 0]])


# --- other methods, to compare with ------------------------------------------------------------


def euler_maruyama() -> Terms:
    r"""The step of Euler and Maruyama for :func:`in_estimate`, on VE (:math:`\sigma'/\sigma = -1`).

    Kloeden and Platen 1992, section 10.2.
    """
    sde = in_estimate()
    frozen = {sympy.diff(sigma_of, lam): -sigma_of, alpha_of: 1, estimate_of(lam): estimate}
    drift = sde.drift.subs(frozen).subs({sigma_of: sigma, x: x_k})
    noise = sde.diffusion.subs(sigma_of, sigma) * sqrt(h) * xi
    return Terms(x_next, x_k + h * sympy.expand(drift), sympy.S.Zero, noise)


def ddim() -> Expr:
    r"""DDIM without noise, :math:`\alpha_{k+1} \hat x_0 + \sigma_{k+1} \hat \varepsilon`.

    Song et al. 2021, https://arxiv.org/abs/2010.02502, equation 12.
    """
    return alpha_next * estimate + sigma_next * (x_k - alpha * estimate) / sigma


def bridge() -> tuple[Expr, Expr]:
    r"""Mean and variance of :math:`x_{k+1}` given :math:`x_k` and clean data: the DDPM posterior.

    Of two normal laws, :math:`x_{k+1} \sim N(\alpha_{k+1} \hat x_0, \sigma_{k+1}^2)` and
    :math:`x_k \mid x_{k+1} \sim N(a x_{k+1}, \sigma_k^2 - a^2 \sigma_{k+1}^2)` with
    :math:`a = \alpha_k / \alpha_{k+1}`. Ho et al. 2020, https://arxiv.org/abs/2006.11239,
    equations 6 and 7.
    """
    a = alpha / alpha_next
    added = sigma**2 - a**2 * sigma_next**2
    precision = 1 / sigma_next**2 + a**2 / added
    mean = (alpha_next * estimate / sigma_next**2 + a * x_k / added) / precision
    return sympy.simplify(mean), sympy.simplify(1 / precision)
