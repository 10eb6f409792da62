"""The map of the final spread: exact for Gaussian data, over eta and s_noise or eta and steps."""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
import traitlets
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from .. import figures, schedule
from ..checks import positive, real
from ..coefficients import SolverType, StepTable, step_row, step_table
from ..mesh import Mesh
from ..moments import StepGrid, affine_moments, step_grid
from .live import SCHEDULES, Choice, LiveFigure, Name, Number, Whole
from .modules import module_source

__all__ = ["MODELS", "VarianceMap", "believed_gain"]

SOLVERS: tuple[SolverType, ...] = ("midpoint", "heun")
MODELS = {
    "exact": "exact",
    "high": "wrong at high noise",
    "low": "wrong at low noise",
    "all": "wrong at every level",
}
"""Where the denoiser believes in another spread of the data, by the names of the setting."""

ETAS = np.linspace(0.0, 2.0, 41)
ROWS = {"s_noise": np.linspace(0.5, 1.5, 41), "steps": np.arange(2, 61)}
UP = {"s_noise": "s_noise", "steps": "steps"}
BELOW = (0.2, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
LEVELS = (*BELOW, 1.0, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0)
TICKS = (2, 3, 5, 10, 20, 40, 60)


def depth(ratio: float) -> float:
    """How far from paper a ratio is drawn: 0 at 1, and 1 from a factor of 2 on, either way."""
    distance = abs(math.log2(max(ratio, 1e-9)))
    return math.sqrt(min(distance, 1.0))


def _bands() -> list[str]:
    """The colours between the levels, and of the two open ends."""
    edges = (LEVELS[0] ** 2, *LEVELS, 2.0 * LEVELS[-1])
    colours = []
    for low, high in pairwise(edges):
        middle = math.sqrt(low * high)
        end = to_rgb(figures.NARROW if middle < 1.0 else figures.WIDE)
        red, green, blue = (1.0 - depth(middle) * (1.0 - part) for part in end)
        colours.append(to_hex((red, green, blue)))
    return colours


# --- the numbers -------------------------------------------------------------------------------


def believed_gain(mesh: Mesh, spread: float, model: str = "exact", error: float = 0.0) -> Tensor:
    r"""The gain of a denoiser that is wrong about the data's spread at some of the levels.

    .. math::

        g_k = \frac{\alpha_k v_k}{\alpha_k^2 v_k + \sigma_k^2}, \qquad
        v_k = s^2 \text{ or } s^2 (1 + \text{error})^2,

    the second where :math:`\sigma_k / \alpha_k > s` for ``"high"``, where it is not for ``"low"``,
    and everywhere for ``"all"``. The data has mean 0, and the denoiser knows that.

    Args:
        mesh: the noise levels.
        spread: the standard deviation s of the data, above 0.
        model: ``"exact"``, ``"high"``, ``"low"`` or ``"all"``.
        error: the relative error of the standard deviation that it believes in, above -1.

    Returns:
        Shape ``(N,)``, as :func:`~dpmpp_core.moments.affine_moments` takes it.

    Raises:
        ValueError: for values outside these ranges.
    """
    spread = positive("spread", spread)
    error = real("error", error, "a finite number above -1", lambda number: number > -1.0)
    if model not in MODELS:
        raise ValueError(f"model must be one of {', '.join(map(repr, MODELS))}, got {model!r}")
    sigma, alpha = (torch.tensor(v[:-1], dtype=torch.float64) for v in (mesh.sigma, mesh.alpha))
    return _gain(sigma, alpha, spread, model, error)


def _gain(sigma: Tensor, alpha: Tensor, spread: float, model: str, error: float) -> Tensor:
    high = sigma > spread * alpha
    wrong = {"exact": high & ~high, "high": high, "low": ~high, "all": high | ~high}[model]
    variance = (spread * (1.0 + error * wrong.to(sigma))) ** 2  # a bool would give float32
    return alpha * variance / (alpha**2 * variance + sigma**2)


def _ratios(table: StepTable | StepGrid, gain: Tensor, first: Mesh, spread: float) -> Tensor:
    """Final standard deviations over the data's, of runs from the first level of a mesh."""
    start = (first.alpha[0] * spread) ** 2 + first.sigma[0] ** 2
    return affine_moments(table, gain, initial=(0.0, start)).variance[-1].sqrt() / spread


class Lengths(NamedTuple):
    """Runs of every number of steps, side by side.

    A shorter one starts with steps that leave the state as it is: A = 1, and B = C = D = 0.
    """

    first: Mesh
    table: StepGrid
    """The coefficients for all ETAS with s_noise = 1, each ``(60, rows, etas)``."""
    sigma: Tensor
    """Levels and data factors of the steps, ``(60, rows, 1)``; at the steps before the start 1."""
    alpha: Tensor


@lru_cache(maxsize=4)
def _lengths(levels: str, low: float, high: float, solver_type: SolverType) -> Lengths:
    rows, meshes = [], [
        Mesh.from_sigmas(getattr(schedule, levels)(int(n), low, high)) for n in ROWS["steps"]
    ]  # fmt: skip
    longest = meshes[-1].steps
    for mesh in meshes:
        growth = (0.0, *(later / h for h, later in pairwise(mesh.h)))
        each = (mesh.sigma[:-1], mesh.alpha[:-1], mesh.sigma[1:], mesh.alpha[1:], mesh.h, growth)
        before = longest - mesh.steps
        rows.append([(1.0,) * before + part for part in each[:-2]])
        rows[-1] += [(0.0,) * before + part for part in each[-2:]]
    columns = torch.tensor(rows, dtype=torch.float64).permute(1, 2, 0)[..., None]
    sigma, alpha, sigma_next, alpha_next, h, growth = columns
    before, last = h == 0.0, h.isinf()  # no cases of the formulas
    h, growth = h.masked_fill(before | last, 1.0), growth.masked_fill(last, 0.0)
    etas, one = torch.from_numpy(ETAS), torch.ones((), dtype=torch.float64)
    table = step_row(sigma, sigma_next, alpha_next, h, growth, etas, one, solver_type)
    shape = (*h.shape[:2], len(ETAS))
    fills = zip(table, (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), strict=True)
    filled = (c.expand(shape).masked_fill(before, a).masked_fill(last, b) for c, a, b in fills)
    return Lengths(meshes[0], StepGrid(*filled), sigma, alpha)


# --- the figure --------------------------------------------------------------------------------


class VarianceMap(LiveFigure):
    """The final standard deviation over that of the data, for every eta and s_noise, or steps.

    Exact: on Gaussian data the sampler is affine, and so it is with the wrong denoisers here, see
    :func:`believed_gain` and :func:`~dpmpp_core.moments.affine_moments`. Runs start from the exact
    law of the first level.

    Args:
        up: what goes up the map: ``"s_noise"`` (0.5 to 1.5) or ``"steps"`` (2 to 60, on a
            logarithmic axis). eta goes across, 0 to 2.
        eta, s_noise, steps: the setting whose number is shown large, in those ranges: a cross.
        solver_type: ``"midpoint"`` or ``"heun"``: the map's; of the other the number is given.
        schedule: ``"karras"``, ``"exponential"`` or ``"kl_optimal"``.
        sigma_min, sigma_max: the schedule's lowest level above 0, and its first.
        spread: standard deviation of the data, 0.1 to 2.
        model: ``"exact"``, or where the denoiser is wrong about the spread: ``"high"`` (where
            sigma / alpha is above the spread), ``"low"`` (elsewhere) or ``"all"``.
        error: -0.5 to 0.5; there it believes in a spread of (1 + error) times the true one.
        name: its name in links; another figure on the same page needs another.

    Raises:
        traitlets.TraitError: for values outside these ranges, now and later.
    """

    module = "map"
    inks = tuple(_bands())
    _esm = module_source("map.js")

    name = Name("map").tag(sync=True, page=True)
    up = Choice("s_noise", UP).tag(sync=True, page=True, run=True)
    eta = Number(1.0, 0.0, 2.0).tag(sync=True, page=True, run=True)
    s_noise = Number(1.0, 0.5, 1.5).tag(sync=True, page=True, run=True)
    steps = Whole(20, 2, 60).tag(sync=True, page=True, run=True)
    solver_type = Choice("midpoint", SOLVERS).tag(sync=True, page=True, run=True)
    schedule = Choice("karras", SCHEDULES).tag(sync=True, page=True, run=True)
    sigma_min = Number(0.0292, 1e-3, 0.5).tag(sync=True, page=True, run=True)
    sigma_max = Number(14.6146, 1.01, 100.0).tag(sync=True, page=True, run=True)
    spread = Number(1.0, 0.1, 2.0).tag(sync=True, page=True, run=True)
    model = Choice("exact", MODELS).tag(sync=True, page=True, run=True)
    error = Number(0.2, -0.5, 0.5).tag(sync=True, page=True, run=True)

    offers = traitlets.Dict().tag(sync=True, page=True)
    """What the controls offer, the ranges above, and the map's points and levels."""

    @traitlets.default("offers")
    def _offers(self) -> dict[str, Any]:
        return {
            "schedules": SCHEDULES,
            "models": MODELS,
            "limits": self.limits(),
            "etas": ETAS.tolist(),
            "rows": {up: rows.tolist() for up, rows in ROWS.items()},
            "levels": LEVELS,
            "ticks": TICKS,
        }

    # --- the numbers

    def ratio(self, solver_type: SolverType | None = None) -> float:
        """Final spread over the data's at the chosen setting; None is the chosen solver."""
        mesh = Mesh.from_sigmas(self.sigmas(self.steps))
        table = step_table(mesh, self.eta, self.s_noise, solver_type or self.solver_type)
        gain = believed_gain(mesh, self.spread, self.model, self.error)
        return float(_ratios(table, gain, mesh, self.spread))

    def map(self) -> np.ndarray[Any, Any]:
        """The same for every row of ``ROWS[up]`` and all ``ETAS``: shape ``(rows, etas)``."""
        if self.up == "steps":
            runs = _lengths(self.schedule, self.sigma_min, self.sigma_max, self.solver_type)
            table = runs.table._replace(D=self.s_noise * runs.table.D)
            gain = _gain(runs.sigma, runs.alpha, self.spread, self.model, self.error)
            first = runs.first
        else:
            first = Mesh.from_sigmas(self.sigmas(self.steps))
            table = step_grid(first, ETAS, ROWS["s_noise"][:, None], self.solver_type)
            gain = believed_gain(first, self.spread, self.model, self.error)
        values: np.ndarray[Any, Any] = _ratios(table, gain, first, self.spread).numpy()
        return values

    def compute(self) -> dict[str, Any]:
        """The map, float64 row by row, and the chosen setting's number with either solver."""
        chosen = {solver_type: self.ratio(solver_type) for solver_type in SOLVERS}
        return {"map": self.map().tobytes(), "chosen": chosen}

    # --- the picture

    def picture(self) -> Figure:
        """The map with its contour lines and the cross."""
        fig, ax = plt.subplots(figsize=(6.4, 3.9), layout="constrained")
        values = np.maximum(self.map(), 1e-9)
        place = (ETAS, ROWS[self.up], values)
        ax.contourf(*place, (0.0, *LEVELS, 1e9), colors=_bands())
        with warnings.catch_warnings():
            # Most maps have only a few of the levels.
            warnings.filterwarnings("ignore", "No contour levels were found")
            wide = [2.2 if level == 1.0 else 0.7 for level in LEVELS]
            lines = ax.contour(*place, LEVELS, colors=figures.INK, linewidths=wide)
        ax.clabel(lines, fmt="%g", fontsize=8)
        ax.plot(self.eta, getattr(self, self.up), "+", color=figures.INK, ms=16, mew=2.2)
        ax.set(xlabel=r"$\eta$", ylabel={"s_noise": "$s$_noise", "steps": "steps"}[self.up])
        if self.up == "steps":
            ax.set_yscale("log")
            ax.set_yticks(TICKS, labels=map(str, TICKS))
            ax.minorticks_off()
        ax.set_title(f"final spread / spread of the data; at the cross {self.ratio():.3f}")
        return fig

    def describe(self) -> str:
        """What the picture shows, for readers who do not see it."""
        values, held = self.map(), {"s_noise": "steps", "steps": "s_noise"}[self.up]
        rows = ROWS[self.up]
        other = next(solver for solver in SOLVERS if solver != self.solver_type)
        return (
            f"Map of the final standard deviation over that of the data (Gaussian, {self.spread:g})"
            f": eta from 0 to 2 across, {self.up} from {rows[0]:g} to {rows[-1]:g} up; {held} "
            f"{getattr(self, held):g}, {self.solver_type}, {SCHEDULES[self.schedule]} schedule, "
            f"denoiser {self.words()}. Lowest {values.min():.3f}, highest {values.max():.3f}; a "
            f"thick line where it is 1, thin lines with their numbers elsewhere. A cross at eta "
            f"{self.eta:g}, {self.up} {getattr(self, self.up):g}: {self.ratio():.3f}, and "
            f"{self.ratio(other):.3f} with {other}."
        )

    def words(self) -> str:
        """The denoiser in words."""
        believed = f", there it believes in a spread of {(1.0 + self.error) * self.spread:g}"
        return MODELS[self.model] + (believed if self.model != "exact" else "")
