"""What chapters/tools.md says of other programs, run with those that the tests install."""

from __future__ import annotations

import ast
import inspect
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from dpmpp_core import Mesh, baselines, schedule, step, step_table

CHAPTER = (Path(__file__).parent.parent / "chapters" / "tools.md").read_text(encoding="utf-8")
F64 = torch.float64

# Its set_timesteps hands numpy a tensor in a way that numpy 2 announces it will refuse.
diffusers_warns = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)


def normals(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def test_the_chapter_names_the_version_that_is_tested() -> None:
    assert f"diffusers {diffusers.__version__} " in CHAPTER


@diffusers_warns
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_of_diffusers_takes_eta_as_an_amplitude(eta: float) -> None:
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", prediction_type="sample", clip_sample=False
    )
    scheduler.set_timesteps(10)
    kept = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    mesh = Mesh.from_sigmas((1.0 - kept).sqrt(), "vp")
    table = baselines.ddim(mesh, eta)
    for k in range(mesh.steps):
        x, x0, xi = normals(3, 1, 5, seed=k)
        found = scheduler.step(x0, scheduler.timesteps[k], x, eta=eta, variance_noise=xi)
        ours = step(table[k], x, x0, None, xi).x_next
        assert torch.allclose(found.prev_sample, ours, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("b", [0.3, 1.0])
def test_the_ancestral_flow_scheduler_steps_below_the_next_level(b: float) -> None:
    """And is, at the chapter's rate, one step of ours without history."""
    sigmas = schedule.flow(8, shift=3.0)
    sigmas[0] = 0.999
    scheduler = diffusers.LTXEulerAncestralRFScheduler(eta=b)
    scheduler.set_timesteps(sigmas=sigmas.float())
    mesh = Mesh.from_sigmas(sigmas, "flow")
    for k in range(mesh.steps - 1):
        s, t = mesh.sigma[k], mesh.sigma[k + 1]
        down = t * (1.0 + b * (t / s - 1.0))
        rate = (math.log((1.0 - down) / down) - mesh.lam[k + 1]) / mesh.h[k]
        (row,) = step_table(Mesh.from_sigmas([s, t], "flow"), rate)
        x, x0 = normals(2, 1, 6, seed=k).float()
        xi = torch.randn(1, 6, generator=torch.Generator().manual_seed(k))
        found = scheduler.step(
            (x - x0) / s, scheduler.timesteps[k], x, generator=torch.Generator().manual_seed(k)
        )
        ours = step(row, x, x0, None, xi).x_next
        assert torch.allclose(found.prev_sample, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "has_eta", "has_s_noise"),
    [
        ("DDIMScheduler", True, False),
        ("DPMSolverMultistepScheduler", False, False),
        ("EulerAncestralDiscreteScheduler", False, False),
        ("DPMSolverSDEScheduler", False, True),
    ],
)
def test_which_schedulers_of_diffusers_have_an_eta(
    name: str, has_eta: bool, has_s_noise: bool
) -> None:
    scheduler = getattr(diffusers, name)
    arguments = {
        *inspect.signature(scheduler.step).parameters,
        *inspect.signature(scheduler.__init__).parameters,
    }
    assert ("eta" in arguments, "s_noise" in arguments) == (has_eta, has_s_noise)


def test_a_pipeline_drops_eta_where_the_scheduler_has_none() -> None:
    # The pipeline's module needs transformers; this function of it does not.
    folder = Path(diffusers.__file__).parent / "pipelines" / "stable_diffusion"
    source = (folder / "pipeline_stable_diffusion.py").read_text(encoding="utf-8")
    name = "prepare_extra_step_kwargs"
    (found,) = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == name
    )
    names: dict[str, Any] = {"inspect": inspect}
    exec(compile(ast.Module([found], []), name, "exec"), names)
    for scheduler, kept in (
        (diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"), None),
        (diffusers.DDIMScheduler(), 0.5),
    ):
        assert names[name](SimpleNamespace(scheduler=scheduler), None, 0.5).get("eta") == kept


@diffusers_warns
def test_the_chapters_lines_for_diffusers_run() -> None:
    """In a pipeline that is the loop alone."""

    class Pipe:
        scheduler: Any = diffusers.DDIMScheduler(beta_schedule="scaled_linear")

        def __call__(self, prompt: str, num_inference_steps: int) -> Any:
            self.scheduler.set_timesteps(num_inference_steps)
            x = normals(1, 1, 4, 4, seed=0)
            for t in self.scheduler.timesteps:
                x = self.scheduler.step(torch.zeros_like(x), t, x).prev_sample
            return SimpleNamespace(images=[x])

    (block,) = re.findall(r"```python\n(.*?)```", CHAPTER, re.DOTALL)
    names: dict[str, Any] = {"pipe": Pipe()}
    exec(block, names)
    config = names["pipe"].scheduler.config
    assert (config.eta, config.s_noise, config.seed, config.use_karras_sigmas) == (0.5, 1, 7, True)
    assert config.beta_schedule == "scaled_linear"
    assert bool(names["image"].isfinite().all())
