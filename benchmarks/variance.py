"""Laws of a target with a rare mode, for the chapter on variance: python benchmarks/variance.py

Takes about seven minutes on one core. Nothing is sampled: every number is read off a law that
:func:`dpmpp_core.density.sampler_law` or :func:`dpmpp_core.density.fokker_planck` computes. The
result goes to ``benchmarks/results/variance.json``; the chapter computes some of it again and
compares.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

import dpmpp_core as dp
from dpmpp_core import density

RESULT = Path(__file__).parent / "results" / "variance.json"
LOW, HIGH = 0.0292, 14.6146
MIDDLE = 2.0
"""What lies above is counted as the rare mode."""
STEPS = 80
ETAS = (0.0, 0.5, 1.0, 2.0)
BORDERS = [round(0.25 * 2 ** (i / 2), 4) for i in range(12)]
S_NOISE = [round(0.8 + 0.05 * i, 2) for i in range(9)]


def two_modes(rare: float) -> dp.GaussianMixture:
    """A wide mode at 0 and a narrow one at 3, which has this weight."""
    return dp.GaussianMixture(
        torch.tensor([[0.0], [3.0]]),
        torch.tensor([0.25, 0.04]),
        torch.tensor([1.0 - rare, rare]),
    )


TRUTH, BELIEF = two_modes(0.02), two_modes(0.06)


def believer(border: float, above: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """A denoiser that is exact for BELIEF on one side of a noise level, for TRUTH on the other."""
    right, wrong = TRUTH.model(), BELIEF.model()

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        return (wrong if (float(sigma[0]) > border) == above else right)(x, sigma)

    return model


def mesh_of(steps: int) -> dp.Mesh:
    return dp.Mesh.from_sigmas(dp.schedule.karras(steps, LOW, HIGH))


def rare_mass(law: density.Law) -> float:
    return 1.0 - float(law.cdf(torch.tensor(MIDDLE)))


def total_variation(first: density.Law, second: density.Law) -> float:
    """Half the sum of |changes of F - G| over even cells: from below, and close for fine cells."""
    ends = torch.stack([end for law in (first, second) for end in law.x.aminmax()])
    places = torch.linspace(float(ends.min()), float(ends.max()), 4001, dtype=torch.float64)
    return 0.5 * float((first.cdf(places) - second.cdf(places)).diff().abs().sum())


def main() -> None:
    worst = 0.0

    def final(model: Callable[[Tensor, Tensor], Tensor] | None, eta: float) -> float:
        nonlocal worst
        law = density.sampler_law(TRUTH, mesh_of(STEPS), eta, model=model)
        worst = max(worst, law.error)
        return round(rare_mass(law), 7)

    wrong = {
        side: {
            f"{eta:g}": [final(believer(b, side == "above"), eta) for b in BORDERS] for eta in ETAS
        }
        for side in ("above", "below")
    }
    exact = {f"{eta:g}": final(None, eta) for eta in ETAS}
    everywhere = {f"{eta:g}": final(believer(0.0, True), eta) for eta in ETAS}

    down = dp.Mesh.from_sigmas(dp.schedule.karras(STEPS, LOW, HIGH)[:-1])
    loud = {
        f"{eta:g}": [
            round(rare_mass(density.fokker_planck(TRUTH, down, eta, s, cells=1600)[-1]), 7)
            for s in S_NOISE
        ]
        for eta in (0.25, 0.5, 1.0, 2.0)
    }

    apart: dict[str, list[float]] = {}
    mesh = mesh_of(STEPS)
    # From the first level below the border to the last state before the step to 0.
    first = next(k for k, sigma in enumerate(mesh.sigma) if sigma <= MIDDLE)
    shown = [*range(first, mesh.steps, 6)]
    for eta in ETAS:
        table = dp.step_table(mesh, eta)
        pair = [
            density.state_laws(table, TRUTH, mesh, model=model, points=2048 if not eta else 4096)
            for model in (TRUTH.model(), believer(MIDDLE, True))
        ]
        apart[f"{eta:g}"] = [
            round(total_variation(pair[0][k], pair[1][k]), 6) for k in (*shown, mesh.steps)
        ]

    result = {
        "command": "python benchmarks/variance.py",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "steps": STEPS,
        "borders": BORDERS,
        "exact": exact,
        "everywhere": everywhere,
        "wrong": wrong,
        "s_noise": S_NOISE,
        "s_noise limit": loud,
        "levels": [round(mesh.sigma[k], 6) for k in (*shown, mesh.steps)],
        "total variation": apart,
        "largest error of a distribution function": float(f"{worst:.1e}"),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
