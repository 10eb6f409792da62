"""What a live figure keeps in Python from run to run: the starts of its particles.

While a reader drags eta, each run has the same starts, and to draw them would be much of its work.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..mesh import Mesh
from ..targets import GaussianMixture
from .start import start

__all__ = ["KeptStarts"]


class KeptStarts:
    """The starts of one set of particles; those of another set take their place."""

    def __init__(self) -> None:
        self._whose: tuple[object, ...] = ()
        self._kept: Any = None

    def __call__(self, target: GaussianMixture, mesh: Mesh, seed: int, n: int) -> Tensor:
        """What :func:`~dpmpp_core.widgets.start.start` returns."""
        whose = (id(target), mesh.sigma[0], mesh.alpha[0], seed, n)
        if whose != self._whose:
            # The target is kept too, so that no other can get its id.
            self._whose, self._kept = whose, (target, start(target, mesh, seed, n))
        # A copy: a denoiser of the reader's own may write into it.
        first: Tensor = self._kept[1].clone()
        return first
