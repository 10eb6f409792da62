"""What a live figure draws at random in Python, kept from run to run.

While a reader drags eta, each run has the same starts, and asks for the same normals of the same
nodes of :class:`~dpmpp_core.PhiloxBridge`; only their weights change. To draw them would be most of
the work of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..mesh import Mesh
from ..noise import PhiloxBridge
from ..noise.philox import unit_normals
from ..targets import GaussianMixture
from .start import start

__all__ = ["KeptNoise"]

MOST_BYTES = 64_000_000


class KeptNoise:
    """The starts and the normals of one set of particles; another set takes their place."""

    def __init__(self) -> None:
        self._of_start: tuple[object, ...] = ()
        self._start: Any = None
        self._whose: tuple[object, ...] = ()
        self._of_node: dict[int, Tensor] = {}

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
        """What ``PhiloxBridge(x, sigmas, seed, eta=eta)`` is, to the bit."""
        whose = (seed, x.shape, x.device)
        if whose != self._whose:
            self._whose, self._of_node = whose, {}
        return _KeptBridge(x, sigmas, seed, eta, self._of_node)


class _KeptBridge(PhiloxBridge):
    def __init__(
        self, x: Tensor, sigmas: Tensor, seed: int, eta: float, kept: dict[int, Tensor]
    ) -> None:
        super().__init__(x, sigmas, seed, eta=eta)
        self._kept = kept
        self._most = MOST_BYTES // (8 * x.numel())

    def _sum(self, nodes: Tensor, weights: Sequence[float]) -> Tensor:
        wanted = nodes[: len(weights)].tolist()
        missing = [node for node in wanted if node not in self._kept]
        if len(self._kept) + len(missing) > self._most:
            self._kept.clear()
            missing = wanted
        if missing:
            numbers = torch.tensor(missing, device=self._device)
            # Of the four elements that come at once, a particle in the plane has two.
            drawn = unit_normals(self._key, numbers, self._quads)[:, : self._elements]
            self._kept.update(zip(missing, drawn.clone().unbind(), strict=True))
        shape = (4, len(self._key[0]), len(self._quads))
        total = torch.zeros(shape, dtype=torch.float64, device=self._device)
        part = total[: self._elements]
        for node, weight in zip(wanted, weights, strict=True):
            part.add_(self._kept[node], alpha=weight)
        return total
