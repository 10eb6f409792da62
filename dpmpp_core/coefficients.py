"""The four numbers of a step: A and B (drift), C (history), D (noise)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .checks import not_negative
from .mesh import Mesh
from .schedule import Scalar, _apply

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
    check_solver_type(solver_type)

    rows: list[Coefficients] = []
    for k in range(mesh.steps):
        h = mesh.h[k]
        if math.isinf(h):
            rows.append(Coefficients(0.0, 1.0, 0.0, 0.0))
            continue
        growth = h / mesh.h[k - 1] if k else 0.0
        levels = mesh.sigma[k], mesh.sigma[k + 1], mesh.alpha[k + 1]
        rows.append(Coefficients(*step_row(*levels, h, growth, eta, s_noise, solver_type)))
    return StepTable(*(tuple(column) for column in zip(*rows, strict=True)))


def step_row(
    sigma: Scalar,
    sigma_next: Scalar,
    alpha_next: Scalar,
    h: Scalar,
    growth: Scalar,
    eta: Scalar,
    s_noise: Scalar,
    solver_type: SolverType,
) -> tuple[Scalar, Scalar, Scalar, Scalar]:
    r"""A, B, C and D of a step as :func:`step_table` defines them; for one setting or for arrays.

    The numbers are all floats, or all float64 tensors of shapes that broadcast. They are not
    checked. h is finite and above 0; ``growth`` is :math:`h_k / h_{k-1}`, and 0 at the first step.
    """
    z = (1.0 + eta) * h
    return (
        sigma_next / sigma * _decayed(eta, h),
        alpha_next * -_apply("expm1", -z),
        alpha_next * history_weight(z, solver_type) * growth,
        s_noise * sigma_next * _apply("sqrt", -_apply("expm1", -2.0 * eta * h)),
    )


def _decayed(a: Scalar, b: Scalar) -> Scalar:
    """exp(-a b), with what rounding takes from the product put back.

    exp multiplies the rounding of its argument by the argument: at a b = 20 the last four bits.
    """
    # The splitting multiplies by 2^27; from far below this on, exp is 0 for every h there is.
    a = a.clamp(max=1e150) if isinstance(a, Tensor) else min(a, 1e150)
    product = a * b
    a_high, b_high = _high(a), _high(b)
    a_low, b_low = a - a_high, b - b_high
    # Dekker's product: what is left of a b, exactly.
    rest = a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)
    return _apply("exp", -product) * (1.0 - rest)


def _high(value: Scalar) -> Scalar:
    """The upper 26 bits (Veltkamp's splitting)."""
    scaled = 134217729.0 * value
    return scaled - (scaled - value)


def history_weight(z: Scalar, solver_type: SolverType) -> Scalar:
    r"""The weight of the history term: the one place where midpoint and heun differ.

    The estimate is extrapolated linearly in lambda. ``"heun"`` integrates that line exactly,
    ``"midpoint"`` takes its value in the middle of the step for the whole step:

    .. math::

        w_\text{heun}(z) = 1 - \frac{1 - e^{-z}}{z}, \qquad
        w_\text{midpoint}(z) = \frac{1 - e^{-z}}{2}.

    Both are :math:`z/2 + O(z^2)`.

    Args:
        z: :math:`(1 + \eta) h`, at least 0; may be infinite. A float, or a float64 tensor of any
            shape: the weight is the same.
        solver_type: ``"midpoint"`` or ``"heun"``.

    Raises:
        ValueError: for values outside these ranges.
    """
    check_solver_type(solver_type)
    if not (z.ge(0.0).all() if isinstance(z, Tensor) else z >= 0.0):
        raise ValueError(f"z must be at least 0, got {z!r}")
    if solver_type == "midpoint":
        return -0.5 * _apply("expm1", -z)
    if isinstance(z, Tensor):
        large, small = z.clamp(min=1.0), z.clamp(max=1.0)
        return torch.where(z > 1.0, _heun_closed(large), _heun_series(small))
    return _heun_closed(z) if z > 1.0 else _heun_series(z)


def _heun_closed(z: Scalar) -> Scalar:
    return 1.0 + _apply("expm1", -z) / z


def _heun_series(z: Scalar) -> Scalar:
    # Below 1 the closed form cancels. Its Taylor series, z/2 (1 - z/3 (1 - z/4 (...))), does not;
    # the 18th factor is below 1e-16.
    series = 0.0 * z + 1.0
    for n in range(18, 2, -1):
        series = 1.0 - z / n * series
    return 0.5 * z * series


def check_solver_type(solver_type: str) -> None:
    if not isinstance(solver_type, str) or solver_type not in ("midpoint", "heun"):
        raise ValueError(f"solver_type must be 'midpoint' or 'heun', got {solver_type!r}")
