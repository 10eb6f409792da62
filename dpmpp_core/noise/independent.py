"""Independent normals."""

from __future__ import annotations

import torch
from torch import Tensor

from .protocol import Seed, Streams, working_dtype

__all__ = ["IndependentNoise"]


class IndependentNoise:
    r"""A fresh :math:`\xi_k \sim \mathcal{N}(0, I)` at each call, whatever the noise levels.

    On one mesh the law is that of the increments of any Brownian path. What is lost is the path: a
    run with another number of steps draws unrelated noise.

    Args:
        x: a state; its shape ``(B, ...)``, device and dtype are those of the noise.
        seed: an integer for the batch, or a list with one per sample: sample i then does not depend
            on the rest of the batch. None draws a seed from torch's global generator.

    Raises:
        ValueError: for a seed that is not an integer in [0, 2^64), or a list of the wrong length.
    """

    def __init__(self, x: Tensor, seed: Seed = None) -> None:
        self._streams = Streams(x, seed)
        self._generators = [torch.Generator(x.device).manual_seed(s) for s in self._streams.seeds]
        self._device, self._dtype, self._empty = x.device, x.dtype, x.numel() == 0

    def __call__(self, sigma: Tensor, sigma_next: Tensor, /) -> Tensor:
        """A normal of the state's shape, device and dtype; the two levels do not matter."""
        if self._empty:
            return torch.zeros(self._streams.state, device=self._device, dtype=self._dtype)
        draws = [
            torch.randn(
                self._streams.shape,
                generator=generator,
                device=self._device,
                dtype=working_dtype(self._dtype),
            )
            for generator in self._generators
        ]
        return self._streams.join(draws).to(self._dtype)
