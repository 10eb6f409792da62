"""What ports of the sampler get wrong: each mistake as a run with it and with no other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..coefficients import Coefficients, SolverType, step_row, step_table
from ..mesh import Mesh
from ..sampler import step
from .cases import Case, tensor

__all__ = ["FIRST_LEVEL", "MISTAKES", "Mistake", "Plan", "plan_of"]


@dataclass(frozen=True)
class Plan:
    """What a run is made of, right or wrong: what the model is told, the rows, the noise.

    ``levels`` and ``rows`` are N each, ``noise`` has shape ``(N, 1, d)``; ``before`` stands for
    the estimate before the first and is None where there is none. ``keeps`` says what a step
    subtracts in its history: the estimate of the step before, of the first step, or the state
    before.
    """

    levels: tuple[float, ...]
    rows: tuple[Coefficients, ...]
    noise: Tensor
    before: Tensor | None = None
    keeps: Literal["estimate", "first estimate", "state"] = "estimate"


@dataclass(frozen=True)
class Mistake:
    """A known mistake: its name, what is right instead, and the plan of a run that makes it.

    The numbers of an ``inexact`` one depend on the order of a port's operations. It is recognised
    by the size of its errors: how small, and how large, they may be over those of the plan, and the
    unit roundoff of what is in this precision.
    """

    name: str
    right: str
    plan: Callable[[Case], Plan]
    inexact: tuple[float, float, float] | None = None

    def states(self, case: Case) -> Tensor | None:
        """The states after every step with this mistake; None where they are not finite."""
        return _states(self, case)


@dataclass(frozen=True)
class Place:
    """A step to a level above 0: what its row is made of, under the names of the formulas."""

    sigma: float
    sigma_next: float
    alpha: float
    alpha_next: float
    h: float
    growth: float
    eta: float
    s_noise: float
    solver_type: SolverType

    def row(self, **changed: Any) -> Coefficients:
        """The row, with some of what it is made of changed."""
        made_of = {**vars(self), **changed}
        del made_of["alpha"]
        return Coefficients(*step_row(**made_of))


def _places(case: Case, mesh: Mesh) -> list[Place]:
    return [
        Place(
            sigma=mesh.sigma[k],
            sigma_next=mesh.sigma[k + 1],
            alpha=mesh.alpha[k],
            alpha_next=mesh.alpha[k + 1],
            h=h,
            growth=h / mesh.h[k - 1] if k else 0.0,
            eta=case.eta,
            s_noise=case.s_noise,
            solver_type=case.solver_type,
        )
        for k, h in enumerate(mesh.h)
        if math.isfinite(h)
    ]


def plan_of(case: Case, mesh: Mesh | None = None) -> Plan:
    """The plan without a mistake, but for what is wrong with the mesh."""
    mesh = case.mesh() if mesh is None else mesh
    rows = tuple(step_table(mesh, case.eta, case.s_noise, case.solver_type))
    return Plan(mesh.sigma[:-1], rows, tensor(case.noise)[:, None])


def _walk(case: Case, plan: Plan) -> Tensor:
    x, previous, states = tensor(case.x)[None], plan.before, []
    for k, row in enumerate(plan.rows):
        estimate = case.estimate(x, plan.levels[k], k)
        x_next = step(row, x, estimate, previous, plan.noise[k]).x_next
        if plan.keeps != "first estimate" or previous is None:
            previous = x if plan.keeps == "state" else estimate
        x = x_next
        states.append(x)
    return torch.cat(states)


@lru_cache(maxsize=4096)
def _states(mistake: Mistake, case: Case) -> Tensor | None:
    try:
        found = _walk(case, mistake.plan(case))
    except ArithmeticError:
        return None
    return found if bool(found.isfinite().all()) else None


def _each(change: Callable[[Place, Coefficients], Coefficients]) -> Callable[[Case], Plan]:
    """A plan whose rows, but for that of a step to 0, are changed one by one."""

    def plan(case: Case) -> Plan:
        right = plan_of(case)
        places = _places(case, case.mesh())
        rows = [change(place, row) for place, row in zip(places, right.rows, strict=False)]
        return replace(right, rows=(*rows, *right.rows[len(rows) :]))

    return plan


def _one_minus_exp(place: Place, row: Coefficients) -> Coefficients:
    z = (1.0 + place.eta) * place.h
    fraction = 1.0 - math.exp(-z)
    weight = fraction / 2.0 if place.solver_type == "midpoint" else 1.0 - fraction / z
    root = math.sqrt(1.0 - math.exp(-2.0 * place.eta * place.h))
    return row._replace(
        B=place.alpha_next * fraction,
        C=place.alpha_next * weight * place.growth,
        D=place.s_noise * place.sigma_next * root,
    )


def _backwards(place: Place, row: Coefficients) -> Coefficients:
    z, eta_h = (1.0 + place.eta) * place.h, place.eta * place.h
    midpoint = place.solver_type == "midpoint"
    weight = -0.5 * math.expm1(z) if midpoint else 1.0 - math.expm1(z) / z
    return Coefficients(
        A=place.sigma_next / place.sigma * math.exp(eta_h),
        B=-place.alpha_next * math.expm1(z),
        C=place.alpha_next * weight * place.growth,
        D=place.s_noise * place.sigma_next * math.sqrt(math.expm1(2.0 * eta_h)),
    )


def _ddim(place: Place, row: Coefficients) -> Coefficients:
    spread = place.eta * place.row(eta=1.0, s_noise=1.0).D
    a = math.sqrt(max(place.sigma_next**2 - spread**2, 0.0)) / place.sigma
    b = place.alpha_next - a * place.alpha
    return Coefficients(a, b, row.C, place.s_noise * spread)


def _noise_to_the_end(case: Case) -> Plan:
    plan = plan_of(case)
    if case.sigmas[-1] > 0.0 or case.eta == 0.0:
        return plan
    last = plan.rows[-1]._replace(D=case.s_noise * plan.levels[-1])
    return replace(plan, rows=(*plan.rows[:-1], last))


def _history_from_zeros(case: Case) -> Plan:
    plan, places = plan_of(case), _places(case, case.mesh())
    first = [place.row(growth=1.0) for place in places[:1]]
    zeros = torch.zeros_like(plan.noise[0])
    return replace(plan, rows=(*first, *plan.rows[len(first) :]), before=zeros)


def _clock_of_ve(case: Case) -> Plan:
    mesh = case.mesh()
    h = tuple(math.log(s / t) if t > 0.0 else math.inf for s, t in pairwise(mesh.sigma))
    return plan_of(case, replace(mesh, h=h))


def _all_of_ve(case: Case) -> Plan:
    return plan_of(case, Mesh.from_sigmas(case.mesh().sigma, "ve"))


def _first_level(below_one: float) -> Callable[[Case], Plan]:
    def plan(case: Case) -> Plan:
        first = 1.0 - below_one if case.process == "flow" and case.sigmas[0] >= 1.0 else None
        return plan_of(case if first is None else replace(case, sigmas=(first, *case.sigmas[1:])))

    return plan


def _first_level_of_no_shift(case: Case) -> Plan:
    return plan_of(replace(case, shift=1.0))


def _first_level_kept(case: Case) -> Plan:
    """At a level of 1 alpha is 0 and h is infinite: A is 0, and so is the next step's ratio."""
    right, below = plan_of(case), case.sigmas[1]
    if case.process != "flow" or case.sigmas[0] < 1.0 or case.eta == 0.0 or case.steps < 2:
        return right  # at eta = 0 the formulas give NaN, which is refused
    first = Coefficients(0.0, 1.0 - below, 0.0, case.s_noise * below)
    rows = (first, right.rows[1]._replace(C=0.0), *right.rows[2:])
    return replace(right, rows=rows, levels=case.sigmas[:-1])


def _told_the_first_level(case: Case) -> Plan:
    return replace(plan_of(case), levels=case.sigmas[:-1])


def _told_the_next_level(case: Case) -> Plan:
    return replace(plan_of(case), levels=case.sigmas[1:])


def _history_of(keeps: Literal["first estimate", "state"]) -> Callable[[Case], Plan]:
    return lambda case: replace(plan_of(case), keeps=keeps)


def _noise_moved(by: int, round_the_end: bool) -> Callable[[Case], Plan]:
    """Row k - by at step k; a row that is not there is the one from the other end, or the last."""

    def plan(case: Case) -> Plan:
        right = plan_of(case)
        row = torch.arange(case.steps) - by
        row = row % case.steps if round_the_end else row.clamp(0, case.steps - 1)
        return replace(right, noise=right.noise[row])

    return plan


def _in_float32(case: Case) -> Plan:
    right, mesh = plan_of(case), case.mesh()
    one, eta = np.float32(1.0), np.float32(case.eta)
    sigma = np.array(mesh.sigma, dtype=np.float32)
    rows: list[Coefficients] = []
    with np.errstate(all="ignore"):
        ways = {"ve": np.ones_like(sigma), "vp": np.sqrt(one - sigma**2), "flow": one - sigma}
        alpha = ways[case.process]
        h = np.diff(np.log(alpha) - np.log(sigma))
        for k in range(len(_places(case, mesh))):
            z = (one + eta) * h[k]
            midpoint = case.solver_type == "midpoint"
            weight = -np.expm1(-z) / 2 if midpoint else one + np.expm1(-z) / z
            row = (
                sigma[k + 1] / sigma[k] * np.exp(-eta * h[k]),
                -alpha[k + 1] * np.expm1(-z),
                alpha[k + 1] * weight * h[k] / h[k - 1] if k else 0.0,
                np.float32(case.s_noise) * sigma[k + 1] * np.sqrt(-np.expm1(-2 * eta * h[k])),
            )
            rows.append(Coefficients(*(float(value) for value in row)))
    return replace(right, rows=(*rows, *right.rows[len(rows) :]))


_AMPLITUDE = "eta taken for an amplitude of the noise"
_RATE = "it is a rate, and multiplies h in the exponents of A, B, C and D"
_PULL = "the drift makes room for the noise: A has the factor exp(-eta h), B and C have (1 + eta) h"
_ALPHA = "B and C have the factor alpha at sigma_{k+1}, which is 1 for ve alone"
FIRST_LEVEL = (
    "a first level of 1 or more is replaced by the shifted time of 1 - 1e-4, for the model too"
)
_ROOT = "D = s_noise sigma_{k+1} sqrt(1 - exp(-2 eta h))"
_SOLVERS: dict[str, SolverType] = {"midpoint": "heun", "heun": "midpoint"}

MISTAKES: tuple[Mistake, ...] = (
    Mistake(
        "wrong sign of C",
        "the history term is C (x0_k - x0_{k-1}), the newer estimate first",
        _each(lambda place, row: row._replace(C=-row.C)),
    ),
    Mistake(
        "r inverted",
        "C has the factor h_k / h_{k-1}",
        _each(lambda place, row: place.row(growth=1.0 / place.growth if place.growth else 0.0)),
    ),
    Mistake(
        "h_k / h_{k-1} left out of C",
        "C has the factor h_k / h_{k-1}",
        _each(lambda place, row: place.row(growth=1.0 if place.growth else 0.0)),
    ),
    *(
        Mistake(_AMPLITUDE, _RATE, _each(change))
        for change in (
            lambda place, row: row._replace(D=place.eta * place.row(eta=1.0).D),
            lambda place, row: place.row(eta=1.0)._replace(D=place.eta * place.row(eta=1.0).D),
            lambda place, row: place.row(eta=0.0)._replace(D=place.eta * place.row(eta=1.0).D),
            lambda place, row: row._replace(D=place.eta * row.D),
            _ddim,
        )
    ),
    Mistake(
        "noise at the last step",
        "a step to sigma = 0 returns the estimate and nothing else",
        _noise_to_the_end,
    ),
    Mistake("alpha missing", _ALPHA, _each(lambda place, row: place.row(alpha_next=1.0))),
    Mistake(
        "alpha missing in B",
        _ALPHA,
        _each(lambda place, row: row._replace(B=place.row(alpha_next=1.0).B)),
    ),
    Mistake(
        "alpha missing in C",
        _ALPHA,
        _each(lambda place, row: row._replace(C=place.row(alpha_next=1.0).C)),
    ),
    Mistake(
        "alpha of the level that the step leaves",
        _ALPHA,
        _each(lambda place, row: place.row(alpha_next=place.alpha)),
    ),
    Mistake(
        "the formulas of ve for another process",
        "lambda is log(alpha / sigma), and " + _ALPHA,
        _all_of_ve,
    ),
    Mistake("lambda without alpha", "lambda is log(alpha / sigma)", _clock_of_ve),
    Mistake("lambda with the wrong sign", "lambda is log(alpha / sigma)", _each(_backwards)),
    Mistake(
        "history at the first step",
        "there is no estimate before the first: C = 0",
        _history_from_zeros,
    ),
    Mistake(
        "history left out",
        "C is not 0 after the first step, and x0_{k-1} is the estimate of the step before",
        _each(lambda place, row: row._replace(C=0.0)),
    ),
    Mistake(
        "the first estimate kept as history",
        "x0_{k-1} is the estimate of the step before: keep it anew after every step",
        _history_of("first estimate"),
    ),
    Mistake(
        "the state before as history",
        "the history term is C (x0_k - x0_{k-1}), of two estimates",
        _history_of("state"),
    ),
    Mistake(
        "midpoint and heun swapped",
        "the weight is (1 - exp(-z)) / 2 for midpoint, 1 - (1 - exp(-z)) / z for heun",
        _each(lambda place, row: place.row(solver_type=_SOLVERS[place.solver_type])),
    ),
    Mistake(
        "C twice as large",
        "midpoint's weight is half of 1 - exp(-z)",
        _each(lambda place, row: row._replace(C=2.0 * row.C)),
    ),
    Mistake(
        "sigma_k / sigma_{k+1} in A",
        "A has the factor sigma_{k+1} / sigma_k",
        _each(lambda place, row: row._replace(A=row.A * (place.sigma / place.sigma_next) ** 2)),
    ),
    Mistake(
        "A without exp(-eta h)",
        _PULL,
        _each(lambda place, row: row._replace(A=place.row(eta=0.0).A)),
    ),
    Mistake(
        "h in place of (1 + eta) h in B and C",
        _PULL,
        _each(lambda place, row: place.row(eta=0.0)._replace(A=row.A, D=row.D)),
    ),
    Mistake(
        "h in place of (1 + eta) h in C",
        _PULL,
        _each(lambda place, row: row._replace(C=place.row(eta=0.0).C)),
    ),
    Mistake(
        "eta in the noise alone",
        _PULL,
        _each(lambda place, row: place.row(eta=0.0)._replace(D=row.D)),
    ),
    Mistake(
        "eta squared", _RATE + " as it is", _each(lambda place, row: place.row(eta=place.eta**2))
    ),
    Mistake(
        "the root of eta",
        _RATE + " as it is",
        _each(lambda place, row: place.row(eta=math.sqrt(place.eta))),
    ),
    Mistake(
        "s_noise left out",
        "D has the factor s_noise",
        _each(lambda place, row: place.row(s_noise=1.0)),
    ),
    Mistake(
        "s_noise of 0 taken for eta of 0",
        "s_noise is a factor of D alone; A, B and C keep eta",
        _each(lambda place, row: row if place.s_noise else place.row(eta=0.0)),
    ),
    Mistake(
        "noise left out",
        "D is 0 only where eta or s_noise is 0, and in a step to sigma = 0",
        _each(lambda place, row: row._replace(D=0.0)),
    ),
    Mistake(
        "sigma_k in D",
        _ROOT,
        _each(lambda place, row: row._replace(D=row.D * place.sigma / place.sigma_next)),
    ),
    Mistake(
        "D without the root",
        _ROOT,
        _each(
            lambda place, row: row._replace(
                D=-place.s_noise * place.sigma_next * math.expm1(-2.0 * place.eta * place.h)
            )
        ),
    ),
    Mistake(
        "D without the 2",
        _ROOT,
        _each(lambda place, row: row._replace(D=place.row(eta=place.eta / 2.0).D)),
    ),
    *(
        Mistake(f"a first level of 1 - {below:g}", FIRST_LEVEL, _first_level(below))
        for below in (1e-2, 1e-3, 1e-5, 1e-6, 1e-7, 1e-8)
    ),
    Mistake("a first level of 1 - 1e-4 whatever the shift", FIRST_LEVEL, _first_level_of_no_shift),
    Mistake("a first level of 1 as it is", FIRST_LEVEL, _first_level_kept),
    Mistake("the model told a first level of 1", FIRST_LEVEL, _told_the_first_level),
    Mistake(
        "the model told sigma_{k+1}",
        "the estimate of step k is the model's at x_k and sigma_k",
        _told_the_next_level,
    ),
    *(
        Mistake(
            "the noise of another step",
            "row k of noise belongs to the step from sigmas[k] to sigmas[k + 1]",
            _noise_moved(by, round_the_end),
        )
        for by in (1, -1)
        for round_the_end in (True, False)
    ),
    Mistake(
        "1 - exp(-z) in place of -expm1(-z)",
        "in a short step the difference loses its digits; use expm1",
        _each(_one_minus_exp),
        inexact=(0.5, 100.0, 2.0**-53),
    ),
    Mistake(
        "float32 coefficients or states",
        "compute A, B, C and D in float64; for states in float32 use --tolerance 1e-5",
        _in_float32,
        inexact=(1.0 / 300.0, 30.0, 2.0**-24),
    ),
)
