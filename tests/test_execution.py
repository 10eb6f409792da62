"""Which notebooks are executed, and what a change makes old."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from myst_nb.core.config import NbParserConfig
from myst_parser.config.main import MdParserConfig
from scripts import load
from sphinx.errors import ExtensionError

execution = load("sphinx_ext/execution.py")

CHAPTER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  name: python3
  display_name: Python 3
---

# {title}

```{{code-cell}} ipython3
{cell}
```
"""


class Book:
    """A folder of chapters, and as much of Sphinx as the functions ask for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("dpmpp_core", "benchmarks/results", "sphinx_ext", "assets", "tests"):
            (root / folder).mkdir(parents=True)
        for file in ("dpmpp_core/a.py", "requirements.txt", "references.bib", "_toc.yml"):
            (root / file).write_text("1\n", encoding="utf-8")
        cache = str(root / "_build" / ".jupyter_cache")
        config = SimpleNamespace(nb_execution_mode="cache", nb_execution_timeout=60)
        self.app: Any = SimpleNamespace(srcdir=str(root), config=config)
        self.env: Any = SimpleNamespace(
            found_docs={"one", "two"},
            doc2path=lambda name: str(root / f"{name}.md"),
            myst_config=MdParserConfig(),
            mystnb_config=NbParserConfig(execution_mode="cache", execution_cache_path=cache),
        )

    def write(self, name: str, title: str, cell: str) -> None:
        text = CHAPTER.format(title=title, cell=cell)
        (self.root / f"{name}.md").write_text(text, encoding="utf-8")

    def runs(self, name: str) -> int:
        """How often the cell of a chapter ran: it adds a letter to a file each time."""
        file = self.root / f"{name}.runs"
        return len(file.read_text(encoding="utf-8")) if file.exists() else 0

    def counting(self, name: str, more: str = "") -> str:
        return f'open("{name}.runs", "a").write("x")\n{more}'

    def execute(self, *names: str) -> None:
        execution.execute(self.app, self.env, list(names))

    def outdated(self) -> list[str]:
        return list(execution.mark_outdated(self.app, self.env, set(), set(), set()))


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path)


@pytest.fixture(autouse=True)
def _kernels_ask_no_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")


def test_a_chapter_runs_again_when_its_cells_or_the_package_changed_and_not_for_its_text(
    book: Book,
) -> None:
    book.write("one", "A title", book.counting("one"))
    (book.root / "plain.md").write_text("# No notebook\n", encoding="utf-8")
    book.execute("one", "plain")
    assert book.runs("one") == 1
    book.write("one", "Another title", book.counting("one"))
    book.execute("one")
    assert book.runs("one") == 1
    book.write("one", "Another title", book.counting("one", "2"))
    book.execute("one")
    assert book.runs("one") == 2
    (book.root / "dpmpp_core" / "a.py").write_text("2\n", encoding="utf-8")
    book.execute("one")
    assert book.runs("one") == 3
    (book.root / "tests" / "test_a.py").write_text("2\n", encoding="utf-8")
    book.execute("one")
    assert book.runs("one") == 3


def test_a_failing_cell_stops_the_build_and_the_other_chapters_keep_their_outputs(
    book: Book,
) -> None:
    book.write("one", "Good", book.counting("one"))
    book.write("two", "Bad", book.counting("two", "assert 1 == 2, 'a claim'"))
    with pytest.raises(ExtensionError, match=r"(?s)two: .*assert 1 == 2"):
        book.execute("one", "two")
    assert (book.runs("one"), book.runs("two")) == (1, 1)
    book.write("two", "Mended", book.counting("two"))
    book.execute("one", "two")
    assert (book.runs("one"), book.runs("two")) == (1, 2)


@pytest.mark.parametrize(
    "file", ["dpmpp_core/a.py", "tests/b.py", "assets/c.css", "sphinx_ext/d.py", "_toc.yml"]
)
def test_every_page_is_old_after_a_change_that_sphinx_does_not_watch(book: Book, file: str) -> None:
    assert book.outdated() == ["one", "two"]
    assert book.outdated() == []
    (book.root / file).write_text("3\n", encoding="utf-8")
    assert book.outdated() == ["one", "two"]
    assert book.outdated() == []


def test_what_python_leaves_in_the_folders_makes_nothing_old(book: Book) -> None:
    book.outdated()
    (book.root / "dpmpp_core" / "__pycache__").mkdir()
    (book.root / "dpmpp_core" / "__pycache__" / "a.pyc").write_text("x", encoding="utf-8")
    assert book.outdated() == []
