"""Puts the live figures' scripts beside the pages: see dpmpp_core/widgets/live.py.

A page loads only the modules that its figures need, each of them once, and not before a figure
comes near the window. A page without any figure loads nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zlib import crc32

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.typing import ExtensionMetadata

from dpmpp_core.widgets import LiveFigure
from dpmpp_core.widgets.modules import scripts

FOLDER = "live"
FIGURE = re.compile(r'<div class="live-figure" id="([\w-]+)" data-module="(\w+)">')

log = logging.getLogger(__name__)


def figure_classes() -> dict[str, type[LiveFigure]]:
    """Every kind of figure, by the name of its module."""
    return {cls.module: cls for cls in LiveFigure.__subclasses__()}


def write_files(folder: Path) -> None:
    """Write each module as a script that registers it, and what shows the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    for module in figure_classes():
        # Not minified: a reader who opens it finds the package's own file.
        for name, script in scripts(f"{module}.js").items():
            (folder / name).write_text(script, encoding="utf-8")
    shim = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    (folder / "live_figures.js").write_text(shim, encoding="utf-8")
    (folder / "widgets.css").write_text(LiveFigure._css, encoding="utf-8")


def page_scripts(modules: Iterable[str]) -> list[str]:
    """The scripts of a page with these figures, in the order in which it may load them."""
    needed = dict.fromkeys(name for module in modules for name in scripts(f"{module}.js"))
    return [*needed, "live_figures.js"]


def write_scripts(app: Sphinx) -> None:
    """Put the files beside the pages, before the first page asks for their check sums."""
    if app.builder.format == "html":
        write_files(Path(app.outdir) / "_static" / FOLDER)


def load_scripts(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Let a page load the modules of its own figures."""
    found = FIGURE.findall(context.get("body") or "")
    if not found:
        return
    for name, count in Counter(name for name, _ in found).items():
        if count > 1:
            log.warning("%s: %d live figures are called %r", pagename, count, name)
    *modules, shim = page_scripts(sorted({module for _, module in found}))
    folder = Path(app.outdir) / "_static" / FOLDER
    addresses = [f"{name}?v={crc32((folder / name).read_bytes()):08x}" for name in modules]
    scripts: dict[str, Any] = {"data-scripts": " ".join(addresses)}
    app.add_js_file(f"{FOLDER}/{shim}", loading_method="defer", **scripts)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Connect the functions above."""
    app.connect("builder-inited", write_scripts)
    app.add_css_file(f"{FOLDER}/widgets.css", priority=400)
    app.connect("html-page-context", load_scripts)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
