"""The role ``source``: links from the book to the lines of the package and of the tests."""

from __future__ import annotations

import inspect
import sys
from io import StringIO
from pathlib import Path
from urllib.parse import urldefrag

import pytest
from bs4 import BeautifulSoup, Tag
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

import dpmpp_core

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "sphinx_ext"))

import source_links  # noqa: E402

MODULE = '''\
"""A module."""

LIMIT: int = 3
low, high = 1, 2


class Mesh:
    """A <mesh>."""

    h: float

    @property
    def steps(self) -> int:
        local = 1
        return local


def by_hand() -> None:
    """Nothing."""


async def later() -> None:
    """Nothing."""
'''


def build(folder: Path, text: str) -> tuple[Path, str]:
    """A book of one page with that text, beside ``package/module.py``: its html, its warnings."""
    (folder / "package").mkdir()
    (folder / "package" / "module.py").write_text(MODULE)
    (folder / "package" / "shape.js").write_text("export const one = 1;\n")
    (folder / "chapters").mkdir()
    (folder / "chapters" / "page.md").write_text(f"# Page\n\n{text}\n")
    (folder / "index.md").write_text("# Book\n\n```{toctree}\nchapters/page\n```\n")
    settings = {"extensions": ["myst_parser", "source_links"], "project": "Book"}
    warnings = StringIO()
    with patch_docutils(), docutils_namespace():
        app = Sphinx(
            folder, None, folder / "html", folder / "trees", "html", settings, None, warnings
        )
        app.build()
    return folder / "html", warnings.getvalue()


def links(html: Path) -> list[Tag]:
    page = BeautifulSoup((html / "chapters" / "page.html").read_text(), "html.parser")
    return page.select("[role=main] a.reference.internal")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("LIMIT", "LIMIT: int = 3"),
        ("high", "low, high = 1, 2"),
        ("Mesh", "class Mesh:"),
        ("Mesh.h", "    h: float"),
        ("Mesh.steps", "    def steps(self) -> int:"),
        ("by_hand", "def by_hand() -> None:"),
        ("later", "async def later() -> None:"),
    ],
)
def test_a_link_leads_to_the_line_that_defines_the_name(
    tmp_path: Path, name: str, line: str
) -> None:
    html, warnings = build(tmp_path, f"{{source}}`package/module.py::{name}`")
    assert warnings == ""
    (link,) = links(html)
    assert link.get_text() == name
    assert link.code is not None
    target, anchor = urldefrag(str(link["href"]))
    shown = BeautifulSoup((html / "chapters" / target).read_text(), "html.parser")
    number, _, code = shown.select_one(f"#{anchor}").get_text().strip("\n").partition(line)
    assert MODULE.splitlines()[int(number) - 1] == line
    assert code == ""


def test_the_page_of_a_file_shows_the_file(tmp_path: Path) -> None:
    html, _ = build(tmp_path, "{source}`package/module.py` and {source}`package/shape.js`")
    assert [link.get_text() for link in links(html)] == ["package/module.py", "package/shape.js"]
    for link, text in zip(links(html), (MODULE, "export const one = 1;\n"), strict=True):
        assert "#" not in str(link["href"])
        page = BeautifulSoup((html / "chapters" / str(link["href"])).read_text(), "html.parser")
        for number in page.select(".linenos"):
            number.decompose()
        assert page.select_one(".source-file pre").get_text() == text
        assert page.select_one("h1").get_text() == link.get_text()
        assert page.select_one("meta[name=description]") is not None
        assert page.select("pre .k, pre .kd"), "no keyword is told apart"


def test_a_file_that_nobody_links_to_has_no_page(tmp_path: Path) -> None:
    html, _ = build(tmp_path, "{source}`package/shape.js`")
    assert [path.name for path in (html / "source").rglob("*.html")] == ["shape.js.html"]


def test_a_link_may_have_a_text_of_its_own(tmp_path: Path) -> None:
    html, warnings = build(tmp_path, "{source}`the steps <package/module.py::Mesh.steps>`")
    assert warnings == ""
    (link,) = links(html)
    assert link.get_text() == "the steps"
    assert link.code is None


def test_a_test_is_shown_as_the_sentence_that_it_is(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_one_and_one_are_two():\n    assert 1 + 1 == 2\n")
    html, warnings = build(tmp_path, "{source}`test_it.py::test_one_and_one_are_two`")
    assert warnings == ""
    (link,) = links(html)
    assert link.get_text() == "one and one are two"
    assert link.code is None


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("package/other.py", "no file"),
        ("package", "no file"),
        ("package/module.py::other", "no name"),
        ("package/module.py::Mesh.other", "no name"),
        ("package/module.py::steps", "no name"),
        ("package/module.py::by_hand.local", "no name"),
        ("package/module.py::low.high", "no name"),
        ("package/shape.js::one", "no name"),
    ],
)
def test_what_is_not_there_is_a_warning_with_its_place(
    tmp_path: Path, target: str, sentence: str
) -> None:
    html, warnings = build(tmp_path, f"{{source}}`{target}`")
    assert f"page.md:3: WARNING: source: {sentence} for '{target}'" in warnings
    assert links(html) == []


def test_every_function_and_class_of_the_package_is_found_on_its_own_line() -> None:
    for name in dpmpp_core.__all__:
        thing = getattr(dpmpp_core, name)
        if inspect.ismodule(thing):
            continue
        lines, first = inspect.getsourcelines(thing)
        decorators = next(i for i, line in enumerate(lines) if line.startswith(("def ", "class ")))
        source = Path(inspect.getfile(thing)).read_text(encoding="utf-8")
        assert source_links.line_of(source, name) == first + decorators, name
