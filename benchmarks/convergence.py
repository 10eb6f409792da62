"""The long computations of the chapter on convergence: python benchmarks/convergence.py

Writes benchmarks/results/convergence.json, which the chapter reads: errors of the law on a grid,
errors of the path with standard errors, the law against ten million samples, cost against
accuracy for six samplers, and what twice the steps change. About six minutes on one core. With
names of parts, such as weak_errors, it computes these anew and keeps the others.
"""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch
from torch import Tensor

import dpmpp_core as dp
from dpmpp_core import baselines, density

RESULTS = Path(__file__).parent / "results" / "convergence.json"
ETAS = (0.0, 0.25, 0.5, 1.0, 2.0)
SOLVERS = ("none", "midpoint", "heun")
TOP, BOTTOM = 20.0, 0.2
LOW, HIGH = 0.0292, 14.6146
MEANS, VARIANCES, WEIGHTS = (-1.0, 0.5, 2.0), (0.05, 0.1, 0.02), (0.3, 0.5, 0.2)
MIXTURE = dp.GaussianMixture(
    torch.tensor(MEANS, dtype=torch.float64)[:, None],
    torch.tensor(VARIANCES, dtype=torch.float64),
    torch.tensor(WEIGHTS, dtype=torch.float64),
)
SPREAD = float(MIXTURE.covariance.sqrt())
BORDER = 1.25
Run = dict[str, Any]


def even_mesh(steps: int) -> dp.Mesh:
    """Steps of one length in lambda, from 20 to 0.2."""
    return dp.Mesh.from_sigmas(dp.schedule.exponential(steps + 1, BOTTOM, TOP)[:-1].tolist())


def table_of(mesh: dp.Mesh, eta: float, solver: str) -> dp.StepTable:
    if solver == "none":
        return baselines.sde_1(mesh, eta)
    return dp.step_table(mesh, eta, 1.0, solver)  # type: ignore[arg-type]


def run(table: dp.StepTable, mesh: dp.Mesh, x: Tensor, noise: Any = None) -> Tensor:
    """The last state of a run with these coefficients, from the states x."""
    model, before = MIXTURE.model(), None
    levels = torch.tensor(mesh.sigma, dtype=torch.float64)
    for k, row in enumerate(table):
        estimate = model(x, levels[k])
        xi = noise(levels[k], levels[k + 1]) if row.D else None
        x, before = dp.step(row, x, estimate, before, xi).x_next, estimate
    return x


# --- the law on a grid --------------------------------------------------------------------------


def observables(law: density.Law) -> Run:
    return {
        "mean": law.mean(),
        "second moment": law.mean(lambda x: x**2),
        "third moment": law.mean(lambda x: x**3),
        "cos 3x": law.mean(lambda x: torch.cos(3.0 * x)),
        "mode weight": 1.0 - float(law.cdf(torch.tensor([BORDER]))[0]),
    }


def exact_observables(sigma: float) -> Run:
    """The same of the noisy data, in closed form."""
    m, w = np.array(MEANS), np.array(WEIGHTS)
    v = np.array(VARIANCES) + sigma**2
    return {
        "mean": w @ m,
        "second moment": w @ (m**2 + v),
        "third moment": w @ (m**3 + 3.0 * m * v),
        "cos 3x": w @ (np.cos(3.0 * m) * np.exp(-4.5 * v)),
        "mode weight": w @ scipy.stats.norm.sf(BORDER, m, np.sqrt(v)),
    }


def weak_errors() -> list[Run]:
    """Errors of five means, by eta, history term and number of steps."""
    rows = []
    exact = exact_observables(BOTTOM)
    for eta in ETAS:
        for solver in SOLVERS:
            for steps in (8, 16, 32, 48, 64, 96):
                mesh = even_mesh(steps)
                table = table_of(mesh, eta, solver)
                law = density.state_laws(table, MIXTURE, mesh)[-1]
                errors = {name: value - exact[name] for name, value in observables(law).items()}
                rows.append({"eta": eta, "solver": solver, "steps": steps, "errors": errors})
    return rows


# --- one path -----------------------------------------------------------------------------------


def strong_errors(particles: int = 2048, finest: int = 4096) -> list[Run]:
    """Distances from a fine run on the same Brownian path, and slopes with confidence intervals.

    The intervals are bootstrap intervals over the particles, whose paths are independent.
    """
    start = MIXTURE.sample(particles, TOP, generator=torch.Generator().manual_seed(0))
    counts = (8, 16, 32, 64, 128)
    rows = []
    for eta in ETAS:

        def end(steps: int, solver: str, eta: float = eta) -> Tensor:
            mesh = even_mesh(steps)
            noise = dp.PhiloxBridge(start, mesh.sigma, 7, eta=eta) if eta else None
            return run(table_of(mesh, eta, solver), mesh, start, noise)[:, 0]

        truth = end(finest, "midpoint")
        for solver in SOLVERS:
            gaps = np.stack([(end(n, solver) - truth).abs().numpy() for n in counts])
            norms: dict[str, Callable[[Any], Any]] = {
                "mean": lambda g: g.mean(-1),
                "rms": lambda g: np.sqrt((g**2).mean(-1)),
            }
            for norm, of in norms.items():
                slopes, doublings = [], []
                picks = np.random.default_rng(0).integers(particles, size=(400, particles))
                for pick in picks:
                    again = np.log2(of(gaps[:, pick]))
                    doublings.append(again)
                    slopes.append(again[2] - again[-1])
                errors = of(gaps)
                fitted = math.log2(errors[2] / errors[-1]) / 2.0
                low, high = np.quantile(np.array(slopes) / 2.0, [0.025, 0.975])
                last = math.log2(errors[-2] / errors[-1])
                pair = np.quantile([d[-2] - d[-1] for d in doublings], [0.025, 0.975])
                rows.append(
                    {
                        "eta": eta,
                        "solver": solver,
                        "norm": norm,
                        "steps": counts,
                        "errors": errors.tolist(),
                        "standard errors": (np.std(2.0 ** np.array(doublings), axis=0)).tolist(),
                        "slope 32 to 128": [fitted, low, high],
                        "slope 64 to 128": [last, *pair],
                    }
                )
    return rows


# --- ten million samples ------------------------------------------------------------------------


def samples_against_law(n: int = 10_000_000, batch: int = 500_000) -> list[Run]:
    """Counts in bins against the law on a grid: z-scores, their distribution and chi-square."""
    cases = [
        (1.0, "midpoint", even_mesh(10)),
        (0.5, "heun", even_mesh(16)),
        (0.0, "midpoint", even_mesh(10)),
        (1.0, "midpoint", dp.Mesh.from_sigmas(dp.schedule.karras(10, 0.1, TOP).tolist())),
    ]
    rows = []
    for case, (eta, solver, mesh) in enumerate(cases):
        table = table_of(mesh, eta, solver)
        law = density.state_laws(table, MIXTURE, mesh)[-1]
        low, high = float(law.x.min()), float(law.x.max())
        edges = np.linspace(max(low, -4.0), min(high, 5.0), 901)[1:-1]
        below = law.cdf(torch.from_numpy(edges)).numpy()
        chances = np.diff(below, prepend=0.0, append=1.0)
        # Bins with few expected samples go together with their neighbour.
        kept, mass = [], 0.0
        for edge, chance in zip(edges, chances[:-1], strict=True):
            mass += chance
            if mass * n >= 100.0:
                kept.append(edge)
                mass = 0.0
        if (mass + chances[-1]) * n < 100.0:
            kept.pop()
        at = np.array(kept)
        chances = np.diff(law.cdf(torch.from_numpy(at)).numpy(), prepend=0.0, append=1.0)
        counts = np.zeros(len(chances))
        for part in range(n // batch):
            generator = torch.Generator().manual_seed(1000 * case + part)
            x = MIXTURE.sample(batch, mesh.sigma[0], generator=generator)
            noise = dp.IndependentNoise(x, seed=10_000 + 1000 * case + part)
            x = run(table, mesh, x, noise)[:, 0]
            counts += np.bincount(np.searchsorted(at, x.numpy()), minlength=len(chances))
        z = (counts - n * chances) / np.sqrt(n * chances * (1.0 - chances))
        chi_square = float(((counts - n * chances) ** 2 / (n * chances)).sum())
        rows.append(
            {
                "eta": eta,
                "solver": solver,
                "steps": mesh.steps,
                "last level": mesh.sigma[-1],
                "samples": n,
                "bins": len(z),
                "z mean": float(z.mean()),
                "z std": float(z.std()),
                "z largest": float(np.abs(z).max()),
                "chi-square": chi_square,
                "p of chi-square": float(scipy.stats.chi2.sf(chi_square, len(z) - 1)),
                "p of normal z": float(scipy.stats.kstest(z, "norm").pvalue),
                "z": np.round(z, 3).tolist(),
            }
        )
    return rows


# --- cost and accuracy --------------------------------------------------------------------------

METHODS: dict[str, Callable[[dp.Mesh], dp.StepTable]] = {
    "Euler, DDIM": baselines.euler,
    "Euler ancestral, SDE-1": baselines.euler_ancestral,
    "2M": baselines.two_m,
    "2M SDE, eta 0.5": lambda mesh: dp.step_table(mesh, 0.5),
    "2M SDE": lambda mesh: dp.step_table(mesh, 1.0),
    "2M SDE, heun": lambda mesh: dp.step_table(mesh, 1.0, solver_type="heun"),
}
ETA_OF = {"Euler, DDIM": 0.0, "2M": 0.0, "2M SDE, eta 0.5": 0.5}


def karras_mesh(calls: int) -> dp.Mesh:
    """Karras' levels without the final 0: as many steps as model calls, all of one kind."""
    return dp.Mesh.from_sigmas(dp.schedule.karras(calls + 1, LOW, HIGH)[:-1].tolist())


def cost_and_accuracy(particles: int = 2048) -> list[Run]:
    """Wasserstein-1 distance of the law, and distance of a path from its own limit, by calls."""
    t = torch.linspace(-4.0, 5.0, 1501, dtype=torch.float64)
    scale = torch.sqrt(torch.tensor(VARIANCES, dtype=torch.float64) + LOW**2)
    exact = torch.special.ndtr((t[:, None] - MIXTURE.means[:, 0]) / scale) @ MIXTURE.weights
    start = MIXTURE.sample(particles, HIGH, generator=torch.Generator().manual_seed(1))
    rows = []
    truths: dict[float, Tensor] = {}
    for name, make in METHODS.items():
        eta = ETA_OF.get(name, 1.0)

        def end(mesh: dp.Mesh, table: dp.StepTable, eta: float = eta) -> Tensor:
            noise = dp.PhiloxBridge(start, mesh.sigma, 7, eta=eta) if eta else None
            return run(table, mesh, start, noise)[:, 0]

        if eta not in truths:
            fine = karras_mesh(1280)
            truths[eta] = end(fine, dp.step_table(fine, eta))
        for calls in (5, 7, 10, 14, 20, 28, 40, 56):
            mesh = karras_mesh(calls)
            table = make(mesh)
            law = density.state_laws(table, MIXTURE, mesh)[-1]
            distance = float(torch.trapezoid((law.cdf(t) - exact).abs(), t))
            gap = (end(mesh, table) - truths[eta]).abs()
            rows.append(
                {
                    "method": name,
                    "calls": calls,
                    "law": distance / SPREAD,
                    "spread": math.sqrt(law.mean(lambda x: x**2) - law.mean() ** 2),
                    "path": float(gap.mean()) / SPREAD,
                    "path, standard error": float(gap.std()) / math.sqrt(particles) / SPREAD,
                }
            )
    return rows


# --- twice the steps ----------------------------------------------------------------------------


def dpmpp_sde(x: Tensor, mesh: dp.Mesh, noise: Any) -> Tensor:
    """DPM++ SDE of k-diffusion at eta = 1, r = 1/2: two model calls a step, the last one Euler."""
    model = MIXTURE.model()

    def ancestral(now: float, to: float) -> tuple[float, float]:
        up = to * math.sqrt(1.0 - (to / now) ** 2)
        return math.sqrt(to**2 - up**2), up

    def move(estimate: Tensor, now: float, to: float) -> Tensor:
        down, up = ancestral(now, to)
        xi = noise(torch.tensor(now, dtype=torch.float64), torch.tensor(to, dtype=torch.float64))
        moved: Tensor = down / now * x + (1.0 - down / now) * estimate + up * xi
        return moved

    for now, to in pairwise(mesh.sigma):
        estimate = model(x, torch.tensor(now, dtype=torch.float64))
        if to == 0.0:
            return estimate
        middle = math.sqrt(now * to)
        second = model(move(estimate, now, middle), torch.tensor(middle, dtype=torch.float64))
        x = move(second, now, to)
    return x


def twice_the_steps(particles: int = 1024) -> list[Run]:
    """How far N and 2 N steps end apart, same start and seed, on schedules that end at 0."""
    start = MIXTURE.sample(particles, HIGH, generator=torch.Generator().manual_seed(2))

    def independent(mesh: dp.Mesh) -> Any:
        return dp.IndependentNoise(start, seed=3)

    def tree(mesh: dp.Mesh) -> Any:
        return dp.BrownianTree(start, mesh.sigma[-2], mesh.sigma[0], seed=3)

    def bridge(mesh: dp.Mesh) -> Any:
        return dp.PhiloxBridge(start, mesh.sigma, 3, eta=1.0)

    def kernel(table: Callable[[dp.Mesh], dp.StepTable], noise: Callable[[dp.Mesh], Any]) -> Any:
        return lambda mesh: run(table(mesh), mesh, start, noise(mesh))

    ours = METHODS["2M SDE"]
    cases: dict[str, Callable[[dp.Mesh], Tensor]] = {
        "2M": kernel(baselines.two_m, independent),
        "Euler ancestral, independent noise": kernel(baselines.euler_ancestral, independent),
        "2M SDE, independent noise": kernel(ours, independent),
        "2M SDE, Brownian tree": kernel(ours, tree),
        "2M SDE, bridge in tau": kernel(ours, bridge),
        "DPM++ SDE, Brownian tree": lambda mesh: dpmpp_sde(start, mesh, tree(mesh)),
    }
    counts = (10, 20, 40, 80, 160)
    rows = []
    for name, case in cases.items():
        ends = []
        for steps in counts:
            mesh = dp.Mesh.from_sigmas(dp.schedule.karras(steps, LOW, HIGH).tolist())
            ends.append(case(mesh)[:, 0])
        gaps = [(a - b).abs() for a, b in pairwise(ends)]
        rows.append(
            {
                "sampler": name,
                "steps": counts[:-1],
                "apart": [float(gap.mean()) / SPREAD for gap in gaps],
                "standard errors": [
                    float(gap.std()) / math.sqrt(particles) / SPREAD for gap in gaps
                ],
            }
        )
    return rows


PARTS: dict[str, Callable[[], list[Run]]] = {
    part.__name__: part
    for part in (
        weak_errors,
        strong_errors,
        samples_against_law,
        cost_and_accuracy,
        twice_the_steps,
    )
}


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if names else {}
    results |= {
        "command": "python benchmarks/convergence.py",
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "dpmpp_core": dp.__version__,
    }
    for name in names or PARTS:
        began = time.perf_counter()
        results[name] = PARTS[name]()
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
