"""A newcomer's first chapter and first live figure, made and built as CONTRIBUTING.md says."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from browser import in_browser, settle
from bs4 import BeautifulSoup
from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
NAMES = ("_config.yml", "pyproject.toml", "references.bib")
FOLDERS = ("assets", "dpmpp_core", "sphinx_ext", "tests", "tools")
CONTENTS = "root: chapters/half-steps\nchapters:\n- file: chapters/references\n"


def run(folder: Path, *command: str) -> str:
    """What a command prints in that clone; it must not fail."""
    there = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=there, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a page needs of the repository, with the new chapter and, in it, the new figure."""
    folder = tmp_path_factory.mktemp("clone")
    for name in NAMES:
        shutil.copyfile(ROOT / name, folder / name)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "chapters").mkdir()
    shutil.copyfile(ROOT / "chapters/references.md", folder / "chapters/references.md")
    (folder / "_toc.yml").write_text(f"format: jb-book\n{CONTENTS}")

    for command in re.findall(r"^ *(sed .*)$", TEXT, re.MULTILINE):
        run(folder, "sh", "-c", command)
    package = folder / "dpmpp_core/widgets/__init__.py"
    (line,) = re.findall(r"add `(from \.halves import \w+)`", TEXT)
    text = package.read_text(encoding="utf-8").replace("\nfrom .line ", f"\n{line}\nfrom .line ")
    text = text.replace('    "LineExplorer",', '    "HalfSteps",\n    "LineExplorer",')
    package.write_text(text, encoding="utf-8")
    (cell,) = re.findall(r"^ *````\n(.*?)^ *````$", TEXT, re.MULTILINE | re.DOTALL)
    with (folder / "chapters/half-steps.md").open("a", encoding="utf-8") as chapter:
        chapter.write("\n" + re.sub(r"^   ", "", cell, flags=re.MULTILINE))
    return folder


@pytest.fixture(scope="module")
def page(clone: Path) -> Path:
    """The built page. Every warning stops the build."""
    run(clone, str(Path(sys.executable).parent / "jupyter-book"), "build", "-W", "-n", ".")
    return clone / "_build/html/chapters/half-steps.html"


def test_the_new_chapter_has_its_figure_its_exercise_and_a_folded_solution(page: Path) -> None:
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    picture = soup.select_one("#fig-half-steps img")
    assert picture is not None
    assert len(str(picture["alt"])) > 50
    assert "The share of new noise" in soup.select("#fig-half-steps figcaption")[0].text
    assert "half of the noise" in soup.select("#ex-half-steps")[0].text
    solution = soup.select_one(".solution.dropdown")
    assert solution is not None
    assert solution.select_one(".cell_output .math, .cell_output svg, .cell_output mjx-container")
    assert "def step_row(" in soup.text
    assert soup.select_one("#live-halves img[alt]") is not None
    assert "%" not in soup.select("article")[0].find_all("p")[0].text


@in_browser
def test_the_new_figure_answers_its_slider_in_the_page(chromium: Browser, page: Path) -> None:
    seen = chromium.new_page()
    wrong: list[str] = []
    seen.on("pageerror", lambda error: wrong.append(str(error)))
    seen.goto(f"{page.as_uri()}#live-halves")
    seen.wait_for_function("() => document.querySelector('#live-halves > .live-root')?.figure")
    settle(seen)
    canvas = seen.locator("#live-halves canvas")
    before, said = canvas.evaluate("e => e.toDataURL()"), canvas.get_attribute("aria-label")
    seen.locator("#live-halves").get_by_label("eta η").focus()
    for _ in range(30):
        seen.keyboard.press("ArrowRight")
    settle(seen)
    assert canvas.evaluate("e => e.toDataURL()") != before
    assert canvas.get_attribute("aria-label") != said
    # At eta = 1.3, against the formula of coefficients.py.
    figure = "document.querySelector('#live-halves > .live-root').figure"
    noise, lengths = seen.evaluate(f"() => [{figure}.result.noise, {figure}.result.data.lengths]")
    formula = [math.exp(-h) * math.sqrt(-math.expm1(-2.6 * h)) for h in lengths]
    assert noise == pytest.approx(formula, rel=1e-12)
    most = f"D = {max(formula):.3f} at h = {lengths[formula.index(max(formula))]:.2f}"
    assert seen.locator("#live-halves .live-results output").inner_text() == most
    seen.close()
    assert wrong == []


@pytest.mark.browser
def test_the_new_figure_is_tested_with_the_others_and_passes(clone: Path) -> None:
    """By CONTRIBUTING's command, but for half of the tests, which is enough here."""
    (command,) = re.findall(r"`\.venv/bin/python (-m pytest .*) -k HalfSteps`", TEXT)
    some = "HalfSteps and (mounts or control or link or keyboard)"
    said = run(clone, sys.executable, *command.split(), "-k", some, "-p", "no:cacheprovider")
    assert re.search(r"\b5 (passed|skipped)", said)


def test_what_was_copied_passes_the_lint(clone: Path) -> None:
    ruff = str(Path(sys.executable).parent / "ruff")
    run(clone, ruff, "check", "--no-cache", "dpmpp_core/widgets", "chapters")
    run(clone, ruff, "format", "--no-cache", "--check", "dpmpp_core/widgets", "chapters")
