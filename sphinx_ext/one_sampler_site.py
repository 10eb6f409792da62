"""What the book's pages need beyond their theme: nothing from another host, and little to load.

Each function mends one thing, and says which.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from jupyter_cache import get_cache
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.typing import ExtensionMetadata

from dpmpp_core.symbolic import TERM_COLOURS


def set_site_address(app: Sphinx, config: Config) -> None:
    """Take the public address, where there is one, from the variable BOOK_URL."""
    address = os.environ.get("BOOK_URL", "").strip()
    if address:
        config.html_baseurl = config.ogp_site_url = address.rstrip("/") + "/"


def mend_page(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Set up one page. It runs before the theme makes the page's buttons."""
    drop_widget_state(app, pagename)
    offer_executed_notebook(app, pagename, context)
    # Docutils gives the entries of a bibliography a role that ARIA 1.3 has withdrawn.
    body = context.get("body", "")
    context["body"] = body.replace('role="doc-biblioentry"', 'role="listitem"')


def drop_relative_address(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Leave out og:url where the book has no public address: a bare path is none."""
    if not app.config.ogp_site_url:
        metatags = context.get("metatags", "")
        context["metatags"] = re.sub(r'<meta property="og:url"[^>]*>\s*', "", metatags)


def drop_widget_state(app: Sphinx, pagename: str) -> None:
    """Leave out the state of ipywidgets, which only the html manager could read."""
    metadata: dict[str, dict[str, Any]] = getattr(app.env, "nb_metadata", {})
    metadata.get(pagename, {}).get("js_files", {}).pop("ipywidgets_state", None)


def offer_executed_notebook(app: Sphinx, pagename: str, context: dict[str, Any]) -> None:
    """Put the executed notebook beside the page's source, and name it for the theme's button."""
    name = f"{pagename}.ipynb"
    executed = Path(app.outdir).parent / "jupyter_execute" / name
    if not executed.is_file():
        return
    # What MyST-NB writes there lacks the outputs when they come from the cache.
    cache = get_cache(app.env.mystnb_config.execution_cache_path)  # type: ignore[attr-defined]
    _, notebook = cache.merge_match_into_notebook(nbformat.read(executed, as_version=4))  # type: ignore[no-untyped-call]
    # A live figure's state belongs to the kernel that ran; without it its picture shows.
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = without_macros(cell.source)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            if "text/latex" in output.get("data", {}):
                output.data["text/latex"] = without_macros(output.data["text/latex"])
    target = Path(app.outdir) / "_sources" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)  # type: ignore[no-untyped-call]
    context["ipynb_source"] = name


def without_macros(text: str) -> str:
    """Write the colours of the terms out: Jupyter does not know the book's macros."""
    for term, colour in TERM_COLOURS.items():
        text = text.replace(f"\\{term}{{", f"\\textcolor{{{colour}}}{{")
    return text


def with_macros(app: Sphinx, doctree: nodes.document) -> None:
    """Let the page's style sheet colour what sympy printed: it knows the reader's theme."""
    for kind in (nodes.math, nodes.math_block):
        for formula in doctree.findall(kind):
            text = formula.astext()
            for term, colour in TERM_COLOURS.items():
                text = text.replace(f"\\textcolor{{{colour}}}{{", f"\\{term}{{")
            formula.children = [nodes.Text(text)]


def setup(app: Sphinx) -> ExtensionMetadata:
    """Connect the functions above."""
    app.connect("config-inited", set_site_address, priority=400)
    # Before MyST-NB adds the page's scripts (500) and the theme its buttons (501).
    app.connect("html-page-context", mend_page, priority=450)
    # After opengraph wrote its tags (500).
    app.connect("html-page-context", drop_relative_address, priority=550)
    app.connect("doctree-read", with_macros)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
