"""The step, the loop, and the four functions with ComfyUI's names and signature."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .checks import not_negative
from .coefficients import Coefficients, SolverType, StepTable, check_solver_type, step_table
from .mesh import Mesh, dtype_of, read_levels
from .noise import BrownianTree, NoiseSampler, PhiloxBridge
from .noise.protocol import working_dtype
from .schedule import Process, as_process

__all__ = [
    "Step",
    "StepError",
    "Transition",
    "prepare",
    "sample",
    "sample_dpmpp_2m_sde",
    "sample_dpmpp_2m_sde_gpu",
    "sample_dpmpp_2m_sde_heun",
    "sample_dpmpp_2m_sde_heun_gpu",
    "step",
    "trajectory",
]

Model = Callable[..., Tensor]
Callback = Callable[[dict[str, Any]], Any]


class StepError(ValueError):
    """A step could not be taken: the model or the noise sampler returned something unusable.

    Attributes:
        step: the index of the step.
        x: the state so far. On the host that is the state at which the model was called. On an
            accelerator values are looked at once, after the last step, and it is the final state,
            whose other samples are as good as ever.
    """

    def __init__(self, message: str, step: int = -1, x: Tensor | None = None) -> None:
        super().__init__(message)
        self.step = step
        self.x = x

    def __reduce__(self) -> tuple[type[StepError], tuple[str, int, Tensor | None]]:
        return StepError, (str(self), self.step, self.x)


# --- one step ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A step taken apart: ``x_next = x + drift + history + noise``, up to rounding.

    All four have the shape, device and dtype of the state.
    """

    x_next: Tensor
    drift: Tensor
    history: Tensor
    noise: Tensor


def step(
    coefficients: Coefficients,
    x: Tensor,
    denoised: Tensor,
    previous: Tensor | None = None,
    xi: Tensor | None = None,
) -> Step:
    r"""One step of the sampler and the three terms it is the sum of.

    .. math::

        x_{k+1} - x_k = \underbrace{(A - 1)\, x_k + B\, \hat x_{0,k}}_{\text{drift}}
        + \underbrace{C\, (\hat x_{0,k} - \hat x_{0,k-1})}_{\text{history}}
        + \underbrace{D\, \xi_k}_{\text{noise}}

    Args:
        coefficients: the row of the step, ``step_table(...)[k]``.
        x: the state :math:`x_k`, shape ``(B, ...)``, any floating dtype.
        denoised: the model's estimate :math:`\hat x_{0,k}`, same shape.
        previous: the estimate of the step before; may be None where C = 0.
        xi: the unit normal :math:`\xi_k`; may be None where D = 0.

    Returns:
        The new state and its terms. No argument is modified.

    Raises:
        ValueError: if C or D is not 0 and the tensor that it multiplies is missing.
    """
    a, b, c, d = coefficients
    if c != 0.0 and previous is None:
        raise ValueError(f"previous must be a tensor where C is not 0, got None with C = {c}")
    if d != 0.0 and xi is None:
        raise ValueError(f"xi must be a tensor where D is not 0, got None with D = {d}")
    work = working_dtype(x.dtype)
    state, estimate = x.to(work), denoised.to(work)
    drift = (a - 1.0) * state + b * estimate
    history = torch.zeros_like(state) if previous is None else c * (estimate - previous.to(work))
    noise = torch.zeros_like(state) if xi is None else d * xi.to(work)
    return Step(
        x_next=_advance(coefficients, x, denoised, previous, xi)[0],
        drift=drift.to(x.dtype),
        history=history.to(x.dtype),
        noise=noise.to(x.dtype),
    )


def _advance(
    coefficients: Coefficients,
    x: Tensor,
    denoised: Tensor,
    previous: Tensor | None,
    xi: Tensor | None,
) -> tuple[Tensor, bool | None]:
    """The new state alone, and whether it is finite if that was seen on the way."""
    if coefficients == (0.0, 1.0, 0.0, 0.0):
        return denoised, None
    if x.device.type == "cpu":
        host = _fused_host()
        if host is not None and x.dtype in host.DTYPES:
            found: tuple[Tensor, bool] = host.advance(coefficients, x, denoised, previous, xi)
            return found
    return _advance_plain(coefficients, x, denoised, previous, xi), None


def _advance_plain(
    coefficients: Coefficients,
    x: Tensor,
    denoised: Tensor,
    previous: Tensor | None,
    xi: Tensor | None,
) -> Tensor:
    """The new state in one new buffer and, in half precision, with one rounding."""
    a, b, c, d = coefficients
    out = x.to(working_dtype(x.dtype)) * a
    out.add_(denoised, alpha=b)
    if c != 0.0 and previous is not None:
        # The difference first: two estimates that nearly agree would lose it in a sum with large C.
        out.add_(denoised.to(out.dtype) - previous, alpha=c)
    if d != 0.0 and xi is not None:
        out.add_(xi, alpha=d)
    return out.to(x.dtype)


@lru_cache(maxsize=1)
def _fused_host() -> Any:
    try:
        return importlib.import_module(".fused_host", __package__)
    except ImportError:
        return None  # without numba


# --- the loop ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transition:
    """Step k of a run: the state it left, what it used, and the state it reached.

    ``previous`` is None at the first step, ``xi`` is None where no noise is drawn. The terms are
    computed when they are asked for.
    """

    k: int
    sigma: float
    sigma_next: float
    coefficients: Coefficients
    x: Tensor
    denoised: Tensor
    previous: Tensor | None
    xi: Tensor | None
    x_next: Tensor

    @property
    def terms(self) -> Step:
        """The step taken apart by :func:`step`."""
        return step(self.coefficients, self.x, self.denoised, self.previous, self.xi)

    @property
    def drift(self) -> Tensor:
        r""":math:`(A - 1) x_k + B \hat x_{0,k}`."""
        return self.terms.drift

    @property
    def history(self) -> Tensor:
        r""":math:`C (\hat x_{0,k} - \hat x_{0,k-1})`."""
        return self.terms.history

    @property
    def noise(self) -> Tensor:
        r""":math:`D \xi_k`."""
        return self.terms.noise


def trajectory(
    model: Model,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    solver_type: SolverType = "midpoint",
    process: str | Process = "ve",
    noise_sampler: NoiseSampler | None = None,
    extra_args: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
) -> Iterator[Transition]:
    """Run the sampler and yield every step as a :class:`Transition`.

    Arguments, and what is refused, as :func:`sample_dpmpp_2m_sde_gpu`. The arguments are checked
    when this function is called; the model runs when the iterator is advanced. Nothing is
    yielded for a schedule of fewer than two levels.

    The default noise is a :class:`BrownianTree` on the state's device with ``extra_args["seed"]``.
    """
    plan = _plan(
        model, x, sigmas, eta, s_noise, solver_type, process, noise_sampler, extra_args, callback
    )
    return _transitions(model, x, plan, callback)


@torch.no_grad()
def _transitions(
    model: Model, x: Tensor, plan: _Plan | None, callback: Callback | None
) -> Iterator[Transition]:
    if plan is None:
        return
    for k, x_k, denoised, previous, xi, x_next in _loop(model, x, plan, callback):
        yield Transition(
            k=k,
            sigma=plan.sigma[k],
            sigma_next=plan.sigma[k + 1],
            coefficients=plan.rows[k],
            x=x_k,
            denoised=denoised,
            previous=previous,
            xi=xi,
            x_next=x_next,
        )


def sample(
    model: Model,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    solver_type: SolverType = "midpoint",
    process: str | Process = "ve",
    noise_sampler: NoiseSampler | None = None,
    extra_args: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    fused: bool | None = None,
) -> Tensor:
    """The last state of :func:`trajectory`, with a progress bar.

    Arguments as :func:`sample_dpmpp_2m_sde_gpu`, which this is with keywords; and

    Args:
        fused: whether a step is one launch of a Triton kernel, with the normals of a
            :class:`PhiloxBridge` made in registers, instead of some operations of torch. Both agree
            to the rounding of x's dtype. None: on a CUDA device where Triton is installed.

    Raises:
        ValueError: also for ``fused=True`` where that is not so.
    """
    _check_fused(fused)
    plan = _plan(
        model, x, sigmas, eta, s_noise, solver_type, process, noise_sampler, extra_args, callback
    )
    return _last(model, x, plan, callback, disable, fused)


def prepare(
    model: Model,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    solver_type: SolverType = "midpoint",
    process: str | Process = "ve",
    noise_sampler: NoiseSampler | None = None,
    extra_args: Mapping[str, Any] | None = None,
    fused: bool | None = None,
) -> Callable[[Tensor], Tensor]:
    """:func:`sample` as a function of the initial state alone, with nothing left to do but steps.

    Arguments are checked, and all that the device has to know is sent to it, here. The function
    that is returned sends nothing to the device and reads nothing from it, so that it can be
    recorded as a CUDA graph where model and noise sampler can; for the same reason it does not
    look whether values are finite. A :class:`PhiloxBridge` gives the same path at every call, until
    :meth:`PhiloxBridge.reseed`.

    Args:
        x: a state of the shape, dtype and device that the states will have.

    Returns:
        ``run(x)``, the last state; it raises a ValueError for a state that is not like ``x``, and
        a StepError where the model or the noise sampler returns another form.

    Raises:
        ValueError: as :func:`sample`.
    """
    _check_fused(fused)
    plan = _plan(
        model, x, sigmas, eta, s_noise, solver_type, process, noise_sampler, extra_args, None
    )
    form = x.shape, x.dtype, x.device
    steps = None if plan is None else _fused_steps(plan, x, fused)

    def run(x: Tensor) -> Tensor:
        if (x.shape, x.dtype, x.device) != form:
            raise ValueError(
                f"x must have shape {tuple(form[0])}, {form[1]} and device {form[2]}, the ones "
                f"prepared for, got {tuple(x.shape)}, {x.dtype} and {x.device}"
            )
        if plan is None:
            return x
        with torch.no_grad():
            for taken in _loop(model, x, plan, None, steps, look=False):
                x = taken[-1]
        return x

    return run


@dataclass(frozen=True)
class _Plan:
    """A run that has been checked: the coefficients of its steps, its levels, its noise.

    ``told[k]`` is level k as the model gets it, of shape ``(B,)`` on the state's device: everything
    that the device needs to know of the schedule travels before the first step. ``levels[k]`` is
    the same as a 0-d tensor on the host.
    """

    rows: tuple[Coefficients, ...]
    sigma: tuple[float, ...]
    levels: tuple[Tensor, ...]
    told: tuple[Tensor, ...]
    noise_sampler: NoiseSampler
    extra_args: Mapping[str, Any]


def _plan(
    model: Model,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    eta: float,
    s_noise: float,
    solver_type: SolverType,
    process: str | Process,
    noise_sampler: NoiseSampler | None,
    extra_args: Mapping[str, Any] | None,
    callback: Callback | None,
    cpu: bool = False,
) -> _Plan | None:
    """Refuse what cannot be run before the model is called; None if there is no step to take."""
    for name, value in (("model", model), ("noise_sampler", noise_sampler), ("callback", callback)):
        if not callable(value) and (value is not None or name == "model"):
            raise ValueError(f"{name} must be callable, got {value!r}")
    extra_args = {} if extra_args is None else extra_args
    if not (isinstance(extra_args, Mapping) and all(isinstance(key, str) for key in extra_args)):
        raise ValueError(f"extra_args must be None or a mapping of names, got {extra_args!r}")
    check_state(x)
    process = as_process(process)
    given = read_levels(sigmas)
    if len(given) <= 1:
        return None

    dtype = dtype_of(sigmas)
    eta, s_noise = not_negative("eta", eta), not_negative("s_noise", s_noise)
    check_solver_type(solver_type)
    mesh, rows = _rows(tuple(given), process, dtype, eta, s_noise, solver_type, x.dtype)
    if noise_sampler is None:
        # The ends of ComfyUI's tree are those of the schedule as it was given.
        lowest = given[-1] if given[-1] > 0.0 else given[-2]
        seed = extra_args.get("seed")
        noise_sampler = BrownianTree(x, lowest, given[0], seed=seed, cpu=cpu)
    levels = torch.tensor(mesh.sigma, dtype=dtype, device="cpu")
    told = torch.tensor(mesh.sigma, dtype=x.dtype, device="cpu")[:, None].repeat(1, len(x))
    told = told.to(x.device, non_blocking=True)
    return _Plan(rows, mesh.sigma, levels.unbind(), told.unbind(), noise_sampler, extra_args)


@lru_cache(maxsize=64)
def _rows(
    levels: tuple[float, ...],
    process: Process,
    levels_dtype: torch.dtype,
    eta: float,
    s_noise: float,
    solver_type: SolverType,
    dtype: torch.dtype,
) -> tuple[Mesh, tuple[Coefficients, ...]]:
    """The mesh of a run and its coefficients. Kept, for they cost as much as many small steps."""
    mesh = Mesh._from_levels(list(levels), process, levels_dtype)
    table = step_table(mesh, eta, s_noise, solver_type)
    _check_range(mesh, table, dtype)
    return mesh, tuple(table)


def _check_range(mesh: Mesh, table: StepTable, dtype: torch.dtype) -> None:
    """Refuse levels and factors that the state's dtype cannot hold."""
    limits = torch.finfo(dtype)
    for k, sigma in enumerate(mesh.sigma):
        if sigma > limits.max or 0.0 < sigma < limits.tiny:
            raise ValueError(
                f"sigmas must lie within x's {dtype}, from {limits.tiny:g} to {limits.max:g}, "
                f"got sigmas[{k}] = {sigma}"
            )
    largest = torch.finfo(working_dtype(dtype)).max
    for k, row in enumerate(table):
        for name, value in row._asdict().items():
            if value > largest:
                raise ValueError(
                    f"sigmas, eta and s_noise must give factors of at most {largest:g}, "
                    f"got {name} = {value:g} at step {k}"
                )


def check_state(x: Any) -> None:
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if (
        not isinstance(x, Tensor)
        or x.dtype not in floats
        or x.ndim == 0
        or x.layout != torch.strided
    ):
        got = f"{x.layout}, {x.dtype}, {tuple(x.shape)}" if isinstance(x, Tensor) else repr(x)
        raise ValueError(
            "x must be a dense tensor of shape (B, ...) in float16, bfloat16, float32 or float64, "
            f"got {got}"
        )
    found = _first_not_finite([_extremes(x)]) if x.device.type == "cpu" else None
    if found is not None:
        raise ValueError(f"x must hold finite values, got {found[1]}")


# k, x, denoised, previous, xi and x_next of a step: a Transition costs a tenth of a small step.
_Taken = tuple[int, Tensor, Tensor, Tensor | None, Tensor | None, Tensor]


def _loop(
    model: Model,
    x: Tensor,
    plan: _Plan,
    callback: Callback | None,
    fused: _FusedSteps | None = None,
    look: bool = True,
) -> Iterator[_Taken]:
    """The steps, to be run without gradients. ``look``: whether to see that states are finite."""
    x = x.detach()
    previous: Tensor | None = None
    unseen: list[tuple[Tensor, Tensor]] = []
    for k, coefficients in enumerate(plan.rows):
        denoised = model(x, plan.told[k], **plan.extra_args)
        check_form("model", denoised, x, k, plan.sigma[k])
        denoised = denoised.detach()
        if callback is not None:
            level = plan.levels[k]
            callback({"x": x, "i": k, "sigma": level, "sigma_hat": level, "denoised": denoised})
        xi = None
        if fused is not None:
            x_next = fused.step(k, x, denoised, previous)
        else:
            xi = _draw(plan, k, x) if coefficients.D > 0.0 else None
            x_next, finite = _advance(coefficients, x, denoised, previous, xi)
            if not look:
                pass
            elif x.device.type != "cpu":
                unseen.append(_extremes(x_next))
            elif finite is False or (
                finite is None and _first_not_finite([_extremes(x_next)]) is not None
            ):
                raise _not_finite(denoised, xi, x, k, plan.sigma[k])
        yield k, x, denoised, previous, xi, x_next
        x, previous = x_next, denoised
    if not look:
        return
    # On an accelerator this is the one time that the run waits for the device.
    found = _first_not_finite(unseen if fused is None else [(v, v) for v in fused.found])
    if found is not None:
        k, value = found
        raise StepError(
            f"model and noise_sampler must give finite values, got {value} in the state after "
            f"step {k} (sigma = {plan.sigma[k]:g})",
            step=k,
            x=x,
        )


def _last(
    model: Model,
    x: Tensor,
    plan: _Plan | None,
    callback: Callback | None,
    disable: bool | None,
    fused: bool | None = None,
) -> Tensor:
    if plan is None:
        return x
    run = _loop(model, x, plan, callback, _fused_steps(plan, x, fused))
    with torch.no_grad():
        for taken in tqdm(run, total=len(plan.rows), disable=disable):
            x = taken[-1]
    return x


class _FusedSteps:
    """The steps of a run as launches of :mod:`~dpmpp_core.fused`."""

    def __init__(self, plan: _Plan, x: Tensor) -> None:
        self._kernels: Any = importlib.import_module(".fused", __package__)
        self._plan = plan
        self._rows = torch.tensor(plan.rows, dtype=torch.float64).to(x.device)
        self.found = torch.zeros(len(plan.rows), device=x.device)
        noise = plan.noise_sampler
        self._bridge = noise if isinstance(noise, PhiloxBridge) and noise.fits(x) else None

    def step(self, k: int, x: Tensor, denoised: Tensor, previous: Tensor | None) -> Tensor:
        plan, row, found = self._plan, self._rows[k], self.found[k]
        noisy = plan.rows[k].D > 0.0
        if plan.rows[k].C == 0.0:
            previous = None
        if noisy and self._bridge is not None:
            path = self._bridge.depart(plan.levels[k], plan.levels[k + 1])
            new: Tensor = self._kernels.advance_along(row, x, denoised, previous, *path, found)
        else:
            xi = _draw(plan, k, x) if noisy else None
            new = self._kernels.advance(row, x, denoised, previous, xi, found)
        return new


def _check_fused(fused: Any) -> None:
    if fused not in (None, True, False):
        raise ValueError(f"fused must be None, True or False, got {fused!r}")


def _fused_steps(plan: _Plan, x: Tensor, fused: bool | None) -> _FusedSteps | None:
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if fused is False or (fused is None and not x.is_cuda):
        return None
    try:
        if fused and not (x.is_cuda or interpreted):
            raise ValueError(f"fused=True needs x on a CUDA device, got x on {x.device}")
        return _FusedSteps(plan, x)
    except ImportError as error:
        if fused is None:
            return None
        raise ValueError(f"fused=True needs Triton to be installed: {error}") from error


def _draw(plan: _Plan, k: int, x: Tensor) -> Tensor:
    xi = plan.noise_sampler(plan.levels[k], plan.levels[k + 1])
    if isinstance(xi, Tensor) and xi.is_floating_point():
        # A sampler may draw elsewhere and in another precision; what counts is the shape.
        xi = xi.detach().to(x.device, x.dtype)
    check_form("noise_sampler", xi, x, k, plan.sigma[k])
    return xi


# --- what the model and the noise sampler returned ----------------------------------------------


def check_form(name: str, returned: Any, x: Tensor, k: int, sigma: float) -> None:
    if not isinstance(returned, Tensor):
        got = f"an object of type {type(returned).__name__}"
    elif returned.shape != x.shape:
        got = f"shape {tuple(returned.shape)}"
    elif returned.dtype != x.dtype:
        got = str(returned.dtype)
    elif returned.device != x.device:
        got = f"device {returned.device}"
    else:
        return
    raise StepError(
        f"{name} must return a tensor of shape {tuple(x.shape)}, {x.dtype} and device {x.device}, "
        f"got {got} at step {k} (sigma = {sigma:g})",
        step=k,
        x=x,
    )


def _extremes(values: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value as 0-d tensors, NaN if any value is; one pass, no waiting."""
    if values.numel() == 0:
        return values.new_zeros(()), values.new_zeros(())
    low, high = torch.aminmax(values.detach())
    return low, high


def _first_not_finite(extremes: Sequence[tuple[Tensor, Tensor]]) -> tuple[int, float] | None:
    """Index and value of the first pair with a number that is not finite."""
    if not extremes:
        return None
    # numpy reads host memory only: on the host this is no synchronisation, and it can't become one.
    table = torch.stack([value for pair in extremes for value in pair]).cpu().double().numpy()
    for i, value in enumerate(table):
        if not math.isfinite(value):
            return i // 2, float(value)
    return None


def _not_finite(denoised: Tensor, xi: Tensor | None, x: Tensor, k: int, sigma: float) -> StepError:
    """Whom to blame for a new state that is not finite, on the host."""
    for name, values in (("model", denoised), ("noise_sampler", xi)):
        found = None if values is None else _first_not_finite([_extremes(values)])
        if found is not None:
            reason = f"{name} must return finite values, got {found[1]}"
            break
    else:
        reason = f"the state must stay within {x.dtype}, got a number beyond it"
    return StepError(f"{reason} at step {k} (sigma = {sigma:g})", step=k, x=x)


# --- ComfyUI's names ---------------------------------------------------------------------------


def sample_dpmpp_2m_sde(
    model: Model,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    extra_args: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    solver_type: SolverType = "midpoint",
    *,
    process: str | Process = "ve",
) -> Tensor:
    """DPM-Solver++(2M) SDE with the Brownian path drawn on the host.

    Everything else as :func:`sample_dpmpp_2m_sde_gpu`.
    """
    plan = _plan(
        model, x, sigmas, eta, s_noise, solver_type, process, noise_sampler, extra_args, callback,
        cpu=True,
    )  # fmt: skip
    return _last(model, x, plan, callback, disable)


def sample_dpmpp_2m_sde_gpu(
    model: Model,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    extra_args: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    solver_type: SolverType = "midpoint",
    *,
    process: str | Process = "ve",
) -> Tensor:
    r"""DPM-Solver++(2M) SDE with the Brownian path drawn on the state's device.

    .. math:: x_{k+1} = A_k x_k + B_k \hat x_{0,k} + C_k (\hat x_{0,k} - \hat x_{0,k-1}) + D_k \xi_k

    with the coefficients of :func:`~dpmpp_core.step_table`. They are computed once, in float64
    on the host; the state keeps its dtype, and a step in half precision is summed in float32 and
    rounded once. No gradient is recorded and ``x`` is never modified.

    Args:
        model: the denoiser, called as ``model(x, sigma, **extra_args)`` with ``sigma`` of shape
            ``(B,)`` in x's dtype and device. Returns :math:`\hat x_0` of x's shape, dtype and
            device, in a tensor that it does not overwrite later.
        x: the initial state, shape ``(B, ...)``: for ``"ve"`` noise of standard deviation
            ``sigmas[0]`` (with the data's own spread added), for ``"flow"`` unit noise.
        sigmas: noise levels, shape ``(N + 1,)``, strictly decreasing; see
            :meth:`~dpmpp_core.Mesh.from_sigmas`. With at most one level x is returned as it is.
        extra_args: keyword arguments for the model. ``extra_args["seed"]`` also seeds the default
            noise: an integer for the batch, a list for one path per sample.
        callback: called at each step, before the state is updated, with a dict of ``x``, ``i``,
            ``sigma``, ``sigma_hat`` (equal; 0-d tensors on the host) and ``denoised``.
        disable: True hides the progress bar; None hides it where there is no terminal.
        eta: rate of the noise, >= 0: 0 for the ODE, 1 for the SDE that DDPM discretises.
        s_noise: factor of the noise, >= 0; only 1 keeps the law.
        noise_sampler: ``(sigma, sigma_next) -> unit normal`` of x's shape, called with 0-d
            tensors on the host; None for a :class:`~dpmpp_core.BrownianTree`.
        solver_type: ``"midpoint"`` or ``"heun"``, the weight of the history term.
        process: ``"ve"`` (ComfyUI's EPS, v-prediction and EDM models), ``"vp"``, ``"flow"``
            (CONST), or a process object.

    Returns:
        The state at ``sigmas[-1]``; after a last level of 0, the last denoised estimate.

    Raises:
        ValueError: before the first model call, for any argument outside these ranges, in a
            sentence that names the argument, its value and what is allowed.
        StepError: when the model or the noise sampler returns another shape, dtype or device, or
            a value that is not finite, with the step and the state so far. On the host it is
            raised at once. On an accelerator values are read once, after the last step, so that
            no step waits for the device. To keep every state whatever happens, iterate over
            :func:`trajectory`.

    Source: ComfyUI's ``sample_dpmpp_2m_sde_gpu``; Lu et al. 2022, https://arxiv.org/abs/2211.01095.
    """
    return sample(
        model, x, sigmas, eta=eta, s_noise=s_noise, solver_type=solver_type, process=process,
        noise_sampler=noise_sampler, extra_args=extra_args, callback=callback, disable=disable,
    )  # fmt: skip


def sample_dpmpp_2m_sde_heun(
    model: Model,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    extra_args: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    solver_type: SolverType = "heun",
    *,
    process: str | Process = "ve",
) -> Tensor:
    """:func:`sample_dpmpp_2m_sde` with heun as the default."""
    return sample_dpmpp_2m_sde(
        model, x, sigmas, extra_args, callback, disable, eta, s_noise, noise_sampler, solver_type,
        process=process,
    )  # fmt: skip


def sample_dpmpp_2m_sde_heun_gpu(
    model: Model,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    extra_args: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    solver_type: SolverType = "heun",
    *,
    process: str | Process = "ve",
) -> Tensor:
    """:func:`sample_dpmpp_2m_sde_gpu` with heun as the default."""
    return sample_dpmpp_2m_sde_gpu(
        model, x, sigmas, extra_args, callback, disable, eta, s_noise, noise_sampler, solver_type,
        process=process,
    )  # fmt: skip
