r"""Other samplers in this one's form, to compare with: one model call a step, as a StepTable.

.. math:: x_{k+1} = A_k x_k + B_k \hat x_{0,k} + C_k (\hat x_{0,k} - \hat x_{0,k-1}) + D_k \xi_k

A step to :math:`\sigma = 0` is (0, 1, 0, 0) for each of them. :func:`three_m` alone does not fit:
it remembers one estimate more, and is a loop of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from torch import Tensor

from .checks import not_negative, real
from .coefficients import Coefficients, StepTable, history_weight, step_table
from .mesh import Mesh
from .noise import NoiseSampler
from .sampler import Model, step
from .schedule import VE

__all__ = ["ddim", "euler", "euler_ancestral", "sde_1", "three_m", "two_m"]


def euler(mesh: Mesh) -> StepTable:
    r"""Euler's method for the probability-flow ODE, as k-diffusion's ``sample_euler``.

    In :math:`y = x / \alpha` and :math:`s = \sigma / \alpha` the ODE is
    :math:`dy / ds = (y - \hat x_0) / s`, so

    .. math:: A = \frac{\sigma_{k+1}}{\sigma_k}, \qquad
              B = \alpha_{k+1} \Big(1 - \frac{s_{k+1}}{s_k}\Big), \qquad C = D = 0.

    Karras et al. 2022, https://arxiv.org/abs/2206.00364, algorithm 1 without the correction.
    It is :func:`ddim` with eta = 0.
    """

    def row(k: int) -> Coefficients:
        ratio = mesh.sigma[k + 1] / mesh.alpha[k + 1] / (mesh.sigma[k] / mesh.alpha[k])
        A = mesh.sigma[k + 1] / mesh.sigma[k]
        return Coefficients(A, mesh.alpha[k + 1] * (1.0 - ratio), 0.0, 0.0)

    return _rows(mesh, row)


def ddim(mesh: Mesh, eta: float = 0.0) -> StepTable:
    r"""DDIM, with its own eta: a factor of the noise, and not a rate.

    .. math::

        x_{k+1} = \alpha_{k+1} \hat x_0 + \sqrt{\sigma_{k+1}^2 - D^2}\,
        \frac{x_k - \alpha_k \hat x_0}{\sigma_k} + D \xi, \qquad
        D = \eta\, \sigma_{k+1} \sqrt{1 - e^{-2 h}} .

    :math:`D / \eta` is the standard deviation of the DDPM posterior. Song et al. 2021,
    https://arxiv.org/abs/2010.02502, equations 12 and 16.

    Args:
        mesh: the noise levels.
        eta: from 0 (the ODE) to 1 (DDPM).

    Raises:
        ValueError: for an eta outside 0 to 1.
    """
    eta = real("eta", eta, "a number from 0 to 1", lambda value: 0.0 <= value <= 1.0)

    def row(k: int) -> Coefficients:
        D = eta * mesh.sigma[k + 1] * math.sqrt(-math.expm1(-2.0 * mesh.h[k]))
        A = math.sqrt(mesh.sigma[k + 1] ** 2 - D**2) / mesh.sigma[k]
        return Coefficients(A, mesh.alpha[k + 1] - A * mesh.alpha[k], 0.0, D)

    return _rows(mesh, row)


def euler_ancestral(mesh: Mesh, eta: float = 1.0) -> StepTable:
    r"""Euler ancestral: a step of Euler to below the next level, and noise back up to it.

    .. math::

        \sigma_\text{up} = \min\Big(\sigma_{k+1},\ \eta\, \sigma_{k+1}
        \sqrt{1 - \sigma_{k+1}^2 / \sigma_k^2}\Big), \qquad
        \sigma_\text{down}^2 = \sigma_{k+1}^2 - \sigma_\text{up}^2, \\
        A = \frac{\sigma_\text{down}}{\sigma_k}, \qquad B = 1 - A, \qquad C = 0, \qquad
        D = \sigma_\text{up} .

    k-diffusion's ``sample_euler_ancestral``, https://github.com/crowsonkb/k-diffusion.

    Args:
        mesh: the noise levels of a VE process.
        eta: a factor of the noise, finite and >= 0.

    Raises:
        ValueError: for an eta outside this range, or another process, which has a formula of its
            own.
    """
    eta = not_negative("eta", eta)
    if not isinstance(mesh.process, VE):
        raise ValueError(f"mesh must be of process 've', got {mesh.process.name!r}")

    def row(k: int) -> Coefficients:
        now, to = mesh.sigma[k], mesh.sigma[k + 1]
        up = min(to, eta * math.sqrt(to**2 * (now**2 - to**2) / now**2))
        A = math.sqrt(to**2 - up**2) / now
        return Coefficients(A, 1.0 - A, 0.0, up)

    return _rows(mesh, row)


def two_m(mesh: Mesh) -> StepTable:
    r"""DPM-Solver++(2M), without noise.

    With :math:`r = h_{k-1} / h_k`:

    .. math:: x_{k+1} = \frac{\sigma_{k+1}}{\sigma_k} x_k + \alpha_{k+1} (1 - e^{-h}) \Big(
              \big(1 + \tfrac{1}{2r}\big) \hat x_{0,k} - \tfrac{1}{2r} \hat x_{0,k-1} \Big)

    Lu et al. 2022, https://arxiv.org/abs/2211.01095, algorithm 2. On VE it is k-diffusion's
    ``sample_dpmpp_2m``.
    """

    def row(k: int) -> Coefficients:
        A = mesh.sigma[k + 1] / mesh.sigma[k]
        B = mesh.alpha[k + 1] * -math.expm1(-mesh.h[k])
        return Coefficients(A, B, B * mesh.h[k] / (2.0 * mesh.h[k - 1]) if k else 0.0, 0.0)

    return _rows(mesh, row)


def sde_1(mesh: Mesh, eta: float = 1.0) -> StepTable:
    r"""SDE-DPM-Solver++ of order 1: :func:`~dpmpp_core.step_table` without history, C = 0.

    Lu et al. 2022, https://arxiv.org/abs/2211.01095, section 6, at eta = 1.

    Args:
        mesh: the noise levels.
        eta: the rate of the noise, finite and >= 0.

    Raises:
        ValueError: for an eta outside this range.
    """
    return replace(step_table(mesh, eta), C=(0.0,) * mesh.steps)


def three_m(
    model: Model,
    x: Tensor,
    mesh: Mesh,
    eta: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    *,
    bend: float = 0.5,
) -> Tensor:
    r"""The last state of DPM-Solver++(3M) SDE, k-diffusion's ``sample_dpmpp_3m_sde``.

    With the differences :math:`\Delta_k = (h_k / h_{k-1}) (\hat x_{0,k} - \hat x_{0,k-1})` and
    :math:`\Delta_k' = (h_k / h_{k-2}) (\hat x_{0,k-1} - \hat x_{0,k-2})`, the parabola through
    three estimates is integrated as heun integrates a line:

    .. math::

        x_{k+1} = A x_k + B \hat x_{0,k} + \alpha_{k+1} \Big( \varphi_2 \Delta_k
        + (r_0 \varphi_2 + 2 b\, w)\, \frac{\Delta_k - \Delta_k'}{r_0 + r_1} \Big) + D \xi_k, \\
        \varphi_2 = 1 - \frac{1 - e^{-z}}{z}, \qquad w = \frac12 - \frac{\varphi_2}{z}, \qquad
        r_0 = \frac{h_{k-1}}{h_k}, \qquad r_1 = \frac{h_{k-2}}{h_k} .

    The published code has the bend b = 1/2; the parabola has b = 1. The first step is of order 1,
    the second of order 2.

    Args:
        model: the denoiser, as :func:`~dpmpp_core.sample` calls it.
        x: the first state, shape ``(B, ...)``; float64 keeps the order visible.
        mesh: the noise levels.
        eta: the rate of the noise, finite and >= 0.
        noise_sampler: as :func:`~dpmpp_core.sample` takes it; may be None at eta = 0.
        bend: b, the part of the parabola's bend.

    Raises:
        ValueError: for an eta outside this range, or without noise where there has to be some.
    """
    table = step_table(mesh, eta, solver_type="heun")
    bend = real("bend", bend, "a finite number")
    if noise_sampler is None and any(table.D):
        raise ValueError(f"noise_sampler must be given where eta is above 0, got None and {eta!r}")
    levels = x.new_tensor(mesh.sigma, device="cpu")
    before: Tensor | None = None
    change_before: Tensor | None = None
    for k, row in enumerate(table):
        estimate = model(x, levels[k].to(x.device).expand(len(x)))
        xi = noise_sampler(levels[k], levels[k + 1]) if noise_sampler and row.D else None
        x_next = step(row, x, estimate, before, xi).x_next
        change = None if before is None else (estimate - before) / mesh.h[k - 1]
        if change is not None and change_before is not None and math.isfinite(mesh.h[k]):
            h, z = mesh.h[k], (1.0 + eta) * mesh.h[k]
            phi_2 = history_weight(z, "heun")
            factor = h * phi_2 * mesh.h[k - 1] + 2.0 * bend * h**2 * (0.5 - phi_2 / z)
            second = (change - change_before) / (mesh.h[k - 1] + mesh.h[k - 2])
            x_next = x_next + mesh.alpha[k + 1] * factor * second
        x, before, change_before = x_next, estimate, change
    return x


def _rows(mesh: Mesh, row: Callable[[int], Coefficients]) -> StepTable:
    """The rows of the finite steps, and that of a step to 0."""
    rows = [
        row(k) if to > 0.0 else Coefficients(0.0, 1.0, 0.0, 0.0)
        for k, (_, to) in enumerate(pairwise(mesh.sigma))
    ]
    return StepTable(*(tuple(column) for column in zip(*rows, strict=True)))
