"""What the scripts in ``benchmarks/`` have measured or computed in minutes, for pages to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# In an installed package they lie inside it: see pyproject.toml.
FOLDERS = (
    Path(__file__).parent / "benchmarks",
    Path(__file__).parents[1] / "benchmarks" / "results",
)


def load(name: str) -> dict[str, Any]:
    """What ``benchmarks/results/NAME.json`` holds.

    Args:
        name: the name of a result, such as ``"convergence"`` or ``"sampler-cpu"``.

    Returns:
        the numbers, with the command, the date and the versions that they were made with. Which
        numbers there are is told by the script of the same name.

    Raises:
        ValueError: if there is no result of that name.
    """
    there = {path.stem: path for folder in FOLDERS for path in folder.glob("*.json")}
    if name not in there:
        raise ValueError(f"name must be one of {', '.join(sorted(there))}, got {name!r}")
    found: dict[str, Any] = json.loads(there[name].read_text(encoding="utf-8"))
    return found
