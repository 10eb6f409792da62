"""What the figures on the line have in common: targets, and the density of a sample."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..mesh import Mesh
from ..targets import GaussianMixture

__all__ = ["GRID", "LINE_TARGETS", "LineTarget", "marginal_spreads", "smoothed", "spread_of"]

GRID = 301
"""Points at which a density is given."""


class LineTarget(NamedTuple):
    """A law on the line, its name in the list, and the interval in which its density is drawn."""

    mixture: GaussianMixture
    label: str
    low: float
    high: float

    @property
    def exact(self) -> bool:
        """Whether the law through the steps is known without sampling."""
        return len(self.mixture.means) == 1

    @property
    def mean(self) -> float:
        return float(self.mixture.mean)

    @property
    def variance(self) -> float:
        return float(self.mixture.covariance)

    @property
    def grid(self) -> np.ndarray[Any, Any]:
        return np.linspace(self.low, self.high, GRID)

    def offer(self, label: str) -> dict[str, Any]:
        """The target as the page's script takes it."""
        return {
            "label": label,
            "means": self.mixture.means.tolist(),
            "covariances": self.mixture.covariances.tolist(),
            "weights": self.mixture.weights.tolist(),
            "low": self.low,
            "high": self.high,
        }


def _line(means: list[float], variances: list[float], weights: list[float]) -> GaussianMixture:
    column, s, w = (torch.tensor(v, dtype=torch.float64) for v in (means, variances, weights))
    return GaussianMixture(column[:, None], s, w)


LINE_TARGETS = {
    "gaussian": LineTarget(_line([0.0], [1.0], [1.0]), "unit Gaussian", -4.0, 4.0),
    "mixture": LineTarget(
        _line([-1.0, 0.5, 2.0], [0.05, 0.1, 0.02], [0.3, 0.5, 0.2]), "three modes", -2.5, 3.5
    ),
    "rare": LineTarget(
        _line([0.0, 3.0], [0.25, 0.04], [0.95, 0.05]), "a mode of weight 0.05", -2.2, 3.8
    ),
}
"""The targets that the figures offer."""


def marginal_spreads(mesh: Mesh, variance: float) -> list[float]:
    """Standard deviations of alpha x0 + sigma eps, for data of that variance, at every level."""
    return [
        math.sqrt(a * a * variance + s * s) for a, s in zip(mesh.alpha, mesh.sigma, strict=True)
    ]


def spread_of(x: Tensor) -> tuple[float, float]:
    """The standard deviation s of a sample, and its standard error by the delta method:
    Var(s^2) = (m4 - s^4) / n, and Var(s) = Var(s^2) / (4 s^2)."""
    squares = (x - x.mean()).square()
    variance, fourth = float(squares.mean()), float(squares.square().mean())
    of_square = max(fourth - variance**2, 0.0) / len(x)
    return math.sqrt(variance), math.sqrt(of_square / (4.0 * variance))


def smoothed(x: np.ndarray[Any, Any], target: LineTarget, width: float) -> np.ndarray[Any, Any]:
    """The density of a sample on the target's grid, smoothed by a Gaussian of that width.

    Each number is first shared between the two grid points beside it: 300 places instead of
    thousands of numbers to smooth, and the result has no jumps as the numbers move.
    """
    gap = (target.high - target.low) / (GRID - 1)
    place = (x - target.low) / gap
    place = place[(place >= 0.0) & (place < GRID - 1)]
    left = np.floor(place).astype(np.int64)
    part = place - left
    shares = np.bincount(left, 1.0 - part, GRID) + np.bincount(left + 1, part, GRID)
    reach = math.ceil(5.0 * width / gap)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * gap / width) ** 2)
    return np.convolve(shares, kernel, "same") / (len(x) * width * math.sqrt(math.tau))
