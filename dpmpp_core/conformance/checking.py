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
from .mistakes import FIRST_LEVEL, MISTAKES, plan_of

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
    return [
        _verdict(
            case,
            answers[case.name],
            tolerance,
            sorted(found[case.name], key=lambda name: -count[name]),
        )
        for case in wanted
    ]


def _apart(states: Tensor, others: Tensor) -> Tensor:
    """The largest difference at each step, in units of the second's largest element or of 1."""
    return (states - others).abs().amax(dim=1) / others.abs().amax(dim=1).clamp(min=1.0)


def _explanations(case: Case, states: Tensor, tolerance: float) -> list[str]:
    """The mistakes that give these states; none where they are right."""
    right = float(_apart(states, tensor(case.expected)).max())
    if right <= tolerance:
        return []
    exact, alike = [], []
    for mistake in MISTAKES:
        made = mistake.states(case)
        if made is None:
            continue
        if mistake.inexact is not None:
            error = float(_apart(made, tensor(case.expected)).max())
            low, high = mistake.inexact
            if low * error <= right <= high * error and right < 1e-3:
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


def _coefficients_used(case: Case, states: Tensor, k: int) -> str:
    """Which coefficients of step k the port had, solved for from its states before and after."""
    plan, start = plan_of(case), torch.cat([tensor(case.x)[None], states])
    estimates = [case.estimate(start[j][None], plan.levels[j], j)[0] for j in range(k + 1)]
    columns = {"A": start[k], "B": estimates[k], "D": plan.noise[k, 0]}
    if k:
        columns["C"] = estimates[k] - estimates[k - 1]
    matrix = torch.stack(list(columns.values()), dim=1)
    scale = matrix.norm(dim=0).clamp(min=1e-300)
    if float(torch.linalg.cond(matrix / scale)) > 1e6:
        return ""  # the estimate is a multiple of the state, or the like
    solved = torch.linalg.lstsq(matrix / scale, states[k]).solution
    left_over = float((matrix / scale @ solved - states[k]).abs().max())
    if left_over > 1e-6 * float(states[k].abs().max().clamp(min=1.0)):
        return "the new state is no sum of x, x0, x0 - x0_before and this step's noise"
    used = dict(zip(columns, (solved / scale).tolist(), strict=True))
    rights = plan.rows[k]._asdict()
    wrong = [
        f"{name} = {used[name]:.6g} where {rights[name]:.6g} is right"
        for name in sorted(used)
        if abs(used[name] - rights[name]) > 1e-6 * max(abs(rights[name]), 1e-3)
    ]
    return "the step used " + ", ".join(wrong) if wrong else ""
