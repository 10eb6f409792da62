"""Write the golden numbers that ports are checked against: dpmpp_core/conformance/cases.json.

Run from the root of the repository: ``python tools/conformance_cases.py``. The numbers of the
inputs are rounded to four decimals, so that they can be read; levels are not. Cases with "comfyui"
in the name are states that ComfyUI's own function returned, two samples of tests/golden.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpmpp_core import schedule
from dpmpp_core.conformance import Case
from dpmpp_core.noise import philox

ROOT = Path(__file__).parent.parent
OUT = ROOT / "dpmpp_core" / "conformance" / "cases.json"
GOLDEN = ROOT / "tests" / "golden" / "comfyui_injected_noise"
ELEMENTS = 6

ABOUT = {
    "sampler": "DPM-Solver++(2M) SDE, ComfyUI's dpmpp_2m_sde and dpmpp_2m_sde_gpu",
    "step": "x_{k+1} = A x_k + B x0_k + C (x0_k - x0_{k-1}) + D noise_k; x0_k is the estimate at "
    "x_k and sigma_k",
    "levels": "alpha = 1 (ve), sqrt(1 - sigma^2) (vp), 1 - sigma (flow); lambda = log(alpha / "
    "sigma); h_k = lambda_{k+1} - lambda_k; z = (1 + eta) h_k",
    "A": "sigma_{k+1} / sigma_k * exp(-eta h_k)",
    "B": "alpha_{k+1} * (1 - exp(-z))",
    "C": "alpha_{k+1} * w * h_k / h_{k-1}, w = (1 - exp(-z)) / 2 (midpoint), 1 - (1 - exp(-z)) / z "
    "(heun); 0 at step 0",
    "D": "s_noise * sigma_{k+1} * sqrt(1 - exp(-2 eta h_k))",
    "last step": "a step to sigma = 0 returns x0_k",
    "first level": "flow: a first sigma of 1 or more is replaced by 1 - 1e-4, for the model too; x "
    "stays (ComfyUI: percent_to_sigma(1e-4) of the model, which is this without a shift)",
    "noise": "row k is noise_k, given for every step; a step that adds no noise ignores it",
    "denoisers": {
        "gaussian": "x0 = alpha * x / (alpha^2 + sigma^2)",
        "two_modes": "s = alpha^2 / 4 + sigma^2; x0 = (alpha * x / 4 + sigma^2 * tanh(alpha * x / "
        "s)) / s",
        "given": "x0_k = row k of denoised",
    },
    "answer": 'this file with a list "states" in every case: row k is the state after step k, as '
    "in expected; other keys are not read",
}


def normals(rows: int, stream: int, elements: int = ELEMENTS) -> np.ndarray[Any, Any]:
    """Rows of unit normals with four decimals."""
    key = philox.key_words([stream], torch.device("cpu"))
    found = philox.unit_normals(key, torch.arange(rows), torch.arange(math.ceil(elements / 4)))
    flat = found[:, :, 0].transpose(1, 2).reshape(rows, -1)[:, :elements]
    return np.round(flat.numpy(), 4)


def made(
    name: str,
    denoiser: str,
    sigmas: Sequence[float],
    eta: float,
    s_noise: float,
    solver_type: Any,
    stream: int,
) -> Case:
    """A case with inputs of its own, and this package's states as what is expected."""
    process = name.split("-")[0]
    steps = len(sigmas) - 1
    start, *noise = normals(steps + 1, stream)
    spread = sigmas[0] if process == "ve" else 1.0
    case = Case(
        name=name,
        process=process,
        denoiser=denoiser,
        sigmas=tuple(sigmas),
        eta=eta,
        s_noise=s_noise,
        solver_type=solver_type,
        x=tuple(np.round(spread * start, 4).tolist()),
        noise=tuple(tuple(row.tolist()) for row in noise),
        denoised=rows(normals(steps, 1000 + stream)) if denoiser == "given" else (),
    )
    return replace(case, expected=rows(case.states()))


def of_comfyui(name: str, solver_type: Any, schedule: str, eta: float, s_noise: float) -> Case:
    """A run of ComfyUI's own, with the estimates that its callback saw."""
    process = name.split("-")[0]
    wanted = {
        "model_sampling": {"ve": "EPS", "flow": "CONST"}[process],
        "solver_type": solver_type,
        "schedule": schedule,
        "eta": eta,
        "s_noise": s_noise,
    }
    listed = json.loads(GOLDEN.with_suffix(".json").read_text())
    (key,) = (case["name"] for case in listed if wanted.items() <= case.items())
    arrays = np.load(GOLDEN.with_suffix(".npz"), allow_pickle=False)

    def two(array: str) -> np.ndarray[Any, Any]:
        found: np.ndarray[Any, Any] = arrays[f"{key}/{array}"]
        return found[:, :2].reshape(len(found), -1)

    after = np.concatenate([two("x")[1:], arrays[f"{key}/out"][:2].reshape(1, -1)])
    return Case(
        name=name,
        process=process,
        denoiser="given",
        sigmas=tuple(arrays[f"{key}/sigmas"].tolist()),
        eta=eta,
        s_noise=s_noise,
        solver_type=solver_type,
        x=tuple(arrays[f"{key}/x_T"][:2].flatten().tolist()),
        noise=rows(two("xi")),
        denoised=rows(two("denoised")),
        expected=rows(after),
    )


def rows(values: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in values.tolist())


def build() -> list[Case]:
    """Every case."""
    wide = schedule.karras(7, 0.03, 14.6).tolist()
    even = schedule.exponential(6, 0.05, 8.0).tolist()
    whole = schedule.flow(7, shift=3.0).tolist()
    noisy = [schedule.VP().sigma(-2.5 + 0.9 * k) for k in range(7)]
    uneven = [level / math.hypot(1.0, level) for level in wide]
    short = [1.0, 1.0 - 1e-9, 1.0 - 3e-9, 1.0 - 4e-9]
    return [
        made("ve-gaussian", "gaussian", wide, 1.0, 1.0, "midpoint", 1),
        made("ve-two-modes", "two_modes", wide, 1.0, 1.0, "midpoint", 2),
        made("ve-heun", "two_modes", wide, 0.5, 1.1, "heun", 3),
        made("ve-no-noise", "two_modes", even, 0.0, 1.0, "midpoint", 4),
        made("ve-large-eta", "two_modes", even, 1.7, 0.9, "midpoint", 5),
        made("ve-part", "two_modes", [3.0, 2.1, 1.4, 0.9, 0.5], 0.5, 1.0, "heun", 6),
        made("ve-one-step", "two_modes", [14.6, 0.0], 1.0, 1.0, "midpoint", 7),
        made("ve-short-steps", "given", short, 1.0, 1.0, "heun", 8),
        made("vp-midpoint", "two_modes", uneven, 1.0, 1.0, "midpoint", 9),
        made("vp-heun", "gaussian", noisy, 0.5, 1.1, "heun", 10),
        made("flow-gaussian", "gaussian", whole, 1.0, 1.0, "midpoint", 11),
        made("flow-two-modes", "two_modes", whole, 1.0, 1.0, "midpoint", 12),
        made("flow-heun", "two_modes", whole, 0.5, 1.1, "heun", 13),
        made("flow-no-noise", "two_modes", whole, 0.0, 1.0, "midpoint", 14),
        made("flow-part", "two_modes", [0.7, 0.55, 0.4, 0.3, 0.1], 0.5, 1.0, "midpoint", 15),
        of_comfyui("ve-comfyui-midpoint", "midpoint", "karras12", 1.0, 1.0),
        of_comfyui("ve-comfyui-heun", "heun", "karras12", 0.3, 1.1),
        of_comfyui("flow-comfyui-midpoint", "midpoint", "flow10_shift3", 1.0, 1.0),
        of_comfyui("flow-comfyui-heun", "heun", "flow10_shift3", 1.7, 1.1),
    ]


def as_text(found: Sequence[Case]) -> str:
    """JSON with one line for each row of numbers."""
    listed = []
    for case in found:
        fields = {key: value for key, value in asdict(case).items() if value != ()}
        listed.append(",\n".join(f"   {json.dumps(k)}: {_value(v)}" for k, v in fields.items()))
    about = json.dumps(ABOUT, indent=2).replace("\n", "\n ")
    cases = ",\n".join("  {\n" + text + "\n  }" for text in listed)
    return f'{{\n "about": {about},\n "cases": [\n{cases}\n ]\n}}\n'


def _value(value: Any) -> str:
    if isinstance(value, tuple) and isinstance(value[0], tuple):
        return "[\n" + ",\n".join(f"    {json.dumps(row)}" for row in value) + "\n   ]"
    return json.dumps(value)


if __name__ == "__main__":
    to = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    to.write_text(as_text(build()), encoding="utf-8")
