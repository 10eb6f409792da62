"""Write the golden numbers that ports are checked against, into dpmpp_core/conformance.

Run from the root of the repository: ``python tools/conformance_cases.py``, or with another folder.
It writes cases.json, runs of the sampler, and noise.json, the bridge's numbers from the random
words to the normals of a run. The numbers of the
inputs are rounded to four decimals, so that they can be read; levels are not. Cases with "comfyui"
in the name are states that ComfyUI's own function returned, two samples of tests/golden.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpmpp_core import Mesh, PhiloxBridge, schedule
from dpmpp_core.conformance import Case
from dpmpp_core.noise import philox
from dpmpp_core.noise.bridge import block_node, log_gap, point_row
from dpmpp_core.schedule import Flow, as_process

ROOT = Path(__file__).parent.parent
OUT = ROOT / "dpmpp_core" / "conformance"
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
    "first level": "flow: a first sigma of 1 or more is replaced by t / (t + (1 - t) / shift) at t "
    "= 1 - 1e-4, with the case's shift, for the model too; x stays (ComfyUI: percent_to_sigma(1e-4)"
    " of the model)",
    "noise": "row k is noise_k, given for every step; a step that adds no noise ignores it",
    "batch": "where given, the elements are so many samples, one after the other; only the denoiser"
    " joint can tell",
    "denoisers": {
        "gaussian": "x0 = alpha * x / (alpha^2 + sigma^2)",
        "two_modes": "s = alpha^2 / 4 + sigma^2; x0 = (alpha * x / 4 + sigma^2 * tanh(alpha * x / "
        "s)) / s",
        "joint": "as two_modes, with tanh(alpha * S / s), S the sum of the sample's elements",
        "given": "x0_k = row k of denoised",
    },
    "refused": "arguments that no run is to start with, each for the reason named",
    "answer": 'this file with a list "states" in every case: row k is the state after step k, as '
    "in expected; other keys are not read",
}

REFUSED = [
    {"why": why, "process": process, "sigmas": sigmas, **setting}
    for why, process, sigmas, setting in [
        ("the levels rise", "ve", [2.0, 1.0, 1.5, 0.0], {}),
        ("a level is repeated", "ve", [2.0, 1.0, 1.0, 0.0], {}),
        ("0 before the end", "ve", [2.0, 0.0, 1.0], {}),
        ("a negative level", "ve", [2.0, 1.0, -1.0], {}),
        ("vp has no level of 1", "vp", [1.0, 0.5, 0.0], {}),
        ("a level of 1 after the first", "flow", [2.0, 1.0, 0.5], {}),
        ("above what replaces 1", "flow", [1.0, 0.99998, 0.0], {"shift": 3.0}),
        ("eta is negative", "ve", [2.0, 1.0, 0.0], {"eta": -0.1}),
        ("s_noise is negative", "ve", [2.0, 1.0, 0.0], {"s_noise": -0.1}),
        ("no such solver", "ve", [2.0, 1.0, 0.0], {"solver_type": "euler"}),
        ("no such process", "edm", [2.0, 1.0, 0.0], {}),
    ]
]


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
    **more: Any,
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
        **more,
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
    lumpy = [10.0, 8.0, 3.0, 2.5, 0.7, 0.5, 0.0]
    whole, plain = schedule.flow(7, shift=3.0).tolist(), schedule.flow(6).tolist()
    three = {"shift": 3.0}
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
        made("ve-s-noise-zero", "two_modes", wide, 1.0, 0.0, "midpoint", 16),
        made("ve-uneven", "two_modes", lumpy, 1.0, 1.0, "heun", 17),
        made("vp-midpoint", "two_modes", uneven, 1.0, 1.0, "midpoint", 9),
        made("vp-heun", "gaussian", noisy, 0.5, 1.1, "heun", 10),
        made("flow-gaussian", "gaussian", whole, 1.0, 1.0, "midpoint", 11, **three),
        made("flow-two-modes", "two_modes", whole, 1.0, 1.0, "midpoint", 12, **three),
        made("flow-heun", "two_modes", whole, 0.5, 1.1, "heun", 13, **three),
        made("flow-no-noise", "two_modes", whole, 0.0, 1.0, "midpoint", 14, **three),
        made("flow-batch", "joint", plain, 1.0, 1.0, "heun", 18, batch=2),
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
        if case.process != "flow":
            del fields["shift"]
        if case.batch == 1:
            del fields["batch"]
        listed.append(",\n".join(f"   {json.dumps(k)}: {_value(v)}" for k, v in fields.items()))
    about = json.dumps(ABOUT, indent=2).replace("\n", "\n ")
    refused = ",\n".join(f"  {json.dumps(entry)}" for entry in REFUSED)
    cases = ",\n".join("  {\n" + text + "\n  }" for text in listed)
    return f'{{\n "about": {about},\n "refused": [\n{refused}\n ],\n "cases": [\n{cases}\n ]\n}}\n'


def _value(value: Any) -> str:
    if isinstance(value, tuple) and isinstance(value[0], tuple):
        return "[\n" + ",\n".join(f"    {json.dumps(row)}" for row in value) + "\n   ]"
    return json.dumps(value)


# --- the bridge's numbers ----------------------------------------------------------------------

ABOUT_NOISE = {
    "bridge": "the numbers of dpmpp_core's PhiloxBridge, from the words to the normals of a run",
    "words": "Philox4x32-10: the four words of a key of two and a counter of four",
    "normals": "the normals of a node for four elements, from the number element on; key = (seed "
    "mod 2^32, seed // 2^32), counter = (element // 4 mod 2^32, node, 0, element // 4 // 2^32)",
    "path": "the path at lambda, for elements 0 to 3, counted from the start of its block and over "
    "its standard deviation",
    "runs": "xi[k][i][e]: the normal of step k, sample i, element e; a step to 0 has none",
    "seeds": "as text, since they have up to 64 bits",
}

# The first three are the answers that the authors of Philox published.
WORDS = [
    ((0, 0), (0, 0, 0, 0)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF)),
    ((0xA4093822, 0x299F31D0), (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)),
    ((7, 0), (0, block_node(0), 0, 0)),
]
NORMALS = [
    (0, block_node(0), 0),
    (7, block_node(-3), 0),
    (7, block_node(-3) + 1, 4),
    (2**32 + 5, block_node(0) + 2047, 0),
    (2**64 - 1, block_node(2) + 4095, 4 * (2**32 + 3)),
]
POINTS = [
    ("ve", 1.0, 1.0, "tau", -2.7),
    ("ve", 1.0, 1.0, "tau", -2.5),
    ("ve", 1.0, 1.0, "tau", 0.3),
    ("ve", 1.0, 0.0, "tau", 0.3),
    ("ve", 1.0, 50.0, "tau", 0.3),
    ("ve", 1.0, 1.0, "tau", 1.5 + 2.0**-11),
    ("ve", 1.0, 1.0, "tau", 2.0),
    ("ve", 1.0, 1.0, "sigma", -2.7),
    ("vp", 1.0, 1.0, "sigma", 0.3),
    ("flow", 3.0, 1.0, "sigma", 0.3),
]
LEVELS = [14.6, 3.0, 1.0, 0.4, 0.35, 0.03, 0.0]
RUNS = [
    ("ve", 1.0, LEVELS, 1.0, "tau", [0], 6),
    ("ve", 1.0, LEVELS, 1.0, "sigma", [0], 6),
    ("ve", 1.0, LEVELS, 0.0, "tau", [1], 2),
    ("ve", 1.0, LEVELS, 50.0, "tau", [1], 2),
    ("vp", 1.0, [0.99, 0.7, 0.2, 0.05], 1.0, "sigma", [2], 2),
    ("flow", 3.0, [1.0, 0.9, 0.75, 0.5, 0.0], 0.5, "tau", [2**64 - 1, 0], 6),
    ("flow", 3.0, [1.0, 0.9, 0.75, 0.5, 0.0], 0.5, "sigma", [2**64 - 1, 0], 6),
    ("flow", 1.0, [1.0, 0.9, 0.75, 0.5, 0.0], 0.5, "tau", [2**40], 2),
]


def process_of(name: str, shift: float) -> Any:
    return Flow(shift) if name == "flow" else as_process(name)


def four(seed: int, nodes: Sequence[int], element: int) -> torch.Tensor:
    """The normals of some nodes for four elements, shape ``(nodes, 4)``."""
    key = philox.key_words([seed], torch.device("cpu"))
    found = philox.unit_normals(key, torch.tensor(nodes), torch.tensor([element // 4]))
    return found[:, :, 0, 0]


def noise() -> dict[str, list[dict[str, Any]]]:
    """Every number of the bridge's file."""
    words = []
    for key, counter in WORDS:
        found = philox.philox4x32(
            tuple(torch.tensor(c) for c in counter), tuple(torch.tensor(k) for k in key)
        )
        words.append({"key": key, "counter": counter, "words": [int(word) for word in found]})
    normal = []
    for seed, node, element in NORMALS:
        place = {"seed": str(seed), "node": node, "element": element}
        normal.append({**place, "normals": four(seed, [node], element)[0]})
    path = []
    for name, shift, eta, clock, lam in POINTS:
        row = point_row(lam, log_gap(process_of(name, shift), eta, clock))
        value = torch.zeros(4, dtype=torch.float64)
        if row:
            value = torch.tensor([*row.values()], dtype=torch.float64) @ four(7, [*row], 0)
        settings = {"process": name, "eta": eta, "clock": clock, "lambda": lam}
        path.append({"seed": "7", **settings, "w": value})
    runs = []
    for name, shift, sigmas, eta, clock, seeds, elements in RUNS:
        x = torch.zeros(len(seeds), elements, dtype=torch.float64)
        process = process_of(name, shift)
        draw = PhiloxBridge(
            x, sigmas, seeds, process=process, eta=eta, clock=clock, backend="torch"
        )
        levels = [s for s in Mesh.from_sigmas(sigmas, process).sigma if s > 0.0]
        steps = [draw(s, t) for s, t in pairwise(levels)]
        settings = {"process": name, "shift": shift, "eta": eta, "clock": clock, "sigmas": sigmas}
        runs.append({"seeds": [str(seed) for seed in seeds], **settings, "xi": torch.stack(steps)})
    return {"words": words, "normals": normal, "path": path, "runs": runs}


def noise_as_text(found: dict[str, list[dict[str, Any]]]) -> str:
    """JSON with one line for each entry."""

    def lists(value: Any) -> Any:
        return value.tolist() if isinstance(value, torch.Tensor) else value

    about = json.dumps(ABOUT_NOISE, indent=2).replace("\n", "\n ")
    parts = [f' "about": {about}']
    for name, entries in found.items():
        lines = (json.dumps({key: lists(value) for key, value in e.items()}) for e in entries)
        parts.append(f' "{name}": [\n' + ",\n".join(f"  {line}" for line in lines) + "\n ]")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    to = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    (to / "cases.json").write_text(as_text(build()), encoding="utf-8")
    (to / "noise.json").write_text(noise_as_text(noise()), encoding="utf-8")
