r"""Distances between laws, the JKO step and the Schroedinger bridge: the transport view of a step.

Samples are arrays of n rows; what is estimated from them comes as an :class:`Estimate` with its
standard error. Laws are :class:`~dpmpp_core.GaussianMixture`: a Gaussian is one with one component,
and :func:`noisy` adds a level's noise. Everything is float64 on the host.

**What is proved about the sampler's step, and what is an analogy.**

1. *The step without history splits exactly* into the step at eta = 0, to y, and an
   Ornstein-Uhlenbeck step of time :math:`\eta h` with the estimate held fixed:
   :math:`x_{k+1} = e^{-\eta h} y + (1 - e^{-\eta h})\, \alpha_{k+1} \hat x_{0,k} + \sigma_{k+1}
   \sqrt{1 - e^{-2 \eta h}}\, \xi`. For one estimate that is Langevin dynamics towards
   :math:`\mathcal N(\alpha_{k+1} \hat x_{0,k}, \sigma_{k+1}^2 I)`, the Wasserstein gradient flow of
   the divergence from it, for the time :math:`\tau = \eta \sigma_{k+1}^2 h`
   (:func:`langevin_time`). That a step is a JKO step towards the marginal law is an analogy, right
   to first order in :math:`\tau`: both leave the flow (:func:`langevin_gaussian`) by
   :math:`O(h^2)`.
2. *The SDE itself at eta = 1, from the exact law, couples two levels by entropic transport*,
   whatever the data: its pair :math:`(x_k, x_{k+1})` is that of the forward process, with density
   :math:`p(x_{k+1})\, \mathcal N(x_k; a x_{k+1}, (\sigma_k^2 - a^2 \sigma_{k+1}^2) I)`, :math:`a =
   \alpha_k / \alpha_{k+1}`, which has the form of :func:`coupling_epsilon` with
   :math:`\varepsilon = (\sigma_k^2 - a^2 \sigma_{k+1}^2) / a`, which on VE is
   :math:`\sigma_k^2 - \sigma_{k+1}^2`.
3. *The sampler's step without history does so if and only if the data is a point or an isotropic
   Gaussian* (:func:`coupling_epsilon`); then for every eta > 0, with another epsilon. At eta = 1
   and one clean point it is the Gaussian bridge :math:`q(x_{k+1} \mid x_k, x_0)` of
   :func:`dpmpp_core.symbolic.bridge`, hence point 2. For other data "an entropic bridge" is an
   analogy. At eta = 1 the step keeps the exact conditional mean, because the bridge's is linear in
   :math:`x_0`; what it lacks is the variance :math:`B^2\, \mathrm{Cov}(x_0 \mid x_k)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.linalg import solveh_banded
from scipy.spatial.distance import cdist
from scipy.special import ndtr, ndtri
from torch import Tensor

from .checks import count, not_negative, positive
from .coefficients import step_table
from .mesh import Mesh
from .moments import Array, Numbers, _check_all, _check_mesh, _finite, _not_negative
from .schedule import Process, as_process
from .targets import GaussianMixture, gaussian

__all__ = [
    "Estimate",
    "GaussianStep",
    "coupling_epsilon",
    "energy_distance",
    "exact_step",
    "first_order_step",
    "gaussian_wasserstein",
    "jko_gaussian",
    "jko_line",
    "langevin_gaussian",
    "langevin_time",
    "noisy",
    "normal_scores",
    "quantiles",
    "schroedinger_coupling",
    "sliced_wasserstein",
    "wasserstein",
    "wasserstein_floor",
]

_PAIRS = 2**24
"""Distances held at once (128 MB), and the most that the exact solver is given."""

_REACH = 7.0
"""Normal scores go from -7 to 7: beyond lies 3e-12 of the mass."""


class Estimate(NamedTuple):
    """A number that comes from samples, and its standard error."""

    value: float
    error: float


def noisy(target: GaussianMixture, sigma: float, process: str | Process = "ve") -> GaussianMixture:
    r"""The law of :math:`\alpha x_0 + \sigma \varepsilon`, itself a mixture.

    Args:
        target: the law of the clean data.
        sigma: from 0 to the process's limit: any number for ``"ve"``, 1 for the others.
        process: how data and noise are mixed.

    Raises:
        ValueError: for a sigma outside this range.
    """
    process, sigma = as_process(process), not_negative("sigma", sigma)
    if sigma > process.sigma_limit:
        raise ValueError(
            f"sigma must be at most {process.sigma_limit:g} for process {process.name!r}, "
            f"got {sigma!r}"
        )
    alpha = process.alpha(sigma)
    added = torch.tensor(sigma**2, dtype=torch.float64, device=target.means.device)
    if target.covariances.ndim == 3:
        added = added * torch.eye(target.dim, dtype=added.dtype, device=added.device)
    return GaussianMixture(
        alpha * target.means, alpha**2 * target.covariances + added, target.weights
    )


# --- distances from samples ---------------------------------------------------------------------


def wasserstein(
    x: Array,
    y: Array | GaussianMixture,
    x_weights: Array | None = None,
    y_weights: Array | None = None,
) -> Estimate:
    r"""The Wasserstein distance :math:`W_2` of two samples, or of a sample and a law on the line.

    On the line it is :math:`W_2^2 = \int_0^1 (Q_x(t) - Q_y(t))^2\, dt` with the quantile functions,
    and exact: a sum over the merged steps of two samples, and with the partial means of the
    mixture for a law. In more dimensions the exact linear program is solved by POT (Flamary et al.
    2021), which must be installed; 4,000 points against 4,000 take some seconds.

    The error is that of the central limit theorem of del Barrio and Loubes (2019): the statistic
    :math:`W_2^2` moves with the weight of each point by its dual potential, so its variance is
    :math:`\mathrm{Var}(u)/n + \mathrm{Var}(v)/m`. It is a spread, not a bias: on average the
    square is above that of the two laws. Two samples of one law have a distance above 0, their
    floor, of the order of :math:`\sqrt{\log\log n / n}` for a Gaussian on the line (Bobkov and
    Ledoux 2019) and of :math:`n^{-1/d}` in :math:`d > 4` dimensions (Fournier and Guillin 2015).
    :func:`wasserstein_floor` measures it. At the floor the limit theorem does not hold: the error
    is too large there, by a factor measured at 1.4 to 1.7.

    Args:
        x, y: at least two points each, ``(n, ...)`` and ``(m, ...)`` with d numbers per point; or
            y a law on the line whose components have variance above 0.
        x_weights, y_weights: ``(n,)`` and ``(m,)``, >= 0, scaled to sum to 1; equal if None. The
            error takes them for those of importance sampling.

    Raises:
        ValueError: for values outside these ranges, or more than :math:`2^{24}` pairs where d > 1.
    """
    points, p = _sample("x", x, x_weights)
    if isinstance(y, GaussianMixture):
        if points.shape[1] != 1 or y_weights is not None:
            raise ValueError(
                "y must be a sample, not a law, where y_weights are given or x is not on the line, "
                f"got a law and x of {points.shape[1]} numbers per point"
            )
        square, variance = _line_to_law(points[:, 0], p, y)
        return _root(square, variance)
    others, q = _sample("y", y, y_weights)
    _same_dimension(points, others)
    if points.shape[1] == 1:
        square, u, v = _line(points[:, 0], others[:, 0], p, q)
    else:
        if len(p) * len(q) > _PAIRS:
            raise ValueError(
                f"x and y must have at most {_PAIRS} pairs of points where they are not on the "
                f"line, got {len(p)} x {len(q)}: take fewer, or sliced_wasserstein"
            )
        import ot

        costs = cdist(points, others, "sqeuclidean")
        square, log = ot.emd2(p, q, costs, numItermax=10**7, log=True)
        u, v = log["u"], log["v"]
    return _root(square, _variance(u, p) + _variance(v, q))


def sliced_wasserstein(x: Array, y: Array, directions: int = 64, seed: int = 0) -> Estimate:
    r"""The sliced distance: the root of the mean of :math:`W_2^2` of the shadows on directions.

    In the plane the directions are even, at the angles :math:`\pi (j + 1/2) / L`: the mean over the
    circle up to a quadrature error that more directions show. In more dimensions they are random,
    from the seed, and their spread is part of the error. The rest of it is as in
    :func:`wasserstein`, with the potentials' means over the directions (Manole, Balakrishnan and
    Wasserman 2022).

    Args:
        x, y: ``(n, ...)`` and ``(m, ...)``, at least two points each.
        directions: L, at least 2.
        seed: of the random directions.

    Raises:
        ValueError: for values outside these ranges.
    """
    (points, p), (others, q) = _sample("x", x), _sample("y", y)
    dim = _same_dimension(points, others)
    if count("directions", directions) < 2:
        raise ValueError(f"directions must be an integer of at least 2, got {directions!r}")
    if dim == 2:
        angles = math.pi * (np.arange(directions) + 0.5) / directions
        axes = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    else:
        axes = np.random.default_rng(seed).standard_normal((directions, dim))
        axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    squares, u, v = np.zeros(directions), np.zeros(len(p)), np.zeros(len(q))
    for j, axis in enumerate(axes):
        squares[j], here, there = _line(points @ axis, others @ axis, p, q)
        u += here / directions
        v += there / directions
    variance = _variance(u, p) + _variance(v, q)
    if dim > 2:
        variance += float(squares.var(ddof=1)) / directions
    return _root(float(squares.mean()), variance)


def energy_distance(x: Array, y: Array) -> Estimate:
    r"""The energy distance :math:`2 E|X - Y| - E|X - X'| - E|Y - Y'|` of two laws, from samples.

    It is 0 for equal laws only (Szekely and Rizzo 2013). The mean over distinct pairs has no bias,
    so it may fall below 0. The error is that of the first-order projection (Hoeffding 1948), one
    number per point. Where the laws are equal the projection vanishes, and the error is too large
    by a factor that tends to :math:`\sqrt 2`.

    Args:
        x, y: ``(n, ...)`` and ``(m, ...)``, at least two points each. On the line the time grows
            as :math:`n \log n`, else as :math:`n^2`.

    Raises:
        ValueError: for values outside these ranges.
    """
    (points, p), (others, q) = _sample("x", x), _sample("y", y)
    _same_dimension(points, others)
    n, m = len(p), len(q)
    across, back = _mean_distances(points, others), _mean_distances(others, points)
    # The distance of a point to itself is no pair.
    within = _mean_distances(points, points) * (n / (n - 1))
    beyond = _mean_distances(others, others) * (m / (m - 1))
    value = across.mean() + back.mean() - within.mean() - beyond.mean()
    variance = _variance(2.0 * (across - within), p) + _variance(2.0 * (back - beyond), q)
    return Estimate(float(value), math.sqrt(variance))


def wasserstein_floor(law: GaussianMixture, n: int, repeats: int = 20, seed: int = 0) -> Estimate:
    r"""The mean :math:`W_2` of two exact samples of n points of one law: what means "no distance".

    Args:
        law: any mixture; on the line, or n small.
        n: points in each sample, at least 2.
        repeats: pairs of samples, at least 2; the error is that of their mean.
        seed: of the samples.

    Raises:
        ValueError: for values outside these ranges.
    """
    if count("repeats", repeats) < 2:
        raise ValueError(f"repeats must be an integer of at least 2, got {repeats!r}")
    generator = torch.Generator(law.means.device).manual_seed(seed)
    values = [
        wasserstein(law.sample(n, generator=generator), law.sample(n, generator=generator)).value
        for _ in range(repeats)
    ]
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(repeats))


def _line(x: Numbers, y: Numbers, p: Numbers, q: Numbers) -> tuple[float, Numbers, Numbers]:
    """W2 squared of two weighted samples on the line, and a dual potential for each."""
    i, j = np.argsort(x), np.argsort(y)
    xs, ys, to_x, to_y = x[i], y[j], np.cumsum(p[i]), np.cumsum(q[j])
    steps = np.sort(np.concatenate([to_x, to_y]))
    gaps = _at(xs, to_x, steps) - _at(ys, to_y, steps)
    square = float(np.diff(steps, prepend=0.0) @ gaps**2)
    u, v = np.empty_like(x), np.empty_like(y)
    u[i] = _potential(xs, _between(ys, to_y, to_x[:-1]))
    v[j] = _potential(ys, _between(xs, to_x, to_y[:-1]))
    return square, u, v


def _line_to_law(x: Numbers, p: Numbers, law: GaussianMixture) -> tuple[float, float]:
    """W2 squared of a weighted sample and a law on the line, and its variance."""
    weights, means, spreads = _components(law)
    order = np.argsort(x)
    x, p = x[order], p[order]
    centre = weights @ means
    x, means = x - centre, means - centre
    # Weights of 0 at an end, or rounding, must not reach the law's own end, which is infinite.
    levels = np.clip(np.cumsum(p)[:-1], 1e-300, 1.0 - 2.0**-53)
    edges = _inverse(ndtri(levels), weights, means, spreads)
    scores = (edges[:, None] - means) / spreads
    partial = (means * ndtr(scores) - spreads * _bell(scores)) @ weights
    # The law's mean over each cell, times its mass; over all of it, 0.
    cells = np.diff(partial, prepend=0.0, append=0.0)
    square = p @ x**2 - 2.0 * (x @ cells) + weights @ (means**2 + spreads**2)
    return max(float(square), 0.0), _variance(_potential(x, edges), p)


def _potential(x: Numbers, edges: Numbers) -> Numbers:
    """u with u_i - |x_i - y|^2 equal for i and i + 1 at the edge y between them: dual optimal."""
    rises = np.diff(x) * (x[1:] + x[:-1] - 2.0 * edges)
    return np.concatenate([[0.0], np.cumsum(rises)])


def _at(values: Numbers, levels: Numbers, t: Numbers) -> Numbers:
    """The quantiles at t of a sorted sample; the last level may miss 1 by rounding."""
    found: Numbers = values[np.minimum(np.searchsorted(levels, t), len(values) - 1)]
    return found


def _between(values: Numbers, levels: Numbers, t: Numbers) -> Numbers:
    """The quantiles at t; at a jump its middle, whichever way the level was rounded."""
    near = 1e-12
    return 0.5 * (_at(values, levels, t - near) + _at(values, levels, t + near))


def _variance(influence: Numbers, weights: Numbers) -> float:
    """Variance of a weighted mean; for equal weights, of n numbers, their variance over n."""
    squares = weights**2
    return float(squares @ (influence - weights @ influence) ** 2 / (1.0 - squares.sum()))


def _root(square: float, variance: float) -> Estimate:
    """The root of an estimate, its error to first order."""
    value = math.sqrt(square)
    return Estimate(value, math.sqrt(variance) / (2.0 * value) if value > 0.0 else 0.0)


def _mean_distances(x: Numbers, y: Numbers) -> Numbers:
    """For each point of x the mean distance to those of y."""
    if x.shape[1] > 1:
        size = max(1, _PAIRS // len(y))
        return np.concatenate(
            [cdist(x[i : i + size], y).mean(axis=1) for i in range(0, len(x), size)]
        )
    centre = y.mean()
    ahead, behind = np.sort(y[:, 0] - centre), x[:, 0] - centre
    sums = np.concatenate([[0.0], np.cumsum(ahead)])
    below = np.searchsorted(ahead, behind)
    means: Numbers = (behind * (2.0 * below - len(y)) + sums[-1] - 2.0 * sums[below]) / len(y)
    return means


# --- laws on the line ---------------------------------------------------------------------------


def normal_scores(n: int) -> tuple[Tensor, Tensor]:
    r"""n even points z from -7 to 7 and the weights :math:`\propto e^{-z^2/2}` of a unit Gaussian.

    A law on the line is given by its :func:`quantiles` there, :math:`T(z) = Q(\Phi(z))`. Then
    :math:`W_2^2 \approx \sum_i w_i (T_i - T'_i)^2`: the trapezoid rule, right to 1e-9 of
    :math:`W_2^2` for two Gaussians from n = 33 on.

    Raises:
        ValueError: if n is not an integer of at least 33.
    """
    if count("n", n) < 33:
        raise ValueError(f"n must be an integer of at least 33, got {n!r}")
    z = torch.linspace(-_REACH, _REACH, n, dtype=torch.float64)
    return z, torch.softmax(-0.5 * z**2, 0)


def quantiles(law: GaussianMixture, z: Array) -> Tensor:
    r""":math:`Q(\Phi(z))`: where a law on the line has as much mass below as N(0, 1) below z.

    Args:
        law: of dimension 1; its components have variance above 0.
        z: of any shape, from -37 to 37: beyond, a float64 holds no probability.

    Raises:
        ValueError: for values outside these ranges.
    """
    scores = _finite("z", z)
    _check_all("z", scores, scores.abs() <= 37.0, "from -37 to 37")
    return torch.from_numpy(_inverse(scores.numpy().ravel(), *_components(law))).view(scores.shape)


def _components(law: Any) -> tuple[Numbers, Numbers, Numbers]:
    """Weights, means and standard deviations of a law on the line."""
    if not isinstance(law, GaussianMixture) or law.dim != 1:
        raise ValueError(f"law must be a GaussianMixture of dimension 1, got {law!r}")
    w, m, v = (t.cpu().numpy().ravel() for t in (law.weights, law.means, law.covariances))
    if not (v > 0.0).all():
        raise ValueError(f"law must have components of variance above 0, got {v.min():g}")
    return w, m, np.sqrt(v)


def _inverse(z: Numbers, weights: Numbers, means: Numbers, spreads: Numbers) -> Numbers:
    """Newton's method for the score of x to be z, kept between the components' own answers."""
    answers = means + spreads * z[:, None]
    low, high = answers.min(axis=1), answers.max(axis=1)
    finest = 4e-16 * np.abs(answers).max(axis=1)
    x: Numbers = 0.5 * (low + high)
    sign = np.where(z > 0.0, -1.0, 1.0)  # the smaller tail has all its digits
    for _ in range(100):
        scores = (x[:, None] - means) / spreads
        score = sign * ndtri(ndtr(sign[:, None] * scores) @ weights)
        low, high = np.where(score < z, x, low), np.where(score > z, x, high)
        with np.errstate(all="ignore"):
            step = x - (score - z) * _bell(score) / ((_bell(scores) / spreads) @ weights)
        # Out of bounds, or in a gap without mass, where it is NaN and compares false: halve.
        step = np.where((step >= low) & (step <= high), step, 0.5 * (low + high))
        found = (np.abs(score - z) <= 4e-15 * (1.0 + np.abs(z))) | (np.abs(step - x) <= finest)
        if found.all():
            break
        x = np.where(found, x, step)
    return x


def _bell(z: Numbers) -> Numbers:
    bell: Numbers = np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
    return bell


# --- Gaussians, and the JKO step ----------------------------------------------------------------


def gaussian_wasserstein(law: GaussianMixture, other: GaussianMixture) -> float:
    r""":math:`W_2` of two Gaussians in d dimensions.

    .. math:: W_2^2 = |m - m'|^2 + \mathrm{tr}\bigl(S + S' - 2 (S^{1/2} S' S^{1/2})^{1/2}\bigr)

    (Dowson and Landau 1982), with the trace as the least :math:`|S^{1/2} - S'^{1/2} U|^2` over
    rotations U, so that nothing cancels.

    Raises:
        ValueError: for laws that are not Gaussians of one dimension d.
    """
    (m, S), (m_other, S_other) = _pair("law", law, "other", other)
    root, root_other = _function(S, torch.sqrt), _function(S_other, torch.sqrt)
    left, _, right = torch.linalg.svd(root_other @ root)
    gap = (root - root_other @ left @ right).norm()
    return math.hypot(float((m - m_other).norm()), float(gap))


def langevin_time(mesh: Mesh, k: int, eta: float = 1.0) -> float:
    r""":math:`\tau = \eta\, \sigma_{k+1}^2 h_k`: how long step k runs its Langevin part.

    0 for a step to :math:`\sigma = 0`, which has none.
    """
    _check_step(mesh, k)
    eta, level = not_negative("eta", eta), mesh.sigma[k + 1]
    return eta * level**2 * mesh.h[k] if level > 0.0 else 0.0


def langevin_gaussian(
    law: GaussianMixture, target: GaussianMixture, time: float
) -> GaussianMixture:
    r"""The law after :math:`dx = \nabla \log p\, dt + \sqrt 2\, dW` for a time, both Gaussian.

    The gradient flow in :math:`W_2` of :math:`\mathrm{KL}(\cdot \mid p)` (Jordan, Kinderlehrer and
    Otto 1998). With :math:`E = e^{-t V^{-1}}` for the target :math:`\mathcal N(\mu, V)`:

    .. math:: m \to \mu + E (m - \mu), \qquad S \to V + E (S - V) E.

    Raises:
        ValueError: for a time below 0, laws that are not Gaussians of one dimension, or a target
            whose covariance is singular.
    """
    time = not_negative("time", time)
    (m, S), (mu, V) = _pair("law", law, "target", target)
    _check_density("target", V)
    decay = _function(V, lambda v: torch.exp(-time / v))
    # V - E V E, as a sum of what is not negative: a singular S stays free of rounding below 0.
    gained = _function(V, lambda v: -v * torch.expm1(-2.0 * time / v))
    return _gaussian(mu + decay @ (m - mu), decay @ S @ decay + gained)


def jko_gaussian(law: GaussianMixture, target: GaussianMixture, tau: float) -> GaussianMixture:
    r"""The step of Jordan, Kinderlehrer and Otto (1998) between Gaussians.

    .. math:: \rho_+ = \arg\min_\rho\, \frac{W_2^2(\rho, \rho_k)}{2 \tau} + \mathrm{KL}(\rho \mid p)

    For Gaussians :math:`\rho_k = \mathcal N(m, S)` and :math:`p = \mathcal N(\mu, V)` the minimum
    over all laws is a Gaussian: for given mean and covariance it has the least :math:`W_2`
    (Gelbrich 1990) and the largest entropy. The map from the new law back to the old is
    :math:`M - \tau S_+^{-1}` with :math:`M = I + \tau V^{-1}`, so that

    .. math:: m_+ = M^{-1} (m + \tau V^{-1} \mu), \qquad
        (M - \tau S_+^{-1})\, S_+\, (M - \tau S_+^{-1}) = S.

    With :math:`S_+ = M^{-1/2} Y M^{-1/2}` this is :math:`Y - 2 \tau I + \tau^2 Y^{-1} = M^{-1/2} S
    M^{-1/2}`: one quadratic equation for each eigenvalue :math:`\kappa` of the right side, whatever
    does or does not commute,

    .. math:: y = \tau + \tfrac12 \bigl(\kappa + \sqrt{\kappa^2 + 4 \tau \kappa}\bigr).

    On the line :math:`s_+ = (s + \sqrt{s^2 + 4 \tau M}) / (2 M)`. Source of the scheme:
    https://doi.org/10.1137/S0036141096303359.

    Raises:
        ValueError: for tau not above 0, laws that are not Gaussians of one dimension, or a target
            whose covariance is singular.
    """
    tau = positive("tau", tau)
    (m, S), (mu, V) = _pair("law", law, "target", target)
    _check_density("target", V)
    mean = mu + _function(V, lambda v: v / (v + tau)) @ (m - mu)
    half = _function(V, lambda v: (v / (v + tau)).sqrt())
    inner = _function(
        half @ S @ half, lambda kappa: tau + 0.5 * (kappa + (kappa * (kappa + 4.0 * tau)).sqrt())
    )
    return _gaussian(mean, half @ inner @ half)


def jko_line(x: Array, target: GaussianMixture, tau: float) -> Tensor:
    r"""The JKO step of a law on the line, given and returned by its values at normal scores.

    With :math:`T(z) = Q(\Phi(z))` (:func:`normal_scores`) the step minimises

    .. math:: \int \varphi(z) \Bigl(\frac{(T - T_k)^2}{2 \tau} - \log T'(z) - \log p(T)\Bigr) dz,

    discretised on the scores and solved by Newton's method with a tridiagonal matrix. The weights
    of :math:`\log T'` are such that a Gaussian goes to a Gaussian, exactly; for other laws the
    error is of second order in the distance of the scores.

    The problem is convex, and the answer its one minimum, where :math:`\tau\, (\log p)'' \le 1`
    everywhere: for every tau if p is log-concave. At a noise level :math:`(\log p)'' = (\alpha^2
    \mathrm{Var}(x_0 \mid x) - \sigma^2) / \sigma^4`. For larger tau the answer is a stationary
    point that is reached from x by descent.

    Args:
        x: quantiles at ``normal_scores(len(x))``: finite, strictly increasing, at least 33.
        target: p, of dimension 1; its components have variance above 0.
        tau: above 0.

    Returns:
        The new quantiles, same shape.

    Raises:
        ValueError: for values outside these ranges.
        RuntimeError: if the method does not converge.
    """
    tau = positive("tau", tau)
    given = _finite("x", x).numpy()
    if given.ndim != 1 or len(given) < 33 or not (np.diff(given) > 0.0).all():
        raise ValueError(
            "x must be at least 33 strictly increasing quantiles, of shape (n,), "
            f"got shape {given.shape}"
        )
    law = _components(target)
    z, w = (t.numpy() for t in normal_scores(len(given)))
    spacing = z[1] - z[0]
    # sum_i u_i = sum_i w_i z_i^2 = 1, and T = a + b z makes the entropy's force -w z / b.
    half = -spacing * np.cumsum(w * z)[: len(z) // 2]
    u = np.concatenate([half, half[: len(z) - 1 - len(half)][::-1]])

    def objective(t: Numbers) -> float:
        value = w @ ((t - given) ** 2 / (2.0 * tau) - _log_density(t, *law)[0])
        return float(value - u @ np.log(np.diff(t)))

    at, value = given, objective(given)
    for _ in range(200):
        gaps = np.diff(at)
        _, score, curvature = _log_density(at, *law)
        force = u / gaps
        slope = w * ((at - given) / tau - score) + np.append(force, 0.0) - np.append(0.0, force)
        stiff = u / gaps**2
        bands = np.zeros((2, len(at)))
        # Where p is not log-concave the curvature is held up, so that every step descends.
        bands[1] = w * np.maximum(1.0 / tau - curvature, 1e-3 / tau)
        bands[1] += np.append(stiff, 0.0) + np.append(0.0, stiff)
        bands[0, 1:] = -stiff
        move = -solveh_banded(bands, slope)
        # At most nine tenths of the way to where two quantiles would meet.
        length = min(1.0, 0.9 / max(float((-np.diff(move) / gaps).max()), 1e-300))
        descent = float(slope @ move)
        if -descent < 1e-24:
            return torch.from_numpy(at + length * move)
        new = objective(at + length * move)
        while new > value + 1e-4 * length * descent + 1e-14 * abs(value):
            length *= 0.5
            new = objective(at + length * move)
        at, value = at + length * move, new
    raise RuntimeError(f"jko_line must converge in 200 steps, which it did not for tau = {tau:g}")


def _log_density(
    x: Numbers, weights: Numbers, means: Numbers, spreads: Numbers
) -> tuple[Numbers, Numbers, Numbers]:
    """log p and its first two derivatives."""
    scores = (x[:, None] - means) / spreads
    logs = np.log(weights / spreads) - 0.5 * scores**2
    top = logs.max(axis=1)
    parts = np.exp(logs - top[:, None])
    total = parts.sum(axis=1)
    parts = parts / total[:, None]
    pulls = -scores / spreads
    first = (parts * pulls).sum(axis=1)
    second = (parts * ((pulls - first[:, None]) ** 2 - 1.0 / spreads**2)).sum(axis=1)
    return top + np.log(total) - 0.5 * math.log(2.0 * math.pi), first, second


# --- a step as a coupling, and the bridge -------------------------------------------------------


class GaussianStep(NamedTuple):
    r"""The law of :math:`x_{k+1}` and :math:`\mathrm{Cov}(x_k, x_{k+1})`, shape ``(d, d)``."""

    law: GaussianMixture
    cross: Tensor


def first_order_step(
    data: GaussianMixture,
    mesh: Mesh,
    k: int,
    eta: float = 1.0,
    s_noise: float = 1.0,
    law: GaussianMixture | None = None,
) -> GaussianStep:
    r"""Step k of the sampler without its history term, for Gaussian data and its exact denoiser.

    With :math:`R = A + B G`, :math:`G = \alpha_k V (\alpha_k^2 V + \sigma_k^2)^{-1}` for data
    :math:`\mathcal N(m, V)`, the deviations :math:`x_k - \alpha_k m` go to :math:`R (x_k - \alpha_k
    m) + D \xi`. So :math:`S \to R S R + D^2 I`, and the cross-covariance is :math:`S R`.

    Args:
        data: a Gaussian.
        mesh: the noise levels.
        k: the step, from 0 to ``mesh.steps - 1``.
        eta, s_noise: finite and >= 0.
        law: a Gaussian, that of :math:`x_k`; None for the exact one.

    Raises:
        ValueError: for values outside these ranges.
    """
    _check_step(mesh, k)
    row = step_table(mesh, eta, s_noise)[k]
    alpha, sigma = mesh.alpha[k], mesh.sigma[k]
    law = noisy(data, sigma, mesh.process) if law is None else law
    (m, V), (mean, S) = _pair("data", data, "law", law)
    R = _function(V, lambda v: row.A + row.B * alpha * v / (alpha**2 * v + sigma**2))
    noise = row.D**2 * torch.eye(len(m), dtype=torch.float64)
    mean = mesh.alpha[k + 1] * m + R @ (mean - alpha * m)
    return GaussianStep(_gaussian(mean, R @ S @ R + noise), S @ R)


def exact_step(data: GaussianMixture, mesh: Mesh, k: int, eta: float = 1.0) -> GaussianStep:
    r"""The SDE of rate eta itself from level k to k + 1, from the exact law, for Gaussian data.

    With :math:`S_k = V + (\sigma_k / \alpha_k)^2` the deviations go to :math:`R` times themselves
    plus independent noise, :math:`R = (\alpha_{k+1} / \alpha_k)\, (S_{k+1} S_k^{-1})^{(1 +
    \eta)/2}`. The new law is the exact one, for every eta.

    Arguments and refusals as :func:`first_order_step`.
    """
    _check_step(mesh, k)
    eta = not_negative("eta", eta)
    (_, V), (_, S) = _pair("data", data, "data", noisy(data, mesh.sigma[k], mesh.process))
    noise, noise_next = ((mesh.sigma[j] / mesh.alpha[j]) ** 2 for j in (k, k + 1))
    R = _function(V, lambda v: ((v + noise_next) / (v + noise)) ** (0.5 * (1.0 + eta)))
    cross = S @ R * (mesh.alpha[k + 1] / mesh.alpha[k])
    return GaussianStep(noisy(data, mesh.sigma[k + 1], mesh.process), cross)


def schroedinger_coupling(law: GaussianMixture, other: GaussianMixture, epsilon: float) -> Tensor:
    r"""Cov(x, y) of the static Schroedinger problem between two Gaussians, shape ``(d, d)``.

    Of all pairs (x, y) with these two laws it is the one nearest, in relative entropy, to a
    Brownian motion that gains the variance epsilon; the same pair has the least :math:`\tfrac12 E
    |x - y|^2 + \varepsilon\, \mathrm{KL}(\pi \mid \rho \otimes \rho')`, which is entropic optimal
    transport. It is Gaussian, with

    .. math:: C = S^{1/2} \Bigl(\bigl(S^{1/2} S' S^{1/2} + \tfrac{\varepsilon^2}{4}\bigr)^{1/2} -
        \tfrac{\varepsilon}{2}\Bigr) S^{-1/2},

    on the line :math:`\sqrt{s^2 s'^2 + \varepsilon^2/4} - \varepsilon/2`. epsilon = 0 gives optimal
    transport. Sources: Janati et al. 2020, https://arxiv.org/abs/2006.02572; Mallasto et al. 2022;
    del Barrio and Loubes 2020. Written here with the singular values of :math:`S^{1/2} S'^{1/2}`,
    which needs no inverse.

    Raises:
        ValueError: for epsilon below 0 or laws that are not Gaussians of one dimension.
    """
    epsilon = not_negative("epsilon", epsilon)
    (_, S), (_, S_other) = _pair("law", law, "other", other)
    root, root_other = _function(S, torch.sqrt), _function(S_other, torch.sqrt)
    left, values, right = torch.linalg.svd(root @ root_other)
    shrink = values / (torch.hypot(values, values.new_tensor(0.5 * epsilon)) + 0.5 * epsilon)
    shrink = torch.where(values > 0.0, shrink, 0.0)
    cross: Tensor = root @ ((left * shrink) @ right) @ root_other
    return cross


def coupling_epsilon(law: GaussianMixture, other: GaussianMixture, cross: Array) -> Tensor:
    r"""The epsilon for which a Gaussian coupling is entropic transport: a matrix, ``(d, d)``.

    A coupling with a smooth density above 0 solves the problem of :func:`schroedinger_coupling` for
    its own two laws if and only if :math:`\log \pi(x, y) = f(x) + g(y) + x \cdot y / \varepsilon`
    (Csiszar 1975; Leonard 2014), that is, where :math:`\partial_x \partial_y \log \pi` is
    :math:`I / \varepsilon` everywhere. For a Gaussian coupling with :math:`\mathrm{Cov}(x, y) = C`
    the inverse of that derivative is the constant matrix

    .. math:: \mathcal E = (S' - C^T S^{-1} C)\, C^{-1} S.

    It is entropic transport if and only if :math:`\mathcal E = \varepsilon I` with epsilon > 0: on
    the line for every positive correlation, with one epsilon.

    For a step :math:`x_{k+1} = A x_k + B \hat x_0(x_k) + D \xi` the derivative is :math:`(A + B
    \nabla \hat x_0) / D^2`, with :math:`\nabla \hat x_0 = \alpha\, \mathrm{Cov}(x_0 \mid x) /
    \sigma^2` for the exact denoiser. So a step is entropic transport if and only if that covariance
    is one multiple of I for all x: the data is a point (g = 0) or an isotropic Gaussian (gain g),
    and

    .. math:: \varepsilon_\text{step} = \frac{D^2}{A + B g}, \qquad
        \varepsilon_\text{SDE} = s_k s_{k+1} \bigl(r^\eta - r^{-\eta}\bigr), \quad
        r = \frac{s_k / \alpha_k}{s_{k+1} / \alpha_{k+1}},

    the second for the SDE itself (:func:`exact_step`), with :math:`s_k^2 = \alpha_k^2 v +
    \sigma_k^2`. At eta = 1 the second is :math:`\alpha_k \alpha_{k+1} (\sigma_k^2 /
    \alpha_k^2 - \sigma_{k+1}^2 / \alpha_{k+1}^2)`, whatever the data's variance v, and the first
    is this times A / (A + B g). At any other eta > 0 the second depends on v, so that no epsilon
    fits the SDE either where the variances of the data differ.

    Args:
        law, other: Gaussians, of x and y, with covariances that are not singular.
        cross: C, ``(d, d)`` or a number on the line, not singular.

    Raises:
        ValueError: for values outside these ranges.
    """
    (_, S), (_, S_other) = _pair("law", law, "other", other)
    C = _finite("cross", cross)
    C = C.reshape(1, 1) if C.numel() == 1 else C
    if C.shape != S.shape:
        raise ValueError(f"cross must have shape {tuple(S.shape)}, got shape {tuple(C.shape)}")
    _check_density("law", S)
    if torch.linalg.matrix_rank(C) < len(C):
        raise ValueError(f"cross must not be singular, got {C.tolist()}")
    rest = S_other - C.mT @ torch.linalg.solve(S, C)
    epsilon: Tensor = rest @ torch.linalg.solve(C, S)
    return epsilon


# --- shapes and refusals ------------------------------------------------------------------------


def _sample(name: str, value: Any, weights: Any = None) -> tuple[Numbers, Numbers]:
    """Points ``(n, d)`` and their weights ``(n,)``, which sum to 1."""
    points = _finite(name, value).numpy()
    if points.ndim == 0 or len(points) < 2:
        raise ValueError(
            f"{name} must be a sample of at least two points, of shape (n, ...), "
            f"got shape {points.shape}"
        )
    n = len(points)
    p = np.ones(n) if weights is None else _not_negative(f"{name}_weights", weights).numpy()
    if p.shape != (n,) or np.count_nonzero(p) < 2:
        raise ValueError(
            f"{name}_weights must have shape {(n,)} and two entries above 0, got {weights!r}"
        )
    return points.reshape(n, -1), p / p.sum()


def _same_dimension(x: Numbers, y: Numbers) -> int:
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"x and y must have the same numbers per point, got {x.shape[1]} and {y.shape[1]}"
        )
    return int(x.shape[1])


def _check_step(mesh: Any, k: Any) -> None:
    _check_mesh(mesh)
    if isinstance(k, bool) or not isinstance(k, int) or not 0 <= k < mesh.steps:
        raise ValueError(f"k must be an integer from 0 to {mesh.steps - 1}, got {k!r}")


def _moments(name: str, law: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(law, GaussianMixture) or len(law.weights) != 1:
        raise ValueError(
            f"{name} must be a Gaussian, such as gaussian(mean, covariance), got {law!r}"
        )
    return law.mean.cpu(), law.covariance.cpu()


def _pair(
    name: str, law: Any, other_name: str, other: Any
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    first, second = _moments(name, law), _moments(other_name, other)
    if len(first[0]) != len(second[0]):
        raise ValueError(
            f"{name} and {other_name} must have the same dimension, "
            f"got {len(first[0])} and {len(second[0])}"
        )
    return first, second


def _check_density(name: str, covariance: Tensor) -> None:
    lowest = float(torch.linalg.eigvalsh(covariance)[0])
    if lowest <= 0.0:
        raise ValueError(f"{name} must have a covariance with eigenvalues above 0, got {lowest:g}")


def _function(matrix: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of a symmetric matrix, by its eigenvalues; those below 0 are rounding."""
    values, basis = torch.linalg.eigh(matrix)
    result: Tensor = (basis * function(values.clamp(min=0.0))) @ basis.mT
    return result


def _gaussian(mean: Tensor, covariance: Tensor) -> GaussianMixture:
    return gaussian(mean, 0.5 * (covariance + covariance.mT))
