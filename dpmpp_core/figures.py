"""The figures' one language. Needs matplotlib.

Drift is blue, history orange, noise green, here as in equations and live figures; the target is
grey. Nothing is told by colour alone: each term has its own line and hatch as well, and midpoint is
drawn solid, heun dashed. Figures are drawn dark on white, in light and dark pages alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Rectangle
from torch import Tensor

from .sampler import Transition, trajectory
from .schedule import Process, karras
from .targets import GaussianMixture, triangle

Array = np.ndarray[Any, Any]

__all__ = [
    "NARROW",
    "SOLVER_LINES",
    "TARGET",
    "TERMS",
    "WIDE",
    "cover",
    "density",
    "draw_step",
    "mark_step",
    "paths",
    "settings_grid",
    "style",
    "term_paths",
    "term_sizes",
    "zoom_on_step",
]


class Term(NamedTuple):
    """How one of the three terms is drawn."""

    color: str
    line: str
    hatch: str


TERMS = {
    "drift": Term("#0072B2", "-", ""),
    "history": Term("#E69F00", "--", "///"),
    "noise": Term("#009E73", ":", "..."),
}
"""Okabe and Ito's blue, orange and green, which readers with any colour vision tell apart."""

TARGET = "#767676"
INK = "#222222"
SOLVER_LINES = {"midpoint": "-", "heun": "--"}

NARROW, WIDE = "#7B4FA8", "#9C6A35"
"""The ends of a map's colours, below and above what is right, which is paper: violet and brown.

No term has them. Simulated for readers without one of the three cones, the two lie 28 or more apart
in CIELAB; and both are dark enough on white and light enough on a dark page. A map's numbers are on
its contour lines, so that it can be read without its colours.
"""


_LOOK: Any = {
    "figure.dpi": 110,
    "savefig.dpi": 220,
    "savefig.bbox": "tight",
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "font.size": 10,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def style() -> Iterator[None]:
    """The look of every figure: small type, few lines, white paper."""
    with plt.rc_context(_LOOK):
        yield
        interactive = plt.isinteractive()
    # A notebook turns interactive mode on at its first figure, which may be drawn in here; leaving
    # the context turns it off again, and no later figure would show.
    matplotlib.interactive(interactive)


def density(
    ax: Axes,
    target: GaussianMixture,
    half_width: float,
    sigma: float = 0.0,
    process: str | Process = "ve",
) -> None:
    """Fill the square of that half width with the density of a 2-D target at a noise level.

    Grey, in bands of equal ratio, so that faint tails still show.

    Raises:
        ValueError: if the target is not 2-D.
    """
    if target.dim != 2:
        raise ValueError(f"target must be 2-D to be drawn in the plane, got dimension {target.dim}")
    line = torch.linspace(-half_width, half_width, 161, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    log_p = target.log_density(grid, sigma, process).reshape(161, 161).T.numpy()
    bands = log_p.max() - np.log(2.0) * np.arange(9, -1, -1)
    ax.contourf(line, line, log_p, levels=[*bands], cmap="Greys", vmax=bands[-1] + 5, zorder=0)
    ax.set_aspect("equal")
    ax.set(xlim=(-half_width, half_width), ylim=(-half_width, half_width))
    ax.set(xlabel="$x^{(1)}$", ylabel="$x^{(2)}$")


def term_paths(ax: Axes, run: Sequence[Transition], width: float = 1.1) -> None:
    """Draw every sample's way through a run as coloured lines, one for each term of each step.

    For many samples at once; :func:`draw_step` draws one step with arrows. Results are dots.
    """
    for name, term in TERMS.items():
        lines = []
        for t in run:
            terms = [_array(getattr(t, other)) for other in TERMS]
            tail = _array(t.x) + sum(terms[: list(TERMS).index(name)])
            lines += list(zip(tail, tail + terms[list(TERMS).index(name)], strict=True))
        ax.add_collection(LineCollection(lines, colors=term.color, lw=width, zorder=2))
    ax.plot(*_array(run[-1].x_next).T, ".", color=INK, ms=3.5, zorder=5)


def paths(ax: Axes, run: Sequence[Transition], particles: Sequence[int]) -> None:
    """Draw the states of some particles as dots joined by thin lines; the last is ringed."""
    states = _states(run)
    for i in particles:
        ax.plot(*states[:, i].T, color=INK, lw=0.5, alpha=0.35, zorder=2)
        ax.plot(*states[:-1, i].T, ".", color=INK, ms=3, zorder=2)
        ax.plot(*states[-1, i], "o", mfc="white", mec=INK, mew=1.0, ms=4.5, zorder=5)


def draw_step(
    ax: Axes, transition: Transition, particle: int, *, labels: bool = False, width: float = 1.6
) -> None:
    """Draw a 2-D step as its three terms, head to tail: drift, history, noise.

    A term of length zero is left out. With ``labels`` each arrow bears its name.
    """
    tail = _point(transition.x, particle)
    for name, term in TERMS.items():
        vector = _point(getattr(transition, name), particle)
        length = float(np.hypot(*vector))
        if length == 0.0:
            continue
        head = tail + vector
        ax.add_patch(
            FancyArrowPatch(
                (tail[0], tail[1]),
                (head[0], head[1]),
                arrowstyle="-|>",
                mutation_scale=5.0 * width + 2.0,
                lw=width,
                ls=term.line,
                color=term.color,
                shrinkA=0,
                shrinkB=0,
                zorder=4,
            )
        )
        if labels:
            side = np.array([-vector[1], vector[0]]) / length
            ax.annotate(
                name,
                (tail[0] + 0.5 * vector[0], tail[1] + 0.5 * vector[1]),
                xytext=(12.0 * side[0], 12.0 * side[1]),
                textcoords="offset points",
                ha="center",
                va="center",
                color=term.color,
                bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85},
                zorder=6,
            )
        tail = head


def mark_step(ax: Axes, transition: Transition, particle: int) -> None:
    """Frame, in a panel that shows a whole run, the step that another panel enlarges."""
    low, high = _step_box(transition, particle)
    ax.add_patch(
        Rectangle(
            (low[0], low[1]), *(high - low), fill=False, ec=INK, lw=0.9, ls=(0, (4, 2)), zorder=6
        )
    )


def zoom_on_step(ax: Axes, transition: Transition, particle: int) -> None:
    r"""One 2-D step that fills the panel: labelled arrows, both states and the estimate."""
    old, new = _point(transition.x, particle), _point(transition.x_next, particle)
    estimate = _point(transition.denoised, particle)
    low, high = _step_box(transition, particle)
    centre = (low + high) / 2
    ax.set(
        xlim=(low[0], high[0]),
        ylim=(low[1], high[1]),
        xlabel="$x^{(1)}$",
        ylabel="$x^{(2)}$",
        aspect="equal",
    )
    draw_step(ax, transition, particle, labels=True, width=2.4)
    k = transition.k
    for point, name, marker in (
        (old, f"$x_{{{k}}}$", "o"),
        (new, f"$x_{{{k + 1}}}$", "o"),
        (estimate, rf"$\hat x_{{0,{k}}}$", "x"),
    ):
        ax.plot(*point, marker, color=INK, ms=6, mew=1.5, zorder=7)
        outward = 15.0 * (point - centre) / max(float(np.hypot(*(point - centre))), 1e-12)
        ax.annotate(
            name,
            (point[0], point[1]),
            xytext=(outward[0], outward[1]),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=12,
            zorder=7,
        )


def term_sizes(ax: Axes, run: Sequence[Transition]) -> dict[str, list[float]]:
    """Bars of the root mean square of each term at every step, over a batch.

    Returns:
        The heights, by term.
    """
    sizes = {
        name: [float(getattr(t, name).double().square().mean().sqrt()) for t in run]
        for name in TERMS
    }
    for offset, (name, term) in zip((-0.27, 0.0, 0.27), TERMS.items(), strict=True):
        ax.bar(
            np.arange(len(run)) + offset,
            sizes[name],
            width=0.25,
            color=term.color if not term.hatch else "white",
            edgecolor=term.color,
            hatch=term.hatch,
            label=name,
        )
    ax.set(xlabel="step $k$", ylabel="root mean square per coordinate")
    ax.set_xticks(range(len(run)))
    ax.legend(title="term")
    return sizes


def settings_grid(
    draw: Callable[[Axes, Any, Any], None],
    rows: Sequence[Any],
    columns: Sequence[Any],
    row_name: str,
    column_name: str,
) -> Figure:
    """One small panel for each pair of settings; ``draw(ax, row, column)`` fills it."""
    fig, axes = plt.subplots(
        len(rows),
        len(columns),
        figsize=(2.15 * len(columns) + 0.3, 2.15 * len(rows) + 0.3),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            ax = axes[i, j]
            draw(ax, row, column)
            ax.label_outer()
            if i == 0:
                ax.set_title(f"{column_name} = {column}")
            if j == 0:
                ax.set_ylabel(f"{row_name} = {row}\n\n{ax.get_ylabel()}")
    return fig


def cover(etas: Sequence[float] = (0.0, 0.1, 1.0), particles: int = 48) -> Figure:
    """The book's picture: runs from the same starts to the :func:`~dpmpp_core.targets.triangle`.

    One panel for each eta, with 12 steps from noise level 2.5 and one Brownian path.
    """
    target = triangle()
    sigmas = karras(12, 0.03, 2.5)
    x = target.sample(particles, 2.5, generator=torch.Generator().manual_seed(5))
    fig, axes = plt.subplots(1, len(etas), figsize=(3.2 * len(etas), 3.4), layout="constrained")
    for ax, eta in zip(np.atleast_1d(axes), etas, strict=True):
        density(ax, target, 3.3)
        run = trajectory(target.model(), x, sigmas, eta=eta, extra_args={"seed": 5})
        term_paths(ax, list(run))
        ax.set_axis_off()
        ax.set_title(rf"$\eta = {eta:g}$", fontsize=12)
    handles = [Line2D([], [], color=term.color, label=name) for name, term in TERMS.items()]
    fig.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=12)
    return fig


def _step_box(transition: Transition, particle: int) -> tuple[Array, Array]:
    """Corners of a square that holds a step's states, its arrows and its estimate."""
    old, new = _point(transition.x, particle), _point(transition.x_next, particle)
    drifted = old + _point(transition.drift, particle)
    corrected = new - _point(transition.noise, particle)
    points = np.array([old, new, _point(transition.denoised, particle), drifted, corrected])
    centre = (points.max(0) + points.min(0)) / 2
    half_width = 0.68 * (points.max(0) - points.min(0)).max()
    return centre - half_width, centre + half_width


def _states(run: Sequence[Transition]) -> Array:
    return np.stack([_array(run[0].x), *(_array(t.x_next) for t in run)])


def _point(x: Tensor, particle: int) -> Array:
    return _array(x[particle])


def _array(x: Tensor) -> Array:
    values: Array = x.double().cpu().numpy()
    return values
