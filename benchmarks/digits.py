"""What the knobs do to the learned model's digits: python benchmarks/digits.py

Takes about five minutes on one core. Every setting makes the same 2,160 digits, 216 of each class:
the same starts, and the same Brownian paths wherever there is noise, so that settings differ by
what they do and not by the draw. They are measured in six batches of 360, each with 36 of every
class, the size of the held-out set; the result, ``benchmarks/results/digits.json``, has the mean of
the batches and its standard error. Beside them stand the same measures of real images: the held-out
ones, and draws of 360 from the training images.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sklearn
import torch
from torch import Tensor
from tqdm.auto import tqdm

import dpmpp_core as dp
from dpmpp_core import digits, quality, transport

RESULT = Path(__file__).parent / "results" / "digits.json"
LOW, HIGH = 0.0292, 14.6146
BATCHES, EACH = 6, 36
LABELS = torch.arange(10).repeat(EACH).repeat(BATCHES)
SIZE = 10 * EACH

Model = Callable[..., Tensor]


def run(
    model: Model,
    steps: int = 20,
    eta: float = 1.0,
    s_noise: float = 1.0,
    solver: Any = "midpoint",
    w: float = 1.0,
    seed: int = 0,
    labels: Tensor = LABELS,
) -> Tensor:
    """Digits of these labels; image i has the path of seed + i."""
    generator = torch.Generator().manual_seed(seed)
    x = HIGH * torch.randn(len(labels), 1, 8, 8, generator=generator)
    sigmas = dp.schedule.karras(steps, LOW, HIGH)
    return dp.sample(
        model, x, sigmas, eta=eta, s_noise=s_noise, solver_type=solver,
        noise_sampler=dp.PhiloxBridge(x, sigmas, seed, eta=eta) if eta > 0 else None,
        extra_args={"label": labels, "w": w}, disable=True,
    )  # fmt: skip


def summary(rows: Sequence[Any]) -> dict[str, list[float]]:
    """For each measure its mean over the batches and the mean's standard error."""
    table = torch.tensor([tuple(row) for row in rows], dtype=torch.float64)
    errors = table.std(0) / math.sqrt(len(table))
    names = type(rows[0])._fields
    pairs = zip(names, table.mean(0).tolist(), errors.tolist(), strict=True)
    return {name: [round(mean, 5), round(error, 5)] for name, mean, error in pairs}


def measured(x: Tensor) -> dict[str, list[float]]:
    batches = zip(x.split(SIZE), LABELS[: len(x)].split(SIZE), strict=True)
    return summary([quality.quality(*batch) for batch in batches])


def shift(x: Tensor, y: Tensor, labels: Tensor) -> float:
    """Root mean square over pixels and classes of the difference of the class means."""
    gaps = [(x[labels == c].mean(0) - y[labels == c].mean(0)).square().mean() for c in range(10)]
    return float(torch.stack(gaps).mean().sqrt())


def main() -> None:
    begun = time.perf_counter()
    model, images = digits.load(), digits.load_images()
    settings: dict[str, dict[str, Any]] = {}

    def add(**knobs: Any) -> None:
        settings[json.dumps(knobs)] = knobs

    for steps in (10, 20, 40):
        for eta in (0.0, 0.5, 1.0, 2.0, 4.0):
            add(steps=steps, eta=eta)
        add(steps=steps, eta=1.0, solver="heun")
    for s_noise in (0.9, 0.95, 1.05, 1.1):
        add(steps=20, eta=1.0, s_noise=s_noise)
    for w in (0.5, 1.5, 2.0, 3.0, 5.0):
        for eta in (0.0, 1.0):
            add(steps=20, eta=eta, w=w)

    rows = [
        {**knobs, **measured(run(model, **knobs))} for knobs in tqdm(settings.values(), "settings")
    ]

    # The exact denoiser of the training images, class by class.
    clouds = [dp.point_cloud(images.train[images.train_labels == c]) for c in range(10)]

    def memory(x: Tensor, sigma: Tensor, label: Tensor, w: float) -> Tensor:
        out = torch.empty_like(x)
        for c, cloud in enumerate(clouds):
            out[label == c] = cloud.denoise(x[label == c], float(sigma[0]))
        return out

    some = LABELS[: 2 * SIZE]
    exact = [{"eta": eta, **measured(run(memory, eta=eta, labels=some))} for eta in (0.0, 1.0)]

    # A coarse copy of the network on one side of a level, compared with what the network itself
    # makes from other starts and paths.
    coarse = digits.rounded(model, 3)
    faults = []
    for eta in tqdm((0.0, 1.0, 2.0), "faults"):
        sound, other = run(model, eta=eta), run(model, eta=eta, seed=10**6)
        places = [("no", math.inf), ("above", 2.0), ("above", 1.0), ("above", 0.5), ("below", 2.0)]
        places += [("below", 1.0), ("below", 0.5), ("below", 0.25)]
        for side, border in places:
            if side == "no":
                x = sound
            elif side == "above":
                x = run(digits.switched(coarse, model, border), eta=eta)
            else:
                x = run(digits.switched(model, coarse, border), eta=eta)
            found = transport.energy_distance(x, other)
            faults.append(
                {
                    "side": side,
                    "border": None if side == "no" else border,
                    "eta": eta,
                    "energy to the network": [round(found.value, 5), round(found.error, 5)],
                    "shift": round(shift(x, sound, LABELS), 5),
                    **measured(x),
                }
            )

    result = {
        "command": "python benchmarks/digits.py",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "scikit-learn": sklearn.__version__,
        },
        "weights": digits.SHA256,
        "images of each setting": len(LABELS),
        "held out": quality.quality(images.held_out, images.held_out_labels)._asdict(),
        "training": summary(
            [quality.quality(*quality.real(EACH, seed)) for seed in range(BATCHES)]
        ),
        "settings": rows,
        "exact denoiser of the training images": exact,
        "coarse copy": faults,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(compact(result))
    print(f"{RESULT}: {RESULT.stat().st_size} bytes, {time.perf_counter() - begun:.0f} s")


def compact(result: dict[str, Any]) -> str:
    """JSON with one setting on a line."""
    parts = []
    for key, value in result.items():
        if isinstance(value, list):
            lines = ",\n  ".join(json.dumps(row) for row in value)
            parts.append(f" {json.dumps(key)}: [\n  {lines}\n ]")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    main()
