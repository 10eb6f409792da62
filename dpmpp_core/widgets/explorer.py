"""The trajectory explorer: particles of a target in the plane, step by step and term by term."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from .. import figures
from ..coefficients import SolverType
from ..mesh import Mesh
from ..noise import NoiseSampler, PhiloxBridge
from ..noise.philox import key_words, unit_normals
from ..sampler import Transition, trajectory
from ..targets import GaussianMixture
from .live import SCHEDULES, Choice, Device, LiveFigure, Name, Number, Whole
from .modules import module_source
from .plane_target import PlaneTarget

__all__ = ["FreshNoise", "TrajectoryExplorer"]

MOST_STEPS = 100
MOST_PARTICLES = 4000


# --- noise -------------------------------------------------------------------------------------


class FreshNoise:
    """Independent unit normals that have nothing to do with those of another number of steps.

    Step k of a run of N steps takes Philox's normal of node 128 N + k, which is none of a node of
    :class:`~dpmpp_core.PhiloxBridge` that a mesh can reach; sample i has the seed + i. So the page
    draws the same numbers.

    Args:
        x: a state of shape ``(B, 2)``.
        sigmas: the schedule of the run; at most 100 steps.
        seed: an integer >= 0.
    """

    def __init__(self, x: Tensor, sigmas: Tensor | Sequence[float], seed: int) -> None:
        self._sigma = Mesh.from_sigmas(sigmas).sigma
        steps = len(self._sigma) - 1
        if steps > MOST_STEPS or x.shape[1:] != (2,):
            raise ValueError(
                f"sigmas must have at most {MOST_STEPS} steps and x shape (B, 2), "
                f"got {steps} steps and shape {tuple(x.shape)}"
            )
        self._first_node = 128 * steps
        self._key = key_words([(seed + i) % 2**64 for i in range(len(x))], x.device)
        self._like = x

    def __call__(self, sigma: Tensor | float, sigma_next: Tensor | float, /) -> Tensor:
        """The unit normal of the step that starts at a level of the schedule."""
        level = float(sigma)
        k = min(range(len(self._sigma)), key=lambda i: abs(self._sigma[i] - level))
        node = torch.tensor([self._first_node + k], device=self._like.device)
        quad = torch.zeros(1, dtype=torch.int64, device=self._like.device)
        return unit_normals(self._key, node, quad)[0, :2, :, 0].T.to(self._like)


# --- the figure --------------------------------------------------------------------------------


class TrajectoryExplorer(PlaneTarget, LiveFigure):
    """Particles on their way to a target in the plane, with every knob of the sampler.

    Args:
        target: a name in :data:`TARGETS`, or a :class:`~dpmpp_core.GaussianMixture` of dimension
            2; :func:`~dpmpp_core.point_cloud` makes one from points.
        denoiser: ``(x, sigma) -> x0`` in place of the target's own, or None. It is a model as
            :func:`~dpmpp_core.sample` takes it: x of shape ``(B, 2)``, sigma of shape ``(B,)``,
            both float64 on the device (float32 on Apple's), and what it returns is like x. The
            target remains what the particles start from and are compared with.
        eta: 0 to 2.
        s_noise: 0.5 to 1.5.
        solver_type: ``"midpoint"`` or ``"heun"``.
        steps: 2 to 100.
        schedule: ``"karras"``, ``"exponential"`` or ``"kl_optimal"``.
        sigma_min, sigma_max: the schedule's lowest level above 0, and its first.
        seed: of starts and noise; particle i has the seed + i.
        particles: 1 to 4000.
        noise: ``"path"``, one Brownian path whatever the number of steps (the clock tau of
            :class:`~dpmpp_core.PhiloxBridge`), or ``"fresh"``, see :class:`FreshNoise`.
        step: the state that is shown; past the end it is the last.
        particle: the one whose arrows are drawn.
        device: where Python computes, such as ``"cuda"``.
        name: its name in links; another figure on the same page needs another.

    Raises:
        traitlets.TraitError: for values outside these ranges, now and later.
    """

    module = "explorer"
    _esm = module_source("explorer.js")

    name = Name("explorer").tag(sync=True, page=True)
    eta = Number(1.0, 0.0, 2.0).tag(sync=True, page=True, run=True)
    s_noise = Number(1.0, 0.5, 1.5).tag(sync=True, page=True, run=True)
    solver_type = Choice("midpoint", ("midpoint", "heun")).tag(sync=True, page=True, run=True)
    steps = Whole(12, 2, MOST_STEPS).tag(sync=True, page=True, run=True)
    schedule = Choice("karras", SCHEDULES).tag(sync=True, page=True, run=True)
    # At least a factor of 2 apart, so that no two of 100 levels share a leaf of the bridge.
    sigma_min = Number(0.03, 1e-3, 0.5).tag(sync=True, page=True, run=True)
    sigma_max = Number(2.5, 1.01, 100.0).tag(sync=True, page=True, run=True)
    seed = Whole(5, 0, 2**32 - 1).tag(sync=True, page=True, run=True)
    particles = Whole(300, 1, MOST_PARTICLES).tag(sync=True, page=True, run=True)
    noise = Choice("path", ("path", "fresh")).tag(sync=True, page=True, run=True)
    step = Whole(5, 0, MOST_STEPS).tag(sync=True, page=True)
    particle = Whole(3, 0, MOST_PARTICLES - 1).tag(sync=True, page=True)

    device = Device("cpu").tag(run=True)

    def __init__(self, target: str | GaussianMixture = "triangle", **settings: Any) -> None:
        super().__init__(target=target, **settings)

    @traitlets.default("offers")
    def _offers(self) -> dict[str, Any]:
        targets = self.target_offers()
        limits = {**self.limits(), "target": {"names": list(targets)}}
        return {"targets": targets, "schedules": SCHEDULES, "limits": limits}

    # --- the run

    def run(self, particles: int | None = None) -> list[Transition]:
        """The run that is shown, step by step, computed anew.

        Args:
            particles: how many of them; all if None. They are the same ones for any number.
        """
        sigmas = self.sigmas(self.steps)
        count = self.particles if particles is None else min(particles, self.particles)
        x = self.to_device(
            self.kept_starts(self.mixture, Mesh.from_sigmas(sigmas), self.seed, count)
        )
        noise: NoiseSampler
        if self.noise == "path":
            noise = PhiloxBridge(x, sigmas, self.seed, eta=self.eta)
        else:
            noise = FreshNoise(x, sigmas, self.seed)
        solver_type: SolverType = self.solver_type
        steps = trajectory(
            self.model(),
            x,
            sigmas,
            eta=self.eta,
            s_noise=self.s_noise,
            solver_type=solver_type,
            noise_sampler=noise,
        )
        return list(steps)

    def compute(self) -> dict[str, Any]:
        """States and estimates, float32 by step, particle, coordinate, and what they are for."""
        run = self.run()
        states = torch.stack([run[0].x, *(t.x_next for t in run)])
        estimates = torch.stack([t.denoised for t in run])
        return {
            "states": states.float().cpu().numpy().tobytes(),
            "estimates": estimates.float().cpu().numpy().tobytes(),
            "steps": len(run),
        }

    # --- the picture

    def picture(self) -> Figure:
        """The run with its first particles' paths, and the arrows of the chosen one."""
        run = self.run(max(60, self.particle + 1))
        shown = min(self.step, self.steps)
        chosen = min(self.particle, self.particles - 1)
        fig, ax = plt.subplots(figsize=(4.6, 5.0), layout="constrained")
        self.draw_ground(ax)
        states = np.stack([t.x.cpu().numpy() for t in run] + [run[-1].x_next.cpu().numpy()])
        ax.plot(*states[: shown + 1].transpose(2, 0, 1), color=figures.INK, lw=0.35, alpha=0.25)
        ax.plot(*states[shown].T, ".", color=figures.INK, ms=3, zorder=3)
        for transition in run[:shown]:
            figures.draw_step(ax, transition, chosen)
        ax.plot(*states[shown, chosen], "o", mfc="white", mec=figures.INK, ms=5, zorder=6)
        handles = [
            Line2D([], [], color=term.color, ls=term.line, label=name)
            for name, term in figures.TERMS.items()
        ]
        fig.legend(handles=handles, loc="outside lower center", ncols=3)
        ax.set_title(rf"$\eta = {self.eta:g}$, $s$_noise = {self.s_noise:g}, {self.solver_type}")
        return fig

    def describe(self) -> str:
        """What the picture shows, for readers who do not see it."""
        shown = min(self.step, self.steps)
        return (
            f"Paths of particles through {shown} of {self.steps} steps towards a target in the "
            f"plane ({self.describe_target()}), with eta {self.eta:g}, s_noise "
            f"{self.s_noise:g} and {self.solver_type}. One particle's steps are drawn as arrows: "
            f"drift blue and solid, history orange and dashed, noise green and dotted."
        )
