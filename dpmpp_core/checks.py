"""Refusals: one sentence that names the argument, what is allowed, and the value."""

from __future__ import annotations

import contextlib
import math
import numbers
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["count", "not_negative", "positive", "real"]


def real(
    name: str, value: Any, allowed: str, accepts: Callable[[float], bool] = lambda number: True
) -> float:
    """The value as a finite float.

    Args:
        name: the argument's name.
        value: a number, or a tensor of one element.
        allowed: what is allowed, to follow "must be".
        accepts: tells whether a finite number is allowed.

    Raises:
        ValueError: for anything but a finite real number that is accepted; booleans are refused.
    """
    number = math.nan
    if _is_real(value):
        with contextlib.suppress(OverflowError, RuntimeError, ValueError):
            number = float(value)
    if not (math.isfinite(number) and accepts(number)):
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    return number


def _is_real(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_complex() and value.dtype != torch.bool
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def positive(name: str, value: Any) -> float:
    """The value as a finite float above 0."""
    return real(name, value, "a finite number above 0", lambda number: number > 0.0)


def not_negative(name: str, value: Any) -> float:
    """The value as a finite float of at least 0."""
    return real(name, value, "a finite number >= 0", lambda number: number >= 0.0)


def count(name: str, value: Any) -> int:
    """The value as an integer of at least 1.

    Raises:
        ValueError: for anything else; booleans are refused.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return number
