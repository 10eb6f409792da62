"""The variance explorer: the law of a 1-D target through the steps, beside the exact marginals."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from .. import figures
from ..coefficients import SolverType
from ..mesh import Mesh
from ..moments import gaussian_moments
from ..noise import PhiloxBridge
from ..sampler import trajectory
from .line_target import GRID, LINE_TARGETS, LineTarget, marginal_spreads, smoothed, spread_of
from .live import SCHEDULES, Choice, Device, LiveFigure, Name, Number, Whole
from .modules import module_source

__all__ = ["Law", "VarianceExplorer"]

SOLVERS: tuple[SolverType, ...] = ("midpoint", "heun")
TINY = 1e-18  # no variance is drawn as below it, here and in the page
WIDTH = 0.05  # standard deviation of the kernel that smooths an ensemble


# --- the law -----------------------------------------------------------------------------------


class Law(NamedTuple):
    """The law of the state through a run, as the figure draws it."""

    spread: list[float]
    """Standard deviation of x_k over that of the exact marginal, for k = 0 to N."""
    error: list[float]
    """Standard error of each; 0 where the law is exact."""
    density: list[float]
    """Density of the last state at the points of the target's grid."""


def _exact_law(target: LineTarget, mesh: Mesh, **knobs: Any) -> Law:
    law = gaussian_moments(mesh, **knobs, mean=target.mean, variance=target.variance)
    means, variances = law.mean.tolist(), law.variance.clamp(min=TINY).tolist()
    marginals = marginal_spreads(mesh, target.variance)
    spread = [math.sqrt(v) / m for v, m in zip(variances, marginals, strict=True)]
    offset = target.grid - means[-1]
    density = np.exp(-0.5 * offset**2 / variances[-1]) / math.sqrt(math.tau * variances[-1])
    return Law(spread, [0.0] * len(spread), density.tolist())


def _sampled_law(target: LineTarget, mesh: Mesh, states: list[Tensor]) -> Law:
    spread, error = [], []
    for state, marginal in zip(states, marginal_spreads(mesh, target.variance), strict=True):
        its_spread, its_error = spread_of(state)
        spread.append(its_spread / marginal)
        error.append(its_error / marginal)
    return Law(spread, error, smoothed(states[-1].numpy(), target, WIDTH).tolist())


def _with_error(law: Law) -> str:
    error = f" ± {law.error[-1]:.3f}" if law.error[-1] else ""
    return f"{law.spread[-1]:.3f}{error}"


# --- the figure --------------------------------------------------------------------------------


class VarianceExplorer(LiveFigure):
    """The spread of the state after every step, over that of the exact marginal, and its last law.

    For the Gaussian both are exact, see :func:`~dpmpp_core.moments.gaussian_moments`; for the
    mixtures they are those of an ensemble of particles, and the figure gives their standard error.

    Args:
        target: ``"gaussian"``, ``"mixture"`` or ``"rare"``, with a mode of weight 0.05.
        eta: 0 to 2.
        s_noise: 0.5 to 1.5.
        solver_type: ``"midpoint"`` or ``"heun"``: the one drawn strongly.
        steps: 2 to 100.
        schedule: ``"karras"``, ``"exponential"`` or ``"kl_optimal"``.
        sigma_min, sigma_max: the schedule's lowest level above 0, and its first.
        seed: of the ensemble; particle i has the seed + i.
        particles: 100 to 10000.
        device: where Python runs the ensemble, such as ``"cuda"``.
        name: its name in links; another figure on the same page needs another.

    Raises:
        traitlets.TraitError: for values outside these ranges, now and later.
    """

    module = "variance"
    _esm = module_source("variance.js")

    name = Name("variance").tag(sync=True, page=True)
    target = Choice("gaussian", LINE_TARGETS).tag(sync=True, page=True, run=True)
    eta = Number(1.0, 0.0, 2.0).tag(sync=True, page=True, run=True)
    s_noise = Number(1.0, 0.5, 1.5).tag(sync=True, page=True, run=True)
    solver_type = Choice("midpoint", SOLVERS).tag(sync=True, page=True)
    steps = Whole(20, 2, 100).tag(sync=True, page=True, run=True)
    schedule = Choice("karras", SCHEDULES).tag(sync=True, page=True, run=True)
    sigma_min = Number(0.0292, 1e-3, 0.5).tag(sync=True, page=True, run=True)
    sigma_max = Number(14.6146, 1.01, 100.0).tag(sync=True, page=True, run=True)
    seed = Whole(0, 0, 2**32 - 1).tag(sync=True, page=True, run=True)
    particles = Whole(4000, 100, 10_000).tag(sync=True, page=True, run=True)

    device = Device("cpu").tag(run=True)
    offers = traitlets.Dict().tag(sync=True, page=True)
    """What the controls offer: targets with their numbers, schedules, and the ranges above."""

    @traitlets.default("offers")
    def _offers(self) -> dict[str, Any]:
        targets = {
            name: target.offer(f"{target.label}, {'exact' if target.exact else 'sampled'}")
            for name, target in LINE_TARGETS.items()
        }
        return {
            "targets": targets,
            "schedules": SCHEDULES,
            "limits": self.limits(),
            "grid": GRID,
            "width": WIDTH,
        }

    # --- the law

    def law(self, solver_type: SolverType) -> Law:
        """The law with that history term, computed anew."""
        target = LINE_TARGETS[self.target]
        sigmas = self.sigmas(self.steps)
        mesh = Mesh.from_sigmas(sigmas)
        if target.exact:
            knobs = {"eta": self.eta, "s_noise": self.s_noise, "solver_type": solver_type}
            return _exact_law(target, mesh, **knobs)
        x = self.to_device(self.kept_starts(target.mixture, mesh, self.seed, self.particles))
        run = trajectory(
            target.mixture.model(),
            x,
            sigmas,
            eta=self.eta,
            s_noise=self.s_noise,
            solver_type=solver_type,
            noise_sampler=PhiloxBridge(x, sigmas, self.seed, eta=self.eta),
        )
        states = [x, *(t.x_next for t in run)]
        return _sampled_law(target, mesh, [state[:, 0].double().cpu() for state in states])

    def compute(self) -> dict[str, Any]:
        """Both laws."""
        return {"laws": {solver_type: self.law(solver_type)._asdict() for solver_type in SOLVERS}}

    # --- the picture

    def picture(self) -> Figure:
        """Spread against the step, and the last density, for both history terms."""
        target = LINE_TARGETS[self.target]
        fig, (left, right) = plt.subplots(1, 2, figsize=(7.0, 3.3), layout="constrained")
        left.axhline(1.0, color=figures.TARGET, lw=4.0, alpha=0.35)
        points = torch.from_numpy(target.grid)[:, None]
        exact = target.mixture.log_density(points).exp().numpy()
        right.fill_between(target.grid, exact, color=figures.TARGET, alpha=0.35, lw=0)
        for solver_type in SOLVERS:
            law = self.law(solver_type)
            chosen = solver_type == self.solver_type
            look: dict[str, Any] = {
                "color": figures.INK if chosen else figures.TARGET,
                "lw": 2.0 if chosen else 1.0,
                "ls": figures.SOLVER_LINES[solver_type],
            }
            if chosen and not target.exact:
                error = 2.0 * np.asarray(law.error)
                steps = range(len(error))
                left.fill_between(
                    steps, law.spread - error, law.spread + error,
                    color=figures.TARGET, alpha=0.25, lw=0,
                )  # fmt: skip
            left.plot(law.spread, label=f"{solver_type} {_with_error(law)}", **look)
            right.plot(target.grid, law.density, **look)
        left.set(xlabel="step $k$", ylabel="spread / exact spread")
        low, high = left.get_ylim()
        left.set_ylim(low, high + 0.35 * (high - low))  # room for the legend
        left.legend(title="final spread", loc="upper left")
        right.set(xlabel="$x$", ylabel="density", ylim=(0, None))
        right.set_title("result, and target in grey")
        left.set_title(rf"$\eta = {self.eta:g}$, $s$_noise = {self.s_noise:g}")
        return fig

    def describe(self) -> str:
        """What the picture shows, for readers who do not see it."""
        final = {solver_type: self.law(solver_type) for solver_type in SOLVERS}
        target = LINE_TARGETS[self.target]
        numbers = " and ".join(
            f"{_with_error(law)} of 1 with {solver_type}" for solver_type, law in final.items()
        )
        return (
            f"Left: standard deviation of the state over that of the exact marginal, after each of "
            f"{self.steps} steps (target: {target.label}), with eta {self.eta:g} and s_noise "
            f"{self.s_noise:g}. It starts at 1 and ends at {numbers}. Midpoint is solid, heun "
            f"dashed. Right: density of the last state, over the target's in grey."
        )
