"""The sampler as ComfyUI runs one, and the node that hands it over.

:func:`sample_dpmpp_2m_sde` follows the conventions of ComfyUI's own function of that name: the
process, the first level and the noise's scale are read from the model. The loop, the coefficients
and the noise are those of ``dpmpp_core``. :data:`NODE_CLASS_MAPPINGS` is what ComfyUI's loader
looks for; ComfyUI itself is imported when a sampler is made or run, not before.

Read from ComfyUI's ``comfy/samplers.py``, ``comfy/k_diffusion/sampling.py`` (commit 02159d81),
``comfy/model_sampling.py`` and ``comfy_extras/nodes_custom_sampler.py`` in 2026.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..checks import not_negative, positive
from ..coefficients import SolverType
from ..mesh import Mesh, dtype_of, read_levels
from ..noise import BrownianTree, NoiseSampler, PhiloxBridge, Seed
from ..noise.bridge import Clock
from ..noise.protocol import Streams
from ..sampler import Callback, Model, sample
from ..schedule import VE, Flow, Process

__all__ = [
    "NODE_CLASS_MAPPINGS",
    "NODE_DISPLAY_NAME_MAPPINGS",
    "SamplerDPMPP2MSDE",
    "sample_dpmpp_2m_sde",
]

Noise = Literal["bridge", "tree (gpu)", "tree (cpu)"]
Seeds = Literal["one per image", "same for all images", "one per batch"]

_FIRST = 1e-4
"""How far into a flow's schedule, as a fraction, ComfyUI starts when the first level is 1."""


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
    noise: Noise = "bridge",
    clock: Clock = "tau",
    seeds: Seeds = "one per image",
    path_seed: Seed = None,
) -> Tensor:
    r"""DPM-Solver++(2M) SDE for a model as ComfyUI's ``KSAMPLER`` hands it over.

    With ``ms`` for the model's ``model_sampling``:

    * the process is the rectified flow where ``ms`` is a ``CONST``, and VE for every other kind;
    * a flow's first level of 1 or more is replaced by ``ms.percent_to_sigma(1e-4)``;
    * ``s_noise`` is multiplied by ``ms.noise_scale`` where there is one: the model was trained on
      :math:`x = (1 - \sigma) x_0 + \sigma s \varepsilon` with that s.

    Arguments up to ``solver_type``, and what is refused, as in
    :func:`dpmpp_core.sample_dpmpp_2m_sde_gpu`; and

    Args:
        model: called as ``model(x, sigma, **extra_args)``; its ``model_sampling`` is asked of
            ``model.inner_model.model_patcher``, as ComfyUI's own SDE samplers do.
        noise: the path that is followed where no ``noise_sampler`` is given. ``"bridge"``:
            :class:`~dpmpp_core.PhiloxBridge`, the same on every device and for every number of
            steps. ``"tree (gpu)"`` and ``"tree (cpu)"``: :class:`~dpmpp_core.BrownianTree`, the
            numbers of ComfyUI's ``dpmpp_2m_sde_gpu`` and ``dpmpp_2m_sde``.
        clock: of the bridge, ``"tau"`` or ``"sigma"``; a tree's is sigma.
        seeds: ``"one per image"``: image i has seed + i, modulo 2^64, so that its noise does not
            depend on the images beside it. ``"same for all images"``: all have the seed.
            ``"one per batch"``: one path of the whole batch's shape, ComfyUI's way. A list of seeds
            has one for each image already.
        path_seed: the seed of the path, an integer in [0, 2^64) or a list with one per image; None
            for ``extra_args["seed"]``, that of the run.

    Returns:
        The state at the last level, as ComfyUI's function returns it.

    Raises:
        ValueError: also for a model without ``model_sampling``, a flow whose replaced first level
            is not between 0 and 1, and a ``noise`` or ``seeds`` that is none of the above.
        ImportError: outside ComfyUI.
    """
    _one_of("noise", noise, Noise)
    _one_of("seeds", seeds, Seeds)
    given = read_levels(sigmas)
    if len(given) <= 1:
        return x
    model_sampling = _model_sampling(model)
    flow = isinstance(model_sampling, _comfy("model_sampling").CONST)
    process: Process = Flow() if flow else VE()
    levels = torch.tensor(given, dtype=dtype_of(sigmas), device="cpu")
    if flow and 1.0 <= given[0] < math.inf:
        levels[0] = _first_level(model_sampling)
    Mesh.from_sigmas(levels, process)  # a bad schedule is refused as one, not by the noise
    s_noise = not_negative("s_noise", s_noise) * _noise_scale(model_sampling)

    if noise_sampler is None and eta != 0.0 and s_noise != 0.0:
        if path_seed is None and isinstance(extra_args, Mapping):
            path_seed = extra_args.get("seed")
        streams = _streams(x, path_seed, seeds)
        if noise == "bridge":
            noise_sampler = _bridge(x, levels, streams, process, eta, clock)
        else:
            # The ends of ComfyUI's tree are those of the schedule as it was given.
            low = given[-1] if given[-1] > 0.0 else given[-2]
            noise_sampler = BrownianTree(x, low, given[0], streams, cpu=noise == "tree (cpu)")
    return sample(
        model, x, levels, eta=eta, s_noise=s_noise, solver_type=solver_type, process=process,
        noise_sampler=noise_sampler, extra_args=extra_args, callback=callback, disable=disable,
        fused=None if x.is_cuda and _kernels_run(x.device) else False,
    )  # fmt: skip


# --- what the model says of itself ---------------------------------------------------------------


def _model_sampling(model: Any) -> Any:
    try:
        return model.inner_model.model_patcher.get_model_object("model_sampling")
    except AttributeError:
        raise ValueError(
            "model must be one that ComfyUI hands to a sampler, with a model_sampling in its "
            f"inner_model.model_patcher, got an object of type {type(model).__name__}"
        ) from None


def _first_level(model_sampling: Any) -> float:
    first = positive("percent_to_sigma(1e-4)", model_sampling.percent_to_sigma(_FIRST))
    if first >= 1.0:
        raise ValueError(
            f"percent_to_sigma(1e-4) of a flow model must lie between 0 and 1, got {first}"
        )
    return first


def _noise_scale(model_sampling: Any) -> float:
    return not_negative("noise_scale", getattr(model_sampling, "noise_scale", 1.0))


def _comfy(module: str) -> Any:
    try:
        return importlib.import_module(f"comfy.{module}")
    except ModuleNotFoundError as error:
        if error.name != "comfy":
            raise
        raise ImportError(
            "dpmpp_core.adapters.comfy needs ComfyUI, whose package 'comfy' was not found; "
            "dpmpp_core.sample is the same sampler without it"
        ) from None


# --- noise ---------------------------------------------------------------------------------------


def _streams(x: Tensor, seed: Seed, seeds: Seeds) -> int | list[int]:
    """The seed of the batch, or a list with one for each image."""
    found = Streams(x, seed).seeds
    if isinstance(seed, Sequence):
        return found
    if seeds == "one per batch":
        return found[0]
    step = 1 if seeds == "one per image" else 0
    return [(found[0] + step * i) % 2**64 for i in range(len(x))]


def _bridge(
    x: Tensor,
    levels: Tensor,
    streams: int | list[int],
    process: Process,
    eta: float,
    clock: Clock,
) -> NoiseSampler:
    # The path is computed in float64, which not every kind of device has. It is the same on the
    # host, so there it is drawn for the others, and the sampler moves it.
    template = x if x.device.type in ("cpu", "cuda") else torch.empty_like(x, device="cpu")
    backend: Literal["torch"] | None = None if _kernels_run(template.device) else "torch"

    def bridge(state: Tensor) -> PhiloxBridge:
        return PhiloxBridge(
            state, levels, streams, process=process, eta=eta, clock=clock, backend=backend
        )

    if isinstance(streams, list):
        return bridge(template)
    whole = bridge(template[None])  # the batch as one sample
    return lambda sigma, sigma_next: whole(sigma, sigma_next)[0]


@lru_cache(maxsize=8)
def _kernels_run(device: torch.device) -> bool:
    """Whether the compiled kernels work here; tried once.

    Triton and numba are found on machines where they cannot compile: Triton asks for a C compiler
    when a kernel is first run.
    """
    try:
        PhiloxBridge(torch.zeros(1, 4, device=device), [2.0, 1.0])(2.0, 1.0)
    except Exception:
        return False
    return True


def _one_of(name: str, value: Any, kind: Any) -> None:
    allowed = get_args(kind)
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


# --- the node ------------------------------------------------------------------------------------


class SamplerDPMPP2MSDE:
    """ComfyUI's node ``SamplerDPMPP_2M_SDE`` with our sampler, and the choice of its noise.

    Its output goes where any SAMPLER goes: into SamplerCustom or SamplerCustomAdvanced.
    """

    CATEGORY = "model/sampling/samplers"
    DESCRIPTION = (
        "DPM-Solver++(2M) SDE. With the noise 'bridge' one seed is one path: on every device, for "
        "every number of steps, whatever else is in the batch, and across a run split in two."
    )
    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "get_sampler"
    SEARCH_ALIASES: ClassVar[list[str]] = ["dpmpp_2m_sde", "brownian bridge", "one sampler"]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple[Any, dict[str, Any]]]]:
        """The widgets, in the form that ComfyUI reads."""
        factor = {"default": 1.0, "min": 0.0, "max": 100.0, "step": 0.01, "round": False}
        return {
            "required": {
                "solver_type": (
                    list(get_args(SolverType)),
                    {"tooltip": "The weight of the history term. heun weighs it more."},
                ),
                "eta": (
                    "FLOAT",
                    factor
                    | {
                        "tooltip": "The rate of the noise: 0 for the ODE, 1 for the SDE of DDPM. "
                        "It changes the path, and only through the steps' error the law."
                    },
                ),
                "s_noise": (
                    "FLOAT",
                    factor
                    | {
                        "tooltip": "The factor of the noise. Only 1 keeps the variance: below it "
                        "the picture loses some, above it grain is left."
                    },
                ),
                "noise": (
                    list(get_args(Noise)),
                    {
                        "tooltip": "bridge: the same path on every device and for every number of "
                        "steps. tree: ComfyUI's own, drawn on the GPU (dpmpp_2m_sde_gpu) or on "
                        "the CPU (dpmpp_2m_sde)."
                    },
                ),
                "clock": (
                    list(get_args(Clock)),
                    {
                        "tooltip": "Of the bridge. tau: fine steps add up to coarse ones exactly. "
                        "sigma: the time of ComfyUI's tree."
                    },
                ),
                "seeds": (
                    list(get_args(Seeds)),
                    {
                        "tooltip": "one per image: image i of the batch has the seed plus i. one "
                        "per batch: one draw for all, ComfyUI's way."
                    },
                ),
                "path_seed": (
                    "INT",
                    {
                        "default": -1,
                        "min": -1,
                        "max": 2**64 - 1,
                        "tooltip": "-1: the seed of the run. Name one for both parts of a split "
                        "run (DisableNoise has seed 0), and another one for a second pass over "
                        "the same picture.",
                    },
                ),
            }
        }

    def get_sampler(
        self,
        solver_type: SolverType = "midpoint",
        eta: float = 1.0,
        s_noise: float = 1.0,
        noise: Noise = "bridge",
        clock: Clock = "tau",
        seeds: Seeds = "one per image",
        path_seed: int = -1,
    ) -> tuple[Any]:
        """ComfyUI's sampler object around :func:`sample_dpmpp_2m_sde`."""
        options = {
            "eta": eta,
            "s_noise": s_noise,
            "solver_type": solver_type,
            "noise": noise,
            "clock": clock,
            "seeds": seeds,
            "path_seed": None if path_seed == -1 else path_seed,
        }
        return (_comfy("samplers").KSAMPLER(sample_dpmpp_2m_sde, options),)


NODE_CLASS_MAPPINGS = {"OneSampler_DPMPP_2M_SDE": SamplerDPMPP2MSDE}
"""The nodes, by the names that workflows keep."""

NODE_DISPLAY_NAME_MAPPINGS = {"OneSampler_DPMPP_2M_SDE": "SamplerDPMPP_2M_SDE (One Sampler)"}
"""Their names on the screen."""
