"""How a model mixes data and noise, and which levels its schedule has."""

from __future__ import annotations

import math

from torch import Tensor


def _wide(sigma: Tensor, like: Tensor) -> Tensor:
    return sigma if sigma.ndim == 0 else sigma.reshape(-1, *[1] * (like.ndim - 1))


class EPS:
    """x = x0 + sigma eps."""

    def noise_scaling(
        self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False
    ) -> Tensor:
        level = _wide(sigma, noise)
        return noise * ((1 + level**2).sqrt() if max_denoise else level) + latent_image

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return latent


class CONST:
    """x = (1 - sigma) x0 + sigma s eps, where s is the noise's scale."""

    def noise_scaling(
        self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False
    ) -> Tensor:
        level = _wide(sigma, noise)
        return level * getattr(self, "noise_scale", 1.0) * noise + (1 - level) * latent_image

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return latent / (1 - _wide(sigma, latent))


class Discrete(EPS):
    """A model with levels from 0.03 to 14.6."""

    sigma_max = 14.6146

    def percent_to_sigma(self, percent: float) -> float:
        return 999999999.9 if percent <= 0 else 14.6146 * (1 - percent)


class DiscreteFlow(CONST):
    """A flow whose time is shifted: t -> s t / (1 + (s - 1) t)."""

    sigma_max = 1.0

    def __init__(self, shift: float = 1.0, noise_scale: float = 1.0) -> None:
        self.shift, self.noise_scale = shift, noise_scale

    def percent_to_sigma(self, percent: float) -> float:
        t = 1.0 - percent
        return self.shift * t / (1 + (self.shift - 1) * t)


class FluxFlow(CONST):
    """A flow whose time is shifted by exp(mu): t -> e^mu / (e^mu + 1/t - 1). No noise_scale."""

    sigma_max = 1.0

    def __init__(self, mu: float = 1.15) -> None:
        self.mu = mu

    def percent_to_sigma(self, percent: float) -> float:
        t = 1.0 - percent
        return math.exp(self.mu) / (math.exp(self.mu) + 1 / t - 1)
