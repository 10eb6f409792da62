"""Distributions of clean data whose denoiser is known exactly.

All three kinds, a Gaussian, a mixture of Gaussians and a cloud of points, are one object: a
mixture, of one component, of several, or of many without spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .checks import count, not_negative
from .noise.protocol import working_dtype
from .schedule import Process, as_process

__all__ = ["GaussianMixture", "gaussian", "point_cloud", "triangle"]

_BLOCK = 2**24
"""Numbers held at once for the differences of states and components (128 MB in float64)."""


class GaussianMixture:
    r"""The law :math:`p(x_0) = \sum_j w_j\, \mathcal{N}(x_0; m_j, S_j)`, with and without noise.

    At noise level :math:`\sigma` the state :math:`x = \alpha x_0 + \sigma\varepsilon` has the law
    :math:`\sum_j w_j\, \mathcal{N}(x; \alpha m_j, V_j)` with :math:`V_j = \alpha^2 S_j +
    \sigma^2 I`. The components' probabilities :math:`r_j(x)` follow from Bayes' rule.

    Args:
        means: shape ``(K, d)``, or ``(d,)`` for one component.
        covariances: ``(K,)`` for :math:`S_j = v_j I`, ``(K, d)`` for diagonal, ``(K, d, d)`` for
            any covariance; eigenvalues >= 0. One number serves all components.
        weights: ``(K,)``, above 0; scaled to sum to 1. Equal weights if None.

    Everything is kept in float64 on the device of ``means``. States may have any floating dtype,
    any device, and any shape ``(B, ...)`` with d numbers per sample; half precision is computed
    in float32.

    Raises:
        ValueError: for shapes that do not fit, values that are not finite, or a covariance that
            is not symmetric and positive semi-definite.
    """

    def __init__(
        self, means: Tensor, covariances: Tensor | float, weights: Tensor | None = None
    ) -> None:
        self.means, self.covariances, self.weights = _components(means, covariances, weights)
        lowest = self._spectrum[0].min()
        if lowest < 0:
            raise ValueError(
                f"covariances must have eigenvalues >= 0, got an eigenvalue of {float(lowest):g}"
            )

    @property
    def dim(self) -> int:
        """d, the numbers per sample."""
        return self.means.shape[1]

    @property
    def mean(self) -> Tensor:
        r""":math:`\mathbb{E}\, x_0`, shape ``(d,)``, float64."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        r""":math:`\mathrm{Cov}\, x_0`, shape ``(d, d)``, float64."""
        values, basis = self._spectrum
        values = values.expand(len(values), self.dim)
        within = torch.diag_embed(values) if basis is None else (basis * values[:, None]) @ basis.mT
        centred = self.means - self.mean
        return torch.einsum("j,jab->ab", self.weights, within) + torch.einsum(
            "j,ja,jb->ab", self.weights, centred, centred
        )

    def denoise(self, x: Tensor, sigma: float | Tensor, process: str | Process = "ve") -> Tensor:
        r"""The exact denoiser :math:`\hat x_0 = \mathbb{E}[x_0 \mid x]` at noise level sigma.

        .. math:: \hat x_0 = \sum_j r_j(x) \bigl( m_j + \alpha S_j V_j^{-1} (x - \alpha m_j) \bigr)

        Args:
            x: shape ``(B, ...)`` with d numbers per sample.
            sigma: above 0; a number, or a tensor of shape ``()`` or ``(B,)``.
            process: how data and noise are mixed.

        Returns:
            Shape, dtype and device of x.
        """
        return self._blockwise(self._denoise, x, sigma, process).reshape(x.shape).to(x.dtype)

    def score(self, x: Tensor, sigma: float | Tensor, process: str | Process = "ve") -> Tensor:
        r"""The score :math:`\nabla_x \log p_\sigma(x) = -\sum_j r_j(x)\, V_j^{-1} (x - \alpha
        m_j)`.

        Arguments and result as :meth:`denoise`; sigma may be 0 if no component is degenerate.
        """
        return self._blockwise(self._score, x, sigma, process).reshape(x.shape).to(x.dtype)

    def log_density(
        self, x: Tensor, sigma: float | Tensor = 0.0, process: str | Process = "ve"
    ) -> Tensor:
        r""":math:`\log p_\sigma(x)`, shape ``(B,)``; arguments as :meth:`score`."""
        return self._blockwise(self._log_density, x, sigma, process).to(x.dtype)

    def sample(
        self,
        n: int,
        sigma: float = 0.0,
        process: str | Process = "ve",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """n exact samples of the law at noise level sigma: shape ``(n, d)``, float64."""
        count("n", n)
        values, basis = self._spectrum

        def normal() -> Tensor:
            return torch.randn(
                n, self.dim, generator=generator, device=self.means.device, dtype=torch.float64
            )

        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        offset = values[which].sqrt() * normal()
        if basis is not None:
            offset = torch.einsum("nab,nb->na", basis[which], offset)
        return as_process(process).alpha(sigma) * (self.means[which] + offset) + sigma * normal()

    def model(self, process: str | Process = "ve") -> Callable[..., Tensor]:
        """The denoiser as the samplers call it: ``model(x, sigma, **extra_args)``."""
        chosen = as_process(process)

        def exact_denoiser(x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
            return self.denoise(x, sigma, chosen)

        return exact_denoiser

    # --- the algebra, in the eigenbasis of each covariance ---

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor | None]:
        """Eigenvalues ``(K, 1 or d)`` and eigenvectors in columns, None for the axes themselves."""
        if self.covariances.ndim == 1:
            return self.covariances[:, None], None
        if self.covariances.ndim == 2:
            return self.covariances, None
        size = self.covariances.abs().amax(dim=(1, 2))
        skew = (self.covariances - self.covariances.mT).abs().amax(dim=(1, 2))
        if (skew > 1e-12 * size).any():
            raise ValueError(f"covariances must be symmetric, got a gap of {float(skew.max()):g}")
        values, basis = torch.linalg.eigh(self.covariances)
        # An eigenvalue that is 0 can come out as a rounding error below it.
        rounding = self.dim * torch.finfo(torch.float64).eps * size[:, None]
        return torch.where((values < 0) & (values > -rounding), 0.0, values), basis

    def _blockwise(
        self,
        function: Callable[[_Posterior], Tensor],
        x: Tensor,
        sigma: float | Tensor,
        process: str | Process,
    ) -> Tensor:
        """Apply a function to the posterior of x, in blocks of samples that fit in memory."""
        process = as_process(process)
        if not x.is_floating_point() or x.ndim == 0 or math.prod(x.shape[1:]) != self.dim:
            raise ValueError(
                f"x must be floating, of shape (B, ...) with {self.dim} numbers per sample, "
                f"got {x.dtype} of shape {tuple(x.shape)}"
            )
        self._check_level(sigma, process)
        work = working_dtype(x.dtype)
        flat = x.reshape(len(x), self.dim).to(work)
        level = torch.as_tensor(sigma, dtype=work, device=x.device)
        if level.ndim > 1 or (level.ndim == 1 and len(level) not in (1, len(x))):
            raise ValueError(
                f"sigma must be a number or have shape ({len(x)},), got shape {tuple(level.shape)}"
            )
        if level.ndim == 0 or (level.device.type == "cpu" and bool((level == level[:1]).all())):
            level = level.reshape(-1)[:1]  # one level for all: its logarithms are taken once
        size = max(1, _BLOCK // (self.dim * len(self.means)))
        blocks = range(0, max(len(x), 1), size)
        levels = [level if len(level) == 1 else level[i : i + size] for i in blocks]
        return torch.cat(
            [
                function(self._posterior(flat[i : i + size], own, process))
                for i, own in zip(blocks, levels, strict=True)
            ]
        )

    def _check_level(self, sigma: float | Tensor, process: Process) -> None:
        # Numbers only: to look into a tensor would wait for its device at every model call.
        if isinstance(sigma, Tensor):
            return
        if not_negative("sigma", sigma) > process.sigma_limit:
            raise ValueError(
                f"sigma must be at most {process.sigma_limit:g} for process {process.name!r}, "
                f"got {sigma!r}"
            )
        if sigma == 0 and bool((self._spectrum[0] == 0).any()):
            raise ValueError("sigma must be above 0 where a component has no spread, got 0")

    def _posterior(self, x: Tensor, sigma: Tensor, process: Process) -> _Posterior:
        values, basis = self._spectrum
        values = values.to(x)[:, :, None]
        basis = None if basis is None else basis.to(x)
        means, weights = self.means.to(x)[:, :, None], self.weights.to(x)
        alpha = process.alpha(sigma)
        offset = x.T - alpha * means
        if basis is not None:
            offset = basis.mT @ offset
        variance = alpha**2 * values + sigma**2
        log_volume = variance.log().sum(1) * (self.dim // variance.shape[1])
        log_joint = weights.log()[:, None] - 0.5 * ((offset**2 / variance).sum(1) + log_volume)
        return _Posterior(means, values, basis, alpha, offset, variance, log_joint)

    @staticmethod
    def _denoise(posterior: _Posterior) -> Tensor:
        p = posterior
        return p.mean_of(p.means + p.in_axes(p.alpha * p.values / p.variance * p.offset))

    @staticmethod
    def _score(posterior: _Posterior) -> Tensor:
        p = posterior
        return p.mean_of(p.in_axes(-p.offset / p.variance))

    @staticmethod
    def _log_density(posterior: _Posterior) -> Tensor:
        d = posterior.offset.shape[1]
        return posterior.log_joint.logsumexp(0) - 0.5 * d * math.log(2 * math.pi)


def _components(
    means: Tensor, covariances: Tensor | float, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Means ``(K, d)``, covariances of one of their three shapes and weights ``(K,)``, checked."""
    m = torch.as_tensor(means, dtype=torch.float64).detach()
    m = m[None] if m.ndim == 1 else m
    if m.ndim != 2 or m.numel() == 0 or not m.isfinite().all():
        raise ValueError(f"means must be finite, of shape (K, d), got {means!r}")
    k, d = m.shape
    s = torch.as_tensor(covariances, dtype=torch.float64, device=m.device).detach()
    s = s.expand(k) if s.ndim == 0 else s
    if s.shape not in ((k,), (k, d), (k, d, d)) or not s.isfinite().all():
        raise ValueError(
            f"covariances must be finite, of shape {(k,)}, {(k, d)} or {(k, d, d)}, "
            f"got {covariances!r}"
        )
    w = torch.ones(k) if weights is None else torch.as_tensor(weights).detach()
    w = w.to(m)
    if w.shape != (k,) or not (w.isfinite().all() and (w > 0).all()):
        raise ValueError(f"weights must be above 0, of shape {(k,)}, got {weights!r}")
    return m, s, w / w.sum()


@dataclass(frozen=True, eq=False)
class _Posterior:
    r"""What every component says of every state, ``(K, d, B)``: sums over components and axes run
    along the states, which is what processors are fast at.

    ``offset`` is :math:`x - \alpha m_j` in the eigenbasis, ``variance`` the eigenvalues of V_j, and
    ``log_joint``, ``(K, B)``, is :math:`\log w_j \mathcal{N}(x; \alpha m_j, V_j)` up to the
    constant. Where all states have one level, the last axis of ``variance`` has length 1.
    """

    means: Tensor
    values: Tensor
    basis: Tensor | None
    alpha: Tensor
    offset: Tensor
    variance: Tensor
    log_joint: Tensor

    def in_axes(self, vectors: Tensor) -> Tensor:
        """From the eigenbases back to the axes of the state."""
        return vectors if self.basis is None else self.basis @ vectors

    def mean_of(self, vectors: Tensor) -> Tensor:
        """Their mean over the components, weighted by what each is responsible for: ``(B, d)``."""
        return (self.log_joint.softmax(0)[:, None] * vectors).sum(0).T


def gaussian(mean: Tensor, covariance: Tensor | float = 1.0) -> GaussianMixture:
    r"""The Gaussian :math:`\mathcal{N}(m, S)`.

    Args:
        mean: shape ``(d,)``.
        covariance: a number v for :math:`v I`, ``(d,)`` for a diagonal, ``(d, d)`` for any.

    Raises:
        ValueError: as :class:`GaussianMixture`.
    """
    mean = torch.as_tensor(mean, dtype=torch.float64)
    if mean.ndim != 1:
        raise ValueError(f"mean must have shape (d,), got shape {tuple(mean.shape)}")
    spread = torch.as_tensor(covariance, dtype=torch.float64)
    d = len(mean)
    if spread.shape not in ((), (d,), (d, d)):
        raise ValueError(
            f"covariance must be a number or of shape {(d,)} or {(d, d)}, "
            f"got shape {tuple(spread.shape)}"
        )
    return GaussianMixture(mean[None], spread[None])


def point_cloud(points: Tensor, weights: Tensor | None = None) -> GaussianMixture:
    r"""The law of a finite data set: mass :math:`w_j` at each point.

    Its denoiser is the weighted mean of the points near x, which at small noise is the nearest
    one. It has no density at :math:`\sigma = 0`.

    Args:
        points: shape ``(K, ...)``; each point is flattened to d numbers.
        weights: shape ``(K,)``, above 0; equal if None.

    Raises:
        ValueError: as :class:`GaussianMixture`.
    """
    points = torch.as_tensor(points, dtype=torch.float64)
    if points.ndim < 2:
        raise ValueError(f"points must have shape (K, ...), got shape {tuple(points.shape)}")
    flat = points.reshape(len(points), math.prod(points.shape[1:]))
    return GaussianMixture(flat, 0.0, weights)


def triangle() -> GaussianMixture:
    """Three long modes along the sides of a triangle in the plane: the book's first target.

    Weights 0.4, 0.3, 0.3; centres at distance 1.9 from the origin; variances 0.55 along a side and
    0.03 across.
    """
    angles = math.pi * torch.tensor([1 / 2, 7 / 6, 11 / 6], dtype=torch.float64)
    out = torch.stack([angles.cos(), angles.sin()], dim=-1)
    along = torch.stack([-angles.sin(), angles.cos()], dim=-1)
    covariances = 0.03 * out[:, :, None] * out[:, None] + 0.55 * along[:, :, None] * along[:, None]
    return GaussianMixture(1.9 * out, covariances, torch.tensor([0.4, 0.3, 0.3]))
