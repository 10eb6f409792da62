"""The normals of a PhiloxBridge, 10^8 of them, against their law: python benchmarks/noise.py

Takes about a minute on one core and 1 GB of memory. The chapter on devices shows the result, which
goes to ``benchmarks/results/noise.json``.

What is tested is what a run of 20 steps is handed: xi of 19 steps, 50 samples and 105,264 elements,
in float32. That they are independent unit normals if the tree's normals are follows from the
weights (``tests/test_bridge.py``); here it is seen on the numbers.

**Thresholds, set before the first run.** Each statistic below has mean 0 and variance 1 if the xi
are independent unit normals, and is a sum of at least 10^6 terms, so a normal itself to far better
than is needed:

* the mean of He_k(xi), k = 1 to 6, times sqrt(N / k!). He_k is the Hermite polynomial, and
  E He_j He_k = k! if j = k, else 0. These are the moments, made uncorrelated.
* the mean of the n products x y of two xi, times sqrt(n): a correlation. Products that share one
  factor are uncorrelated too, so this holds for lags within one row.
* the mean of the n products He_2(x) He_2(y), times sqrt(n) / 2: a correlation of squares.

The others have a p-value: the Kolmogorov-Smirnov distance D (sqrt(N) D has Kolmogorov's law; taken
at 2^16 points it is at most the true D, so the p-value is at least the true one), Pearson's chi^2
of 1,024 cells of equal probability, and the number of |xi| above 4 and 5, which is binomial.

There are M numbers in all. Each may be as unlikely as ALARM / M, so that right normals fail in one
of all of them with a probability of at most ALARM = 10^-3 (Bonferroni). For a statistic of variance
1 that is |z| = 5.1.
"""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numba
import torch
from scipy import stats
from torch import Tensor

import dpmpp_core as dp

RESULT = Path(__file__).parent / "results" / "noise.json"
ALARM = 1e-3
STEPS, ELEMENTS = 20, 105_264
CONSECUTIVE = list(range(25))
ONE_BIT = [1 << bit for bit in range(39, 64)]
"""Seeds that differ from 0 in one bit; none is in the list above."""
LAGS = [*range(1, 65), *(1 << k for k in range(7, 17))]
MOMENTS = range(1, 7)
KS_POINTS, CELLS = 1 << 16, 1 << 10
TAILS = (4.0, 5.0)


def draw() -> Tensor:
    """xi, float32 of shape (steps with noise, seeds, elements)."""
    sigmas = dp.schedule.karras(STEPS, 0.0292, 14.6146)[:-1]
    seeds = [*CONSECUTIVE, *ONE_BIT]
    bridge = dp.PhiloxBridge(torch.zeros(len(seeds), ELEMENTS), sigmas, seeds, backend="numba")
    xi = torch.empty(len(sigmas) - 1, len(seeds), ELEMENTS)
    for k, (a, b) in enumerate(pairwise(sigmas)):
        xi[k] = bridge(a, b)
    return xi


def hermite(x: Tensor) -> list[Tensor]:
    """He_0 to He_6."""
    values = [torch.ones_like(x), x]
    for k in range(1, max(MOMENTS)):
        values.append(x * values[k] - k * values[k - 1])
    return values


def above_diagonal(gram: Tensor) -> Tensor:
    return gram[tuple(torch.triu_indices(*gram.shape, offset=1))]


def marginal(xi: Tensor) -> tuple[Tensor, dict[str, Any], dict[str, float]]:
    """The z of the moments; what is known of the distribution function; the p-values."""
    sums = torch.zeros(len(MOMENTS), dtype=torch.float64)
    counts = torch.zeros(KS_POINTS, dtype=torch.int64)
    beyond, largest = [0] * len(TAILS), 0.0
    for part in xi.flatten(0, 1):
        x = part.double()
        values = hermite(x)
        sums += torch.stack([values[k].sum() for k in MOMENTS])
        cell = (torch.special.ndtr(x) * KS_POINTS).long().clamp_(max=KS_POINTS - 1)
        counts += torch.bincount(cell, minlength=KS_POINTS)
        size = x.abs()
        beyond = [b + int((size > t).sum()) for b, t in zip(beyond, TAILS, strict=True)]
        largest = max(largest, float(size.max()))
    n = xi.numel()
    z = sums / torch.tensor([math.sqrt(n * math.factorial(k)) for k in MOMENTS])
    at = torch.arange(1, KS_POINTS + 1, dtype=torch.float64) / KS_POINTS
    distance = float((counts.cumsum(0) / n - at).abs().max())
    cells = counts.view(CELLS, -1).sum(1).double()
    chi2 = float(((cells - n / CELLS) ** 2).sum() / (n / CELLS))
    p = {
        "Kolmogorov-Smirnov": float(stats.kstwobign.sf(math.sqrt(n) * distance)),
        f"chi^2, {CELLS} cells": float(2 * min(stats.chi2.sf(chi2, CELLS - 1),
                                               stats.chi2.cdf(chi2, CELLS - 1))),
    }  # fmt: skip
    for t, found in zip(TAILS, beyond, strict=True):
        p[f"|xi| > {t:g}"] = float(stats.binomtest(found, n, 2 * stats.norm.sf(t)).pvalue)
    facts = {
        "KS distance": distance,
        "beyond": dict(zip(map(str, TAILS), beyond, strict=True)),
        "expected beyond": {str(t): round(n * 2 * float(stats.norm.sf(t)), 1) for t in TAILS},
        "largest": round(largest, 4),
    }
    return z, facts, {name: min(1.0, value) for name, value in p.items()}


def grams(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the products of two rows, and of their He_2."""
    x = rows.double()
    square = x * x - 1.0
    return x @ x.T, square @ square.T


def correlations(xi: Tensor) -> dict[str, Tensor]:
    """The z of every pair, by what the two have in common."""
    steps, seeds, elements = xi.shape
    by_step, by_seed = torch.zeros(2, steps, steps), torch.zeros(2, seeds, seeds)
    by_step, by_seed = by_step.double(), by_seed.double()
    for seed in range(seeds):
        by_step += torch.stack(grams(xi[:, seed]))
    lagged = torch.zeros(2, len(LAGS), dtype=torch.float64)
    for step in range(steps):
        by_seed += torch.stack(grams(xi[step]))
        for row in xi[step].double():
            square = row * row - 1.0
            for i, lag in enumerate(LAGS):
                lagged[0, i] += row[lag:] @ row[:-lag]
                lagged[1, i] += square[lag:] @ square[:-lag]
    n_step, n_seed = seeds * elements, steps * elements
    n_lag = torch.tensor([steps * seeds * (elements - lag) for lag in LAGS])
    half = len(CONSECUTIVE)
    z = {}
    # He_2 has variance 2, a product of two variance 4.
    for i, (name, scale) in enumerate((("", 1.0), (", squares", 0.5))):
        pairs = by_seed[i] * scale / math.sqrt(n_seed)
        z[f"elements{name}"] = lagged[i] * scale / n_lag.sqrt()
        z[f"steps{name}"] = above_diagonal(by_step[i]) * scale / math.sqrt(n_step)
        z[f"samples of one seed{name}"] = above_diagonal(pairs[:half, :half])
        z[f"seeds one bit apart{name}"] = torch.cat(
            [above_diagonal(pairs[half:, half:]), pairs[:half, half:].flatten()]
        )
    return z


def main() -> None:
    start = time.perf_counter()
    xi = draw()
    drawn = time.perf_counter() - start
    moments, facts, p = marginal(xi)
    z = {"moments 1 to 6": moments, **correlations(xi)}
    total = sum(map(len, z.values())) + len(p)
    z_limit, p_limit = float(stats.norm.isf(ALARM / total / 2)), ALARM / total
    families = {
        name: {"numbers": len(v), "largest |z|": round(float(v.abs().max()), 2)}
        for name, v in z.items()
    }
    within = all(float(v.abs().max()) < z_limit for v in z.values()) and min(p.values()) > p_limit
    result = {
        "command": "python benchmarks/noise.py",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numba": numba.__version__,
        },
        "draws": xi.numel(),
        "shape": list(xi.shape),
        "seconds to draw": round(drawn, 1),
        "seconds": round(time.perf_counter() - start, 1),
        "numbers": total,
        "z limit": round(z_limit, 3),
        "p limit": float(f"{p_limit:.2g}"),
        "z": families,
        "moments z": [round(float(value), 2) for value in moments],
        "p": {name: float(f"{value:.3g}") for name, value in p.items()},
        **facts,
        "within": within,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(RESULT.read_text())
    sys.exit(0 if within else 1)


if __name__ == "__main__":
    main()
