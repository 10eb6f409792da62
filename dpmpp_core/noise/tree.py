"""torchsde's Brownian tree, with ComfyUI's semantics."""

from __future__ import annotations

import numpy as np
import torch
import torchsde
from torch import Tensor

from ..checks import positive
from .protocol import Seed, Streams, working_dtype

__all__ = ["BrownianTree"]

_DIGITS = 6
"""Decimals that torchsde keeps of a time (its default tolerance is 1e-6)."""

_SHORTEST = 1e-5
"""Steps shorter than this, relative to times above 1, are not asked of the tree: the rounding of
their ends would change their variance by a tenth or more, down to zero or up without bound."""


class BrownianTree:
    r"""Increments of a Brownian path W whose time is sigma, scaled to unit variance.

    .. math:: \xi_k = \frac{W(\sigma_{k+1}) - W(\sigma_k)}{\sqrt{|\sigma_{k+1} - \sigma_k|}}

    The path is a function of the seed, so that runs with different meshes between the same two
    ends follow one path. Numbers are those of ComfyUI's ``BrownianTreeNoiseSampler`` bit for
    bit, for state, levels and ends in one dtype, float32 or float64. Two things differ. torchsde
    rounds times to six decimals; for two times that round to one it returns zero or recurses
    without end, and for a very short step the variance is off. So a step shorter than 1e-5
    (relative to times above 1) draws an independent normal from the seed and the two times: it
    has the right law, since increments over intervals that do not overlap are independent. And a
    time outside the tree is refused rather than moved to its end with a warning.

    Two limits are torchsde's own. The path depends on the two ends and, with ``cpu=False``, on
    the kind of device; and since times are rounded, a step of length d in sigma has the variance
    :math:`1 \pm 10^{-6}/d`. One tree is not to be asked from several threads at once.

    Args:
        x: a state; its shape ``(B, ...)``, device and dtype are those of the noise. Half precision
            is drawn in float32 and rounded.
        sigma_min: the low end of the tree, above 0; a number or a 0-d tensor.
        sigma_max: the high end, not below ``sigma_min``.
        seed: an integer for one tree over the batch, a list for one tree per sample, None for a
            seed from torch's global generator.
        cpu: draw on the host, so that every device sees the same path, or on the state's device.

    Raises:
        ValueError: for a seed that is not an integer in [0, 2^64), a list of the wrong length,
            or ends that are not 0 < sigma_min <= sigma_max.

    Source: Li et al. 2020, https://arxiv.org/abs/2001.01328, section 4 (the virtual Brownian tree).
    """

    def __init__(
        self,
        x: Tensor,
        sigma_min: float | Tensor,
        sigma_max: float | Tensor,
        seed: Seed = None,
        cpu: bool = False,
    ) -> None:
        self._low, self._high = positive("sigma_min", sigma_min), positive("sigma_max", sigma_max)
        if self._low > self._high:
            raise ValueError(f"sigma_min must be at most sigma_max = {self._high}, got {self._low}")
        self._streams = Streams(x, seed)
        self._device, self._dtype = x.device, x.dtype
        self._cpu = cpu
        self._draw_on = torch.device("cpu") if cpu else x.device
        self._trees: list[torchsde.BrownianTree] | None = None
        self._empty = x.numel() == 0

    def __call__(self, sigma: Tensor | float, sigma_next: Tensor | float, /) -> Tensor:
        """The unit normal of the interval between two times.

        Args:
            sigma, sigma_next: numbers or 0-d tensors within the tree, not equal.

        Returns:
            Shape, device and dtype of the state.

        Raises:
            ValueError: for equal times or one that lies outside the tree.
        """
        start, end = _time(sigma), _time(sigma_next)
        begin, stop = float(start), float(end)
        self._check(begin, stop)

        if self._empty:
            return torch.zeros(self._streams.state, device=self._device, dtype=self._dtype)
        sign = 1.0 if begin < stop else -1.0
        low, high = sorted((begin, stop))
        if high - low < _SHORTEST * max(1.0, high):
            return (self._apart(low, high) * sign).to(self._device, self._dtype)
        if self._cpu:
            # ComfyUI asks a host tree in float32 whatever the precision of the schedule.
            low, high = float(np.float32(low)), float(np.float32(high))
        low, high = max(low, self._low), min(high, self._high)
        # torchsde rounds the ends of its tree and warns of a time that lies beyond them by less
        # than the rounding. It then takes the end; so do we, beforehand.
        low, high = max(low, round(self._low, _DIGITS)), min(high, round(self._high, _DIGITS))
        increment = self._streams.join([tree(low, high) for tree in self._grow()]) * sign
        return (increment / (end - start).abs().sqrt().to(increment)).to(self._device, self._dtype)

    def _check(self, begin: float, stop: float) -> None:
        for name, time in (("sigma", begin), ("sigma_next", stop)):
            # The ends themselves may have been rounded to float32 on the way here.
            if not self._low * (1 - 1e-6) <= time <= self._high * (1 + 1e-6):
                raise ValueError(
                    f"{name} must lie within the tree, from {self._low} to {self._high}, got {time}"
                )
        if begin == stop:
            raise ValueError(f"sigma and sigma_next must differ, got {begin} twice")

    def _grow(self) -> list[torchsde.BrownianTree]:
        # Grown when first asked: a run that draws no noise pays for no tree, and one whose two
        # ends round to the same time never needs it.
        if self._trees is None:
            dtype = working_dtype(self._dtype)
            origin = torch.zeros(self._streams.shape, device=self._draw_on, dtype=dtype)
            self._trees = [
                torchsde.BrownianTree(self._low, origin, self._high, entropy=seed)
                for seed in self._streams.seeds
            ]
        return self._trees

    def _apart(self, low: float, high: float) -> Tensor:
        times = np.array([low, high]).view(np.uint64)
        draws = []
        for seed in self._streams.seeds:
            entropy = [seed, *(int(t) for t in times)]
            state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
            draws.append(
                torch.randn(
                    self._streams.shape,
                    generator=torch.Generator(self._draw_on).manual_seed(int(state)),
                    device=self._draw_on,
                    dtype=working_dtype(self._dtype),
                )
            )
        return self._streams.join(draws)


def _time(sigma: Tensor | float) -> Tensor:
    if isinstance(sigma, Tensor):
        return sigma.detach()
    return torch.tensor(sigma, dtype=torch.float64, device="cpu")
