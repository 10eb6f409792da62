"""What README.md, CONTRIBUTING.md and the files around them say of the repository."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GUIDES = ("README.md", "CONTRIBUTING.md")
ELSEWHERE = ("_build/", ".venv/", "ComfyUI/")
# What the steps of CONTRIBUTING.md make: tests/test_templates.py follows them.
MADE = ("chapters/half-steps", "halves.py", "halves.js", "dpmpp_core/widgets/halves")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code(name: str) -> list[str]:
    """The code of a guide: its spans and the lines of its blocks."""
    parts = re.split(r"^ *`{3,4}\w*\n(.*?)^ *`{3,4}$", text(name), flags=re.MULTILINE | re.DOTALL)
    spans = [span for prose in parts[::2] for span in re.findall(r"`+([^`]+)`+", prose)]
    return spans + [line.strip() for block in parts[1::2] for line in block.splitlines()]


@pytest.mark.parametrize("name", GUIDES)
def test_every_target_of_make_that_a_guide_names_is_there(name: str) -> None:
    named = {target for line in code(name) for target in re.findall(r"\bmake ([a-z]+)", line)}
    assert named
    assert named <= set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))


def test_make_help_names_every_target() -> None:
    targets = set(re.findall(r"^\.PHONY: (\w+)", text("Makefile"), re.MULTILINE)) - {"help"}
    assert targets == set(re.findall(r'"make (\w+) ', text("Makefile")))


@pytest.mark.parametrize("name", GUIDES)
def test_every_file_that_a_guide_names_is_there(name: str) -> None:
    linked = re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", text(name))
    words = [w.split("::")[0] for line in code(name) for w in re.split(r"[\s`,{}]+", line)]
    paths = [
        word
        for word in words
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?|[\w-]+/|[\w-]+\.(py|md|js|sh|txt|cff|yml|bib)", word)
        and not word.startswith((*ELSEWHERE, *MADE))
    ]
    assert linked or paths
    gone = [path for path in {*linked, *paths} if not (ROOT / path).exists()]
    assert gone == []


def test_the_lines_of_python_in_the_readme_run() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", text("README.md"), re.DOTALL)
    names: dict[str, object] = {}
    exec(block, names)
    assert str(getattr(names["x"], "shape", None)) == "torch.Size([1000, 2])"


def test_a_module_imports_only_modules_before_it_in_the_list() -> None:
    """Imports at the top of a file; one within a function is for what may not be installed."""
    (listed,) = re.findall(r"modules before it in this list: ([^|]*) \|", text("CONTRIBUTING.md"))
    order = re.findall(r"`(\w+)`", listed)
    package = ROOT / "dpmpp_core"
    there = {path.stem for path in package.iterdir() if (path / "__init__.py").is_file()}
    there |= {path.stem for path in package.glob("*.py")} - {"__init__"}
    assert sorted(order) == sorted(there)
    wrong = []
    for file in package.rglob("*.py"):
        parts = file.relative_to(package).with_suffix("").parts
        if parts == ("__init__",):
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            # Of the package itself: as many dots as the file lies deep.
            if isinstance(node, ast.ImportFrom) and node.level == len(parts):
                names = [node.module.split(".")[0]] if node.module else [a.name for a in node.names]
                wrong += [
                    (file.name, name)
                    for name in names
                    if name != parts[0] and order.index(name) > order.index(parts[0])
                ]
    assert wrong == []


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("requirements*.txt")))
def test_every_dependency_is_pinned_and_has_its_reason(name: str) -> None:
    lines = [line for line in text(name).splitlines() if line and not line.startswith(("#", "-r"))]
    assert lines
    assert [line for line in lines if not re.match(r"[\w.-]+==[\w.]+\s.*# \w", line)] == []


def test_the_citation_names_the_version_the_licence_and_the_authors_of_the_package() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    citation = text("CITATION.cff")
    assert f"\nversion: {project['version']}\n" in citation
    assert f"\nlicense: {project['license']}\n" in citation
    assert re.findall(r"- name: (.*)", citation) == [a["name"] for a in project["authors"]]


def test_the_contributing_table_names_every_folder() -> None:
    there = {p.parent.relative_to(ROOT).parts[0] for p in ROOT.glob("[a-z]*/**/*.py")}
    there |= {"assets", "chapters"}
    built = {"build", "dist"}
    assert there - built <= set(re.findall(r"`(\w+)/`", text("CONTRIBUTING.md")))
