"""Shared by the tests: golden numbers, and hypothesis without chance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parent / "golden"

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


def golden_cases(name: str) -> list[Any]:
    """The cases of a golden file, each with its arrays as tensors."""
    cases = json.loads((GOLDEN / f"{name}.json").read_text())
    arrays = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)
    for case in cases:
        prefix = case["name"] + "/"
        case["arrays"] = {
            key.removeprefix(prefix): torch.from_numpy(arrays[key])
            for key in arrays.files
            if key.startswith(prefix)
        }
    return [pytest.param(case, id=case["name"]) for case in cases]
