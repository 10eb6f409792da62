"""What a live figure draws at random in Python: its starts are kept from run to run.

While a reader drags eta, each run has the same starts, and to draw them would be much of its work.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..mesh import Mesh
from ..noise import PhiloxBridge
from ..targets import GaussianMixture
from .start import start

__all__ = ["KeptNoise"]


class KeptNoise:
    """The starts of one set of particles; another set takes their place."""

    def __init__(self) -> None:
        self._of_start: tuple[object, ...] = ()
        self._start: Any = None

    def start(self, target: GaussianMixture, mesh: Mesh, seed: int, n: int) -> Tensor:
        """What :func:`~dpmpp_core.widgets.start.start` returns."""
        whose = (id(target), mesh.sigma[0], mesh.alpha[0], seed, n)
        if whose != self._of_start:
            # The target is kept too, so that no other can get its id.
            self._of_start, self._start = whose, (target, start(target, mesh, seed, n))
        # A copy: a denoiser of the reader's own may write into it.
        first: Tensor = self._start[1].clone()
        return first

    def bridge(self, x: Tensor, sigmas: Tensor, seed: int, eta: float) -> PhiloxBridge:
        """The noise of a run."""
        return PhiloxBridge(x, sigmas, seed, eta=eta)
