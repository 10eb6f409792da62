"""What the figures in the plane have in common: targets, and a denoiser of the reader's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import traitlets
from matplotlib.axes import Axes
from torch import Tensor

from .. import figures
from ..targets import GaussianMixture, gaussian, point_cloud, triangle

__all__ = ["OWN", "TARGETS", "PlaneTarget", "target"]

OWN = "own"
"""The name under which a target that the reader passed is listed."""


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
    "gaussian": (gaussian(torch.zeros(2)), "unit Gaussian"),
}
"""The targets that the figures offer, each with its name in the list."""


def target(name: str) -> GaussianMixture:
    """The target of that name.

    Raises:
        ValueError: for a name that is not in :data:`TARGETS`.
    """
    if name not in TARGETS:
        raise ValueError(f"name must be one of {', '.join(TARGETS)}, got {name!r}")
    return TARGETS[name][0]


# --- traits ------------------------------------------------------------------------------------


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


class _Denoiser(traitlets.TraitType[Any, Any]):
    """A callable, or None."""

    def validate(self, obj: Any, value: Any) -> Callable[..., Tensor] | None:
        if value is None or callable(value):
            chosen: Callable[..., Tensor] | None = value
            return chosen
        raise traitlets.TraitError(
            f"{self.name} must be None or callable as (x, sigma) -> x0, got {value!r}"
        )


def _to_json(value: str | GaussianMixture, figure: PlaneTarget) -> str:
    return OWN if isinstance(value, GaussianMixture) else value


def _from_json(value: str, figure: PlaneTarget) -> str | GaussianMixture:
    return figure._own if value == OWN and figure._own is not None else value


# --- the part of a figure ----------------------------------------------------------------------


class PlaneTarget(traitlets.HasTraits):
    """The traits ``target`` and ``denoiser`` of a live figure, and what follows from them."""

    target = _Target("triangle").tag(
        sync=True, page=True, run=True, to_json=_to_json, from_json=_from_json
    )
    denoiser = _Denoiser(None).tag(run=True)
    """Called as ``denoiser(x, sigma)`` in place of the target's own; None for that."""

    offers: Any = traitlets.Dict().tag(sync=True, page=True)
    """What the controls offer: targets with their numbers, schedules, ranges."""

    sigma_max: float
    _own: GaussianMixture | None = None

    @property
    def mixture(self) -> GaussianMixture:
        """The target as a mixture."""
        chosen: str | GaussianMixture = self.target
        return TARGETS[chosen][0] if isinstance(chosen, str) else chosen

    def model(self) -> Callable[..., Tensor]:
        """The denoiser of the run, as the sampler calls it."""
        own: Callable[..., Tensor] | None = self.denoiser
        return self.mixture.model() if own is None else _named(own)

    @property
    def half_width(self) -> float:
        """Of the square that is shown: the data, and most of the starting points."""
        return _extent(self.mixture) + 0.5 * min(self.sigma_max, 4.0)

    def draw_ground(self, ax: Axes) -> None:
        """The target and the axes of the plane, on which the particles are drawn."""
        width = self.half_width
        if _lowest_variance(self.mixture) > 0.0:
            figures.density(ax, self.mixture, width)
        else:
            ax.plot(*self.mixture.means.T.cpu().numpy(), "o", mfc="none", mec=figures.TARGET, ms=6)
        ax.set(xlim=(-width, width), ylim=(-width, width), aspect="equal")
        ax.set(xlabel="$x^{(1)}$", ylabel="$x^{(2)}$")

    def describe_target(self) -> str:
        """The target's name in the list, and whether the denoiser is its own."""
        label = "your own target" if self.target is self._own else TARGETS[self.target][1]
        return label if self.denoiser is None else f"{label}; denoiser: your own"

    def why_still(self) -> str:
        """Why a page without Python cannot show the figure live; empty if it can."""
        if self.denoiser is None:
            return ""
        return (
            "This picture was computed in Python with a denoiser of one's own, which a page "
            "cannot run; run the notebook to move the figure."
        )

    def target_offers(self) -> dict[str, Any]:
        """The targets, as the page's script takes them."""
        entries = dict(TARGETS)
        if self._own is not None:
            entries[OWN] = (self._own, "your own")
        return {name: _described(*entry) for name, entry in entries.items()}

    @traitlets.observe("target")
    def _keep_own(self, change: Any) -> None:
        if isinstance(change.new, GaussianMixture):
            self._own = change.new
            self.offers = self._offers()

    def _offers(self) -> dict[str, Any]:
        raise NotImplementedError


def _named(denoiser: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The denoiser, with its name before what it raises."""

    def model(x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        try:
            return denoiser(x, sigma, **extra_args)
        except Exception as error:
            raise RuntimeError(f"denoiser raised {type(error).__name__}: {error}") from error

    return model


def _described(mixture: GaussianMixture, label: str) -> dict[str, Any]:
    """A target as the page's script takes it."""
    return {
        "label": label,
        "means": mixture.means.tolist(),
        "covariances": mixture.covariances.tolist(),
        "weights": mixture.weights.tolist(),
        "extent": _extent(mixture),
        "smooth": _lowest_variance(mixture) > 0.0,
        # The root of the mean squared distance from the mean.
        "spread": float(mixture.covariance.trace()) ** 0.5,
    }


def _variances(mixture: GaussianMixture) -> Tensor:
    """Of each component along its axes: shape ``(K, 1 or d)``."""
    values = mixture.covariances
    values = torch.linalg.eigvalsh(values) if values.ndim == 3 else values
    return values.reshape(len(values), -1)


def _extent(mixture: GaussianMixture) -> float:
    """How far the data reach from the origin along an axis, to two standard deviations."""
    spread = _variances(mixture).amax(1, keepdim=True).sqrt()
    return float((mixture.means.abs() + 2.0 * spread).max())


def _lowest_variance(mixture: GaussianMixture) -> float:
    return float(_variances(mixture).min())
