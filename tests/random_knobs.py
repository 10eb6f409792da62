"""Settings by chance, for the tests that compare what a figure's page computes with Python."""

from __future__ import annotations

from random import Random
from typing import Any


def random_knobs(chance: Random, most_steps: int = 100) -> dict[str, Any]:
    """The settings of the sampler that the figures share, often at a value of special meaning."""
    return {
        "eta": chance.choice([0.0, 1.0, round(chance.uniform(0.0, 2.0), 2)]),
        "s_noise": chance.choice([1.0, 1.5, round(chance.uniform(0.5, 1.5), 2)]),
        "solver_type": chance.choice(["midpoint", "heun"]),
        "steps": chance.choice([2, 3, 10, 20, chance.randint(2, most_steps)]),
        "schedule": chance.choice(["karras", "exponential", "kl_optimal"]),
        "sigma_min": chance.choice([0.0292, chance.uniform(1e-3, 0.5)]),
        "sigma_max": chance.choice([14.6146, chance.uniform(1.01, 100.0)]),
    }
