"""The trajectory explorer: particles of a target in the plane, step by step and term by term."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from .. import figures, schedule
from ..coefficients import SolverType
from ..mesh import Mesh
from ..noise import NoiseSampler, PhiloxBridge
from ..noise.philox import key_words, unit_normals
from ..sampler import Transition, trajectory
from ..targets import GaussianMixture, point_cloud, triangle
from .live import Choice, Device, LiveFigure, Name, Number, Whole
from .modules import module_source
from .start import start

__all__ = ["TARGETS", "FreshNoise", "TrajectoryExplorer", "target"]

MOST_STEPS = 100
MOST_PARTICLES = 4000
OWN = "own"
"""The name under which a target that the reader passed is listed."""


# --- targets -----------------------------------------------------------------------------------


def _ring() -> GaussianMixture:
    angles = torch.arange(8, dtype=torch.float64) * (math.tau / 8)
    return GaussianMixture(2.2 * torch.stack([angles.cos(), angles.sin()], dim=-1), 0.02)


def _tight_and_wide() -> GaussianMixture:
    means = torch.tensor([[-1.8, -0.6], [1.0, 0.4]], dtype=torch.float64)
    return GaussianMixture(means, torch.tensor([0.01, 0.8]), torch.tensor([0.4, 0.6]))


def _moons() -> GaussianMixture:
    turn = torch.linspace(0.0, math.pi, 12, dtype=torch.float64)
    arc = torch.stack([turn.cos(), turn.sin()], dim=-1)
    shift = torch.tensor([0.5, -0.25], dtype=torch.float64)
    return point_cloud(2.0 * torch.cat([arc - shift, shift - arc]))


def _spiral() -> GaussianMixture:
    turn = torch.linspace(0.04, 1.0, 24, dtype=torch.float64).sqrt() * 1.75 * math.tau
    line = torch.stack([turn.cos(), turn.sin()], dim=-1) * (turn / turn[-1])[:, None]
    return GaussianMixture(2.8 * line, 0.02)


TARGETS = {
    "triangle": (triangle(), "three long modes"),
    "ring": (_ring(), "ring of eight"),
    "tight-and-wide": (_tight_and_wide(), "one tight, one wide"),
    "moons": (_moons(), "two moons, 24 points"),
    "spiral": (_spiral(), "spiral"),
}
"""The targets that the explorer offers, each with its name in the list."""

SCHEDULES = {
    "karras": "Karras",
    "exponential": "exponential",
    "kl_optimal": "even in arctan σ",
}
"""The schedules it offers, by their names in :mod:`dpmpp_core.schedule`."""


def target(name: str) -> GaussianMixture:
    """The target of that name.

    Raises:
        ValueError: for a name that is not in :data:`TARGETS`.
    """
    if name not in TARGETS:
        raise ValueError(f"name must be one of {', '.join(TARGETS)}, got {name!r}")
    return TARGETS[name][0]


class _Target(traitlets.TraitType[Any, Any]):
    """The name of a target, or a :class:`GaussianMixture` in the plane."""

    def validate(self, obj: Any, value: Any) -> str | GaussianMixture:
        if isinstance(value, GaussianMixture):
            if value.dim == 2:
                return value
            raise traitlets.TraitError(
                f"{self.name} must be two-dimensional, got a mixture in {value.dim} dimensions"
            )
        if isinstance(value, str) and value in TARGETS:
            return value
        names = ", ".join(map(repr, TARGETS))
        raise traitlets.TraitError(
            f"{self.name} must be one of {names} or a GaussianMixture, got {value!r}"
        )


def _target_to_json(value: str | GaussianMixture, figure: TrajectoryExplorer) -> str:
    return OWN if isinstance(value, GaussianMixture) else value


def _target_from_json(value: str, figure: TrajectoryExplorer) -> str | GaussianMixture:
    return figure._own if value == OWN and figure._own is not None else value


def _described(mixture: GaussianMixture, label: str) -> dict[str, Any]:
    """A target as the page's script takes it."""
    return {
        "label": label,
        "means": mixture.means.tolist(),
        "covariances": mixture.covariances.tolist(),
        "weights": mixture.weights.tolist(),
        "extent": _extent(mixture),
        "smooth": _lowest_variance(mixture) > 0.0,
    }


def _extent(mixture: GaussianMixture) -> float:
    """How far the data reach from the origin along an axis, to two standard deviations."""
    values = mixture.covariances
    values = torch.linalg.eigvalsh(values) if values.ndim == 3 else values
    spread = values.reshape(len(values), -1).amax(1, keepdim=True).sqrt()
    return float((mixture.means.abs() + 2.0 * spread).max())


def _lowest_variance(mixture: GaussianMixture) -> float:
    values = mixture.covariances
    return float((torch.linalg.eigvalsh(values) if values.ndim == 3 else values).min())


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


class TrajectoryExplorer(LiveFigure):
    """Particles on their way to a target in the plane, with every knob of the sampler.

    Args:
        target: a name in :data:`TARGETS`, or a :class:`~dpmpp_core.GaussianMixture` of dimension
            2; :func:`~dpmpp_core.point_cloud` makes one from points.
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
    target = _Target("triangle").tag(
        sync=True, page=True, run=True, to_json=_target_to_json, from_json=_target_from_json
    )
    eta = Number(1.0, 0.0, 2.0).tag(sync=True, page=True, run=True)
    s_noise = Number(1.0, 0.5, 1.5).tag(sync=True, page=True, run=True)
    solver_type = Choice("midpoint", ("midpoint", "heun")).tag(sync=True, page=True, run=True)
    steps = Whole(12, 2, MOST_STEPS).tag(sync=True, page=True, run=True)
    schedule = Choice("karras", SCHEDULES).tag(sync=True, page=True, run=True)
    sigma_min = Number(0.03, 1e-3, 1.0).tag(sync=True, page=True, run=True)
    sigma_max = Number(2.5, 1.01, 100.0).tag(sync=True, page=True, run=True)
    seed = Whole(5, 0, 2**32 - 1).tag(sync=True, page=True, run=True)
    particles = Whole(300, 1, MOST_PARTICLES).tag(sync=True, page=True, run=True)
    noise = Choice("path", ("path", "fresh")).tag(sync=True, page=True, run=True)
    step = Whole(5, 0, MOST_STEPS).tag(sync=True, page=True)
    particle = Whole(3, 0, MOST_PARTICLES - 1).tag(sync=True, page=True)

    device = Device("cpu").tag(run=True)
    offers = traitlets.Dict().tag(sync=True, page=True)
    """What the controls offer: targets with their numbers, schedules, and the ranges above."""

    def __init__(self, target: str | GaussianMixture = "triangle", **settings: Any) -> None:
        self._own: GaussianMixture | None = None
        super().__init__(target=target, **settings)

    @property
    def mixture(self) -> GaussianMixture:
        """The target as a mixture."""
        chosen: str | GaussianMixture = self.target
        return TARGETS[chosen][0] if isinstance(chosen, str) else chosen

    @traitlets.observe("target")
    def _keep_own(self, change: Any) -> None:
        if isinstance(change.new, GaussianMixture):
            self._own = change.new
            self.offers = self._offers()

    @traitlets.default("offers")
    def _offers(self) -> dict[str, Any]:
        targets = {name: _described(*entry) for name, entry in TARGETS.items()}
        if self._own is not None:
            targets[OWN] = _described(self._own, "your own")
        limits: dict[str, Any] = {}
        for name, trait in self.traits(page=True).items():
            if isinstance(trait, Number):
                limits[name] = {
                    "low": trait.low,
                    "high": trait.high,
                    "whole": isinstance(trait, Whole),
                }
            elif isinstance(trait, Choice):
                limits[name] = {"names": list(trait.names)}
        limits["target"] = {"names": list(targets)}
        return {"targets": targets, "schedules": SCHEDULES, "limits": limits}

    # --- the run

    def run(self, particles: int | None = None) -> list[Transition]:
        """The run that is shown, step by step, computed anew.

        Args:
            particles: how many of them; all if None. They are the same ones for any number.
        """
        mixture = self.mixture
        sigmas = getattr(schedule, self.schedule)(self.steps, self.sigma_min, self.sigma_max)
        mesh = Mesh.from_sigmas(sigmas)
        count = self.particles if particles is None else min(particles, self.particles)
        # Apple's devices have no float64.
        dtype = torch.float32 if self.device.startswith("mps") else torch.float64
        x = start(mixture, mesh, self.seed, count).to(self.device, dtype)
        noise: NoiseSampler
        if self.noise == "path":
            noise = PhiloxBridge(x, sigmas, self.seed, eta=self.eta)
        else:
            noise = FreshNoise(x, sigmas, self.seed)
        solver_type: SolverType = self.solver_type
        steps = trajectory(
            mixture.model(),
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
        run, state = self.run(), self.page_state()
        states = torch.stack([run[0].x, *(t.x_next for t in run)])
        estimates = torch.stack([t.denoised for t in run])
        return {
            "states": states.float().cpu().numpy().tobytes(),
            "estimates": estimates.float().cpu().numpy().tobytes(),
            "steps": len(run),
            "settings": {name: state[name] for name in state if self.trait_metadata(name, "run")},
        }

    # --- the picture

    @property
    def half_width(self) -> float:
        """Of the square that is shown: the data, and most of the starting points."""
        first: float = self.sigma_max
        return _extent(self.mixture) + 0.5 * min(first, 4.0)

    def picture(self) -> Figure:
        """The run with its first particles' paths, and the arrows of the chosen one."""
        run = self.run(max(60, self.particle + 1))
        shown = min(self.step, self.steps)
        chosen = min(self.particle, self.particles - 1)
        fig, ax = plt.subplots(figsize=(4.6, 5.0), layout="constrained")
        if _lowest_variance(self.mixture) > 0.0:
            figures.density(ax, self.mixture, self.half_width)
        else:
            self._draw_points(ax)
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

    def _draw_points(self, ax: Any) -> None:
        width = self.half_width
        ax.plot(*self.mixture.means.T.cpu().numpy(), "o", mfc="none", mec=figures.TARGET, ms=6)
        ax.set(xlim=(-width, width), ylim=(-width, width), aspect="equal")
        ax.set(xlabel="$x^{(1)}$", ylabel="$x^{(2)}$")

    def describe(self) -> str:
        """What the picture shows, for readers who do not see it."""
        shown = min(self.step, self.steps)
        label = "your own target" if self.target is self._own else TARGETS[self.target][1]
        return (
            f"Paths of particles through {shown} of {self.steps} steps towards a target in the "
            f"plane ({label}), with eta {self.eta:g}, s_noise {self.s_noise:g} and "
            f"{self.solver_type}. One particle's steps are drawn as arrows: drift blue and solid, "
            f"history orange and dashed, noise green and dotted."
        )
