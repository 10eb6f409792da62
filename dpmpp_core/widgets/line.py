"""The line explorer: particles of a 1-D target on their way, over the exact marginals."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
import traitlets
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .. import figures
from ..coefficients import SolverType
from ..mesh import Mesh
from ..noise import PhiloxBridge
from ..sampler import trajectory
from ..targets import GaussianMixture
from ..transport import Estimate, quantiles
from .line_target import GRID, LINE_TARGETS, LineTarget, marginal_spreads, smoothed, spread_of
from .live import SCHEDULES, Choice, Device, LiveFigure, Name, Number, Whole
from .modules import module_source
from .start import TARGET, sample

__all__ = ["LineExplorer", "LineRun"]

SOLVERS: tuple[SolverType, ...] = ("midpoint", "heun")
PATHS = 60  # particles whose paths are drawn
WIDTH = 0.1  # standard deviation of the kernel that smooths the densities at the end
REACH = 3.3  # spreads on either side of the mean that are shown at least
EXACT_SAMPLES = 16  # from which the distance of an exact sample is known
GAP = 0.1  # place of sigma = 0 behind the last finite lambda, as a part of their range
STRIP = 0.035  # half of the width of what is drawn there

Array = np.ndarray[Any, Any]


class LineRun(NamedTuple):
    """What the figure draws of a run. "Scaled" is a state x_k less the mean of its exact marginal,
    over the standard deviation sqrt(alpha^2 v + sigma^2) of that."""

    paths: list[list[float]]
    """Scaled states of the first particles, one list for each of x_0 to x_N."""
    length: float
    """What these paths travel up and down in all, sum_k |y_{k+1} - y_k|, in the mean."""
    density: list[float]
    """Density of the scaled last states at the points of the target's grid, smoothed."""
    spread: float
    """Standard deviation of the last states over the target's."""
    error: float
    """Standard error of that."""
    distance: float
    """Wasserstein-1 distance of the last states to the target's law, over the target's spread."""
    exact_distance: float
    """The same for exact samples of as many numbers, in the mean."""
    exact_scatter: float
    """Standard deviation of the distance of one such sample."""


def _shown(target: LineTarget) -> LineTarget:
    """The target in an interval that holds the scaled states at any level."""
    mean, reach = target.mean, REACH * target.variance**0.5
    return target._replace(low=min(target.low, mean - reach), high=max(target.high, mean + reach))


TARGETS = {name: _shown(target) for name, target in LINE_TARGETS.items()}


def distance_to(x: Tensor, target: GaussianMixture) -> float:
    r"""The Wasserstein-1 distance of a sample to a law on the line, by rank:
    :math:`\frac1n \sum_i |x_{(i)} - Q((i + \frac12) / n)|`, with the quantiles Q of the law."""
    return float((x.sort().values - _quantiles(target, len(x))).abs().mean())


@lru_cache(maxsize=8)
def _quantiles(target: GaussianMixture, n: int) -> Tensor:
    levels = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return quantiles(target, torch.special.ndtri(levels))


@lru_cache(maxsize=8)
def exact_distance(target: GaussianMixture, n: int) -> Estimate:
    """Mean and standard deviation of the distance of n exact samples of the target, over a few
    sets of them, the same in the page."""
    found = [
        distance_to(sample(target, 0, n, stream=TARGET + i)[:, 0], target)
        for i in range(EXACT_SAMPLES)
    ]
    return Estimate(float(np.mean(found)), float(np.std(found, ddof=1)))


def _plus_minus(value: float, error: float) -> str:
    return f"{value:.3f} ± {error:.3f}"


# --- the figure --------------------------------------------------------------------------------


class LineExplorer(LiveFigure):
    """Paths of particles over lambda, on the exact marginal densities; beside it their last law.

    Every state is drawn less the mean and over the standard deviation of its exact marginal, so
    that start and end are of one size. All noise comes from one Brownian path: another eta or
    number of steps leaves it as it is. With ``s_noise=1`` the particles keep to the shades at any
    eta, while their paths go from smooth to rough; with another they do not.

    Args:
        target: ``"gaussian"``, ``"mixture"`` or ``"rare"``, with a mode of weight 0.05.
        eta: 0 to 2.
        s_noise: 0.5 to 1.5.
        solver_type: ``"midpoint"`` or ``"heun"``.
        steps: 2 to 100.
        schedule: ``"karras"``, ``"exponential"`` or ``"kl_optimal"``.
        sigma_min, sigma_max: the schedule's lowest level above 0, and its first.
        seed: of the starts and the path; particle i has the seed + i.
        particles: 100 to 10000, from which the numbers come; the paths of the first 60 are drawn.
        particle: 0 to 59, whose path is drawn strongly.
        device: where Python runs the particles, such as ``"cuda"``.
        name: its name in links; another figure on the same page needs another.

    Raises:
        traitlets.TraitError: for values outside these ranges, now and later.
    """

    module = "line"
    _esm = module_source("line.js")

    name = Name("line").tag(sync=True, page=True)
    target = Choice("mixture", TARGETS).tag(sync=True, page=True, run=True)
    eta = Number(1.0, 0.0, 2.0).tag(sync=True, page=True, run=True)
    s_noise = Number(1.0, 0.5, 1.5).tag(sync=True, page=True, run=True)
    solver_type = Choice("midpoint", SOLVERS).tag(sync=True, page=True, run=True)
    steps = Whole(40, 2, 100).tag(sync=True, page=True, run=True)
    schedule = Choice("karras", SCHEDULES).tag(sync=True, page=True, run=True)
    sigma_min = Number(0.0292, 1e-3, 0.5).tag(sync=True, page=True, run=True)
    sigma_max = Number(14.6146, 1.01, 100.0).tag(sync=True, page=True, run=True)
    seed = Whole(0, 0, 2**32 - 1).tag(sync=True, page=True, run=True)
    particles = Whole(2000, 100, 10_000).tag(sync=True, page=True, run=True)
    particle = Whole(0, 0, PATHS - 1).tag(sync=True, page=True)

    device = Device("cpu").tag(run=True)
    offers = traitlets.Dict().tag(sync=True, page=True)
    """What the controls offer: targets with their numbers, schedules, and the ranges above."""

    @traitlets.default("offers")
    def _offers(self) -> dict[str, Any]:
        return {
            "targets": {name: target.offer(target.label) for name, target in TARGETS.items()},
            "schedules": SCHEDULES,
            "limits": self.limits(),
            "grid": GRID,
            "width": WIDTH,
            "paths": PATHS,
        }

    # --- the run

    @property
    def mesh(self) -> Mesh:
        return Mesh.from_sigmas(self.sigmas(self.steps))

    def run(self) -> LineRun:
        """The run that is shown, computed anew."""
        target, mesh, sigmas = TARGETS[self.target], self.mesh, self.sigmas(self.steps)
        x = self.to_device(self.kept_starts(target.mixture, mesh, self.seed, self.particles))
        solver_type: SolverType = self.solver_type
        transitions = trajectory(
            target.mixture.model(),
            x,
            sigmas,
            eta=self.eta,
            s_noise=self.s_noise,
            solver_type=solver_type,
            noise_sampler=PhiloxBridge(x, sigmas, self.seed, eta=self.eta),
        )
        few, last = [x[:PATHS]], x
        for transition in transitions:
            last = transition.x_next
            few.append(last[:PATHS])
        paths = torch.stack(few)[:, :, 0].double().cpu()
        alpha, scale = (
            torch.tensor(values, dtype=torch.float64)[:, None]
            for values in (mesh.alpha, marginal_spreads(mesh, target.variance))
        )
        paths = (paths - alpha * target.mean) / scale
        final, unit = last[:, 0].double().cpu(), target.variance**0.5
        spread, error = spread_of(final)
        exact = exact_distance(target.mixture, self.particles)
        return LineRun(
            paths=paths.tolist(),
            length=float(paths.diff(dim=0).abs().sum(0).mean()),
            density=(unit * smoothed(final.numpy(), target, WIDTH)).tolist(),
            spread=spread / unit,
            error=error / unit,
            distance=distance_to(final, target.mixture) / unit,
            exact_distance=exact.value / unit,
            exact_scatter=exact.error / unit,
        )

    def compute(self) -> dict[str, Any]:
        """The run's numbers."""
        return self.run()._asdict()

    # --- the picture

    def picture(self) -> Figure:
        """Paths over lambda on the exact marginals, and the last density over the target's."""
        target, run = TARGETS[self.target], self.run()
        unit, line = target.variance**0.5, figures.SOLVER_LINES[self.solver_type]
        fig, (ax, side) = plt.subplots(
            1, 2, figsize=(7.0, 3.7), sharey=True, width_ratios=[3.2, 1.0], layout="constrained"
        )
        at = self._draw_shades(ax, target)
        paths = np.asarray(run.paths)
        ax.plot(at, paths, color=figures.INK, lw=0.4, alpha=0.45)
        ax.plot(at, paths[:, self.particle], color="white", lw=3.5)
        ax.plot(at, paths[:, self.particle], color=figures.INK, lw=1.6, ls=line, marker="o", ms=3)
        ax.set(xlabel=r"$\lambda$", ylabel="(state - mean) / spread, of the exact law")
        ax.set_title(rf"$\eta = {self.eta:g}$, $s$_noise = {self.s_noise:g}, {self.solver_type}")

        grid = torch.from_numpy(target.grid)
        exact = unit * target.mixture.log_density(grid[:, None], WIDTH).exp().numpy()
        low, high = _range(target)
        places = np.linspace(low, high, GRID)
        side.fill_betweenx(places, exact, color=figures.TARGET, alpha=0.35, lw=0)
        side.plot(run.density, places, color=figures.INK, lw=1.6, ls=line)
        side.set(xlabel="density", xlim=(0, None), ylim=(low, high))
        side.locator_params(axis="x", nbins=3)
        side.set_title(f"spread {_plus_minus(run.spread, run.error)}")
        return fig

    def _draw_shades(self, ax: Axes, target: LineTarget) -> Array:
        """The exact law at every lambda, and at sigma = 0; returns the places of x_0 to x_N."""
        lam = np.asarray(self.mesh.lam[:-1])
        span = lam[-1] - lam[0]
        end, half = lam[-1] + GAP * span, STRIP * span
        low, high = _range(target)
        places, columns = np.linspace(low, high, 201), np.linspace(lam[0], lam[-1], 160)
        levels = [*np.exp(-columns), 0.0, 0.0]
        shades = np.stack([_scaled_density(target, sigma, places) for sigma in levels], axis=1)
        shades = np.sqrt(shades / shades.max())  # so that a rare mode shows
        bands = np.linspace(0.05, 1.0, 7)
        ax.contourf(columns, places, shades[:, :-2], bands, cmap="Greys", vmax=2.2)
        ax.contourf([end - half, end + half], places, shades[:, -2:], bands, cmap="Greys", vmax=2.2)
        ticks = [tick for tick in ax.get_xticks() if lam[0] <= tick <= lam[-1]]
        ax.set_xticks([*ticks, end], [*(f"{tick:g}" for tick in ticks), r"$\sigma = 0$"])
        ax.set_xlim(lam[0], end + half)
        return np.append(lam, end)

    def describe(self) -> str:
        """What the picture shows, for readers who do not see it."""
        run = self.run()
        return (
            f"Left: paths of {PATHS} particles across lambda, in {self.steps} steps with eta "
            f"{self.eta:g}, s_noise {self.s_noise:g} and {self.solver_type} (target: "
            f"{TARGETS[self.target].label}). Each state is scaled by its exact marginal, whose "
            f"density is grey behind them. A path is {run.length:.1f} spreads long in the mean; "
            f"one is drawn strongly, its steps as dots. Right: density of the last states, over "
            f"the target's in grey. Of {self.particles} particles the final spread is "
            f"{_plus_minus(run.spread, run.error)} of the target's, and their Wasserstein-1 "
            f"distance to it {run.distance:.3f} spreads; an exact sample has "
            f"{_plus_minus(run.exact_distance, run.exact_scatter)}."
        )


def _range(target: LineTarget) -> tuple[float, float]:
    """What is shown of the scaled state."""
    unit = target.variance**0.5
    return (target.low - target.mean) / unit, (target.high - target.mean) / unit


def _scaled_density(target: LineTarget, sigma: float, places: Array) -> Array:
    """Of (x - mean) / s at that noise level, with s^2 = v + sigma^2: s p_sigma(mean + s y)."""
    scale = (target.variance + sigma**2) ** 0.5
    x = torch.from_numpy(target.mean + scale * places)[:, None]
    density: Array = scale * target.mixture.log_density(x, sigma).exp().numpy()
    return density
