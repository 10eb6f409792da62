r"""The exact law of the sampler's state where the denoiser is affine: means, variances, responses.

For Gaussian data the denoiser is :math:`\hat x_{0,k} = g_k x_k + b_k`, so a step is affine in the
state, in the estimate of the step before and in the noise. The state stays Gaussian, and its mean
and variance follow without sampling, as they do for any other affine denoiser, a wrong one too.

Everything is float64 on the host. A *grid* below is any shape, ``()`` for one setting: settings
are given as arrays whose shapes broadcast, and results have that shape after the axis of steps.
"""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .checks import real
from .coefficients import SolverType, StepTable, step_row
from .mesh import Mesh

__all__ = [
    "AffineDenoiser",
    "Moments",
    "NoiseResponse",
    "StepGrid",
    "affine_moments",
    "gaussian_denoiser",
    "gaussian_moments",
    "noise_response",
    "step_grid",
]

Array = float | Sequence[Any] | np.ndarray[Any, Any] | Tensor
"""Numbers of any shape; read as float64."""

Numbers = np.ndarray[Any, np.dtype[np.float64]]
LINE = torch.Size()


class StepGrid(NamedTuple):
    """The coefficients of every step for a grid of settings: four tensors ``(N, *grid)``."""

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor


class AffineDenoiser(NamedTuple):
    r"""The denoiser :math:`\hat x_{0,k} = g_k x_k + b_k` at the levels of the steps, ``(N, ...)``.

    There is none at the last level of a mesh: the sampler does not ask for it.
    """

    gain: Tensor
    offset: Tensor


class Moments(NamedTuple):
    r"""Mean and variance of the states :math:`x_0, \dots, x_N`, the steps on the first axis."""

    mean: Tensor
    variance: Tensor


class NoiseResponse(NamedTuple):
    r"""Weights of :math:`x_0`, shape ``(*grid)``, and of each :math:`\xi_k`, ``(N, *grid)``."""

    initial: Tensor
    noise: Tensor


# --- settings and denoisers ---------------------------------------------------------------------


def step_grid(
    mesh: Mesh, eta: Array = 1.0, s_noise: Array = 1.0, solver_type: SolverType = "midpoint"
) -> StepGrid:
    """The coefficients of :func:`~dpmpp_core.step_table` for grids of eta and s_noise.

    Args:
        mesh: the noise levels.
        eta, s_noise: finite and >= 0, of shapes that broadcast to ``grid``.
        solver_type: ``"midpoint"`` or ``"heun"``.

    Returns:
        Four tensors ``(N, *grid)``, views of smaller ones where a column is the same for many.

    Raises:
        ValueError: for values outside these ranges.
    """
    _check_mesh(mesh)
    rates, factors = _not_negative("eta", eta), _not_negative("s_noise", s_noise)
    grid = _common_shape({"eta": rates.shape, "s_noise": factors.shape})
    # A step to 0, which can only be the last, is no case of the formulas.
    h = _tensor([step for step in mesh.h if math.isfinite(step)])
    growth = torch.cat([torch.zeros_like(h[:1]), h[1:] / h[:-1]])
    end = len(h) + 1
    levels = _tensor(mesh.sigma)[: end - 1], _tensor(mesh.sigma)[1:end], _tensor(mesh.alpha)[1:end]
    thin = torch.Size([1] * len(grid))
    sigma, sigma_next, alpha_next, h, growth = (_column(v, thin) for v in (*levels, h, growth))
    row = step_row(sigma, sigma_next, alpha_next, h, growth, rates, factors, solver_type)
    columns = []
    for column, at_zero in zip(row, (0.0, 1.0, 0.0, 0.0), strict=True):
        last = column.new_full((mesh.steps - len(h), *column.shape[1:]), at_zero)
        columns.append(torch.cat([column, last]).expand(mesh.steps, *grid))
    return StepGrid(*columns)


def gaussian_denoiser(mesh: Mesh, mean: Array = 0.0, variance: Array = 1.0) -> AffineDenoiser:
    r"""The exact denoiser of :math:`\mathcal N(m, v)` data.

    .. math::

        \hat x_{0,k} = m + g_k (x_k - \alpha_k m), \qquad
        g_k = \frac{\alpha_k v}{\alpha_k^2 v + \sigma_k^2}, \qquad
        b_k = (1 - g_k \alpha_k)\, m = \frac{\sigma_k^2}{\alpha_k^2 v + \sigma_k^2}\, m.

    Args:
        mesh: the noise levels.
        mean, variance: m, finite, and v, finite and >= 0, of shapes that broadcast: one Gaussian on
            the line for each entry.

    Returns:
        Gain and offset, ``(N, *shape)``.

    Raises:
        ValueError: for values outside these ranges.
    """
    _check_mesh(mesh)
    m, v = _finite("mean", mean), _not_negative("variance", variance)
    shape = _common_shape({"mean": m.shape, "variance": v.shape})
    alpha, sigma = (_column(_tensor(levels[:-1]), shape) for levels in (mesh.alpha, mesh.sigma))
    # The ratio of the noise's variance to the data's, in an order that keeps v = 0 from 0 / 0.
    ratio = sigma / alpha / v * (sigma / alpha)
    return AffineDenoiser(1.0 / (alpha * (1.0 + ratio)), m / (1.0 + 1.0 / ratio))


# --- moments ------------------------------------------------------------------------------------


def gaussian_moments(
    mesh: Mesh,
    eta: Array = 1.0,
    s_noise: Array = 1.0,
    solver_type: SolverType = "midpoint",
    mean: Array = 0.0,
    variance: Array = 1.0,
    initial: tuple[Array, Array] | None = None,
) -> Moments:
    r"""Exact mean and covariance of the sampler's state for :math:`\mathcal N(m, V)` data.

    The denoiser is the exact one, :math:`\hat x_{0,k} = m + G_k (x_k - \alpha_k m)` with
    :math:`G_k = \alpha_k V (\alpha_k^2 V + \sigma_k^2 I)^{-1}`. With
    :math:`A \alpha_k + B = \alpha_{k+1}` the deviations :math:`u_k = x_k - \alpha_k m` obey

    .. math::

        u_{k+1} = A u_k + B y_k + C (y_k - y_{k-1}) + D \xi_k, \qquad y_k = G_k u_k.

    In the eigenbasis of V each coordinate goes by itself: :math:`u_k = R_k u_0` plus a Gaussian of
    variance :math:`Q_k`, both numbers, so that :math:`\mathbb E\, x_k = \alpha_k m + R_k\, \mathbb
    E\, u_0`, and the covariance of coordinates i and j is :math:`R_k^i R_k^j\, \mathrm{Cov}(u_0^i,
    u_0^j) + \delta_{ij} Q_k^i`. The results are in the basis in which V was given.

    Where the mesh ends at 0 the last state is the last estimate, and these are its moments.

    Args:
        mesh: the noise levels.
        eta, s_noise: finite and >= 0, of shapes that broadcast to ``grid``.
        solver_type: ``"midpoint"`` or ``"heun"``.
        mean: m: a number, or shape ``(d,)``.
        variance: V: a number for :math:`v I`, ``(d,)`` for a diagonal, ``(d, d)`` for any symmetric
            matrix with eigenvalues >= 0. With two numbers the data is on the line.
        initial: mean and covariance of :math:`x_0`, in the forms of ``mean`` and ``variance``. On
            the line both may also have any shapes that broadcast with the grid. None is the exact
            law of the first level: mean :math:`\alpha_0 m`, covariance
            :math:`\alpha_0^2 V + \sigma_0^2 I`.

    Returns:
        Mean and variance, both ``(N + 1, *grid)`` on the line, and ``(N + 1, *grid, d)`` and
        ``(N + 1, *grid, d, d)`` otherwise; row k is that of :math:`x_k`.

    Raises:
        ValueError: for values outside these ranges.
    """
    grid = step_grid(mesh, eta, s_noise, solver_type)
    m, V = _finite("mean", mean), _finite("variance", variance)
    if m.ndim == V.ndim == 0:
        return _on_the_line(mesh, grid, m, _not_negative("variance", variance), initial)

    d = _dimension(m, V)
    m = m.expand(d)
    values, basis = torch.linalg.eigh(_covariance("variance", V, d))
    values = values.clamp(min=0.0)
    start = torch.diag(mesh.alpha[0] ** 2 * values + mesh.sigma[0] ** 2)
    lead = torch.zeros_like(m)
    if initial is not None:
        first_mean, first = _pair(initial)
        if first_mean.shape not in ((), (d,)):
            raise ValueError(
                f"initial mean must be a number or of shape {(d,)}, "
                f"got shape {tuple(first_mean.shape)}"
            )
        lead = basis.mT @ (first_mean - mesh.alpha[0] * m)
        start = basis.mT @ _covariance("initial variance", first, d) @ basis

    each = StepGrid(*(column[..., None] for column in grid))
    response, _, spread = _propagate(each, gaussian_denoiser(mesh, 0.0, values).gain, _tensor(0.0))
    alpha = _column(_tensor(mesh.alpha), response.shape[1:])
    covariance = response[..., None] * start * response[..., None, :]
    covariance = basis @ (covariance + torch.diag_embed(spread**2)) @ basis.mT
    return Moments(alpha * m + (response * lead) @ basis.mT, 0.5 * (covariance + covariance.mT))


def _on_the_line(
    mesh: Mesh, grid: StepGrid, m: Tensor, v: Tensor, initial: tuple[Array, Array] | None
) -> Moments:
    lead = torch.zeros_like(m)
    start = mesh.alpha[0] ** 2 * v + mesh.sigma[0] ** 2
    if initial is not None:
        first_mean, start = _line_pair(initial)
        lead = first_mean - mesh.alpha[0] * m
    moments = affine_moments(grid, gaussian_denoiser(mesh, 0.0, v).gain, initial=(lead, start))
    alpha = _column(_tensor(mesh.alpha), moments.mean.shape[1:])
    return moments._replace(mean=alpha * m + moments.mean)


def affine_moments(
    table: StepTable | StepGrid,
    gain: Array,
    offset: Array = 0.0,
    *,
    initial: tuple[Array, Array],
) -> Moments:
    r"""Exact mean and variance of the sampler's state for an affine denoiser on the line.

    The denoiser is :math:`\hat x_{0,k} = g_k x_k + b_k`, whatever it comes from: the exact one of a
    Gaussian (:func:`gaussian_denoiser`), or a biased one. Coordinates that do not mix go as one
    more axis of the grid.

    Args:
        table: the coefficients, of one setting or of a grid; those of another method too, if it
            is of this form, such as a table with C = 0 for the method without history.
        gain: :math:`g_k`: a number for all steps, or ``(N, ...)`` with the rest broadcasting with
            the grid.
        offset: :math:`b_k`, in the same forms.
        initial: mean and variance of :math:`x_0`, of shapes that broadcast with the grid.

    Returns:
        Mean and variance, ``(N + 1, *shape)``, with the shape that all arguments broadcast to.

    Raises:
        ValueError: for values outside these ranges, and for a table whose first step has history.
    """
    first_mean, start = _line_pair(initial)
    response, shift, spread = _propagate(
        table, _finite("gain", gain), _finite("offset", offset), first_mean.shape
    )
    return Moments(response * first_mean + shift, response**2 * start + spread**2)


def noise_response(table: StepTable | StepGrid, gain: Array) -> NoiseResponse:
    r"""The weights of the first state and of every noise in the last state.

    For an affine denoiser :math:`x_N = r x_0 + \sum_k w_k \xi_k + \text{const}`. The weights follow
    from the last step back to the first. They sum up to the variance, :math:`r^2\, \mathrm{Var}\,
    x_0 + \sum_k w_k^2`, and give the distance of two runs that share a Brownian path.

    Args:
        table, gain: as in :func:`affine_moments`.

    Raises:
        ValueError: as :func:`affine_moments`.
    """
    columns, (gains,), shape = _aligned(table, LINE, gain=_finite("gain", gain))
    state, later = np.ones(shape), np.zeros(shape)
    weights = []
    with np.errstate(over="ignore", invalid="ignore"):
        for k in reversed(range(len(gains))):
            A, B, C, D = (column[k] for column in columns)
            weights.append(D * state)
            # Estimate k enters step k with B + C, and step k + 1 with -C: the weight `later`.
            state, later = (A + B * gains[k]) * state + gains[k] * (C * state - later), C * state
    return NoiseResponse(_tensor(state), _tensor(np.stack(weights[::-1])))


def _propagate(
    table: StepTable | StepGrid, gain: Tensor, offset: Tensor, shape: torch.Size = LINE
) -> tuple[Tensor, Tensor, Tensor]:
    r"""R, S and q with :math:`x_k = R_k x_0 + S_k + q_k \zeta` in law, each ``(N + 1, *shape)``.

    The noise in :math:`(x_k, \hat x_{0,k-1})` is kept as a square root of its covariance:
    :math:`x_k = p \zeta_1 + s \zeta_2`, where :math:`\hat x_{0,k-1}` is a multiple of
    :math:`\zeta_1`. The new estimate is one of :math:`x_k`, so the axes are turned to it, and the
    new noise joins the part across. In the variances themselves the two terms of the history
    would cancel with twice the loss of digits.
    """
    columns, (gains, offsets), shape = _aligned(table, shape, gain=gain, offset=offset)
    steps = len(gains)
    R, S, q = (np.zeros((steps + 1, *shape)) for _ in range(3))
    R[0] = 1.0
    along = across = before_R = before_S = before_q = np.zeros(shape)
    # numpy in this loop: for a single setting it is many times as fast as torch.
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(steps):
            A, B, C, D = (column[k] for column in columns)
            now_R, now_S, now_q = gains[k] * R[k], gains[k] * S[k] + offsets[k], gains[k] * q[k]
            R[k + 1] = A * R[k] + B * now_R + C * (now_R - before_R)
            S[k + 1] = A * S[k] + B * now_S + C * (now_S - before_S)
            length = np.maximum(q[k], np.finfo(np.float64).tiny)
            turned, lost = before_q * (along / length), before_q * (across / length)
            along = A * q[k] + B * now_q + C * (now_q - turned)
            across = np.hypot(C * lost, D)
            q[k + 1] = np.hypot(along, across)
            before_R, before_S, before_q = now_R, now_S, now_q
    return _tensor(R), _tensor(S), _tensor(q)


# --- shapes and refusals ------------------------------------------------------------------------


def _tensor(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device="cpu")


def _column(values: Tensor, shape: torch.Size) -> Tensor:
    """The values of the steps, ``(N, ...)``, as a view of shape ``(N, *shape)``."""
    missing = len(shape) + 1 - values.ndim
    values = values.reshape(len(values), *[1] * missing, *values.shape[1:])
    return values.expand(len(values), *shape)


def _common_shape(shapes: dict[str, torch.Size]) -> torch.Size:
    try:
        return torch.Size(np.broadcast_shapes(*shapes.values()))
    except ValueError:
        *names, last = shapes
        raise ValueError(
            f"{', '.join(names)} and {last} must have shapes that broadcast (after the axis of "
            f"steps), got {', '.join(str(tuple(shape)) for shape in shapes.values())}"
        ) from None


def _aligned(
    table: StepTable | StepGrid, shape: torch.Size, **factors: Tensor
) -> tuple[list[Numbers], list[Numbers], torch.Size]:
    """The table's columns and the factors, each ``(N, *common)``, and that common shape."""
    if not isinstance(table, StepTable | StepGrid):
        raise ValueError(f"table must be a StepTable or a StepGrid, got {table!r}")
    named = {name: _tensor(getattr(table, name)) for name in "ABCD"} | factors
    steps = len(table.A)
    for name, column in named.items():
        if column.ndim and len(column) != steps:
            raise ValueError(
                f"{name} must be a number or have shape ({steps}, ...), one entry for each step, "
                f"got shape {tuple(column.shape)}"
            )
        named[name] = column if column.ndim else column.expand(steps)
    if (named["C"][0] != 0.0).any():
        raise ValueError(
            f"table must have C = 0 in its first step, which has no history, got {table.C[0]}"
        )
    rests = {name: column.shape[1:] for name, column in named.items()}
    common = _common_shape({**rests, "initial": shape})
    columns = [_column(column, common).numpy() for column in named.values()]
    return columns[:4], columns[4:], common


def _pair(initial: Any) -> tuple[Tensor, Tensor]:
    """Mean and variance of the first state, as far as they can be checked without their shapes."""
    if not isinstance(initial, tuple | list) or len(initial) != 2:
        raise ValueError(f"initial must be a pair of a mean and a variance, got {initial!r}")
    return _finite("initial mean", initial[0]), _finite("initial variance", initial[1])


def _line_pair(initial: Any) -> tuple[Tensor, Tensor]:
    """The pair on the line, brought to one shape."""
    mean, variance = _pair(initial)
    variance = _not_negative("initial variance", variance)
    shape = _common_shape({"initial mean": mean.shape, "initial variance": variance.shape})
    return mean.expand(shape), variance.expand(shape)


def _dimension(mean: Tensor, variance: Tensor) -> int:
    if mean.ndim > 1 or mean.numel() == 0:
        raise ValueError(f"mean must be a number or of shape (d,), got shape {tuple(mean.shape)}")
    return len(mean) if mean.ndim else len(variance)


def _covariance(name: str, value: Tensor, d: int) -> Tensor:
    """A covariance in one of its three forms, as a symmetric matrix ``(d, d)``."""
    if value.shape not in ((), (d,), (d, d)):
        raise ValueError(
            f"{name} must be a number or of shape {(d,)} or {(d, d)}, "
            f"got shape {tuple(value.shape)}"
        )
    if value.ndim < 2:
        _check_all(name, value, value >= 0.0, "at least 0")
        return torch.diag(value.expand(d))
    size = float(value.abs().max())
    gap = float((value - value.mT).abs().max())
    if gap > 1e-12 * size:
        raise ValueError(f"{name} must be symmetric, got a gap of {gap:g}")
    matrix = 0.5 * (value + value.mT)
    lowest = float(torch.linalg.eigvalsh(matrix)[0])
    # An eigenvalue that is 0 can come out as a rounding error below it.
    if lowest < -d * torch.finfo(torch.float64).eps * size:
        raise ValueError(f"{name} must have eigenvalues >= 0, got an eigenvalue of {lowest:g}")
    return matrix


def _check_mesh(mesh: Any) -> None:
    if not isinstance(mesh, Mesh):
        raise ValueError(f"mesh must be a Mesh, such as Mesh.from_sigmas(sigmas), got {mesh!r}")


def _finite(name: str, value: Any) -> Tensor:
    """Numbers of any shape as a float64 tensor on the host."""
    if isinstance(value, numbers.Real):
        return _tensor(real(name, value, "a finite number"))
    array = torch.empty(0)
    if isinstance(value, Tensor) and not (value.is_complex() or value.dtype == torch.bool):
        array = _tensor(value.detach())
    elif isinstance(value, np.ndarray | list | tuple):
        # A list that is no array is refused here, and so is one of anything but numbers.
        with contextlib.suppress(ValueError):
            entries = np.asarray(value)
            if entries.dtype.kind in "iuf":
                array = torch.tensor(entries, dtype=torch.float64, device="cpu")
    if array.numel() == 0:
        raise ValueError(f"{name} must be a number or an array of numbers, got {value!r}")
    _check_all(name, array, array.isfinite(), "finite")
    return array


def _not_negative(name: str, value: Any) -> Tensor:
    """Numbers >= 0 of any shape as a float64 tensor on the host."""
    array = _finite(name, value)
    _check_all(name, array, array >= 0.0, "at least 0")
    return array


def _check_all(name: str, array: Tensor, good: Tensor, allowed: str) -> None:
    if not good.all():
        raise ValueError(f"{name} must be {allowed}, got {float(array[~good][0]):g}")
