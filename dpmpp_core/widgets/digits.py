"""The digits explorer: 25 pictures from the learned denoiser, and how near they are to its data."""

from __future__ import annotations

import base64
import json
import math
from functools import lru_cache
from numbers import Integral
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
import traitlets
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from .. import digits, figures
from ..coefficients import SolverType
from ..mesh import Mesh
from ..noise import PhiloxBridge
from ..quality import nearest
from ..sampler import sample
from ..targets import point_cloud
from .live import SCHEDULES, Choice, Device, LiveFigure, Name, Number, Whole
from .modules import join, read_module

__all__ = ["DigitsExplorer", "DigitsRun", "page_data", "spread_within"]

ROWS, COLUMNS = 5, 5
IMAGES = ROWS * COLUMNS
EACH = "each"
LABELS = (EACH, *map(str, range(digits.CLASSES)))
SOLVERS: tuple[SolverType, ...] = ("midpoint", "heun")
GREYS = 16
"""Steps between paper and ink; the images of the data have no others."""

ORIGIN = point_cloud(torch.zeros(1, digits.PIXELS, dtype=torch.float64))
"""One picture, of middle grey: the starts are its noisy states, so noise and nothing else."""


# --- the numbers -------------------------------------------------------------------------------


def spread_within(x: Tensor, labels: Tensor) -> tuple[float, float]:
    r"""The standard deviation of a pixel within a class, and its standard error.

    .. math:: s^2 = \frac{1}{n - K} \sum_i \tfrac{1}{64} |x_i - \bar x_{c_i}|^2

    for n images of K classes, each with its own mean: unbiased. The error is by the delta method
    from the n terms.

    Args:
        x: images ``(n, 64)``.
        labels: ``(n,)``; at least one class must have two images.
    """
    x, counts = x.double(), torch.bincount(labels)
    sums = torch.zeros(len(counts), x.shape[1], dtype=torch.float64).index_add(0, labels, x)
    means = (sums / counts[:, None])[labels]
    freedom = len(x) - int((counts > 0).sum())
    parts = (x - means).square().mean(1) * len(x) / freedom
    spread = float(parts.mean().sqrt())
    return spread, float(parts.std()) / math.sqrt(len(x)) / (2 * max(spread, 1e-12))


class References(NamedTuple):
    """Of each class, what the images themselves have: the numbers to compare with."""

    distance: list[float]
    """Mean distance of a held-out image to the nearest training image."""
    own: list[float]
    """Part of the held-out images whose nearest training image is of their class."""
    variance: list[float]
    """Variance of a pixel of the training images, unbiased, in the mean over the pixels."""


@lru_cache(maxsize=1)
def references() -> References:
    images = digits.load_images()
    distances, which = nearest(images.held_out, images.train)
    own = (images.train_labels[which] == images.held_out_labels).double()
    train = images.train.flatten(1).double()
    distance, agree, variance = [], [], []
    for c in range(digits.CLASSES):
        held = images.held_out_labels == c
        distance.append(float(distances[held].mean()))
        agree.append(float(own[held].mean()))
        variance.append(float(train[images.train_labels == c].var(0).mean()))
    return References(distance, agree, variance)


@lru_cache(maxsize=2)
def _model(device: str) -> digits.Denoiser:
    model = digits.load()
    model.net.to(device)
    return model


class DigitsRun(NamedTuple):
    """What the figure shows of a run. Distances are Euclidean, in pixels whose range is -1 to 1."""

    images: Tensor
    """The results, ``(25, 64)``, float64, on the host."""
    neighbours: Tensor
    """Of each the nearest training image, ``(25, 64)``."""
    distances: list[float]
    """To that."""
    found: list[int]
    """The class of that."""
    own: int
    """How many of these classes are the ones asked for."""
    distance: float
    """Mean of the distances, and its standard error."""
    distance_error: float
    spread: float
    """Standard deviation of a pixel within a class, over that of the training images of the same
    classes; and its standard error."""
    spread_error: float
    held_distance: float
    """Mean distance of held-out images of the same classes to the nearest training image."""
    held_own: float
    """Part of them whose nearest training image is of their class."""


# --- for the page ------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def page_data() -> str:
    """The module ``digits_data.js``: the weights, the training images, and the references.

    The weights are base64 of their float16 bytes, and an image is a letter for each pixel.
    """
    model, images = digits.load(), digits.load_images()
    weights = {name: value.half().cpu().numpy() for name, value in model.net.state_dict().items()}
    bytes_ = b"".join(value.astype("<f2").tobytes() for value in weights.values())
    greys = ((images.train.flatten() + 1.0) * GREYS / 2).round().to(torch.uint8)
    data = {
        "spread": model.spread,
        "shapes": [[name, list(value.shape)] for name, value in weights.items()],
        "bytes": base64.b64encode(bytes_).decode(),
        "greys": GREYS,
        "images": (greys + ord("a")).numpy().tobytes().decode("ascii"),
        "labels": "".join(map(str, images.train_labels.tolist())),
        "references": references()._asdict(),
    }
    return (
        "// What the digits explorer needs of the data and of training. Printed by digits.py.\n\n"
        f"export const DATA = {json.dumps(data, separators=(',', ':'))};\n"
    )


def _esm() -> str:
    """The module for JupyterLab. There Python computes, and 300 kB need not travel."""
    without = "export const DATA = null;\n"
    return join(
        "digits.js", lambda file: without if file == "digits_data.js" else read_module(file)
    )


# --- the figure --------------------------------------------------------------------------------


class _Label(Choice):
    """``"each"``, or a class by its number or that as a string."""

    def validate(self, obj: Any, value: Any) -> str:
        number = isinstance(value, Integral) and not isinstance(value, bool)
        if number and 0 <= int(value) < digits.CLASSES:
            return str(int(value))
        return super().validate(obj, value)


class DigitsExplorer(LiveFigure):
    """25 digits from the learned denoiser, and how near they are to the images it learned from.

    Each picture has one Brownian path, so that another eta, w or number of steps is a change of the
    same pictures. The starts are noise alone, sigma_max times unit normals: a user of such a model
    has nothing else.

    Args:
        label: the class that is asked for, 0 to 9, or ``"each"`` for all of them in turn.
        w: -1 to 8, the guidance v_u + w (v_c - v_u): 0 is without a class, 1 the class as learned.
        eta: 0 to 2.
        s_noise: 0.5 to 1.5.
        solver_type: ``"midpoint"`` or ``"heun"``.
        steps: 2 to 100.
        schedule: ``"karras"``, ``"exponential"`` or ``"kl_optimal"``.
        sigma_min, sigma_max: the schedule's lowest level above 0, and its first.
        seed: of the starts and the paths; picture i has the seed + i.
        image: 0 to 24, the picture that is shown beside its nearest training image.
        device: where Python computes, such as ``"cuda"``.
        name: its name in links; another figure on the same page needs another.

    Raises:
        traitlets.TraitError: for values outside these ranges, now and later.
    """

    module = "digits"
    _esm = _esm()

    name = Name("digits").tag(sync=True, page=True)
    label = _Label(EACH, LABELS).tag(sync=True, page=True, run=True)
    w = Number(1.0, -1.0, 8.0).tag(sync=True, page=True, run=True)
    eta = Number(1.0, 0.0, 2.0).tag(sync=True, page=True, run=True)
    s_noise = Number(1.0, 0.5, 1.5).tag(sync=True, page=True, run=True)
    solver_type = Choice("midpoint", SOLVERS).tag(sync=True, page=True, run=True)
    steps = Whole(20, 2, 100).tag(sync=True, page=True, run=True)
    schedule = Choice("karras", SCHEDULES).tag(sync=True, page=True, run=True)
    sigma_min = Number(0.0292, 1e-3, 0.5).tag(sync=True, page=True, run=True)
    sigma_max = Number(14.6146, 1.01, 100.0).tag(sync=True, page=True, run=True)
    seed = Whole(0, 0, 2**32 - 1).tag(sync=True, page=True, run=True)
    image = Whole(0, 0, IMAGES - 1).tag(sync=True, page=True)

    device = Device("cpu").tag(run=True)
    offers = traitlets.Dict().tag(sync=True, page=True)
    """What the controls offer: classes, schedules, and the ranges above."""

    @traitlets.default("offers")
    def _offers(self) -> dict[str, Any]:
        return {"schedules": SCHEDULES, "limits": self.limits(), "rows": ROWS, "columns": COLUMNS}

    # --- the run

    @property
    def labels(self) -> Tensor:
        """The class that is asked for of each picture, ``(25,)``."""
        if self.label == EACH:
            return torch.arange(IMAGES) % digits.CLASSES
        return torch.full((IMAGES,), int(self.label))

    def sampled(self) -> Tensor:
        """The pictures, ``(25, 64)``, on the device, computed anew."""
        sigmas = self.sigmas(self.steps)
        mesh = Mesh.from_sigmas(sigmas)
        x = self.to_device(self.kept_starts(ORIGIN, mesh, self.seed, IMAGES))
        solver_type: SolverType = self.solver_type
        return sample(
            _model(self.device),
            x,
            sigmas,
            eta=self.eta,
            s_noise=self.s_noise,
            solver_type=solver_type,
            noise_sampler=PhiloxBridge(x, sigmas, self.seed, eta=self.eta),
            extra_args={"label": self.labels, "w": self.w},
            disable=True,
        )

    def run(self) -> DigitsRun:
        """The pictures and their numbers, computed anew."""
        x, data, labels = self.sampled().double().cpu(), digits.load_images(), self.labels
        distances, which = nearest(x, data.train)
        found = data.train_labels[which]
        spread, spread_error = spread_within(x, labels)
        distance, own, variance = (
            torch.tensor(v, dtype=torch.float64)[labels] for v in references()
        )
        counts = torch.bincount(labels, minlength=digits.CLASSES)[labels]
        shares = (counts - 1) / counts  # a class of n images has n - 1 degrees of freedom
        unit = math.sqrt(float((shares * variance).sum() / shares.sum()))
        return DigitsRun(
            images=x,
            neighbours=data.train[which].flatten(1).double(),
            distances=distances.tolist(),
            found=found.tolist(),
            own=int((found == labels).sum()),
            distance=float(distances.mean()),
            distance_error=float(distances.std()) / math.sqrt(IMAGES),
            spread=spread / unit,
            spread_error=spread_error / unit,
            held_distance=float(distance.mean()),
            held_own=float(own.mean()),
        )

    def compute(self) -> dict[str, Any]:
        """The run; images as bytes, float32."""
        run = self.run()._asdict()
        packed = {
            name: value.float().numpy().tobytes() if isinstance(value, Tensor) else value
            for name, value in run.items()
        }
        return packed

    # --- the picture

    def picture(self) -> Figure:
        """The grid, and one of the pictures beside its nearest training image."""
        run = self.run()
        fig = plt.figure(figsize=(6.4, 4.4), layout="constrained")
        grid, *pair = fig.subplot_mosaic(
            [["grid", "made"], ["grid", "neighbour"]], width_ratios=[2.4, 1.0]
        ).values()
        _draw_grid(grid, run, self.labels, self.image)
        grid.set_title(
            rf"$\eta = {self.eta:g}$, $s$_noise = {self.s_noise:g}, $w = {self.w:g}$, "
            f"{self.steps} steps"
        )
        i = self.image
        titles = f"picture {i}", f"nearest: a {run.found[i]}, {run.distances[i]:.2f}"
        for ax, pixels, title in zip(pair, (run.images[i], run.neighbours[i]), titles, strict=True):
            ax.imshow(pixels.view(8, 8).numpy(), cmap="Greys", vmin=-1, vmax=1)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(True)
            ax.set_title(title)
        return fig

    def describe(self) -> str:
        """What the picture shows, for readers who do not see it."""
        run, i = self.run(), self.image
        asked = "every class in turn" if self.label == EACH else f"a {self.label} each"
        return (
            f"{IMAGES} pictures of 8 by 8 pixels, made from noise in {self.steps} steps with eta "
            f"{self.eta:g}, s_noise {self.s_noise:g}, {self.solver_type} and guidance w "
            f"{self.w:g}; asked for: {asked}. The nearest training image is of the class asked for "
            f"in {run.own} of them. The mean distance to it is "
            f"{_plus_minus(run.distance, run.distance_error)}, for held-out images "
            f"{run.held_distance:.2f}; the spread of a pixel within a class "
            f"{_plus_minus(run.spread, run.spread_error)} of that of the training images. Beside "
            f"them picture {i}, and the training image nearest to it, a {run.found[i]} at distance "
            f"{run.distances[i]:.2f}."
        )


def _plus_minus(value: float, error: float) -> str:
    return f"{value:.2f} ± {error:.2f}"


def _draw_grid(ax: Axes, run: DigitsRun, labels: Tensor, chosen: int) -> None:
    """Pictures with what was asked for below each, and what it is nearest to where that differs."""
    wide, high = 9, 11
    sheet = np.full((ROWS * high, COLUMNS * wide), np.nan)
    for i, pixels in enumerate(run.images):
        top, left = i // COLUMNS * high, i % COLUMNS * wide
        sheet[top : top + 8, left : left + 8] = pixels.view(8, 8).numpy()
        asked, found = int(labels[i]), run.found[i]
        text = str(asked) if asked == found else f"{asked}, near a {found}"
        ax.text(left + 3.5, top + 9, text, ha="center", va="center", fontsize=8)
        box = Rectangle((left - 0.5, top - 0.5), 8, 8, fill=False, lw=0.4, ec=figures.TARGET)
        if i == chosen:
            box.set(lw=2.0, ec=figures.INK)
        ax.add_patch(box)
    ax.imshow(sheet, cmap="Greys", vmin=-1, vmax=1)
    ax.set_axis_off()
