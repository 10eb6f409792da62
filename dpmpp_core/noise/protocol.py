"""What a noise sampler is, and what a seed is."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["NoiseSampler", "Seed", "Streams", "working_dtype"]

Seed = int | Sequence[int] | None
"""An integer for the whole batch, a sequence with one per sample, or None for a random one."""


class NoiseSampler(Protocol):
    """A source of unit normals for the steps of one run."""

    def __call__(self, sigma: Tensor, sigma_next: Tensor, /) -> Tensor:
        r"""The normal :math:`\xi_k \sim \mathcal{N}(0, I)` of the step from ``sigma`` to
        ``sigma_next``.

        Args:
            sigma, sigma_next: two neighbouring noise levels, 0-d tensors on the host.

        Returns:
            A tensor of the state's shape; it is moved to the state's device and dtype if need be.
        """


class Streams:
    """The random streams of a batch: one of the whole state's shape, or one per sample.

    ``seeds[i]`` is the seed of stream i, ``shape`` the shape of what it draws and ``state`` that
    of x.
    """

    def __init__(self, x: Tensor, seed: Seed) -> None:
        """Check the seed against the state ``x`` of shape ``(B, ...)``.

        Raises:
            ValueError: for a seed that is not an integer in [0, 2^64), or a list whose length is
                not B.
        """
        one_per_sample = isinstance(seed, Sequence) and not isinstance(seed, str | bytes)
        if one_per_sample and len(seed) != len(x):  # type: ignore[arg-type]
            raise ValueError(
                f"seed must be one integer or a list with one per sample of the batch of {len(x)}, "
                f"got a list of {len(seed)}"  # type: ignore[arg-type]
            )
        if seed is None:
            # Drawn from the global generator, and in this very way, so that torch.manual_seed
            # gives the same path as in ComfyUI.
            seed = int(torch.randint(0, 2**63 - 1, (), device="cpu").numpy())
        self.seeds = [_one(s) for s in seed] if one_per_sample else [_one(seed)]  # type: ignore[union-attr]
        self.shape = x.shape[1:] if one_per_sample else x.shape
        self.state = x.shape

    def join(self, draws: list[Tensor]) -> Tensor:
        """What the streams drew, as one tensor of the state's shape."""
        return torch.stack(draws).reshape(self.state)


def _one(seed: Any) -> int:
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < 2**64 or isinstance(seed, bool):
        raise ValueError(
            f"seed must be an integer from 0 to 2^64 - 1 or a list of them, got {seed!r}"
        )
    return number


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are made in: float32 for half precision, else the dtype itself."""
    return torch.promote_types(dtype, torch.float32)
