"""The mesh: the noise levels of a run, and what follows from them alone."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .schedule import Flow, Process, as_process

__all__ = ["Mesh"]


@dataclass(frozen=True)
class Mesh:
    r"""Noise levels in the order they are visited, as float64 numbers on the host.

    For a run of :math:`N` steps:

    =========  ==========  =====================================================================
    field      length      meaning
    =========  ==========  =====================================================================
    sigma      N + 1       noise levels :math:`\sigma_k`, strictly decreasing, the last may be 0
    alpha      N + 1       data factors :math:`\alpha_k = \alpha(\sigma_k)`
    lam        N + 1       half log-SNR :math:`\lambda_k = \log(\alpha_k/\sigma_k)`, increasing
    h          N           steps :math:`h_k = \lambda_{k+1} - \lambda_k > 0`
    process    --          the process that alpha belongs to
    =========  ==========  =====================================================================

    At :math:`\sigma = 0` the last entries of ``lam`` and ``h`` are infinite. Build a mesh with
    :meth:`from_sigmas`, which checks it.
    """

    sigma: tuple[float, ...]
    alpha: tuple[float, ...]
    lam: tuple[float, ...]
    h: tuple[float, ...]
    process: Process

    @property
    def steps(self) -> int:
        """The number of steps N."""
        return len(self.h)

    @classmethod
    def from_sigmas(cls, sigmas: Tensor | Sequence[float], process: str | Process = "ve") -> Mesh:
        r"""The mesh of a schedule.

        The levels are read once, with one ``tolist()``. For :class:`~dpmpp_core.Flow` a first level
        of 1 or more, where :math:`\lambda = -\infty`, is replaced by ``process.first_sigma`` in the
        precision of ``sigmas`` (float32 at least), as ComfyUI does.

        Args:
            sigmas: shape ``(N + 1,)`` with N >= 1, finite, strictly decreasing, above 0 but for the
                last, which may be 0. Any device, any dtype of real numbers.
            process: ``"ve"``, ``"vp"``, ``"flow"`` or a process object.

        Raises:
            ValueError: naming the entry that breaks one of these conditions.
        """
        return cls._from_levels(read_levels(sigmas), as_process(process), dtype_of(sigmas))

    @classmethod
    def _from_levels(cls, levels: list[float], process: Process, dtype: torch.dtype) -> Mesh:
        if isinstance(process, Flow) and levels and 1.0 <= levels[0] < math.inf:
            first = _rounded(process.first_sigma, dtype)
            if len(levels) > 1 and levels[1] >= first:
                raise ValueError(
                    f"sigmas must continue below {first:g}, which replaces a first level of 1 for "
                    f"process 'flow', got sigmas[1] = {levels[1]}"
                )
            levels = [first, *levels[1:]]
        _check(levels, process)

        alpha = tuple(process.alpha(s) for s in levels)
        lam = tuple(process.half_log_snr(s) if s > 0.0 else math.inf for s in levels)
        # log1p of the relative decrease, not a difference of two logarithms: a step of 1e-8 keeps
        # all its digits.
        h = tuple(
            math.log1p((s - t) / t) + process.log_alpha_gain(s, t) if t > 0.0 else math.inf
            for s, t in pairwise(levels)
        )
        return cls(sigma=tuple(levels), alpha=alpha, lam=lam, h=h, process=process)


def read_levels(sigmas: Tensor | Sequence[float]) -> list[float]:
    """The levels as floats, by one ``tolist()``: the only time a run waits for its schedule.

    Raises:
        ValueError: for anything but a 1-D tensor or a sequence of real numbers.
    """
    if isinstance(sigmas, Tensor):
        if sigmas.ndim != 1:
            raise ValueError(f"sigmas must have one dimension, got shape {tuple(sigmas.shape)}")
        if sigmas.is_complex() or sigmas.dtype == torch.bool:
            raise ValueError(f"sigmas must hold real numbers, got dtype {sigmas.dtype}")
        return [float(s) for s in sigmas.tolist()]
    refusal = f"sigmas must be a 1-D tensor or a sequence of numbers, got {sigmas!r}"
    if isinstance(sigmas, str | bytes | Mapping):
        raise ValueError(refusal)
    try:
        return [_level(s) for s in sigmas]
    except (TypeError, OverflowError, RuntimeError):
        raise ValueError(refusal) from None


def _level(value: Any) -> float:
    if isinstance(value, Tensor):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError
    return float(value)


def dtype_of(sigmas: Tensor | Sequence[float]) -> torch.dtype:
    """The precision of a schedule: its own, if that is float32 or more; float64 for integers."""
    if isinstance(sigmas, Tensor) and sigmas.is_floating_point():
        return torch.promote_types(sigmas.dtype, torch.float32)
    return torch.float64


def _rounded(value: float, dtype: torch.dtype) -> float:
    # numpy reads host memory only, so this can never become a device synchronisation.
    return float(torch.tensor(value, dtype=dtype, device="cpu").double().numpy())


def _check(levels: list[float], process: Process) -> None:
    if len(levels) < 2:
        raise ValueError(f"sigmas must hold at least two levels, got {levels}")
    for k, s in enumerate(levels):
        if not math.isfinite(s):
            raise ValueError(f"sigmas must be finite, got sigmas[{k}] = {s}")
        if s < 0.0:
            raise ValueError(f"sigmas must not be negative, got sigmas[{k}] = {s}")
        if s == 0.0 and k < len(levels) - 1:
            raise ValueError(f"sigmas may be 0 only at the end, got sigmas[{k}] = 0.0")
        if s >= process.sigma_limit:
            raise ValueError(
                f"sigmas must lie below {process.sigma_limit:g} for process {process.name!r}, "
                f"got sigmas[{k}] = {s}"
            )
        if k and s >= levels[k - 1]:
            raise ValueError(
                "sigmas must be strictly decreasing, "
                f"got sigmas[{k - 1}] = {levels[k - 1]} and sigmas[{k}] = {s}"
            )
        if k and s > 0.0 and not math.isfinite(levels[k - 1] / s):
            raise ValueError(f"sigmas must end at 0 or at a normal number, got sigmas[{k}] = {s}")
