r"""Classifier-free guidance: two estimates, with and without the condition, made into one.

.. math:: \hat v = v_u + w\, (v_c - v_u)

:math:`v_c` is what the model says with the condition (a class, a prompt), :math:`v_u` what it says
without it. At w = 0 the condition is ignored, at w = 1 it is used as it was learned, above 1 the
difference is exaggerated. The rule is the same for estimates of :math:`x_0`, of the noise and of
the velocity: each is the same affine function of the others at one state and level, and the weights
1 - w and w sum to 1.

Source: Ho and Salimans 2022, https://arxiv.org/abs/2207.12598, equation 6, whose w is this one
less 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .checks import real

__all__ = ["guide", "guided"]


def guide(unconditional: Tensor, conditional: Tensor, w: float | Tensor) -> Tensor:
    r"""The guided estimate :math:`v_u + w\, (v_c - v_u)`.

    Args:
        unconditional, conditional: :math:`v_u` and :math:`v_c`, of one shape ``(B, ...)``.
        w: the strength, any finite number; or ``(B,)``, one for each sample.

    Returns:
        Shape, dtype and device of the estimates; exactly :math:`v_u` at w = 0 and :math:`v_c` at
        w = 1.

    Raises:
        ValueError: for shapes that differ, and for a w that is not finite.
    """
    if unconditional.shape != conditional.shape:
        raise ValueError(
            "conditional must have the shape of unconditional, "
            f"{tuple(unconditional.shape)}, got {tuple(conditional.shape)}"
        )
    strength = check_guidance(w, len(conditional) if conditional.ndim else 1)
    if isinstance(strength, Tensor):
        strength = strength.to(conditional).view(-1, *[1] * (conditional.ndim - 1))
    # lerp goes from the nearer end, so that 0 and 1 are exact.
    return torch.lerp(unconditional, conditional, strength)


def guided(
    model: Callable[..., Tensor],
    w: float | Tensor,
    conditional: Mapping[str, Any],
    unconditional: Mapping[str, Any],
) -> Callable[..., Tensor]:
    """A denoiser that calls another one twice, with and without the condition, and guides.

    Args:
        model: called as ``model(x, sigma, **extra_args)``.
        w: as :func:`guide` takes it. At 1 and at 0 the estimate that has no weight is not asked
            for.
        conditional, unconditional: what is added to ``extra_args`` for the one and the other.

    Raises:
        ValueError: for a w that is not finite, before any call.
    """
    strength = check_guidance(w)

    def guided_model(x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        if isinstance(strength, Tensor) or strength not in (0.0, 1.0):
            without = model(x, sigma, **{**extra_args, **unconditional})
            return guide(without, model(x, sigma, **{**extra_args, **conditional}), strength)
        only = conditional if strength == 1.0 else unconditional
        return model(x, sigma, **{**extra_args, **only})

    return guided_model


def check_guidance(w: Any, samples: int | None = None) -> float | Tensor:
    """w as a finite float, or as a tensor ``(B,)`` of finite numbers."""
    if not isinstance(w, Tensor) or w.ndim == 0:
        return real("w", w, "a finite number, or a tensor of one for each sample")
    if w.ndim != 1 or not w.is_floating_point() or (samples is not None and len(w) != samples):
        of = "(B,)" if samples is None else f"({samples},)"
        raise ValueError(
            f"w must be a number or floating of shape {of}, got {w.dtype} of shape {tuple(w.shape)}"
        )
    if not w.isfinite().all():
        raise ValueError(f"w must be finite, got {float(w[~w.isfinite()][0])}")
    return w
