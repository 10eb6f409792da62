"""DPM-Solver++(2M) SDE: the sampler that ComfyUI calls ``dpmpp_2m_sde_gpu``, and what it stands on.

The modules, bottom to top: :mod:`~dpmpp_core.schedule` (processes and noise schedules),
:mod:`~dpmpp_core.mesh`, :mod:`~dpmpp_core.coefficients` (A, B, C, D), :mod:`~dpmpp_core.noise`,
:mod:`~dpmpp_core.sampler`, :mod:`~dpmpp_core.targets` (data whose denoiser is exact) and
:mod:`~dpmpp_core.moments` (exact variances without sampling). Imported only on request are
:mod:`~dpmpp_core.density` (the sampler's law on the line), :mod:`~dpmpp_core.transport`
(distances between laws), :mod:`~dpmpp_core.baselines` (other samplers as tables),
:mod:`~dpmpp_core.sweep` (many runs as one batch), :mod:`~dpmpp_core.guidance`,
:mod:`~dpmpp_core.digits` (a learned denoiser) with :mod:`~dpmpp_core.quality`,
:mod:`~dpmpp_core.conformance` (golden numbers for ports), :mod:`~dpmpp_core.results` (what the
scripts in ``benchmarks/`` measured), :mod:`~dpmpp_core.symbolic`, the derivation, which needs
sympy, :mod:`~dpmpp_core.figures`, which needs matplotlib, and ``dpmpp_core.adapters``, for ComfyUI
and diffusers.
"""

from . import schedule
from .coefficients import Coefficients, StepTable, history_weight, step_table
from .mesh import Mesh
from .moments import gaussian_moments
from .noise import BrownianTree, IndependentNoise, NoiseSampler, PhiloxBridge
from .sampler import (
    Step,
    StepError,
    Transition,
    prepare,
    sample,
    sample_dpmpp_2m_sde,
    sample_dpmpp_2m_sde_gpu,
    sample_dpmpp_2m_sde_heun,
    sample_dpmpp_2m_sde_heun_gpu,
    step,
    trajectory,
)
from .schedule import VE, VP, Flow, Process
from .targets import GaussianMixture, gaussian, point_cloud, triangle

__all__ = [
    "VE",
    "VP",
    "BrownianTree",
    "Coefficients",
    "Flow",
    "GaussianMixture",
    "IndependentNoise",
    "Mesh",
    "NoiseSampler",
    "PhiloxBridge",
    "Process",
    "Step",
    "StepError",
    "StepTable",
    "Transition",
    "gaussian",
    "gaussian_moments",
    "history_weight",
    "point_cloud",
    "prepare",
    "sample",
    "sample_dpmpp_2m_sde",
    "sample_dpmpp_2m_sde_gpu",
    "sample_dpmpp_2m_sde_heun",
    "sample_dpmpp_2m_sde_heun_gpu",
    "schedule",
    "step",
    "step_table",
    "trajectory",
    "triangle",
]
__version__ = "0.1.0"
