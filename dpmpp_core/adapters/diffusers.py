r"""DPM-Solver++(2M) SDE in diffusers: a scheduler for its pipelines, and its models as denoisers.

:class:`DPMSolverPlusPlus2MSDEScheduler` is ``DPMSolverMultistepScheduler`` with
``algorithm_type="sde-dpmsolver++"`` and ``solver_order=2``, and what that one lacks: eta, s_noise,
one Brownian path through all steps and one seed per sample::

    pipe.scheduler = DPMSolverPlusPlus2MSDEScheduler.from_config(pipe.scheduler.config, eta=0.5)

:func:`denoiser` goes the other way: it makes a model that diffusers trained the ``model`` of
:func:`dpmpp_core.sample`.

**Coordinates.** A model with betas has the process VP: :math:`x = \alpha x_0 + \sigma\varepsilon`
with :math:`\alpha^2 = \bar\alpha_t` and :math:`\alpha^2 + \sigma^2 = 1`. What diffusers calls
sigmas is there :math:`s = \sigma / \alpha = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t}`. A flow
model has :math:`\alpha = 1 - \sigma`, and sigmas are :math:`\sigma`.

Written for diffusers 0.42, https://huggingface.co/docs/diffusers; the coefficients, the step and
the noise are those of the rest of the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import (
    KarrasDiffusionSchedulers,
    SchedulerMixin,
    SchedulerOutput,
)
from diffusers.utils.torch_utils import randn_tensor
from scipy.stats import beta as beta_distribution
from torch import Generator, Tensor

from .. import schedule
from ..checks import count, not_negative, positive, real
from ..coefficients import SolverType, StepTable, check_solver_type, step_table
from ..mesh import Mesh
from ..noise import PhiloxBridge
from ..noise.protocol import Seed, working_dtype
from ..sampler import Model, _advance, _advance_plain
from ..schedule import VP, Flow, as_process

__all__ = ["DPMSolverPlusPlus2MSDEScheduler", "denoiser"]

_PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow_prediction")
_LADDERS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
_BETAS = ("beta_schedule", "beta_start", "beta_end", "trained_betas")
_OTHER_SOLVERS = ("bh1", "bh2", "logrho")
"""Values of ``solver_type`` in the configs of UniPC and DEIS, which mean nothing here."""
_WITHOUT: dict[str, Any] = {
    "invert_sigmas": False,
    "lambda_min_clipped": -math.inf,
    "sigma_max": None,
    "sigma_min": None,
    "snr_shift_scale": 1.0,
    "thresholding": False,
    "timestep_type": "discrete",
    "use_lu_lambdas": False,
}
"""What a config may ask for and this scheduler does not do, each with its neutral value."""


# --- what a model says of x_0 --------------------------------------------------------------------


def _estimate(prediction_type: str, output: Tensor, x: Tensor, alpha: Any, sigma: Any) -> Tensor:
    r"""The denoised estimate :math:`\hat x_0` from a model's output at :math:`x = \alpha x_0 +
    \sigma \varepsilon`; the factors are numbers or broadcast with x.

    Solved for :math:`x_0` with :math:`\varepsilon`, :math:`v = \alpha\varepsilon - \sigma x_0`
    (VP: Salimans and Ho 2022, https://arxiv.org/abs/2202.00512, appendix D) or
    :math:`u = \varepsilon - x_0` (flow: Lipman et al. 2023, https://arxiv.org/abs/2210.02747).
    """
    estimate: Tensor = output
    if prediction_type == "epsilon":
        estimate = (x - sigma * output) / alpha
    elif prediction_type == "v_prediction":
        estimate = alpha * x - sigma * output
    elif prediction_type == "flow_prediction":
        estimate = x - sigma * output
    return estimate


def _check_prediction(prediction_type: Any, flow: bool) -> None:
    allowed = [p for p in _PREDICTIONS if p != ("v_prediction" if flow else "flow_prediction")]
    if prediction_type not in allowed:
        raise ValueError(
            f"prediction_type must be one of {', '.join(map(repr, allowed))} with "
            f"use_flow_sigmas={flow}, got {prediction_type!r}"
        )


def _of_form(output: Any, x: Tensor) -> Tensor:
    """The model's output in x's shape: without the second half of the channels, a learned variance,
    which this sampler has no use for."""
    if isinstance(output, Tensor) and output.ndim == x.ndim >= 2:
        doubled = (x.shape[0], 2 * x.shape[1], *x.shape[2:])
        if output.shape == doubled:
            output = output[:, : x.shape[1]]
    if not isinstance(output, Tensor) or output.shape != x.shape:
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else repr(output)
        raise ValueError(
            f"model_output must be a tensor of the sample's shape {tuple(x.shape)}, "
            f"or with twice its channels, got {got}"
        )
    return output.to(working_dtype(x.dtype))


# --- noise levels --------------------------------------------------------------------------------


def _betas(
    count: int, start: float, end: float, kind: str, given: Sequence[float] | None
) -> Tensor:
    """The betas of the training times, in float32 as in all of diffusers.

    Even (``"linear"``), of even roots (``"scaled_linear"``, Rombach et al. 2022), or such that
    alpha is a cosine (Nichol and Dhariwal 2021, https://arxiv.org/abs/2102.09672, equation 17).
    """
    if given is not None:
        betas = torch.tensor(given, dtype=torch.float32)
    elif kind == "linear":
        betas = torch.linspace(start, end, count, dtype=torch.float32)
    elif kind == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32) ** 2
    else:
        kept = [math.cos((t / count + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(count + 1)]
        betas = torch.tensor([min(1.0 - b / a, 0.999) for a, b in pairwise(kept)])
    if betas.shape != (count,) or not bool(((betas > 0.0) & (betas < 1.0)).all()):
        ends = f" from {float(betas.min()):g} to {float(betas.max()):g}" if betas.numel() else ""
        raise ValueError(
            f"betas must be {count} numbers above 0 and below 1, got {betas.numel()}{ends}"
        )
    return betas


def _alphas_cumprod(betas: Tensor, zero_snr: bool) -> Tensor:
    r""":math:`\bar\alpha_t = \prod_{s \le t} (1 - \beta_s)`.

    With ``zero_snr`` the roots are moved and stretched so that the last is 0 and the first stays
    (Lin et al. 2023, https://arxiv.org/abs/2305.08891, algorithm 1); then the last is set to
    :math:`2^{-24}`, as in diffusers, for a finite :math:`\lambda`.
    """
    kept = torch.cumprod(1.0 - betas, dim=0)
    if zero_snr:
        root = kept.sqrt()
        root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        # By way of the ratios, whose float32 products every other scheduler takes.
        kept = torch.cumprod(torch.cat([root[:1] ** 2, root[1:] ** 2 / root[:-1] ** 2]), dim=0)
        kept[-1] = 2.0**-24
    return kept


def _ladder(kind: str, steps: int, low: float, high: float) -> Tensor:
    """``steps`` levels from ``high`` down to ``low``, without the final 0.

    For ``use_beta_sigmas`` the quantiles 1 - k / (n - 1) of a beta distribution (0.6, 0.6) between
    the two, as diffusers has it; :func:`dpmpp_core.schedule.beta` is ComfyUI's, of the table.
    """
    if kind == "use_karras_sigmas":
        return schedule.karras(steps, low, high)[:-1]
    if kind == "use_exponential_sigmas":
        return schedule.exponential(steps, low, high)[:-1]
    quantiles = beta_distribution.ppf(1.0 - np.linspace(0.0, 1.0, steps), 0.6, 0.6)
    return torch.from_numpy(low + quantiles * (high - low))


def _spaced(kind: str, steps: int, total: int, offset: int) -> list[int]:
    """Descending training times of a run, out of 0 to ``total - 1``.

    Lin et al. 2023, https://arxiv.org/abs/2305.08891, table 2, with diffusers' ends.
    """
    times: Any
    if kind == "linspace":
        times = np.linspace(0, total - 1, steps + 1).round()[:0:-1]
    elif kind == "leading":
        times = np.arange(steps, 0, -1) * (total // (steps + 1)) + offset
    else:
        times = (total - np.arange(steps) * (total / steps)).round() - 1
    return [int(t) for t in times]


@dataclass(frozen=True)
class _Run:
    """A run from step ``first`` of the schedule on: fixed by its first call of ``step``."""

    first: int
    mesh: Mesh
    rows: StepTable
    shape: torch.Size
    path: PhiloxBridge | None


# --- the scheduler -------------------------------------------------------------------------------


class DPMSolverPlusPlus2MSDEScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    r"""DPM-Solver++(2M) SDE for diffusers' pipelines, with eta, s_noise and a Brownian path.

    .. math:: x_{k+1} = A_k x_k + B_k \hat x_{0,k} + C_k (\hat x_{0,k} - \hat x_{0,k-1}) + D_k \xi_k

    with the coefficients of :func:`dpmpp_core.step_table`, under VP or, with ``use_flow_sigmas``,
    flow. With eta = 1, ``final_sigmas_type="zero"`` and ``noise="independent"`` it walks as
    ``DPMSolverMultistepScheduler`` of ``algorithm_type="sde-dpmsolver++"`` and ``solver_order=2``
    does. The names that both have mean the same, and the defaults are the same.

    Every argument is kept in ``config``; ``register_to_config(eta=...)`` changes one for the next
    run (but for the betas, which are read once). :meth:`from_config` takes the config of any
    scheduler with betas and of the flow matching ones.

    Args:
        num_train_timesteps: T, the number of noise levels that the model was trained on.
        beta_start, beta_end, beta_schedule, trained_betas: the betas of a VP model;
            ``beta_schedule`` is ``"linear"``, ``"scaled_linear"`` or ``"squaredcos_cap_v2"``.
        prediction_type: what the model returns: ``"epsilon"``, ``"sample"`` and, for VP,
            ``"v_prediction"``, for flow, ``"flow_prediction"``.
        solver_type: ``"midpoint"`` or ``"heun"``, the weight of the history term.
        eta: the rate of the noise, finite and >= 0: 0 for the ODE, 1 for the SDE that DDPM
            discretises. It multiplies h in the exponents; it is not the eta of DDIM.
        s_noise: a factor of the noise, finite and >= 0; only 1 keeps the law.
        noise: ``"brownian"``, the increments of a :class:`dpmpp_core.PhiloxBridge` on the clock
            tau, one path for any number of steps; or ``"independent"``, a fresh normal at every
            step from the pipeline's generator, in the order in which diffusers draws them.
        seed: of the Brownian path: an integer, sample i then has seed + i, or a list with one per
            sample of the batch that :meth:`step` gets (``DiTPipeline`` with guidance gives it
            every sample twice). None: one drawn from each of the generators given to the first
            :meth:`step`; from a single generator one integer; without any, from torch's global
            generator.
        use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: at most one; levels between the
            ends of the schedule instead of the schedule.
        use_flow_sigmas: True for a flow model: sigmas are times, from near 1 to 0.
        flow_shift: s of :func:`dpmpp_core.schedule.shift_time`.
        use_dynamic_shifting, time_shift_type: whether the shift comes with each
            :meth:`set_timesteps`, as exp(mu) (``"exponential"``) or as mu (``"linear"``).
        shift_terminal: the level, above 0 and below 1, to which the last time of a flow schedule
            is stretched; or None.
        final_sigmas_type: ``"zero"``: the last step returns the denoised estimate; ``"sigma_min"``
            (VP only): it ends at the lowest level of the table.
        timestep_spacing: ``"linspace"``, ``"leading"`` or ``"trailing"``.
        steps_offset: added to the times of ``"leading"``.
        rescale_betas_zero_snr: whether the betas are moved to end without any signal.

    Attributes:
        timesteps: what the model is told at each step, shape ``(N,)``: integers for VP, and
            float32 for flow, where a time is T times the level.
        sigmas: the levels, float32 on the host, shape ``(N + 1,)``: sigma / alpha for VP, sigma
            for flow.
        init_noise_sigma: 1: a run starts at unit noise.
        order: 1 model call a step.

    Raises:
        ValueError: for arguments outside these ranges.
    """

    _compatibles: ClassVar[list[str]] = [
        *(e.name for e in KarrasDiffusionSchedulers),
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
    ]
    order = 1

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        prediction_type: str = "epsilon",
        solver_type: SolverType = "midpoint",
        eta: float = 1.0,
        s_noise: float = 1.0,
        noise: Literal["brownian", "independent"] = "brownian",
        seed: Seed = None,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        use_beta_sigmas: bool = False,
        use_flow_sigmas: bool = False,
        flow_shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        time_shift_type: str = "exponential",
        shift_terminal: float | None = None,
        final_sigmas_type: str = "zero",
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
    ) -> None:
        total = count("num_train_timesteps", num_train_timesteps)
        self._check()
        betas = _betas(total, beta_start, beta_end, beta_schedule, trained_betas)
        self.alphas_cumprod = _alphas_cumprod(betas, rescale_betas_zero_snr)
        self.init_noise_sigma = 1.0
        self.num_inference_steps: int | None = None
        self._shift = positive("flow_shift", flow_shift)
        if use_flow_sigmas:
            self._set(schedule.flow_table(self._shift, total).flip(0), None, None)
        else:
            self._set(self._table().flip(0), list(range(total))[::-1], None)

    def _check(self) -> None:
        """Refuse a config outside its ranges."""
        given = self.config
        for name, allowed in {
            "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
            "noise": ("brownian", "independent"),
            "time_shift_type": ("exponential", "linear"),
            "final_sigmas_type": ("zero",) if given.use_flow_sigmas else ("zero", "sigma_min"),
            "timestep_spacing": ("linspace", "leading", "trailing"),
        }.items():
            if given[name] not in allowed:
                of = f" with use_flow_sigmas={given.use_flow_sigmas}" if len(allowed) == 1 else ""
                raise ValueError(
                    f"{name} must be {' or '.join(map(repr, allowed))}{of}, got {given[name]!r}"
                )
        _check_prediction(given.prediction_type, given.use_flow_sigmas)
        check_solver_type(given.solver_type)
        not_negative("eta", given.eta)
        not_negative("s_noise", given.s_noise)
        chosen = [name for name in _LADDERS if given[name]]
        if len(chosen) > 1:
            raise ValueError(f"at most one of {', '.join(_LADDERS)} may be True, got {chosen}")
        if given.seed is not None and given.noise != "brownian":
            raise ValueError(
                "seed must be None with noise='independent', which draws from the pipeline's "
                f"generator, got {given.seed!r}"
            )
        if given.shift_terminal is not None:
            real("shift_terminal", given.shift_terminal, "None or a number between 0 and 1",
                 lambda number: 0.0 < number < 1.0)  # fmt: skip

    @classmethod
    def from_config(
        cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Self | tuple[Self, dict[str, Any]]:
        """A scheduler from the config of another one, changed by the keyword arguments.

        A config with betas gives VP, or flow if it has ``use_flow_sigmas``. One without them but
        with a ``shift``, as ``FlowMatchEulerDiscreteScheduler`` has it, gives flow with this shift.
        What this scheduler does not know, and would change the result, is refused; a keyword
        argument sets it to its neutral value.

        Raises:
            ValueError: also for a config from which no process can be read.
        """
        if isinstance(config, Mapping):
            read = _read(config, kwargs)
            config = {**config, **{key: kwargs.pop(key) for key in _WITHOUT if key in kwargs}}
            kwargs = {**read, **kwargs}
        made = super().from_config(config, return_unused_kwargs, **kwargs)
        return cast("Self | tuple[Self, dict[str, Any]]", made)

    # --- the schedule of a run

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | Tensor | None = None,
        sigmas: Sequence[float] | Tensor | None = None,
        mu: float | None = None,
    ) -> None:
        """Fix the levels of a run, and start a new one.

        Args:
            num_inference_steps: N, at least 1.
            device: of ``timesteps``.
            timesteps: in place of N, the descending times: for VP integers from T - 1 to 0, for
                flow T times the levels, which are not shifted.
            sigmas: in place of N, the descending levels, with or without a 0 at the end: for VP
                sigma / alpha, told to the model as the nearest time; for flow the times from 1
                before the shift, as ``FlowMatchEulerDiscreteScheduler`` takes them.
            mu: with ``use_dynamic_shifting`` the shift, or its logarithm. Ignored without it, as
                ``FlowMatchEulerDiscreteScheduler`` does: pipelines pass it unasked.

        Raises:
            ValueError: for anything else, and for levels that :class:`dpmpp_core.Mesh` refuses.
        """
        self._check()
        given = {
            "num_inference_steps": num_inference_steps,
            "timesteps": timesteps,
            "sigmas": sigmas,
        }
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) != 1:
            raise ValueError(
                "exactly one of num_inference_steps, timesteps and sigmas must be given, "
                f"got {' and '.join(given) or 'none of them'}"
            )
        [(name, value)] = given.items()
        value = count(name, value) if name == "num_inference_steps" else _numbers(name, value)
        ladder = next((kind for kind in _LADDERS if self.config[kind]), None)
        flow = self.config.use_flow_sigmas
        between = ("num_inference_steps", "sigmas") if flow else ("num_inference_steps",)
        if ladder is not None and name not in between:
            raise ValueError(f"{name} must be None with {ladder}=True, got {value}")
        if self.config.use_dynamic_shifting:
            exponential = self.config.time_shift_type == "exponential"
            mu = real("mu", mu, "a finite number with use_dynamic_shifting=True")
            self._shift = positive("mu", math.exp(mu) if exponential else mu)
        else:
            self._shift = positive("flow_shift", self.config.flow_shift)

        if flow:
            self._set(self._flow_levels(name, value, ladder), None, device)
        else:
            self._set(*self._vp_levels(name, value, ladder), device)
        self.num_inference_steps = len(self.timesteps)

    def _table(self) -> Tensor:
        """The ascending sigma / alpha of the training times, float64."""
        return ((1.0 - self.alphas_cumprod) / self.alphas_cumprod).sqrt().double()

    def _vp_levels(self, name: str, value: Any, ladder: str | None) -> tuple[Tensor, list[int]]:
        """sigma / alpha of a run, with its end, and the times that the model is told."""
        table, total = self._table(), len(self.alphas_cumprod)
        low, high = float(table[0]), float(table[-1])
        end = 0.0 if self.config.final_sigmas_type == "zero" else low
        if name == "sigmas" or ladder is not None:
            if name == "sigmas":
                end = 0.0 if value[-1] == 0.0 else end
                levels = torch.tensor(_without_zero(value), dtype=torch.float64)
            elif end == 0.0:
                levels = _ladder(str(ladder), value, low, high)
            else:
                # N levels and the end, where diffusers repeats the last and ends in no step at all.
                levels = _ladder(str(ladder), value + 1, low, high)[:-1]
            times = [round(t) for t in _between(levels.log(), table.log()).tolist()]
        else:
            spacing = self.config.timestep_spacing
            given = name == "timesteps"
            offset = self.config.steps_offset
            times = [int(t) for t in value] if given else _spaced(spacing, value, total, offset)
            if (given and times != value) or not _descend(times, total):
                told = "" if given else f" with timestep_spacing={spacing!r}"
                raise ValueError(
                    f"{name} must give descending integers from {total - 1} to 0, each once, "
                    f"got {value}{told}"
                )
            levels = table[times]
        return torch.cat([levels, levels.new_tensor([end])]), times

    def _flow_levels(self, name: str, value: Any, ladder: str | None) -> Tensor:
        """sigma of a run, with the final 0."""
        total = float(self.config.num_train_timesteps)
        if name == "timesteps":
            levels = torch.tensor(_without_zero(value), dtype=torch.float64) / total
        else:
            if name == "sigmas":
                times = torch.tensor(_without_zero(value), dtype=torch.float64)
            else:
                times = torch.linspace(1.0 - 1.0 / total, 0.0, value + 1, dtype=torch.float64)[:-1]
            levels = schedule.shift_time(times, self._shift)
            if self.config.shift_terminal is not None:
                stretch = (1.0 - self.config.shift_terminal) / (1.0 - levels[-1])
                levels = 1.0 - (1.0 - levels) * stretch
        if ladder is not None and len(levels) > 1:
            levels = _ladder(ladder, len(levels), float(levels[-1]), float(levels[0]))
        return torch.cat([levels, levels.new_zeros(1)])

    def _set(
        self, levels: Tensor, times: list[int] | None, device: str | torch.device | None
    ) -> None:
        """Take these levels, ending in 0 or above, and forget the run before."""
        # Rounded first: what ``sigmas`` shows is what is computed with.
        sigmas = levels.float()
        if times is None:
            self._mesh = Mesh.from_sigmas(sigmas, Flow(self._shift))
            self.sigmas = torch.tensor(self._mesh.sigma, dtype=torch.float32)
            total = self.config.num_train_timesteps
            self.timesteps = (self.sigmas[:-1] * total).to(device=device)
        else:
            ratio = sigmas.double()
            self._mesh = Mesh.from_sigmas(ratio / (1.0 + ratio**2).sqrt(), VP())
            self.sigmas = sigmas
            self.timesteps = torch.tensor(times, dtype=torch.int64).to(device=device)
        self._begin_index: int | None = None
        self._step_index: int | None = None
        self._run: _Run | None = None
        self._previous: Tensor | None = None

    @property
    def step_index(self) -> int | None:
        """The index of the next step; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The index of the first step, as :meth:`set_begin_index` left it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start the run at this step, as image-to-image pipelines do."""
        self._begin_index = begin_index

    def index_for_timestep(self, timestep: float | Tensor) -> int:
        """The first index of a time in ``timesteps``.

        Raises:
            ValueError: for a time that is not there.
        """
        found = [i for i, t in enumerate(self.timesteps.tolist()) if t == float(timestep)]
        if not found:
            raise ValueError(
                f"timestep must be one of the scheduler's timesteps, from {self.timesteps[0]} to "
                f"{self.timesteps[-1]}, got {timestep}"
            )
        return found[0]

    # --- the run

    def scale_model_input(self, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The sample itself: the model is trained on states as they are."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generator | list[Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        r"""From :math:`x_k` and what the model says of it to :math:`x_{k+1}`.

        Sums are made in float32 at least, and rounded once to the sample's dtype; so is the
        estimate that is kept for the next step's history.

        There is no argument eta: pipelines look for one, and give it their own default of 0.

        Args:
            model_output: what the model returned, in the sample's shape; or with twice its
                channels, of which the second half, a learned variance, is left out.
            timestep: the time of this step. It is looked at in the first step of a run alone.
            sample: :math:`x_k`, shape ``(B, ...)``, the same in every step of a run.
            generator: the source of the path's seed, or of the independent noise; a list holds one
                for each sample.
            variance_noise: the unit normal :math:`\xi_k` itself, in place of the scheduler's.
            return_dict: whether to return a ``SchedulerOutput`` or a tuple.

        Returns:
            ``prev_sample``: :math:`x_{k+1}`, in the sample's shape, dtype and device.

        Raises:
            ValueError: before :meth:`set_timesteps`, after the last step, for a sample of another
                shape than before, and for arguments outside these ranges.
        """
        if self.num_inference_steps is None:
            raise ValueError("set_timesteps must be called before step, got step first")
        run = self._run or self._start(timestep, sample, generator)
        index = run.first if self._step_index is None else self._step_index
        k = index - run.first
        if k >= len(run.rows):
            raise ValueError(
                f"step may be called {len(run.rows)} times after set_timesteps, once for each "
                f"timestep, got one call more"
            )
        if sample.shape != run.shape:
            raise ValueError(
                f"sample must keep the shape {tuple(run.shape)} it had in the first step until "
                f"set_timesteps is called again, got {tuple(sample.shape)}"
            )
        row, alpha, sigma = run.rows[k], run.mesh.alpha[k], run.mesh.sigma[k]
        x = sample.to(working_dtype(sample.dtype))
        denoised = _estimate(
            self.config.prediction_type, _of_form(model_output, x), x, alpha, sigma
        )
        xi = self._draw(run, k, x, generator, variance_noise) if row.D > 0.0 else None
        if x.requires_grad or denoised.requires_grad:  # numba would cut the gradient off
            reached = _advance_plain(row, x, denoised, self._previous, xi)
        else:
            reached = _advance(row, x, denoised, self._previous, xi)[0]
        prev_sample = reached.to(sample.dtype)
        self._run, self._previous, self._step_index = run, denoised, index + 1
        return SchedulerOutput(prev_sample=prev_sample) if return_dict else (prev_sample,)

    def _start(
        self,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generator | list[Generator] | None,
    ) -> _Run:
        """The coefficients and the path from here to the end; there is no history yet."""
        if not isinstance(sample, Tensor) or not sample.is_floating_point() or sample.ndim == 0:
            got = sample.dtype if isinstance(sample, Tensor) else repr(sample)
            raise ValueError(f"sample must be a tensor of shape (B, ...) of floats, got {got}")
        first = self._begin_index
        if first is None:
            first = self.index_for_timestep(timestep)
        if not 0 <= first < self._mesh.steps:
            raise ValueError(
                f"begin_index must be an index of the {self._mesh.steps} timesteps, got {first}"
            )
        mesh = Mesh.from_sigmas(self._mesh.sigma[first:], self._mesh.process)
        given = self.config
        rows = step_table(mesh, given.eta, given.s_noise, given.solver_type)
        path = None
        if given.noise == "brownian" and any(row.D > 0.0 for row in rows):
            seed = given.seed if given.seed is not None else _seed(generator)
            x = sample.to(working_dtype(sample.dtype))
            path = PhiloxBridge(x, mesh.sigma, seed, process=mesh.process, eta=given.eta)
        return _Run(first, mesh, rows, sample.shape, path)

    def _draw(
        self,
        run: _Run,
        k: int,
        x: Tensor,
        generator: Generator | list[Generator] | None,
        given: Tensor | None,
    ) -> Tensor:
        """The unit normal of step k, like x."""
        if given is not None:
            if given.shape != x.shape:
                raise ValueError(
                    f"variance_noise must have the sample's shape {tuple(x.shape)}, "
                    f"got {tuple(given.shape)}"
                )
            return given.to(x)
        if run.path is not None:
            return run.path(run.mesh.sigma[k], run.mesh.sigma[k + 1]).to(x)
        drawn = randn_tensor(x.shape, generator=generator, device=x.device, dtype=torch.float32)
        return cast(Tensor, drawn).to(x)

    # --- the process

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        r""":math:`\alpha x_0 + \sigma \varepsilon` at these times, shape ``(B,)`` or ``(1,)``.

        In a run whose first step was set with :meth:`set_begin_index` the level is that of the next
        step, as image-to-image and inpainting pipelines mean it; else that of the given times.

        Raises:
            ValueError: for a time that is not one of ``timesteps``.
        """
        if self._begin_index is not None:
            index = self._begin_index if self._step_index is None else self._step_index
            indices = [index] * len(timesteps)
        else:
            indices = [self.index_for_timestep(t) for t in timesteps]
        shape = (-1,) + (1,) * (original_samples.ndim - 1)
        alpha, sigma = (
            original_samples.new_tensor([values[i] for i in indices]).view(shape)
            for values in (self._mesh.alpha, self._mesh.sigma)
        )
        return alpha * original_samples + sigma * noise

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """:meth:`add_noise` under the name, and in the order, that flow pipelines call it by."""
        return self.add_noise(sample, noise, timestep)

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)


def _read(config: Mapping[str, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a config of another scheduler means here, besides what has the same name."""
    merged = {**config, **kwargs}
    found: dict[str, Any] = {}
    if not any(key in merged for key in (*_BETAS, "use_flow_sigmas")):
        if "shift" not in merged:
            raise ValueError(
                f"config must hold betas ({', '.join(_BETAS)}), use_flow_sigmas or a flow matching "
                f"scheduler's shift, to name a process, got {dict(config)!r}"
            )
        found = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
        found["flow_shift"] = merged["shift"]
    for key, neutral in _WITHOUT.items():
        if merged.get(key) not in (None, neutral):
            raise ValueError(
                f"config must have {key} = {neutral!r}, for this scheduler does nothing else, "
                f"got {merged[key]!r}"
            )
    if "solver_type" not in kwargs and config.get("solver_type") in _OTHER_SOLVERS:
        found["solver_type"] = "midpoint"
    return found


def _numbers(name: str, values: Any) -> list[float]:
    """The values as floats, at least one."""
    one_dimension = isinstance(values, Sequence) or getattr(values, "ndim", 0) == 1
    if not one_dimension or len(values) == 0:
        raise ValueError(f"{name} must hold at least one number in one dimension, got {values!r}")
    return [real(name, value, "finite numbers") for value in values]


def _without_zero(levels: list[float]) -> list[float]:
    return levels[:-1] if levels[-1] == 0.0 and len(levels) > 1 else levels


def _descend(times: list[int], total: int) -> bool:
    return all(a > b for a, b in pairwise([total, *times, -1]))


def _seed(generator: Generator | list[Generator] | None) -> Seed:
    """Drawn from the generators, not their own seeds: a second run from them has another path."""
    if generator is None:
        return None
    if isinstance(generator, Generator):
        return int(torch.randint(0, 2**63 - 1, (), generator=generator, device=generator.device))
    seeds = [cast(int, _seed(one)) for one in generator]
    return seeds[0] if len(seeds) == 1 else seeds


# --- the other way -------------------------------------------------------------------------------


def denoiser(
    model: Callable[..., Any],
    scheduler: SchedulerMixin | Mapping[str, Any],
    process: str | None = None,
) -> Model:
    r"""A model of diffusers as the ``model`` of :func:`dpmpp_core.sample`.

    .. math:: D(x, \sigma) = \hat x_0\bigl(F(c\, x;\ t(\sigma))\bigr)

    with F the network, c the change of coordinates from ``process`` to those of the model's
    training, and :math:`\hat x_0` read from epsilon, v, the sample or the flow. For a model with
    betas t is interpolated in :math:`\log(\sigma / \alpha)` between the training times; for a flow
    model :math:`t = T \sigma`.

    Args:
        model: called as ``model(x, timestep=t, **extra)`` with t float32 of shape ``(B,)``; returns
            a tensor, or something whose item 0 is one: any model of diffusers. ``extra`` is what
            the sampler's ``extra_args`` hold besides ``seed``.
        scheduler: a scheduler of diffusers or its config, for the prediction type and the betas, as
            :meth:`DPMSolverPlusPlus2MSDEScheduler.from_config` reads it.
        process: the coordinates of the run: ``"ve"`` or ``"vp"`` for a model with betas, ``"flow"``
            for a flow model. None takes ``"ve"`` or ``"flow"``.

    Returns:
        ``(x, sigma, **extra) -> denoised``, with x of shape ``(B, ...)`` and sigma of ``(B,)``.

    Raises:
        ValueError: for another process, and what ``from_config`` refuses.
    """
    config = scheduler if isinstance(scheduler, Mapping) else scheduler.config
    read = cast(
        DPMSolverPlusPlus2MSDEScheduler, DPMSolverPlusPlus2MSDEScheduler.from_config(config)
    )
    flow = bool(read.config.use_flow_sigmas)
    allowed = ("flow",) if flow else ("ve", "vp")
    process = allowed[0] if process is None else process
    if process not in allowed:
        kind = "flow model" if flow else "model with betas"
        raise ValueError(
            f"process must be {' or '.join(map(repr, allowed))} for a {kind}, got {process!r}"
        )
    coordinates = as_process(process)
    prediction = read.config.prediction_type
    total, table = read.config.num_train_timesteps, read._table().log()

    def denoise(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        extra.pop("seed", None)
        level = sigma.to(working_dtype(x.dtype))
        if flow:
            t, alpha, std, scale = level * total, 1.0 - level, level, torch.ones_like(level)
        else:
            log_ratio = -coordinates.half_log_snr(level)
            t = _between(log_ratio, table.to(log_ratio))
            alpha = torch.sigmoid(-2.0 * log_ratio).sqrt()
            std = torch.sigmoid(2.0 * log_ratio).sqrt()
            scale = alpha / coordinates.alpha(level)
        alpha, std, scale = (f.view(-1, *[1] * (x.ndim - 1)) for f in (alpha, std, scale))
        state = x.to(level.dtype) * scale
        output = model(state.to(x.dtype), timestep=t.float(), **extra)
        output = output if isinstance(output, Tensor) else output[0]
        return _estimate(prediction, _of_form(output, state), state, alpha, std).to(x.dtype)

    return denoise


def _between(values: Tensor, table: Tensor) -> Tensor:
    """Where values lie in an ascending table, as a fractional index, within its ends."""
    above = torch.searchsorted(table, values.contiguous()).clamp(1, len(table) - 1)
    low, high = table[above - 1], table[above]
    return (above - 1 + (values - low) / (high - low)).clamp(0, len(table) - 1)
