"""Side by side: two settings of the sampler on one Brownian path, and what is between them."""

from __future__ import annotations

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
from ..noise import PhiloxBridge
from ..sampler import trajectory
from ..targets import GaussianMixture
from .live import SCHEDULES, Choice, Device, LiveFigure, Name, Number, Whole
from .modules import module_source
from .plane_target import PlaneTarget

__all__ = ["PRESETS", "Preset", "SideBySide"]

MOST_STEPS = 100
MOST_PARTICLES = 2000
MOST_PATHS = 40
SIDES = ("a", "b")
KNOBS = ("eta", "s_noise", "solver_type", "steps")
"""What each side has of its own: ``a_eta``, ``b_eta`` and so on."""


class Preset(NamedTuple):
    """A comparison worth a name: how it is listed, and the knobs of both sides."""

    label: str
    a: dict[str, Any]
    b: dict[str, Any]

    def settings(self) -> dict[str, Any]:
        """The traits that it sets."""
        usual = {"eta": 1.0, "s_noise": 1.0, "solver_type": "midpoint", "steps": 10}
        return {
            f"{side}_{knob}": value
            for side, own in (("a", self.a), ("b", self.b))
            for knob, value in {**usual, **own}.items()
        }


PRESETS = {
    "solver": Preset("midpoint against heun", {"solver_type": "midpoint"}, {"solver_type": "heun"}),
    "eta": Preset("eta 0 against eta 1", {"eta": 0.0, "steps": 20}, {"eta": 1.0, "steps": 20}),
    "steps": Preset("10 steps against 40 steps", {"steps": 10}, {"steps": 40}),
    "s-noise": Preset(
        "s_noise 1 against 0.9", {"s_noise": 1.0, "steps": 20}, {"s_noise": 0.9, "steps": 20}
    ),
}
"""The comparisons that the figure offers, by the names that ``SideBySide(preset=...)`` takes."""


class SideBySide(PlaneTarget, LiveFigure):
    """Two settings of the sampler, on one Brownian path and from the same starting points.

    Each particle's state under A is joined to its state under B by a line. In the clock tau of
    :class:`~dpmpp_core.PhiloxBridge` both sides read one path, whatever their steps, if their eta
    is the same; if not, each reads the path's normals in a clock of its own.

    Args:
        preset: a name in :data:`PRESETS`; a setting below that is given too goes before it.
        target: a name in :data:`~dpmpp_core.widgets.TARGETS`, or a
            :class:`~dpmpp_core.GaussianMixture` of dimension 2.
        denoiser: ``(x, sigma) -> x0`` for both sides in place of the target's own, or None; see
            :class:`TrajectoryExplorer`.
        a_eta, b_eta: 0 to 2.
        a_s_noise, b_s_noise: 0.5 to 1.5.
        a_solver_type, b_solver_type: ``"midpoint"`` or ``"heun"``.
        a_steps, b_steps: 2 to 100.
        schedule: ``"karras"``, ``"exponential"`` or ``"kl_optimal"``.
        sigma_min, sigma_max: the schedule's lowest level above 0, and its first.
        seed: of starts and noise; particle i has the seed + i.
        particles: 1 to 2000.
        progress: 0 to 100, how far both sides are shown; see :meth:`shown_step`.
        paths: 0 to 40, of how many particles the path is drawn.
        device: where Jupyter computes: ``"cpu"``, ``"cuda"``, ...
        name: the figure's name in links; two on one page need two.

    Raises:
        traitlets.TraitError: for a value that is not allowed, also when it is set later.
        ValueError: for a preset that is not in :data:`PRESETS`.
    """

    module = "compare"
    _esm = module_source("compare.js")

    name = Name("compare").tag(sync=True, page=True)
    a_eta = Number(1.0, 0.0, 2.0).tag(sync=True, page=True, run=True)
    b_eta = Number(1.0, 0.0, 2.0).tag(sync=True, page=True, run=True)
    a_s_noise = Number(1.0, 0.5, 1.5).tag(sync=True, page=True, run=True)
    b_s_noise = Number(1.0, 0.5, 1.5).tag(sync=True, page=True, run=True)
    a_solver_type = Choice("midpoint", ("midpoint", "heun")).tag(sync=True, page=True, run=True)
    b_solver_type = Choice("heun", ("midpoint", "heun")).tag(sync=True, page=True, run=True)
    a_steps = Whole(10, 2, MOST_STEPS).tag(sync=True, page=True, run=True)
    b_steps = Whole(10, 2, MOST_STEPS).tag(sync=True, page=True, run=True)
    schedule = Choice("karras", SCHEDULES).tag(sync=True, page=True, run=True)
    # At least a factor of 2 apart, so that no two of 100 levels share a leaf of the bridge.
    sigma_min = Number(0.03, 1e-3, 0.5).tag(sync=True, page=True, run=True)
    sigma_max = Number(2.5, 1.0, 100.0).tag(sync=True, page=True, run=True)
    seed = Whole(5, 0, 2**32 - 1).tag(sync=True, page=True, run=True)
    particles = Whole(200, 1, MOST_PARTICLES).tag(sync=True, page=True, run=True)
    progress = Whole(100, 0, 100).tag(sync=True, page=True)
    paths = Whole(6, 0, MOST_PATHS).tag(sync=True, page=True)

    device = Device("cpu").tag(run=True)

    def __init__(
        self,
        preset: str | None = None,
        target: str | GaussianMixture = "triangle",
        **settings: Any,
    ) -> None:
        if preset is not None:
            if preset not in PRESETS:
                names = ", ".join(map(repr, PRESETS))
                raise ValueError(f"preset must be one of {names}, got {preset!r}")
            settings = {**PRESETS[preset].settings(), **settings}
        super().__init__(target=target, **settings)

    @traitlets.default("offers")
    def _offers(self) -> dict[str, Any]:
        targets = self.target_offers()
        limits = {**self.limits(), "target": {"names": list(targets)}}
        presets = {
            name: {"label": preset.label, "settings": preset.settings()}
            for name, preset in PRESETS.items()
        }
        return {"targets": targets, "schedules": SCHEDULES, "presets": presets, "limits": limits}

    # --- the two runs

    def mesh(self, side: str) -> Mesh:
        """The noise levels of side ``"a"`` or ``"b"``."""
        return Mesh.from_sigmas(self._sigmas(side))

    def _sigmas(self, side: str) -> Tensor:
        if side not in SIDES:
            raise ValueError(f"side must be 'a' or 'b', got {side!r}")
        return self.sigmas(getattr(self, f"{side}_steps"))

    def run(self, side: str) -> Tensor:
        """All states of a side: shape ``(steps + 1, particles, 2)``, computed anew."""
        sigmas = self._sigmas(side)
        x = self.to_device(
            self.kept_starts(self.mixture, self.mesh("a"), self.seed, self.particles)
        )
        eta, solver_type = getattr(self, f"{side}_eta"), getattr(self, f"{side}_solver_type")
        chosen: SolverType = solver_type
        transitions = trajectory(
            self.model(),
            x,
            sigmas,
            eta=eta,
            s_noise=getattr(self, f"{side}_s_noise"),
            solver_type=chosen,
            noise_sampler=PhiloxBridge(x, sigmas, self.seed, eta=eta),
        )
        return torch.stack([x, *(t.x_next for t in transitions)])

    def distance(self) -> float:
        """The root mean square distance between the results of the two sides."""
        apart = self.run("a")[-1] - self.run("b")[-1]
        return float(apart.square().sum(-1).mean().sqrt())

    def shown_step(self, side: str) -> int:
        """The state of a side that is shown at :attr:`progress`.

        At 100 it is the result. From 0 to 99 lambda goes evenly from the first level to the last
        above 0, and the state is the last one that the side has reached by then.
        """
        mesh = self.mesh(side)
        steps = len(mesh.h)
        if self.progress == 100:
            return steps
        first, last = float(mesh.lam[0]), float(mesh.lam[steps - 1])
        reached = first + self.progress / 99 * (last - first) + 1e-9
        return max(k for k in range(steps) if float(mesh.lam[k]) <= reached)

    def compute(self) -> dict[str, Any]:
        """States of both sides, float32 by step, particle, coordinate, and what they are for."""
        states = {side: self.run(side) for side in SIDES}
        return {side: x.float().cpu().numpy().tobytes() for side, x in states.items()}

    # --- the picture

    def picture(self) -> Figure:
        """Both sides at the shown progress, and the lines from A to B."""
        states = {side: self.run(side).cpu().numpy() for side in SIDES}
        shown = {side: self.shown_step(side) for side in SIDES}
        fig, axes = plt.subplots(1, 3, figsize=(7.6, 3.1), sharey=True, layout="constrained")
        for ax, side in zip(axes, SIDES, strict=False):
            self.draw_ground(ax)
            line = figures.SOLVER_LINES[getattr(self, f"{side}_solver_type")]
            x, k = states[side], shown[side]
            few = x[: k + 1, : self.paths].transpose(2, 0, 1)
            ax.plot(*few, color=figures.INK, ls=line, lw=0.8, alpha=0.7)
            ax.plot(*x[k].T, ".", color=figures.INK, ms=2.5)
            ax.set_title(f"{side.upper()}: {self._words(side)}", fontsize=7.5)
        self.draw_ground(axes[2])
        a, b = (states[side][shown[side]] for side in SIDES)
        axes[2].plot(*np.stack([a, b]).transpose(2, 0, 1), color=figures.INK, lw=0.6, alpha=0.6)
        axes[2].plot(*a.T, ".", color=figures.INK, ms=3)
        axes[2].plot(*b.T, "o", mfc="white", mec=figures.INK, mew=0.6, ms=2.6)
        axes[2].set_title("from A (dot) to B (ring)", fontsize=7.5)
        for ax in axes[1:]:
            ax.set_ylabel("")
        return fig

    def _words(self, side: str) -> str:
        eta, s_noise, solver_type, steps = (getattr(self, f"{side}_{knob}") for knob in KNOBS)
        return f"{solver_type}, eta {eta:g}, s_noise {s_noise:g}, {steps} steps"

    def describe(self) -> str:
        """What the picture shows, for readers who do not see it."""
        return (
            f"Three panels over a target in the plane ({self.describe_target()}). A: particles "
            f"with {self._words('a')}. B: the same starts with {self._words('b')}. Third: each "
            f"particle under A, a dot, joined to itself under B, a ring; the root mean square "
            f"distance between the results is {self.distance():.3f}."
        )
