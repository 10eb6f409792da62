"""The four numbers of a step: A and B (drift), C (history), D (noise)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from .checks import not_negative
from .mesh import Mesh

__all__ = ["Coefficients", "SolverType", "StepTable", "history_weight", "step_table"]

SolverType = Literal["midpoint", "heun"]


class Coefficients(NamedTuple):
    r"""The factors of one step.

    .. math:: x_{k+1} = A x_k + B \hat x_{0,k} + C (\hat x_{0,k} - \hat x_{0,k-1}) + D \xi_k
    """

    A: float
    B: float
    C: float
    D: float


@dataclass(frozen=True)
class StepTable:
    """The coefficients of every step, as tuples of N Python floats (float64).

    ``table[k]`` is the row of step k as :class:`Coefficients`; ``len(table)`` is N.
    """

    A: tuple[float, ...]
    B: tuple[float, ...]
    C: tuple[float, ...]
    D: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.A)

    def __iter__(self) -> Iterator[Coefficients]:
        return (self[k] for k in range(len(self)))

    def __getitem__(self, k: int) -> Coefficients:
        return Coefficients(self.A[k], self.B[k], self.C[k], self.D[k])


def step_table(
    mesh: Mesh,
    eta: float = 1.0,
    s_noise: float = 1.0,
    solver_type: SolverType = "midpoint",
) -> StepTable:
    r"""The coefficients of DPM-Solver++(2M) SDE on a mesh.

    With :math:`h = \lambda_{k+1} - \lambda_k` and :math:`z = (1 + \eta) h`:

    .. math::

        A &= \frac{\sigma_{k+1}}{\sigma_k} e^{-\eta h}, \qquad
        B = \alpha_{k+1} (1 - e^{-z}), \\
        C &= \alpha_{k+1}\, w(z)\, \frac{h_k}{h_{k-1}}, \qquad
        D = s_{\mathrm{noise}}\, \sigma_{k+1} \sqrt{1 - e^{-2 \eta h}},

    with :math:`w` the :func:`history_weight`. The first step has no history: C = 0. A step to
    :math:`\sigma = 0` is (0, 1, 0, 0): it returns the denoised estimate.
    Source: SDE-DPM-Solver++(2M) of Lu et al. 2022, https://arxiv.org/abs/2211.01095, for eta = 1
    and midpoint; k-diffusion's ``sample_dpmpp_2m_sde`` for every eta and heun.

    Args:
        mesh: the noise levels.
        eta: rate of the noise, finite and >= 0; 0 gives the ODE, 1 the DDPM-like SDE.
        s_noise: factor of the noise, finite and >= 0.
        solver_type: ``"midpoint"`` or ``"heun"``.

    Raises:
        ValueError: for values outside these ranges.
    """
    eta = not_negative("eta", eta)
    s_noise = not_negative("s_noise", s_noise)
    _check_solver_type(solver_type)

    rows: list[Coefficients] = []
    for k in range(mesh.steps):
        h = mesh.h[k]
        if math.isinf(h):
            rows.append(Coefficients(0.0, 1.0, 0.0, 0.0))
            continue
        z = (1.0 + eta) * h
        alpha_next, sigma_next = mesh.alpha[k + 1], mesh.sigma[k + 1]
        growth = h / mesh.h[k - 1] if k else 0.0
        rows.append(
            Coefficients(
                A=sigma_next / mesh.sigma[k] * math.exp(-eta * h),
                B=alpha_next * -math.expm1(-z),
                C=alpha_next * history_weight(z, solver_type) * growth,
                D=s_noise * sigma_next * math.sqrt(-math.expm1(-2.0 * eta * h)),
            )
        )
    return StepTable(*(tuple(column) for column in zip(*rows, strict=True)))


def history_weight(z: float, solver_type: SolverType) -> float:
    r"""The weight of the history term: the one place where midpoint and heun differ.

    The estimate is extrapolated linearly in lambda. ``"heun"`` integrates that line exactly,
    ``"midpoint"`` takes its value in the middle of the step for the whole step:

    .. math::

        w_\text{heun}(z) = 1 - \frac{1 - e^{-z}}{z}, \qquad
        w_\text{midpoint}(z) = \frac{1 - e^{-z}}{2}.

    Both are :math:`z/2 + O(z^2)`.

    Args:
        z: :math:`(1 + \eta) h`, at least 0; may be infinite.
        solver_type: ``"midpoint"`` or ``"heun"``.

    Raises:
        ValueError: for values outside these ranges.
    """
    _check_solver_type(solver_type)
    if not z >= 0.0:
        raise ValueError(f"z must be at least 0, got {z!r}")
    if solver_type == "midpoint":
        return -0.5 * math.expm1(-z)
    if z > 1.0:
        return 1.0 + math.expm1(-z) / z
    # Below 1 the closed form cancels. Its Taylor series, z/2 (1 - z/3 (1 - z/4 (...))), does not;
    # the 18th factor is below 1e-16.
    series = 1.0
    for n in range(18, 2, -1):
        series = 1.0 - z / n * series
    return 0.5 * z * series


def _check_solver_type(solver_type: str) -> None:
    if not isinstance(solver_type, str) or solver_type not in ("midpoint", "heun"):
        raise ValueError(f"solver_type must be 'midpoint' or 'heun', got {solver_type!r}")
