"""The sizes of the three terms by step, and how much of each step's noise is left in the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from .. import figures
from ..coefficients import SolverType, step_table
from ..mesh import Mesh
from ..moments import gaussian_denoiser, noise_response
from ..noise import PhiloxBridge
from ..sampler import Transition, trajectory
from ..targets import GaussianMixture
from .live import SCHEDULES, Choice, Device, LiveFigure, Name, Number, Whole
from .modules import module_source
from .plane_target import PlaneTarget

__all__ = ["Shares", "TermSizes", "Terms", "gaussian_shares", "linear_shares", "sizes"]

MOST_STEPS = 100
UNITS = {"sigma": r"divided by $\sigma_k$", "absolute": "as they are"}
ROUNDING = 1e-12  # of sigma_k: a term below it is what rounding leaves of none
DECADES = 6  # at most, on the axis of the sizes
MARKERS = {"drift": "o", "history": "s", "noise": "^"}


class Terms(NamedTuple):
    """What the figure draws of a run of N steps: a list has an entry for each of them."""

    sigma: list[float]
    """The level that the step starts from."""
    drift: list[float]
    """Root mean square per coordinate, over particles and coordinates; 0 where there is none."""
    history: list[float]
    noise: list[float]
    share: list[float]
    """Of the variance of the results, the part that is due to the noise of the step."""
    error: list[float]
    """Standard error of each share; 0 where it is exact."""
    start: tuple[float, float]
    """The share of the first state, of all noise, and of none of them alone; with the errors."""
    all_noise: tuple[float, float]
    rest: tuple[float, float]


def sizes(run: Sequence[Transition]) -> dict[str, list[float]]:
    """The root mean square per coordinate of each term at every step, by the term's name.

    What is below 1e-12 of the step's sigma is rounding, and counts as 0.
    """
    found: dict[str, list[float]] = {name: [] for name in figures.TERMS}
    for transition in run:
        terms = transition.terms
        for name, values in found.items():
            size = float(getattr(terms, name).double().square().mean().sqrt())
            values.append(size if size > ROUNDING * transition.sigma else 0.0)
    return found


class Shares(NamedTuple):
    """Parts of the results' variance, each with its standard error: 0 where it is exact."""

    noise: list[tuple[float, float]]
    """What the noise of each step explains."""
    start: tuple[float, float]
    """What the first state explains."""
    all_noise: tuple[float, float]
    rest: tuple[float, float]
    """What is left of 1."""


def linear_shares(run: Sequence[Transition], target: GaussianMixture, mesh: Mesh) -> Shares:
    r"""The parts of the results' variance that are linear in one source of chance.

    For results x and a source z of unit covariance, independent of the other sources, the best
    linear fit of x in z explains :math:`|E\,x z^T|^2 / \mathrm{tr\,Cov}\,x` of the variance. For a
    Gaussian target that is all there is, and the parts add up to 1. For others they add up to less:
    the rest is due to several sources together. The squares are estimated without bias, and all
    errors are by the delta method.

    Args:
        run: all steps of a run that began with samples of the target, as
            :func:`~dpmpp_core.widgets.start.start` gives them; its noise is of independent normals.
        target: the target, of the dimension of the states.
        mesh: the noise levels of the run.
    """
    results = run[-1].x_next.double().cpu()
    results = results - results.mean(0)
    first_law = mesh.alpha[0] ** 2 * target.covariance.cpu()
    first_law = first_law + mesh.sigma[0] ** 2 * torch.eye(target.dim, dtype=torch.float64)
    deviation = run[0].x.double().cpu() - mesh.alpha[0] * target.mean.cpu()
    root = torch.linalg.cholesky(first_law)
    start = _linear(results, torch.linalg.solve_triangular(root, deviation.T, upper=False).T)
    noises = [_linear(results, None if t.xi is None else t.xi.double().cpu()) for t in run]
    of_noise = _together(noises)
    explained, error = _together([start, of_noise]).with_error()
    return Shares(
        [part.with_error() for part in noises],
        start.with_error(),
        of_noise.with_error(),
        (1.0 - explained, error),
    )


class _Part(NamedTuple):
    """An estimated share: ``first`` is what each result adds to its error, to first order, and
    ``second`` the variance of second order, which is all that is left where the share is 0.
    ``first`` holds the chance of the means that it was made with: twice ``second`` more."""

    share: float
    first: Tensor
    second: float

    def with_error(self) -> tuple[float, float]:
        first = float(self.first.square().mean()) / len(self.first) - 2.0 * self.second
        return self.share, math.sqrt(max(first, 0.0) + self.second)


def _together(parts: Sequence[_Part]) -> _Part:
    """The sum of shares. That they have results in common is in ``first``."""
    shares, firsts, seconds = zip(*parts, strict=True)
    return _Part(sum(shares), torch.stack(firsts).sum(0), sum(seconds))


def _linear(results: Tensor, source: Tensor | None) -> _Part:
    """The part that is linear in a source; none, where there is no source or nothing varies."""
    n, squares = len(results), results.square().sum(-1)
    spread = float(squares.mean())
    if source is None or spread == 0.0:
        return _Part(0.0, torch.zeros_like(squares), 0.0)
    products = (results[:, :, None] * source[:, None, :]).flatten(1)
    mean = products.mean(0)
    deviation = products - mean
    covariance = deviation.T @ deviation / n
    raw = float(mean @ mean) / spread
    return _Part(
        raw - float(covariance.trace()) / n / spread,
        (2.0 * deviation @ mean - raw * (squares - spread)) / spread,
        2.0 * float(covariance.square().sum()) / (n * spread) ** 2,
    )


def gaussian_shares(target: GaussianMixture, mesh: Mesh, **knobs: Any) -> Shares:
    """The same for a Gaussian, exactly: along its axes a result is a sum of independent parts.

    Args:
        target: of one component.
        mesh: the noise levels of the run.
        knobs: eta, s_noise and solver_type, as :func:`~dpmpp_core.step_table` takes them.
    """
    variances = torch.linalg.eigvalsh(target.covariance.cpu()).clamp(min=0.0)
    gain = gaussian_denoiser(mesh, variance=variances).gain
    response = noise_response(step_table(mesh, **knobs), gain)
    first_law = mesh.alpha[0] ** 2 * variances + mesh.sigma[0] ** 2
    start = float((response.initial**2 * first_law).sum())
    noises = (response.noise**2).sum(-1).tolist()
    total = start + sum(noises) or 1.0  # the data may be a single point: nothing is left
    return Shares(
        [(part / total, 0.0) for part in noises],
        (start / total, 0.0),
        (sum(noises) / total, 0.0),
        (0.0, 0.0),
    )


# --- the figure --------------------------------------------------------------------------------


class TermSizes(PlaneTarget, LiveFigure):
    """How large drift, history and noise are at every step, and which noise the result still holds.

    Sizes are root mean squares per coordinate over the particles, those of the
    :class:`~dpmpp_core.widgets.TrajectoryExplorer` with the same settings. The first step has no
    history; the last, to sigma = 0, neither history nor noise; with eta = 0 no step has noise.

    A share is that part of the variance of the results that the noise of one step explains. For a
    Gaussian target it is exact, by :func:`~dpmpp_core.moments.noise_response`. For others, or with
    a denoiser of one's own, it is what a linear fit explains, estimated from the particles and
    given with its standard error: see :func:`linear_shares`. What the noises of several steps
    decide together, such as the mode in which a particle ends, belongs to no step and is told as
    the rest.

    Args:
        target: a name in :data:`~dpmpp_core.widgets.TARGETS`, or a
            :class:`~dpmpp_core.GaussianMixture` of dimension 2.
        denoiser: ``(x, sigma) -> x0`` in place of the target's own, or None; see
            :class:`~dpmpp_core.widgets.TrajectoryExplorer`.
        eta: 0 to 2.
        s_noise: 0.5 to 1.5.
        solver_type: ``"midpoint"`` or ``"heun"``.
        steps: 2 to 100.
        schedule: ``"karras"``, ``"exponential"`` or ``"kl_optimal"``.
        sigma_min, sigma_max: the schedule's lowest level above 0, and its first.
        seed: of starts and noise; particle i has the seed + i.
        particles: 100 to 10000.
        unit: ``"sigma"``, sizes divided by sigma_k, or ``"absolute"``.
        step: the one whose numbers are given, from 0; past the end it is the last.
        device: where Python computes, such as ``"cuda"``.
        name: its name in links; another figure on the same page needs another.

    Raises:
        traitlets.TraitError: for values outside these ranges, now and later.
    """

    module = "terms"
    _esm = module_source("terms.js")

    name = Name("terms").tag(sync=True, page=True)
    eta = Number(1.0, 0.0, 2.0).tag(sync=True, page=True, run=True)
    s_noise = Number(1.0, 0.5, 1.5).tag(sync=True, page=True, run=True)
    solver_type = Choice("midpoint", ("midpoint", "heun")).tag(sync=True, page=True, run=True)
    steps = Whole(20, 2, MOST_STEPS).tag(sync=True, page=True, run=True)
    schedule = Choice("karras", SCHEDULES).tag(sync=True, page=True, run=True)
    sigma_min = Number(0.0292, 1e-3, 0.5).tag(sync=True, page=True, run=True)
    sigma_max = Number(14.6146, 1.01, 100.0).tag(sync=True, page=True, run=True)
    seed = Whole(5, 0, 2**32 - 1).tag(sync=True, page=True, run=True)
    particles = Whole(1000, 100, 10_000).tag(sync=True, page=True, run=True)
    unit = Choice("sigma", UNITS).tag(sync=True, page=True)
    step = Whole(10, 0, MOST_STEPS - 1).tag(sync=True, page=True)

    device = Device("cpu").tag(run=True)

    def __init__(self, target: str | GaussianMixture = "triangle", **settings: Any) -> None:
        super().__init__(target=target, **settings)

    @traitlets.default("offers")
    def _offers(self) -> dict[str, Any]:
        targets = self.target_offers()
        limits = {**self.limits(), "target": {"names": list(targets)}}
        return {"targets": targets, "schedules": SCHEDULES, "limits": limits}

    # --- the run

    @property
    def exact(self) -> bool:
        """Whether the shares are known without sampling."""
        return self.denoiser is None and len(self.mixture.means) == 1

    def terms(self) -> Terms:
        """What is shown, computed anew."""
        sigmas = self.sigmas(self.steps)
        mesh = Mesh.from_sigmas(sigmas)
        x = self.to_device(self.kept_starts(self.mixture, mesh, self.seed, self.particles))
        solver_type: SolverType = self.solver_type
        knobs: Any = {"eta": self.eta, "s_noise": self.s_noise, "solver_type": solver_type}
        path = PhiloxBridge(x, sigmas, self.seed, eta=self.eta)
        run = list(trajectory(self.model(), x, sigmas, **knobs, noise_sampler=path))
        shares = (
            gaussian_shares(self.mixture, mesh, **knobs)
            if self.exact
            else linear_shares(run, self.mixture, mesh)
        )
        share, error = (list(column) for column in zip(*shares.noise, strict=True))
        drift, history, noise = sizes(run).values()
        totals = (shares.start, shares.all_noise, shares.rest)
        return Terms([t.sigma for t in run], drift, history, noise, share, error, *totals)

    def compute(self) -> dict[str, Any]:
        """The numbers of :meth:`terms`, and whether the shares are exact."""
        return {**self.terms()._asdict(), "exact": self.exact}

    # --- the picture

    def picture(self) -> Figure:
        """Sizes by step on a log axis, and the shares of the noises; the chosen step is marked."""
        terms, shown = self.terms(), min(self.step, self.steps - 1)
        fig, (left, right) = plt.subplots(1, 2, figsize=(7.0, 3.3), layout="constrained")
        k = np.arange(self.steps)
        for ax in (left, right):
            ax.axvline(shown, color=figures.TARGET, lw=1.0)
            ax.set(xlabel="step $k$", xlim=(-0.5, self.steps - 0.5))
            ax.xaxis.get_major_locator().set_params(integer=True)
        for name, term in figures.TERMS.items():
            values = self._in_unit(terms, name)
            left.plot(
                k, np.where(values > 0.0, values, np.nan), color=term.color, ls=term.line, lw=1.5,
                marker=MARKERS[name], ms=3.5, label=name,
            )  # fmt: skip
        largest = max(self._in_unit(terms, name).max() for name in figures.TERMS)
        left.set_yscale("log")
        left.set_ylim(bottom=max(left.get_ylim()[0], largest / 10**DECADES))
        unit = r" / $\sigma_k$" if self.unit == "sigma" else ""
        left.set_ylabel(f"RMS per coordinate{unit}")
        left.legend(loc="best")
        left.set_title(rf"$\eta = {self.eta:g}$, $s$_noise = {self.s_noise:g}, {self.solver_type}")
        green = figures.TERMS["noise"].color
        error = None if self.exact else 2.0 * np.asarray(terms.error)
        right.bar(
            k, terms.share, yerr=error, color=green, alpha=0.6, width=0.7, ecolor=figures.INK,
            error_kw={"lw": 0.8},
        )  # fmt: skip
        right.set(ylim=(0.0, None), ylabel="share of the results' variance")
        right.set_title("noise of step $k$ in the result")
        return fig

    def _in_unit(self, terms: Terms, name: str) -> np.ndarray[Any, Any]:
        values = np.asarray(getattr(terms, name))
        return values / np.asarray(terms.sigma) if self.unit == "sigma" else values

    def describe(self) -> str:
        """What the picture shows, for readers who do not see it."""
        terms, k = self.terms(), min(self.step, self.steps - 1)
        numbers = {name: self._in_unit(terms, name)[k] for name in figures.TERMS}
        found = ", ".join(f"{name} {size:.3g}" if size else f"no {name}"
                          for name, size in numbers.items())  # fmt: skip
        unit = "divided by sigma" if self.unit == "sigma" else "as they are"
        most = max(range(self.steps), key=terms.share.__getitem__)
        known = "exact" if self.exact else f"estimated from {self.particles} particles"
        shares = (
            f"the start's share is {terms.start[0]:.3f}, all noise together has "
            f"{terms.all_noise[0]:.3f}, the most from step {most} with {terms.share[most]:.3f}"
            if self.eta
            else f"with eta 0 there is no noise; the start's share is {terms.start[0]:.3f}"
        )
        return (
            f"Left: root mean square of drift (blue, solid), history (orange, dashed) and noise "
            f"(green, dotted) at each of {self.steps} steps, {unit}, on a log axis; target: "
            f"{self.describe_target()}; eta {self.eta:g}, s_noise {self.s_noise:g}, "
            f"{self.solver_type}. At step {k}, which is marked: {found}. Right: the share of each "
            f"step's noise in the variance of the results, {known}; {shares}."
        )
