"""Measured numbers, where the package finds them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import scripts

from dpmpp_core import results

FILES = Path(__file__).resolve().parents[1] / "benchmarks" / "results"


def test_each_result_is_found_by_its_name() -> None:
    for file in FILES.glob("*.json"):
        assert results.load(file.stem) == json.loads(file.read_text(encoding="utf-8"))


def test_each_result_says_when_it_was_made() -> None:
    for file in FILES.glob("*.json"):
        assert results.load(file.stem)["date"] > "2026"


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"name must be one of .*convergence.*, got 'Karras'"):
        results.load("Karras")


def test_they_lie_inside_an_installed_package(tmp_path: Path) -> None:
    """As hatchling puts them there: pyproject.toml."""
    source = Path(results.__file__)
    package = tmp_path / "site-packages" / "dpmpp_core"
    shutil.copytree(FILES, package / "benchmarks")
    shutil.copy(source, package / "results.py")
    installed = scripts.load(str(package / "results.py"))
    assert installed.load("noise") == results.load("noise")
