"""The role ``source``: a link from the text to the very line of code that it speaks of.

In a chapter, ``{source}`dpmpp_core/mesh.py::Mesh.from_sigmas``` leads to that line on a page of the
book that shows the file, and ``{source}`tests/test_mesh.py::test_by_hand``` to a test. The name is
a function, a class, a variable, or a method or field after its class and a dot; without ``::name``
the link leads to the whole file. ``{source}`text <target>``` shows a text of one's own. A file or
a name that is not there is a warning, which stops the build.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.builders.html import StandaloneHTMLBuilder
from sphinx.util import logging
from sphinx.util.docutils import ReferenceRole
from sphinx.util.typing import ExtensionMetadata

FOLDER = "source"
LINE = "line"  # Pygments names the lines line-1, line-2, ...

log = logging.getLogger(__name__)


def line_of(source: str, name: str) -> int | None:
    """The line of a Python text that defines a dotted name, None if there is none."""
    body, line = _statements(source), None
    for part in name.split("."):
        statement = next((s for s in body if part in _defined(s)), None)
        if statement is None:
            return None
        body, line = getattr(statement, "body", []), statement.lineno
    return line


@lru_cache(maxsize=64)
def _statements(source: str) -> list[ast.stmt]:
    return ast.parse(source).body


def _defined(statement: ast.stmt) -> set[str]:
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {statement.name}
        case ast.Assign(targets=targets):
            parts = [node for target in targets for node in ast.walk(target)]
        case ast.AnnAssign(target=target):
            parts = [target]
        case _:
            parts = []
    return {node.id for node in parts if isinstance(node, ast.Name)}


class Source(ReferenceRole):
    """Reads a target, checks that it is there, and links to it."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        path, _, name = self.target.partition("::")
        text = self.title if self.has_explicit_title else name or path
        shown: nodes.Node = nodes.literal("", text)
        if text.startswith("test_"):
            # A test's name is a sentence; it is read, and broken over lines, as one.
            shown = nodes.inline("", text.removeprefix("test_").replace("_", " "))
        elif self.has_explicit_title:
            shown = nodes.inline("", text)

        line = self._find(Path(self.env.srcdir) / path, name)
        builder = self.env.app.builder
        if line is None or not isinstance(builder, StandaloneHTMLBuilder):
            return [shown], []
        self.env.note_dependency(path)
        address = builder.get_relative_uri(self.env.docname, f"{FOLDER}/{path}")
        anchor = f"#{LINE}-{line}" if name else ""
        link = nodes.reference("", "", shown, internal=True, refuri=address + anchor)
        link["source_file"] = path
        return [link], []

    def _find(self, file: Path, name: str) -> int | None:
        """The line that a target means; a warning, and None, if it is not there."""
        if not file.is_file():
            log.warning("source: no file for %r", self.target, location=self.get_location())
            return None
        if not name:
            return 1
        python = file.suffix == ".py"
        line = line_of(file.read_text(encoding="utf-8"), name) if python else None
        if line is None:
            log.warning("source: no name for %r", self.target, location=self.get_location())
        return line


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for every file that the book links to."""
    if not isinstance(app.builder, StandaloneHTMLBuilder):
        return
    documents = (app.env.get_doctree(name) for name in app.env.all_docs)
    links = (link for document in documents for link in document.findall(nodes.reference))
    for path in sorted({link["source_file"] for link in links if "source_file" in link}):
        text = (Path(app.srcdir) / path).read_text(encoding="utf-8")
        # Pygments knows languages by the endings of their files too: py, js, css, toml.
        listing = app.builder.highlighter.highlight_block(
            text, Path(path).suffix[1:], linenos="inline", linespans=LINE, location=path
        )
        title = escape(path)
        context = {
            "title": title,
            "body": f'<section class="source-file"><h1>{title}</h1>\n{listing}</section>',
            "metatags": f'<meta name="description" content="The file {title}, line by line." />',
        }
        yield f"{FOLDER}/{path}", context, "page.html"


def setup(app: Sphinx) -> ExtensionMetadata:
    """Give the book the role and its pages."""
    app.add_role("source", Source())
    app.connect("html-collect-pages", pages)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
