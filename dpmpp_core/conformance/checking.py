"""Reading a port's states, and comparing them with what is expected."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .cases import Case, cases, tensor
from .mistakes import FIRST_LEVEL, MISTAKES, Mistake, plan_of

__all__ = ["Verdict", "check", "read_answers"]


@dataclass(frozen=True)
class Verdict:
    """What is to be said of one case.

    ``largest`` is the largest difference from the expected states, each in units of the largest
    element of the state expected there, or of 1 where that is smaller. ``step`` is the first that
    fails, None if none does. ``mistakes`` are the names of those that give the port's numbers.
    """

    case: Case
    largest: float
    step: int | None
    mistakes: tuple[str, ...]
    sentence: str


def read_answers(text: str, wanted: Sequence[Case] | None = None) -> dict[str, Tensor]:
    """A port's states by case, each of shape ``(N, d)``, from the text of its file.

    Args:
        text: JSON, ``{"cases": [{"name": ..., "states": [N rows of d numbers]}, ...]}``; other
            keys are not read, so that the file of the cases with "states" added will do.
        wanted: the cases that have to be there; None for all.

    Raises:
        ValueError: in one sentence, for anything else.
    """
    wanted = cases() if wanted is None else wanted
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the file must be JSON: {error}") from None
    listed = found.get("cases") if isinstance(found, dict) else None
    if not isinstance(listed, list):
        raise ValueError('the file must be an object with a list under "cases"')
    named: dict[str, dict[str, Any]] = {}
    for place, entry in enumerate(listed):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise ValueError(f'cases[{place}] must be an object with a "name", got {_short(entry)}')
        if name in named:
            raise ValueError(f"each case must be there once, got {name!r} twice")
        named[name] = entry
    known = {case.name for case in cases()}
    unknown = [name for name in named if name not in known]
    if unknown:
        raise ValueError(f"cases must have names from --cases, got {_short(unknown[0])}")
    missing = [case.name for case in wanted if case.name not in named]
    if missing:
        raise ValueError(f"the file must have every case, and {missing[0]!r} is missing")
    return {case.name: _states_of(case, named[case.name]) for case in wanted}


def _states_of(case: Case, entry: Mapping[str, Any]) -> Tensor:
    if "states" not in entry:
        raise ValueError(f'case {case.name!r} must have the port\'s own states under "states"')
    rows = entry["states"]
    if not isinstance(rows, list) or len(rows) != case.steps:
        got = f"{len(rows)} rows" if isinstance(rows, list) else _short(rows)
        raise ValueError(
            f'case {case.name!r} must have {case.steps} rows under "states", the state after '
            f"each step, got {got}"
        )
    for k, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(case.x):
            got = f"{len(row)} numbers" if isinstance(row, list) else _short(row)
            raise ValueError(
                f"case {case.name!r}, step {k}: a state must have {len(case.x)} numbers, got {got}"
            )
        for i, value in enumerate(row):
            if not _is_finite_number(value):
                raise ValueError(
                    f"case {case.name!r}, step {k}, element {i}: a state must hold finite numbers, "
                    f"got {_short(value)}{_why_not_finite(case, k, value)}"
                )
    return tensor(rows)


def _is_finite_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _why_not_finite(case: Case, k: int, value: Any) -> str:
    """What usually lies behind it; JavaScript writes null for NaN."""
    if isinstance(value, str | bool | list | dict):
        return ""
    if k == 0 and case.process == "flow" and case.sigmas[0] >= 1.0:
        return f" (lambda is -infinity at the first level of 1: {FIRST_LEVEL})"
    if case.sigmas[k + 1] == 0.0:
        return " (h is infinite in a step to sigma = 0: return the estimate)"
    if min(case.mesh().h) < 1e-6:
        return " (in float32 these levels are equal: compute A, B, C and D in float64)"
    if case.eta > 0.0:
        return " (the root of a negative number, if lambda = log(alpha / sigma) has the wrong sign)"
    return ""


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def check(
    answers: Mapping[str, Tensor], tolerance: float = 1e-10, wanted: Sequence[Case] | None = None
) -> list[Verdict]:
    """The verdicts on a port's states, in the order of the cases.

    Args:
        answers: what :func:`read_answers` returns.
        tolerance: how large ``Verdict.largest`` may be.
        wanted: the cases to look at; None for all.
    """
    wanted = cases() if wanted is None else wanted
    found = {case.name: _explanations(case, answers[case.name], tolerance) for case in wanted}
    # A mistake that explains many cases is named before one that explains few.
    count: dict[str, int] = {}
    for names in found.values():
        for name in names:
            count[name] = count.get(name, 0) + 1
    # Of two that explain as many, the one that would show in fewer of the cases that pass.
    passing = [
        case
        for case in wanted
        if float(_apart(answers[case.name], tensor(case.expected)).max()) <= tolerance
    ]
    unseen = {name: _would_show(name, passing, tolerance) for name in count}
    # Errors of a size are weak evidence: where most that fail deny it, another mistake has it too.
    failed = len(wanted) - len(passing)
    denied = {m.name for m in MISTAKES if m.inexact and 2 * count.get(m.name, 0) < failed}
    return [
        _verdict(
            case,
            answers[case.name],
            tolerance,
            sorted(
                (name for name in found[case.name] if name not in denied),
                key=lambda name: (-count[name], unseen[name]),
            ),
        )
        for case in wanted
    ]


def _would_show(name: str, passing: Sequence[Case], tolerance: float) -> int:
    """In how many of these cases, which pass, every mistake of that name would fail."""
    made = [[m.states(case) for m in MISTAKES if m.name == name] for case in passing]
    return sum(
        all(s is None or float(_apart(s, tensor(case.expected)).max()) > tolerance for s in states)
        for case, states in zip(passing, made, strict=True)
    )


def _apart(states: Tensor, others: Tensor) -> Tensor:
    """The largest difference at each step, in units of the second's largest element or of 1."""
    return (states - others).abs().amax(dim=1) / others.abs().amax(dim=1).clamp(min=1.0)


def _explanations(case: Case, states: Tensor, tolerance: float) -> list[str]:
    """The mistakes that give these states; none where they are right."""
    apart = _apart(states, tensor(case.expected))
    right = float(apart.max())
    if right <= tolerance:
        return []
    k = int((apart > tolerance).nonzero()[0])
    exact, alike = [], []
    for mistake in MISTAKES:
        made = mistake.states(case)
        if made is None:
            continue
        if mistake.inexact is not None:
            error = float(_apart(made, tensor(case.expected)).max())
            low, high, _ = mistake.inexact
            near = low * error <= right <= high * error and right < 1e-3
            if near and _is_rounding(case, states, k, mistake):
                alike.append(mistake.name)
        # Within tolerance, or nearer by far than what is right: a port in float32 is not exact.
        elif float(_apart(states, made).max()) <= max(tolerance, 1e-4 * min(right, 1.0)):
            exact.append(mistake.name)
    return list(dict.fromkeys(exact or alike))


def _verdict(case: Case, states: Tensor, tolerance: float, mistakes: list[str]) -> Verdict:
    expected = tensor(case.expected)
    apart = _apart(states, expected)
    largest = float(apart.max())
    if largest <= tolerance:
        sentence = f"largest difference {largest:.1e}"
        return Verdict(case, largest, None, (), sentence)
    k = int((apart > tolerance).nonzero()[0])
    i = int((states[k] - expected[k]).abs().argmax())
    parts = [
        f"step {k} (sigma {case.sigmas[k]:.4g} to {case.sigmas[k + 1]:.4g}), "
        f"element {i}: expected {float(expected[k, i])!r}, got {float(states[k, i])!r}"
    ]
    used = _coefficients_used(case, states, k)
    if used:
        parts.append(used)
    known = {mistake.name: mistake for mistake in MISTAKES}
    for name in mistakes[:2]:
        sure = "known mistake" if known[name].inexact is None else "by the size of the error"
        parts.append(f"{sure}: {name} ({known[name].right})")
    if not mistakes:
        parts.append("no known mistake gives these numbers")
    return Verdict(case, largest, k, tuple(mistakes), "; ".join(parts))


@dataclass(frozen=True)
class _Solved:
    """The factors of a step, solved for from a port's states before and after it.

    ``size`` is the largest sum of the terms' absolute values with the right factors, or 1.
    ``error`` is the largest difference of the port's new state from the one that the right factors
    give, and ``left_over`` from the one that the solved factors give. ``gain`` is how far each
    factor can move for an error of length 1 in the new state.
    """

    right: dict[str, float]
    used: dict[str, float]
    gain: dict[str, float]
    size: float
    error: float
    left_over: float


def _solve(case: Case, states: Tensor, k: int) -> _Solved | None:
    """None where the factors cannot be told apart: the estimate is a multiple of the state."""
    plan, start = plan_of(case), torch.cat([tensor(case.x)[None], states])
    estimates = [case.estimate(start[j][None], plan.levels[j], j)[0] for j in range(k + 1)]
    columns = {"A": start[k], "B": estimates[k], "D": plan.noise[k, 0]}
    if k:
        columns["C"] = estimates[k] - estimates[k - 1]
    matrix = torch.stack(list(columns.values()), dim=1)
    scale = matrix.norm(dim=0).clamp(min=1e-300)
    if float(torch.linalg.cond(matrix / scale)) > 1e6:
        return None
    inverse = torch.linalg.pinv(matrix / scale) / scale[:, None]
    right = tensor([getattr(plan.rows[k], name) for name in columns])
    # The right factors are taken off first: what is left keeps its digits in a short step.
    off = states[k] - matrix @ right
    moved = inverse @ off

    def named(values: Tensor) -> dict[str, float]:
        return dict(zip(columns, values.tolist(), strict=True))

    return _Solved(
        right=named(right),
        used=named(right + moved),
        gain=named(inverse.norm(dim=1)),
        size=float((matrix.abs() @ right.abs()).max().clamp(min=1.0)),
        error=float(off.abs().max()),
        left_over=float((off - matrix @ moved).abs().max()),
    )


def _is_rounding(case: Case, states: Tensor, k: int, mistake: Mistake) -> bool:
    """Whether the factors of step k, too, are off by no more than an inexact mistake allows."""
    solved = _solve(case, states, k)
    if solved is None or mistake.inexact is None:
        return True
    _, high, unit = mistake.inexact
    rounding = 16.0 * unit * solved.size
    if solved.left_over > rounding:
        return False
    pairs = list(zip(mistake.plan(case).rows, plan_of(case).rows, strict=True))
    for name, value in solved.used.items():
        made = max(abs(getattr(row, name) - getattr(right, name)) for row, right in pairs)
        if abs(value - solved.right[name]) > high * made + rounding * solved.gain[name]:
            return False
    return True


def _coefficients_used(case: Case, states: Tensor, k: int) -> str:
    """Which coefficients of step k would explain the port's states before and after it."""
    solved = _solve(case, states, k)
    if solved is None:
        return ""
    size = float(states[k].abs().max().clamp(min=1.0))
    if solved.left_over > 1e-6 * size:
        return "the new state is no sum of x, x0, x0 - x0_before and this step's noise"
    if solved.left_over > 1e-3 * solved.error:
        return ""  # too small to be told from the rounding of the states
    used, right = solved.used, solved.right
    wrong = [
        name
        for name in sorted(used)
        if abs(used[name] - right[name]) > 1e-6 * max(abs(right[name]), 1e-3)
    ]
    moved = {name: used[name] - right[name] for name in used}
    if {"B", "C"} <= set(wrong) and (
        # The factor of x0 itself, B + C, is right: it is that of x0_before that is not.
        "A" in wrong or abs(moved["B"] + moved["C"]) < 1e-3 * abs(moved["C"])
    ):
        return "no factors explain the step well: what is multiplied by C or D may be wrong"
    listed = [f"{name} = {used[name]:.6g} where {right[name]:.6g} is right" for name in wrong]
    return "factors that would explain the step: " + ", ".join(listed) if listed else ""
