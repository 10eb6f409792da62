r"""Noising processes and noise schedules.

A *process* fixes how data and noise are mixed, :math:`x = \alpha(\sigma)\, x_0 + \sigma\,
\varepsilon`, and with it the half log-SNR :math:`\lambda(\sigma) = \log(\alpha / \sigma)`. A
*schedule* is a decreasing list of noise levels :math:`\sigma_0 > \dots > \sigma_N`, as a float64
tensor on the host.

The schedules take the names that ComfyUI's menu gives them. Those that sample a model's own
table of
noise levels take that table as an ascending tensor: :func:`discrete_table` or :func:`flow_table`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from .checks import count, positive, real

__all__ = [
    "VE",
    "VP",
    "Flow",
    "Process",
    "as_process",
    "beta",
    "ddim_uniform",
    "discrete_table",
    "exponential",
    "flow",
    "flow_table",
    "karras",
    "kl_optimal",
    "laplace",
    "linear_quadratic",
    "normal",
    "polyexponential",
    "sgm_uniform",
    "shift_time",
    "simple",
    "vp",
]

Scalar = TypeVar("Scalar", float, Tensor)


def _apply(function: str, value: Scalar) -> Scalar:
    """The function of that name from :mod:`math` for a float, from torch for a tensor."""
    library = torch if isinstance(value, Tensor) else math
    return cast(Scalar, getattr(library, function)(value))


def _log(value: Scalar) -> Scalar:
    """log, with log 0 = -inf for floats too, as torch has it."""
    if not isinstance(value, Tensor) and value == 0.0:
        return -math.inf
    return _apply("log", value)


def _exp(value: Scalar) -> Scalar:
    """exp, which for a float above 709 is inf, as torch has it."""
    if not isinstance(value, Tensor) and value > 709.0:
        return math.inf
    return _apply("exp", value)


def _softplus(value: Scalar) -> Scalar:
    """log(1 + exp(value)), without overflow."""
    if isinstance(value, Tensor):
        return torch.logaddexp(value, value.new_zeros(()))
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))


# --- processes ---------------------------------------------------------------------------------


class Process(Hashable, Protocol):
    r"""How data and noise are mixed: :math:`x = \alpha(\sigma)\, x_0 + \sigma\, \varepsilon`.

    Every method takes a float or a tensor and returns the same. ``sigma`` has no unit; its range is
    :math:`[0, \infty)` for :class:`VE` and :math:`[0, 1]` for :class:`VP` and :class:`Flow`.
    """

    name: ClassVar[str]
    sigma_limit: ClassVar[float]
    """Noise levels lie below this bound, where alpha, and with it exp(lambda), reaches zero."""

    def alpha(self, sigma: Scalar) -> Scalar:
        r"""The data's factor :math:`\alpha(\sigma)`."""

    def half_log_snr(self, sigma: Scalar) -> Scalar:
        r""":math:`\lambda(\sigma) = \log(\alpha / \sigma)`, decreasing in sigma."""

    def sigma(self, half_log_snr: Scalar) -> Scalar:
        r"""The noise level at which :math:`\lambda` has this value."""

    def log_alpha_gain(self, sigma: float, sigma_next: float) -> float:
        r""":math:`\log(\alpha(\sigma_\text{next}) / \alpha(\sigma))`, without cancellation."""


@dataclass(frozen=True)
class VE:
    r"""Variance exploding: :math:`x = x_0 + \sigma \varepsilon`, so :math:`\lambda = -\log \sigma`.

    The coordinates of k-diffusion and of ComfyUI's EPS, v-prediction and EDM models.
    Source: Karras et al. 2022, https://arxiv.org/abs/2206.00364, Table 1.
    """

    name: ClassVar[str] = "ve"
    sigma_limit: ClassVar[float] = math.inf

    def alpha(self, sigma: Scalar) -> Scalar:
        return 0.0 * sigma + 1.0

    def half_log_snr(self, sigma: Scalar) -> Scalar:
        return -_log(sigma)

    def sigma(self, half_log_snr: Scalar) -> Scalar:
        return _exp(-half_log_snr)

    def log_alpha_gain(self, sigma: float, sigma_next: float) -> float:
        return 0.0


@dataclass(frozen=True)
class VP:
    r"""Variance preserving: :math:`\alpha^2 + \sigma^2 = 1`.

    Source: Song et al. 2021, https://arxiv.org/abs/2011.13456, section 3.4.
    """

    name: ClassVar[str] = "vp"
    sigma_limit: ClassVar[float] = 1.0

    def alpha(self, sigma: Scalar) -> Scalar:
        # (1 - s)(1 + s) keeps the digits that 1 - s^2 loses near s = 1.
        return _apply("sqrt", (1.0 - sigma) * (1.0 + sigma))

    def half_log_snr(self, sigma: Scalar) -> Scalar:
        return _log(self.alpha(sigma)) - _log(sigma)

    def sigma(self, half_log_snr: Scalar) -> Scalar:
        return _exp(-0.5 * _softplus(2.0 * half_log_snr))

    def log_alpha_gain(self, sigma: float, sigma_next: float) -> float:
        gain = (sigma - sigma_next) * (sigma + sigma_next)
        return 0.5 * math.log1p(gain / ((1.0 - sigma) * (1.0 + sigma)))


@dataclass(frozen=True)
class Flow:
    r"""Rectified flow: :math:`\alpha = 1 - \sigma`; ComfyUI's CONST.

    ``shift`` is the model's time shift (1 for none). It enters here only through
    :attr:`first_sigma`: at :math:`\sigma = 1` there is no data left, :math:`\lambda = -\infty`,
    and a schedule that starts there is started a little below instead, as ComfyUI does.
    Source: Lipman et al. 2023, https://arxiv.org/abs/2210.02747.
    """

    shift: float = 1.0
    name: ClassVar[str] = "flow"
    sigma_limit: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        positive("shift", self.shift)

    @property
    def first_sigma(self) -> float:
        """The level that replaces a first sigma of 1, the shifted time of :math:`1 - 10^{-4}`."""
        return shift_time(1.0 - 1e-4, self.shift)

    def alpha(self, sigma: Scalar) -> Scalar:
        return 1.0 - sigma

    def half_log_snr(self, sigma: Scalar) -> Scalar:
        return _log(1.0 - sigma) - _log(sigma)

    def sigma(self, half_log_snr: Scalar) -> Scalar:
        return _exp(-_softplus(half_log_snr))

    def log_alpha_gain(self, sigma: float, sigma_next: float) -> float:
        return math.log1p((sigma - sigma_next) / (1.0 - sigma))


def as_process(process: str | Process) -> Process:
    """The process of that name (``"ve"``, ``"vp"``, ``"flow"``), or the process itself.

    Raises:
        ValueError: for any other name or object.
    """
    named: dict[str, Callable[[], Process]] = {"ve": VE, "vp": VP, "flow": Flow}
    if isinstance(process, str) and process in named:
        return named[process]()
    if isinstance(process, VE | VP | Flow):
        return process
    raise ValueError(
        f"process must be 've', 'vp', 'flow', VE(), VP() or Flow(...), got {process!r}"
    )


# --- schedules between two noise levels --------------------------------------------------------


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    r"""Levels evenly spaced in :math:`\sigma^{1/\rho}`, then 0: shape ``(steps + 1,)``.

    .. math:: \sigma_k = \bigl(\sigma_{\max}^{1/\rho}
              + \tfrac{k}{n-1}(\sigma_{\min}^{1/\rho} - \sigma_{\max}^{1/\rho})\bigr)^{\rho}

    Source: Karras et al. 2022, https://arxiv.org/abs/2206.00364, equation 5.

    Raises:
        ValueError: unless ``steps >= 1`` and ``0 < sigma_min < sigma_max``, ``rho > 0``.
    """
    rho = positive("rho", rho)
    low, high = _levels(sigma_min, sigma_max)
    ends = torch.tensor([low, high], dtype=torch.float64, device="cpu") ** (1.0 / rho)
    inverse = ends[1] + _ramp(steps) * (ends[0] - ends[1])
    return _descending("rho, sigma_min and sigma_max", _with_zero(inverse**rho))


def exponential(steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    r"""Levels evenly spaced in :math:`\log\sigma`, then 0: a uniform mesh in lambda under VE.

    Raises:
        ValueError: as :func:`karras`.
    """
    return polyexponential(steps, sigma_min, sigma_max, rho=1.0)


def polyexponential(steps: int, sigma_min: float, sigma_max: float, rho: float = 1.0) -> Tensor:
    r""":math:`\log\sigma_k = \log\sigma_{\min} + (1 - k/(n-1))^{\rho}
    \log(\sigma_{\max}/\sigma_{\min})`, then 0.

    Raises:
        ValueError: as :func:`karras`.
    """
    rho = positive("rho", rho)
    low, high = _levels(sigma_min, sigma_max)
    ramp = (1.0 - _ramp(steps)) ** rho
    span = math.log(high) - math.log(low)
    levels = _with_zero(torch.exp(math.log(low) + ramp * span))
    return _descending("rho, sigma_min and sigma_max", levels)


def vp(steps: int, beta_d: float = 19.9, beta_min: float = 0.1, eps_s: float = 1e-3) -> Tensor:
    r"""The continuous VP-SDE's levels in VE coordinates at even times from 1 to ``eps_s``, then 0.

    .. math:: \sigma(t) = \sqrt{e^{\beta_d t^2 / 2 + \beta_{\min} t} - 1}

    Source: Song et al. 2021, https://arxiv.org/abs/2011.13456; Karras et al. 2022, Table 1.

    Raises:
        ValueError: unless ``steps >= 1``, ``beta_d, beta_min > 0`` and ``0 < eps_s < 1``.
    """
    beta_d, beta_min = positive("beta_d", beta_d), positive("beta_min", beta_min)
    eps_s = real("eps_s", eps_s, "a number between 0 and 1", lambda number: 0.0 < number < 1.0)
    t = 1.0 + _ramp(steps) * (eps_s - 1.0)
    levels = _with_zero(torch.special.expm1(0.5 * beta_d * t**2 + beta_min * t).sqrt())
    return _descending("beta_d and beta_min", levels)


def laplace(
    steps: int, sigma_min: float, sigma_max: float, mu: float = 0.0, beta: float = 0.5
) -> Tensor:
    r"""Quantiles of a Laplace distribution of :math:`\log\sigma`, clipped to the two levels.

    With :math:`u` even in [0, 1]: :math:`\log\sigma = \mu - \beta\,\mathrm{sign}(\tfrac12 - u)
    \log(1 - 2|\tfrac12 - u| + 10^{-5})`. As in ComfyUI no 0 is appended: the schedule ends at
    its last level. Clipping can repeat an end; a repeated level would be a step of length zero
    and is given once, so that the result may be shorter than ``steps``.
    Source: Hang et al. 2024, https://arxiv.org/abs/2407.03297.

    Raises:
        ValueError: as :func:`karras`.
    """
    beta, mu = positive("beta", beta), real("mu", mu, "a finite number")
    low, high = _levels(sigma_min, sigma_max)
    centred = 0.5 - _ramp(steps)
    log_sigma = mu - beta * centred.sign() * torch.log(1.0 - 2.0 * centred.abs() + 1e-5)
    levels: Tensor = torch.unique_consecutive(log_sigma.exp().clamp(low, high))
    return levels


def kl_optimal(steps: int, sigma_min: float, sigma_max: float) -> Tensor:
    r"""Levels evenly spaced in :math:`\arctan\sigma`, then 0.

    Source: Sabour et al. 2024 (Align Your Steps), https://arxiv.org/abs/2404.14507.

    Raises:
        ValueError: as :func:`karras`.
    """
    low, high = _levels(sigma_min, sigma_max)
    ramp = _ramp(steps)
    levels = _with_zero(torch.tan(ramp * math.atan(low) + (1.0 - ramp) * math.atan(high)))
    return _descending("sigma_min and sigma_max", levels)


# --- schedules that sample a model's table -----------------------------------------------------


def discrete_table(
    timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
) -> Tensor:
    r"""The ascending levels a Stable Diffusion model was trained on, in VE coordinates.

    :math:`\sigma_t = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}` with
    :math:`\bar\alpha_t = \prod_{s \le t} (1 - \beta_s)` and :math:`\sqrt{\beta_s}` linear
    between the roots of the two ends ("scaled linear"). Shape ``(timesteps,)``; the defaults run
    from 0.0292 to 14.6146.
    Source: Ho et al. 2020, https://arxiv.org/abs/2006.11239; Rombach et al. 2022.

    Raises:
        ValueError: unless ``timesteps >= 1`` and ``0 < beta_start <= beta_end < 1``.
    """
    timesteps = count("timesteps", timesteps)
    beta_start = real("beta_start", beta_start, "a number")
    beta_end = real("beta_end", beta_end, "a number")
    if not 0.0 < beta_start <= beta_end < 1.0:
        raise ValueError(
            "beta_start and beta_end must satisfy 0 < beta_start <= beta_end < 1, "
            f"got {beta_start!r} and {beta_end!r}"
        )
    root = torch.linspace(
        beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64, device="cpu"
    )
    kept = torch.cumprod(1.0 - root**2, dim=0)
    return ((1.0 - kept) / kept).sqrt()


def shift_time(t: Scalar, shift: float) -> Scalar:
    r"""The time shift of flow models: :math:`s\,t / (1 + (s - 1)\,t)`, for t in [0, 1].

    Source: Esser et al. 2024, https://arxiv.org/abs/2403.03206, equation 23.
    """
    # Not the textbook's form: this one gives exactly 1 at t = 1.
    return t / (t + (1.0 - t) / shift)


def flow_table(shift: float = 1.0, timesteps: int = 1000) -> Tensor:
    r"""The ascending levels of a flow model: shifted times :math:`1/T, 2/T, \dots, 1`.

    Raises:
        ValueError: unless ``timesteps >= 1`` and ``shift > 0``.
    """
    timesteps, shift = count("timesteps", timesteps), positive("shift", shift)
    times = torch.arange(1, timesteps + 1, dtype=torch.float64, device="cpu") / timesteps
    return shift_time(times, shift)


def flow(steps: int, shift: float = 1.0) -> Tensor:
    """Shifted even times from 1 to 0: the plain schedule of a flow model, shape ``(steps + 1,)``.

    Raises:
        ValueError: unless ``steps >= 1`` and ``shift > 0``.
    """
    steps, shift = count("steps", steps), positive("shift", shift)
    times = 1.0 - torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps
    return shift_time(times, shift)


def simple(steps: int, table: Tensor) -> Tensor:
    """Every (T / steps)-th level of the table from its top, rounded down, then 0.

    Raises:
        ValueError: unless ``1 <= steps <= len(table)`` and the table ascends.
    """
    table = _table(table)
    steps = count("steps", steps)
    if steps > len(table):
        raise ValueError(f"steps must be at most the table's {len(table)} levels, got {steps!r}")
    stride = len(table) / steps
    levels = _with_zero(torch.stack([table[-(1 + int(k * stride))] for k in range(steps)]))
    return _descending("table", levels)


def normal(steps: int, table: Tensor, process: str | Process = "ve") -> Tensor:
    """Even training times from the table's top to its bottom, then 0.

    For VE and VP tables the level between two entries is interpolated in log sigma; for a
    :class:`Flow` the model's own curve is evaluated at its time, as ComfyUI does: there the time
    of a level is taken to be the level itself, so that with a shift the schedule ends above the
    table's bottom.

    Raises:
        ValueError: unless ``steps >= 1`` and the table ascends.
    """
    return _even_times(steps, table, process, drop_last=False)


def sgm_uniform(steps: int, table: Tensor, process: str | Process = "ve") -> Tensor:
    """As :func:`normal`, with ``steps + 1`` times of which the last is left out, then 0.

    Raises:
        ValueError: unless ``steps >= 1`` and the table ascends.
    """
    return _even_times(steps, table, process, drop_last=True)


def ddim_uniform(steps: int, table: Tensor) -> Tensor:
    """Every (T // steps)-th level counted from the second of the table upwards, reversed, then 0.

    The number of levels follows from the stride and need not be ``steps``.

    Raises:
        ValueError: unless ``steps >= 1`` and the table ascends and has at least two levels.
    """
    table, steps = _table(table), count("steps", steps)
    if len(table) < 2:
        raise ValueError(f"table must hold at least 2 levels, got {len(table)}")
    # A table whose second level is already 0 brings its own end, and one more step.
    starts_at_zero = math.isclose(float(table[1]), 0.0, abs_tol=1e-5)
    stride = max(len(table) // (steps + starts_at_zero), 1)
    levels = table[1::stride].flip(0)
    return levels if starts_at_zero else _with_zero(levels)


def beta(steps: int, table: Tensor, a: float = 0.6, b: float = 0.6) -> Tensor:
    """The table's levels at quantiles of a Beta(a, b) distribution of the training time, then 0.

    Quantiles that fall on the same level give it once, so the result may be shorter than ``steps
    + 1``.
    Source: Lee et al. 2024 (Beta Sampling), https://arxiv.org/abs/2407.12173.

    Raises:
        ValueError: unless ``steps >= 1``, ``a, b > 0`` and the table ascends.
    """
    table = _table(table)
    steps, a, b = count("steps", steps), positive("a", a), positive("b", b)
    quantiles = 1.0 - np.linspace(0.0, 1.0, steps, endpoint=False)
    from scipy.stats import beta as beta_distribution  # a second to import, and for this alone

    index = np.rint(beta_distribution.ppf(quantiles, a, b) * (len(table) - 1)).astype(int)
    levels = _with_zero(torch.unique_consecutive(table[torch.from_numpy(index)]))
    return _descending("table", levels)


def linear_quadratic(
    steps: int, sigma_max: float, threshold_noise: float = 0.025, linear_steps: int | None = None
) -> Tensor:
    r"""Linear near pure noise, then quadratic down to 0, scaled by ``sigma_max``: ``(steps + 1,)``.

    With :math:`m` linear steps (half of them by default) the removed fraction is
    :math:`\theta k / m` up to :math:`k = m` and continues as the parabola that joins it with the
    same slope and reaches 1 at the end. Source: Mochi 1 (Genmo, 2024).

    Raises:
        ValueError: unless ``steps >= 1``, ``sigma_max > 0``, ``0 < threshold_noise < 1`` and
            ``1 <= linear_steps < steps``.
    """
    steps, sigma_max = count("steps", steps), positive("sigma_max", sigma_max)
    threshold_noise = real(
        "threshold_noise",
        threshold_noise,
        "a number between 0 and 1",
        lambda number: 0.0 < number < 1.0,
    )
    if steps == 1:
        return torch.tensor([sigma_max, 0.0], dtype=torch.float64, device="cpu")
    m = steps // 2 if linear_steps is None else count("linear_steps", linear_steps)
    if m >= steps:
        raise ValueError(f"linear_steps must be below steps = {steps}, got {m!r}")
    k = torch.arange(steps + 1, dtype=torch.float64, device="cpu")
    slope = threshold_noise / m
    past = (k - m).clamp(min=0.0)
    # The parabola in k - m: value theta and slope theta / m at 0, value 1 at n - m.
    curvature = (1.0 - threshold_noise - slope * (steps - m)) / (steps - m) ** 2
    removed = slope * k + curvature * past**2
    removed[-1] = 1.0
    return _descending("threshold_noise and linear_steps", (1.0 - removed) * sigma_max)


# --- shared by the schedules -------------------------------------------------------------------


def _even_times(steps: int, table: Tensor, process: str | Process, *, drop_last: bool) -> Tensor:
    table, steps = _table(table), count("steps", steps)
    process = as_process(process)
    points = steps + 1 if drop_last else steps
    if isinstance(process, Flow):
        top, bottom = float(table[-1]), float(table[0])
        level: Callable[[Tensor], Tensor] = lambda t: shift_time(t, process.shift)  # noqa: E731
    else:
        top, bottom = float(len(table) - 1), 0.0
        level = lambda t: _interpolate_log(table, t)  # noqa: E731
    times = torch.linspace(top, bottom, points, dtype=torch.float64, device="cpu")
    return _descending("table", _with_zero(level(times[:-1] if drop_last else times)))


def _interpolate_log(table: Tensor, position: Tensor) -> Tensor:
    """exp of the piecewise linear interpolation of log(table) at fractional positions."""
    low = position.floor().long()
    high = position.ceil().long()
    return torch.lerp(table.log()[low], table.log()[high], position - low).exp()


def _ramp(steps: int) -> Tensor:
    return torch.linspace(0.0, 1.0, count("steps", steps), dtype=torch.float64, device="cpu")


def _with_zero(levels: Tensor) -> Tensor:
    return torch.cat([levels, levels.new_zeros(1)])


def _descending(names: str, levels: Tensor) -> Tensor:
    """The levels, or a refusal of the arguments that led to something that is no schedule."""
    if not (levels.isfinite().all() and (levels >= 0.0).all() and (levels.diff() < 0.0).all()):
        raise ValueError(
            f"{names} must give finite levels that decrease strictly and end at 0 or above, "
            f"got {levels.tolist()}"
        )
    return levels


def _levels(sigma_min: float, sigma_max: float) -> tuple[float, float]:
    low, high = positive("sigma_min", sigma_min), positive("sigma_max", sigma_max)
    if low >= high:
        raise ValueError(f"sigma_min must be below sigma_max = {sigma_max!r}, got {sigma_min!r}")
    return low, high


def _table(table: Tensor) -> Tensor:
    if not isinstance(table, Tensor) or table.ndim != 1 or len(table) == 0:
        raise ValueError(f"table must be a 1-D tensor with at least one level, got {table!r}")
    levels = table.detach().to("cpu", torch.float64)
    if not (torch.isfinite(levels).all() and (levels >= 0).all() and (levels.diff() > 0).all()):
        raise ValueError(
            "table must hold finite levels >= 0 in ascending order, got " + repr(table)
        )
    return levels
