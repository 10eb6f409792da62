r"""The law of the sampler on the line without sampling, and the law of the SDEs behind it.

:func:`sampler_law` gives the density of the last state for the steps as they are taken;
:func:`fokker_planck` gives it in the limit of short steps. Everything is float64 on the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.fft import next_fast_len
from scipy.linalg import solve_banded
from scipy.special import exprel, sici
from torch import Tensor

from .checks import count, not_negative, real
from .coefficients import SolverType, StepTable, step_table
from .mesh import Mesh
from .targets import GaussianMixture

__all__ = ["Law", "fokker_planck", "kolmogorov_distance", "sampler_law", "state_laws"]

Numbers = np.ndarray[Any, np.dtype[np.float64]]
Model = Callable[[Tensor, Tensor], Tensor]
"""A denoiser as the samplers call it: ``model(x, sigma)`` with x ``(B, 1)`` and sigma ``(B,)``."""

_REACH = 8.0
"""Standard deviations that a grid reaches; a normal law has 1e-15 of its mass beyond."""
_FLOOR = 1e-12
"""Densities below this part of the largest one need no place on a grid."""
_COARSEST, _FEWEST = 0.5, 16
"""The lowest resolution and the smallest number of points."""


@dataclass(frozen=True, eq=False)
class Law:
    r"""The law of :math:`x = X(u)`, where u has a smooth density on a line of even nodes.

    X is the identity where the state itself has such a density. Where it has none, as after a step
    to :math:`\sigma = 0`, u is an earlier state, and X what the sampler makes of it without noise.

    =======  =============  =======================================================================
    field    shape          meaning
    =======  =============  =======================================================================
    nodes    (M,)           :math:`u_i`, evenly spaced by :math:`\delta`
    weights  (M,)           :math:`\delta` times the density of u at :math:`u_i`; they sum to 1
    image    --             X, from a tensor ``(B,)`` to one of that shape; None for the identity
    error    --             an estimate of the largest error of :meth:`cdf`; NaN where none was made
    =======  =============  =======================================================================

    Between nodes the density of u is :math:`\sum_i w_i \operatorname{sinc}((u - u_i) / \delta) /
    \delta`, whose error falls faster than any power of :math:`\delta` if the density is analytic
    (Stenger 1993, Numerical Methods Based on Sinc and Analytic Functions).
    """

    nodes: Tensor
    weights: Tensor
    image: Callable[[Tensor], Tensor] | None = None
    error: float = math.nan

    @cached_property
    def x(self) -> Tensor:
        """The states that the nodes stand for, ``(M,)``."""
        return self.nodes if self.image is None else self.image(self.nodes)

    @property
    def spacing(self) -> float:
        r""":math:`\delta`."""
        return float(self.nodes[1] - self.nodes[0])

    def mean(self, f: Callable[[Tensor], Tensor] = lambda x: x) -> float:
        r""":math:`\mathbb E f(x) \approx \sum_i w_i f(X(u_i))`; the mean of x if no f is given.

        Args:
            f: from a tensor ``(M,)`` to one of that shape.
        """
        return float(self.weights @ f(self.x))

    def density(self, t: Tensor) -> Tensor:
        r"""The density of x at t, of any shape: :math:`p_u(u) / |X'(u)|` summed over X(u) = t.

        It is infinite where :math:`X' = 0`, and a row of needles for the last estimate of a cloud
        of points.
        """

        def at(t: Tensor) -> Tensor:
            u, slot, _ = self._preimages(t)
            values = torch.from_numpy(np.sinc(self._offsets(u))) @ self.weights / self.spacing
            if self.image is not None:
                with torch.enable_grad():
                    moved = u.clone().requires_grad_()
                    (slope,) = torch.autograd.grad(self.image(moved).sum(), moved)
                values = values / slope.abs()
            return torch.zeros_like(t).index_add_(0, slot, values)

        return _in_blocks(at, t)

    def cdf(self, t: Tensor) -> Tensor:
        r""":math:`P(x \le t)` for t of any shape: the mass of u where :math:`X(u) \le t`."""

        def at(t: Tensor) -> Tensor:
            u, slot, way = self._preimages(t)
            steps = 0.5 + torch.from_numpy(sici(np.pi * self._offsets(u))[0]) / math.pi
            below = torch.zeros_like(t) if self.image is None else (self.x[-1] <= t).double()
            return below.index_add_(0, slot, way * (steps @ self.weights))

        return _in_blocks(at, t)

    def _offsets(self, u: Tensor) -> Numbers:
        offsets: Numbers = ((u[:, None] - self.nodes) / self.spacing).numpy()
        return offsets

    def _preimages(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All u with X(u) = t, for which entry of t each is one, and the sign of X' there."""
        if self.image is None:
            return t, torch.arange(len(t)), torch.ones_like(t)
        above = self.x[:, None] > t
        left, slot = (above[1:] != above[:-1]).nonzero(as_tuple=True)
        rising = above[left + 1, slot]
        low, high = self.nodes[left], self.nodes[left + 1]
        for _ in range(40):
            middle = 0.5 * (low + high)
            beyond = (self.image(middle) > t[slot]) == rising
            low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
        return 0.5 * (low + high), slot, 2.0 * rising.double() - 1.0


def _in_blocks(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """f at t of any shape, with a matrix of only so many rows at a time."""
    t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
    return torch.cat([f(block) for block in torch.split(t.flatten(), 2048)]).reshape(t.shape)


def kolmogorov_distance(first: Law, second: Law) -> float:
    r""":math:`\sup_t |F_1(t) - F_2(t)|` over 257 even places where either law has its mass."""
    ends = torch.stack([end for law in (first, second) for end in law.x.aminmax()])
    t = torch.linspace(float(ends.min()), float(ends.max()), 257, dtype=torch.float64)
    return float((first.cdf(t) - second.cdf(t)).abs().max())


# --- the law of the steps -----------------------------------------------------------------------


def sampler_law(
    target: GaussianMixture,
    mesh: Mesh,
    eta: float = 1.0,
    s_noise: float = 1.0,
    solver_type: SolverType = "midpoint",
    *,
    model: Model | None = None,
    initial: GaussianMixture | None = None,
    resolution: float = 1.0,
    points: int = 4096,
) -> Law:
    """The law of the sampler's last state for data on the line, without sampling.

    The last law of :func:`state_laws`, which has the method, for the coefficients of these knobs.
    Its ``error`` is the :func:`kolmogorov_distance` to a second run with 4/5 of the resolution, or
    of the points where there is no noise: above the error while that falls with the resolution.

    Args:
        target: the data, of dimension 1.
        mesh: the noise levels.
        eta, s_noise, solver_type: as :func:`~dpmpp_core.step_table`.
        model, initial, resolution, points: as :func:`state_laws`.

    Raises:
        ValueError: as :func:`~dpmpp_core.step_table` and :func:`state_laws`.
    """
    _check_problem(target, mesh, initial)
    table = step_table(mesh, eta, s_noise, solver_type)
    run = partial(state_laws, table, target, mesh, model=model, initial=initial)
    law = run(resolution=resolution, points=points)[-1]
    fewer = points if any(table.D) else max(_FEWEST, 4 * points // 5)
    rough = run(resolution=max(_COARSEST, 0.8 * resolution), points=fewer)[-1]
    return replace(law, error=kolmogorov_distance(law, rough))


def state_laws(
    table: StepTable,
    target: GaussianMixture,
    mesh: Mesh,
    *,
    model: Model | None = None,
    initial: GaussianMixture | None = None,
    resolution: float = 1.0,
    points: int = 4096,
) -> tuple[Law, ...]:
    r"""The laws of the states :math:`x_0, \dots, x_N`, for any coefficients of the sampler's form.

    With noise in every step, the joint density :math:`q_k` of :math:`x_k` and :math:`x_{k-1}` has
    the next one's Fourier transform in :math:`x_{k+1}`,

    .. math::

        \hat q_{k+1}(\omega, x) = e^{-i \omega a_k(x) - D^2 \omega^2 / 2} \int q_k(x, y)\,
        e^{i \omega C d_{k-1}(y)}\, dy, \qquad a_k(x) = A x + (B + C)\, d_k(x),

    where :math:`d_k` is the denoiser at level k. Integrals are sums over even nodes, whose density
    is chosen for each state. All functions here are smooth and vanish at both ends, so the error of
    the sums falls like :math:`e^{-2 (\pi \rho)^2}` in the resolution :math:`\rho` (Trefethen &
    Weideman 2014, SIAM Review 56, section 5), and :math:`\omega = 0` keeps the mass to rounding.

    Without noise in any step, :math:`x_k` is a function of :math:`x_0`, whose law is known. A last
    step without noise and history, as to :math:`\sigma = 0`, makes :math:`x_N` a function of
    :math:`x_{N-1}` in the same way.

    Args:
        table: the coefficients; for the method without history, those with C = 0.
        target: the data, of dimension 1.
        mesh: the noise levels.
        model: a denoiser to take instead of the target's own. :meth:`Law.density` differentiates
            it where there is an image.
        initial: the law of :math:`x_0`, of dimension 1 with variances above 0. None is the exact
            law of the first level.
        resolution: :math:`\rho`, nodes in each standard deviation of the narrowest function under
            an integral, 0.5 to 4. Clouds of points in few steps are steep, and need a low one.
        points: at least 16. A function of an earlier state has this many nodes; a joint density may
            have as many values as the square.

    Returns:
        N + 1 laws; law k is that of :math:`x_k`.

    Raises:
        ValueError: for arguments outside these ranges; for a table with noise in some steps and
            none in others; for noise so small that ``points`` are too few; for a model whose
            results are not finite or not of the state's shape.
    """
    start = _check_problem(target, mesh, initial)
    smooth = _check_table(table, mesh)
    rho = real("resolution", resolution, "a number from 0.5 to 4", lambda r: _COARSEST <= r <= 4.0)
    if count("points", points) < _FEWEST:
        raise ValueError(f"points must be at least {_FEWEST}, got {points!r}")
    steps = _Steps(table, mesh, model or target.model(mesh.process))
    if smooth:
        laws = _with_noise(steps, start, smooth, rho, points)
        last = [replace(laws[-1], image=partial(steps.drift, smooth))]
        return *laws, *(last if smooth < len(table) else [])
    x = _grid(*_ends(start), points)
    weights = _density(start, x)
    first = Law(x, weights / weights.sum())
    return first, *(replace(first, image=partial(steps.run, k + 1)) for k in range(len(table)))


@dataclass(frozen=True)
class _Steps:
    """The steps as functions of states ``(B,)``, without their noise."""

    table: StepTable
    mesh: Mesh
    model: Model

    def denoise(self, k: int, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(x.requires_grad):
            estimate = self.model(x[:, None], torch.full_like(x, self.mesh.sigma[k]))
        if estimate.shape != (len(x), 1) or not estimate.isfinite().all():
            raise ValueError(
                f"model must return finite values of shape {(len(x), 1)}, got others at step {k}, "
                f"of shape {tuple(estimate.shape)}"
            )
        return estimate[:, 0].to(x)

    def drift(self, k: int, x: Tensor) -> Tensor:
        """a_k(x): the step without the estimate of the step before."""
        A, B, C, _ = self.table[k]
        return A * x + (B + C) * self.denoise(k, x)

    def run(self, k: int, x: Tensor) -> Tensor:
        """x_k as a function of x_0."""
        before = torch.zeros_like(x)
        for step in range(k):
            A, B, C, _ = self.table[step]
            estimate = self.denoise(step, x)
            x, before = A * x + B * estimate + C * (estimate - before), estimate
        return x


def _with_noise(
    steps: _Steps, start: GaussianMixture, smooth: int, rho: float, points: int
) -> list[Law]:
    """The laws of the states up to the last that has a smooth density of its own."""
    table = steps.table

    def afford(k: int, rows: int, columns: float) -> None:
        if rows * columns > points**2:
            raise ValueError(
                f"eta and s_noise must be 0 or give more noise, or resolution must be lower, or "
                f"points at least {math.ceil(math.sqrt(rows * columns))}, got points = {points} "
                f"and D = {table.D[k]:g} at step {k}"
            )

    def nodes_for(k: int, law: Law, width: float, rows: int) -> int:
        """The nodes for sums over x_k, if no detail of its law is narrower than this width."""
        # It is multiplied by the kernel of step k, whose width in x is D / a'.
        (slope,) = torch.gradient(steps.drift(k, law.nodes), spacing=law.spacing)
        wave = torch.hypot(slope / table.D[k], torch.full_like(slope, 1.0 / width))
        # Where the density is lower, a larger part of it may be lost.
        part = (law.weights / law.weights.max()).clamp(min=1e-99)
        local = (rho**2 + part.log() / (2.0 * math.pi**2)).clamp(min=0.0).sqrt()
        needed = len(local) * law.spacing * float((wave * local).max())
        afford(k, rows, needed)
        return int(next_fast_len(max(_FEWEST, math.ceil(needed)), real=True))

    low, span = _ends(start)
    narrowest = float(start.covariances.min().sqrt())
    afford(0, 1, _highest(span, narrowest))
    x = _grid(low, span, _nodes_for_law(span, narrowest))
    laws = [Law(x, _density(start, x) * (span / len(x)))]
    x = _grid(low, span, nodes_for(0, laws[0], narrowest, 1))
    # A row for each x_k, and a column for each x_{k-1} with the weight of its node.
    joint = _density(start, x)[:, None]
    before = torch.zeros(1, dtype=torch.float64)
    for k in range(smooth):
        drift, push, D = steps.drift(k, x), table.C[k] * before, table.D[k]
        before, spacing = steps.denoise(k, x), span / len(x)
        low, span = _next_ends(joint, drift, push, D)
        top = _highest(span, D)
        afford(k, len(x), top)
        omega = 2.0 * math.pi / span * torch.arange(top + 1, dtype=torch.float64)
        fading = torch.exp(-0.5 * (D * omega) ** 2)
        transform = _characteristic(joint, push, omega)
        transform *= torch.polar(fading, torch.outer(low - drift, omega))
        marginal = spacing * transform.sum(0)
        fine = _nodes_for_law(span, D)
        if k + 1 == smooth < len(table):
            fine = max(fine, points)
        laws.append(Law(_grid(low, span, fine), torch.fft.irfft(marginal, fine)))
        if k + 1 < smooth:
            nodes = nodes_for(k + 1, laws[-1], D, len(x))
            # Where the nodes are too few for the band, every stride-th value is taken.
            stride = -(-2 * top // nodes)
            joint = torch.fft.irfft(transform, nodes * stride)[:, ::stride].T
            joint = joint * (spacing * nodes * stride / span)
            x = _grid(low, span, nodes)
    return laws


def _grid(low: float, span: float, nodes: int) -> Tensor:
    return low + span / nodes * torch.arange(nodes, dtype=torch.float64)


def _highest(span: float, width: float) -> int:
    """The harmonic at which the transform of a normal law of that width is below 1e-15."""
    return math.ceil(8.5 * span / (2.0 * math.pi * width))


def _nodes_for_law(span: float, width: float) -> int:
    """Nodes between which the density can be read to rounding, and enough to draw it."""
    return int(next_fast_len(max(1024, 2 * _highest(span, width)), real=True))


def _density(mixture: GaussianMixture, x: Tensor) -> Tensor:
    return mixture.log_density(x[:, None]).exp()


def _ends(mixture: GaussianMixture) -> tuple[float, float]:
    """The lowest place of a grid for the mixture, and the length of the grid."""
    reach = _REACH * mixture.covariances.sqrt()
    low = float((mixture.means[:, 0] - reach).min())
    return low, float((mixture.means[:, 0] + reach).max()) - low


def _next_ends(joint: Tensor, drift: Tensor, push: Tensor, D: float) -> tuple[float, float]:
    """The lowest place where the next state's density is above the floor, and the length.

    Given x, the next state is near normal, and how far it reaches depends on how likely x is.
    """
    mass = joint.clamp(min=0.0)
    likely = mass.sum(1)
    rows = likely > _FLOOR * likely.max()
    mass, likely = mass[rows], likely[rows]
    mean = mass @ push / likely
    spread = mass @ (push - push.mean()) ** 2 / likely - (mean - push.mean()) ** 2
    reach = (2.0 * (likely / (_FLOOR * likely.max())).log() * (D**2 + spread.clamp(min=0.0))).sqrt()
    centre = drift[rows] - mean
    low = float((centre - reach).min())
    return low, float((centre + reach).max()) - low


def _characteristic(joint: Tensor, push: Tensor, omega: Tensor) -> Tensor:
    r""":math:`\sum_y q(x, y)\, e^{i \omega v(y)}`, a row for each x and a column for each omega.

    For low noise q is a band around a line, so that blocks of rows need few columns of it.
    """
    phase = torch.outer(push, omega)
    waves = torch.cat([phase.cos(), phase.sin()], dim=1)
    result = torch.zeros(len(joint), len(omega), dtype=torch.complex128)
    floor = 1e-2 * _FLOOR * joint.max()
    for start in range(0, len(joint), 64):
        block = joint[start : start + 64]
        filled = (block.abs().amax(0) > floor).nonzero()
        if len(filled):
            columns = slice(int(filled[0]), int(filled[-1]) + 1)
            parts = (block[:, columns] @ waves[columns]).chunk(2, dim=1)
            result[start : start + 64] = torch.complex(*parts)
    return result


# --- the law of the SDEs ------------------------------------------------------------------------


def fokker_planck(
    target: GaussianMixture,
    mesh: Mesh,
    eta: float = 1.0,
    s_noise: float = 1.0,
    *,
    substeps: int = 8,
    cells: int = 800,
    initial: GaussianMixture | None = None,
) -> tuple[Law, ...]:
    r"""The densities of the family of SDEs of the exact score, at every level of a mesh.

    For :func:`dpmpp_core.symbolic.family` the Fokker-Planck equation is

    .. math::

        \partial_\lambda p = -\partial_x (b\, p) + \tfrac12 g^2\, \partial_x^2 p, \qquad
        b = \tfrac{\alpha'}{\alpha} x + (1 + \eta)\, \sigma^2\, \partial_x \log p^*, \qquad
        g^2 = 2 \eta\, s^2 \sigma^2,

    with :math:`p^*` the exact marginal and s for ``s_noise``. Let m and V be mean and variance of
    the data, :math:`\tau = \sigma / \alpha = e^{-\lambda}`, :math:`S^2 = V + \tau^2`. In
    :math:`x = \alpha (m + S u)` and in the time :math:`-\log S`, with :math:`\pi^*` the density of
    the exact marginal in u, it reads

    .. math::

        \partial_t \rho = -\partial_u J, \qquad
        J = \Psi' \rho - \theta\, \partial_u \rho
        = -\theta\, e^{\Psi / \theta}\, \partial_u (\rho\, e^{-\Psi / \theta}), \qquad
        \Psi = (1 + \eta) \log \pi^* + \tfrac12 u^2, \qquad \theta = \eta s^2.

    Between two cells with :math:`\Delta` the difference of :math:`\Psi` and B(z) for
    :math:`z / (e^z - 1)`, the flux is :math:`J = \theta\, (B(-\Delta / \theta)\, \rho_i -
    B(\Delta / \theta)\, \rho_{i+1}) / \delta` (Scharfetter & Gummel 1969, IEEE
    Transactions on Electron Devices 16; Chang & Cooper 1970, Journal of Computational Physics 6),
    and it is 0 at the ends. It is 0 for :math:`\rho \propto e^{\Psi / \theta}` whatever the cells:
    for Gaussian data the law that is stationary in u stays so to rounding. As :math:`\theta \to 0`
    it becomes the upwind flux. Steps are implicit Euler steps, whose matrix has columns that sum to
    1 and nothing positive off its diagonal: they keep the mass, and no value becomes negative, at
    any length of step. The error is :math:`O(\delta^2)` for :math:`\theta > 0`,
    :math:`O(\delta)` for :math:`\theta = 0`, and of first order in the step.

    Args:
        target: the data, of dimension 1.
        mesh: the noise levels; the last must be above 0.
        eta, s_noise: finite and >= 0.
        substeps: implicit steps in each step of the mesh.
        cells: cells on the line, at least 8.
        initial: as :func:`state_laws`.

    Returns:
        N + 1 laws with the cells' centres as nodes, ``(cells,)``; law k is that at level k.

    Raises:
        ValueError: for arguments outside these ranges.
    """
    start = _check_problem(target, mesh, initial)
    eta, s_noise = not_negative("eta", eta), not_negative("s_noise", s_noise)
    count("substeps", substeps)
    if count("cells", cells) < 8:
        raise ValueError(f"cells must be at least 8, got {cells!r}")
    if mesh.sigma[-1] == 0.0:
        raise ValueError("mesh must end above 0, where lambda is finite, got a last sigma of 0")

    m, V = float(target.mean), float(target.covariance)
    widen = max(1.0, s_noise) * _REACH

    def scale(tau: float) -> float:
        return math.hypot(math.sqrt(V), tau)

    def edge(clean: GaussianMixture, tau: float) -> float:
        """How far from 0 a law of x / alpha reaches in u."""
        far = (clean.means[:, 0] - m).abs() + widen * clean.covariances.sqrt()
        return float(far.max()) / scale(tau)

    taus = [math.exp(-level) for level in mesh.lam]
    reach = max(edge(_noisy(target, tau, 1.0), tau) for tau in taus)
    reach = max(reach, edge(_noisy(start, 0.0, 1.0 / mesh.alpha[0]), taus[0]))
    u = _grid(-reach, 2.0 * reach, cells) + reach / cells

    def places(k: int) -> Tensor:
        return mesh.alpha[k] * (m + scale(taus[k]) * u)

    weights = start.log_density(places(0)[:, None]).softmax(0).numpy()
    laws = [Law(places(0), torch.from_numpy(weights))]
    for k in range(mesh.steps):
        cuts = np.linspace(mesh.lam[k], mesh.lam[k + 1], substeps + 1)
        for tau, tau_next in pairwise(np.exp(-cuts).tolist()):
            S = scale(tau_next)
            log_density = target.log_density((m + S * u)[:, None], tau_next)
            potential = (1.0 + eta) * log_density + 0.5 * u**2
            rate = math.log(scale(tau) / S) * (cells / (2.0 * reach)) ** 2
            weights = _implicit_step(weights, potential.numpy(), eta * s_noise**2, rate)
        laws.append(Law(places(k + 1), torch.from_numpy(weights)))
    return tuple(laws)


def _implicit_step(weights: Numbers, potential: Numbers, theta: float, rate: float) -> Numbers:
    """The weights after a step of length ``rate`` times the squared width of a cell."""
    rise = np.diff(potential)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        small = theta / exprel(np.abs(rise) / theta) if theta > 0.0 else np.zeros_like(rise)
    right, left = rate * (small + rise.clip(min=0.0)), rate * (small - rise.clip(max=0.0))
    bands = np.zeros((3, len(weights)))
    bands[0, 1:], bands[2, :-1] = -left, -right
    bands[1] = 1.0
    bands[1, :-1] += right
    bands[1, 1:] += left
    solved: Numbers = solve_banded((1, 1), bands, weights)
    return solved


# --- refusals -----------------------------------------------------------------------------------


def _noisy(target: GaussianMixture, sigma: float, alpha: float) -> GaussianMixture:
    """The law of alpha x0 + sigma eps."""
    variances = alpha**2 * target.covariances.flatten() + sigma**2
    return GaussianMixture(alpha * target.means, variances, target.weights)


def _check_problem(
    target: GaussianMixture, mesh: Mesh, initial: GaussianMixture | None
) -> GaussianMixture:
    """The law of the first state."""
    for name, mixture in (("target", target), ("initial", initial or target)):
        if not (isinstance(mixture, GaussianMixture) and mixture.dim == 1):
            got = f"dimension {mixture.dim}" if hasattr(mixture, "dim") else repr(mixture)
            raise ValueError(f"{name} must be a GaussianMixture of dimension 1, got {got}")
    if not isinstance(mesh, Mesh):
        raise ValueError(f"mesh must be a Mesh, such as Mesh.from_sigmas(sigmas), got {mesh!r}")
    if initial is None:
        return _noisy(target, mesh.sigma[0], mesh.alpha[0])
    lowest = float(initial.covariances.min())
    if lowest <= 0.0:
        raise ValueError(f"initial must have variances above 0, got {lowest:g}")
    return GaussianMixture(initial.means, initial.covariances.flatten(), initial.weights)


def _check_table(table: StepTable, mesh: Mesh) -> int:
    """The steps with noise: all, all but the last, or none."""
    if not isinstance(table, StepTable) or len(table) != mesh.steps:
        got = f"{len(table)} rows" if isinstance(table, StepTable) else repr(table)
        raise ValueError(f"table must be a StepTable of {mesh.steps} rows, got {got}")
    if table.C[0] != 0.0:
        raise ValueError(
            f"table must have C = 0 in its first step, which has no history, got {table.C[0]}"
        )
    quiet = [k for k, D in enumerate(table.D) if D == 0.0]
    if len(quiet) == len(table):
        return 0
    if quiet and (quiet[0] < len(table) - 1 or table.C[-1] != 0.0):
        raise ValueError(
            "table must have noise in all steps, in none, or in all but a last one without "
            f"history, got D[{quiet[0]}] = 0"
        )
    return len(table) - len(quiet)
