"""What the site needs besides its pages: addresses, buttons, descriptions, a map, a page for 404.

Two variables of the environment say where the book is published; without them whatever needs an
address is left out, and the pages work from any folder:

* ``BOOK_URL``, the address of the site: the canonical links, the picture of a link's preview, the
  site's map, and a page for 404 that works at any depth.
* ``BOOK_REPOSITORY``, the address of the repository, such as ``https://github.com/owner/name``: the
  buttons that show and edit a page's source and, on GitHub, open its notebook in Colab and Binder.

Colab and Binder open a notebook from a repository. The chapters are Markdown there, so the workflow
that publishes the book keeps them as notebooks on the branch ``notebooks``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import matplotlib.pyplot as plt
import nbformat
from docutils import nodes
from matplotlib.text import Text
from sphinx.application import Sphinx
from sphinx.builders.html import StandaloneHTMLBuilder
from sphinx.config import Config
from sphinx.util.typing import ExtensionMetadata

from dpmpp_core import figures

BRANCH = "main"
NOTEBOOKS = "notebooks"  # the branch with the chapters as notebooks
CARD = "_static/social-card.png"
CARD_PIXELS = (1200, 630)
CARD_LINE = "DPM-Solver++(2M) SDE, term by term"
CARD_ALT = (
    "One Sampler. Three panels show the same starting points on their way to a triangle of three "
    "clouds, for eta 0, 0.1 and 1. Drift is blue, history orange, noise green."
)
NOT_FOUND = "404"
SEARCH, SEARCH_LINE = "search", "Find a word, a symbol or a function in the chapters and the API."
DESCRIPTION = 240  # characters; a preview shows about as many

INSTALL = """\
# The book's package. Nothing is installed where it is there already.
try:
    import dpmpp_core
except ModuleNotFoundError:
    %pip install -q "dpmpp-core[book] @ git+{repository}@{branch}\""""
WHERE = (
    "*This notebook imports the book's package, `dpmpp_core`. To install it, run "
    '`pip install ".[book]"` in a copy of the book\'s repository.*'
)

# An address on a page that starts neither at a host nor at the root, and is not within the page.
RELATIVE = re.compile(r'\b(href|src|action|data-content_root)="(?![a-z]+:|[/#])(?:\./)?([^"]*)"')


def repository() -> str:
    """The repository's address without a slash at the end, empty if it is not known."""
    return os.environ.get("BOOK_REPOSITORY", "").strip().removesuffix("/").removesuffix(".git")


def set_addresses(app: Sphinx, config: Config) -> None:
    """Give the theme and the link previews the addresses that they need."""
    if repository():
        config.html_theme_options |= {
            "repository_url": repository(),
            "repository_branch": BRANCH,
            "use_repository_button": True,
            "use_source_button": True,
            "use_edit_page_button": True,
        }
    if config.html_baseurl:
        width, height = CARD_PIXELS
        config.ogp_image = CARD
        config.ogp_image_alt = CARD_ALT
        config.ogp_custom_meta_tags = (
            *config.ogp_custom_meta_tags,
            f'<meta property="og:image:width" content="{width}" />',
            f'<meta property="og:image:height" content="{height}" />',
            '<meta name="twitter:card" content="summary_large_image" />',
        )


# --- each page


def prepare_page(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Describe the page, and let its notebook begin with the package that it imports."""
    if pagename == NOT_FOUND:
        context["pageurl"] = None  # nobody should find it under its own address
    notebook = Path(app.outdir) / "_sources" / str(context.get("ipynb_source"))
    if notebook.is_file():
        add_first_cell(notebook)
    if pagename == SEARCH:
        description = SEARCH_LINE
    else:
        description = describe(doctree) if doctree is not None else ""
    metatags = context.get("metatags", "")
    if description and 'name="description"' not in metatags:
        context["metatags"] = (
            metatags + f'<meta name="description" content="{escape(description)}" />\n'
        )
        context["meta"] = {**(context.get("meta") or {}), "og:description": description}


def describe(doctree: nodes.document) -> str:
    """The sentences with which a page begins, as many as fit, at least one; empty without text."""
    beginning = (p for p in doctree.findall(nodes.paragraph) if isinstance(p.parent, nodes.section))
    text = next((paragraph.astext() for paragraph in beginning), "")
    text = re.sub(r"\s*\[[^]]*\d{4}[^]]*\]", "", text)  # a citation
    text = re.sub(r"\\([a-z]+)(?:\{([^}]*)\})?", lambda m: m[2] or m[1], text)  # \lambda, \drift{A}
    first, *others = re.split(r"(?<=[.!?])\s+", " ".join(text.split()))
    for sentence in others:
        if len(first) + 1 + len(sentence) > DESCRIPTION:
            break
        first += f" {sentence}"
    return first


def add_first_cell(path: Path) -> None:
    """Put before a notebook's cells one that installs the package, or says where it is."""
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    address = repository()
    source = INSTALL.format(repository=address, branch=BRANCH) if address else WHERE
    new: Any = nbformat.v4.new_code_cell if address else nbformat.v4.new_markdown_cell
    # With a name of its own, for nbformat would draw one by chance.
    cell = new(source, id="install", metadata={"tags": ["install"]})
    notebook.cells.insert(0, cell)
    nbformat.write(notebook, path)  # type: ignore[no-untyped-call]


def add_buttons(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Offer the whole book, and the page's notebook in Colab and in Binder.

    These two open it from GitHub. The whole book lies beside the pages where it is published: see
    .github/workflows/book.yml.
    """
    groups = {button.get("label"): button for button in context.get("header_buttons", [])}
    address = app.config.html_baseurl
    if address and "download-buttons" in groups:
        groups["download-buttons"]["buttons"] += [
            link("PDF of the book", f"{address}one-sampler.pdf", icon="fas fa-file-pdf"),
            link("zip of all pages", f"{address}one-sampler.zip", icon="fas fa-download"),
        ]
    parts, file = urlsplit(repository()), context.get("ipynb_source")
    if parts.netloc == "github.com" and file:
        name, site = parts.path.strip("/"), "https://colab.research.google.com/github/"
        colab = f"{site}{name}/blob/{NOTEBOOKS}/{file}"
        binder = f"https://mybinder.org/v2/gh/{name}/{NOTEBOOKS}?urlpath=lab/tree/{file}"
        context["header_buttons"].append(
            {
                "type": "group",
                "tooltip": "Run this page",
                "icon": "fas fa-rocket",
                "label": "launch-buttons",
                "buttons": [
                    link("Colab", colab, icon="_static/images/logo_colab.png"),
                    link("Binder", binder, icon="_static/images/logo_binder.svg"),
                ],
            }
        )


def link(text: str, address: str, icon: str) -> dict[str, str]:
    """A button as the theme describes one."""
    return {"type": "link", "text": text, "url": address, "icon": icon}


# --- pages and files of their own


def documents(app: Sphinx) -> Iterator[str]:
    """The names of the book's pages, in the order of its table of contents."""
    waiting = [app.config.root_doc]
    while waiting:
        name = waiting.pop(0)
        yield name
        waiting = [*app.env.toctree_includes.get(name, []), *waiting]


def not_found_page(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The page that a host shows for an address that is not there."""
    if not isinstance(app.builder, StandaloneHTMLBuilder):
        return
    entries = "".join(
        f'<li><a href="{app.builder.get_target_uri(name)}">{escape(app.env.titles[name].astext())}'
        "</a></li>"
        for name in documents(app)
    )
    body = (
        "<section><h1>This page is not there</h1>"
        '<p>It may have moved. <a href="search.html">Search the book</a>, or choose a page:</p>'
        f"<ul>{entries}</ul></section>"
    )
    metatags = (
        '<meta name="description" content="The page that was asked for is not in the book." />\n'
        '<meta name="robots" content="noindex" />\n'
    )
    yield NOT_FOUND, {"title": "Not found", "body": body, "metatags": metatags}, "page.html"


def write_files(app: Sphinx, exception: Exception | None) -> None:
    """Write what stands beside the pages."""
    if exception is not None or not isinstance(app.builder, StandaloneHTMLBuilder):
        return
    out, address = Path(app.outdir), app.config.html_baseurl
    first = app.builder.get_target_uri(app.config.root_doc)
    (out / "index.html").write_text(leading_on(out / first, first, address), encoding="utf-8")
    if address:
        draw_card(out / CARD)
        absolute(out / f"{NOT_FOUND}.html", address)
        locations = (
            f"<url><loc>{escape(address + app.builder.get_target_uri(name))}</loc></url>"
            for name in documents(app)
        )
        (out / "sitemap.xml").write_text(
            '<?xml version="1.0" encoding="utf-8"?>\n'
            '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
            + "\n".join(locations)
            + "\n</urlset>\n",
            encoding="utf-8",
        )
        (out / "robots.txt").write_text(
            f"User-agent: *\nAllow: /\nSitemap: {address}sitemap.xml\n", encoding="utf-8"
        )


def leading_on(page: Path, name: str, address: str) -> str:
    """A page that leads on to another, and has its title, description and preview."""
    text = page.read_text(encoding="utf-8")
    head = re.findall(
        r'<title>.*?</title>|<meta (?:property="og:|name="(?:description|twitter:))[^>]*>', text
    )
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8" />',
            f'<meta http-equiv="refresh" content="0; url={name}" />',
            *([f'<link rel="canonical" href="{address}{name}" />'] if address else []),
            *head,
            f'<p><a href="{name}">To the book</a></p>\n</html>\n',
        ]
    )


def absolute(page: Path, address: str) -> None:
    """Let a page's links start at the site: a host shows the page for 404 at any depth."""
    text = page.read_text(encoding="utf-8")
    text = RELATIVE.sub(lambda m: f'{m[1]}="{address}{m[2]}"', text)
    page.write_text(text, encoding="utf-8")


def draw_card(path: Path) -> None:
    """Draw the picture of a link's preview."""
    width, height = CARD_PIXELS
    with figures.style():
        figure = figures.cover()
        figure.set_size_inches(width / 100, height / 100)
        for text in figure.findobj(Text):
            text.set_fontsize(20)
        # A preview is often an inch wide: the name must be legible there.
        figure.text(0.5, 0.97, "One Sampler", size=48, weight="bold", ha="center", va="top")
        figure.text(0.5, 0.84, CARD_LINE, size=22, ha="center", va="top")
        figure.set_layout_engine("constrained", rect=(0.02, 0.02, 0.96, 0.74))
        figure.savefig(path, dpi=100, bbox_inches=figure.bbox_inches)
        plt.close(figure)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Connect the functions above."""
    # After one_sampler_site.py took BOOK_URL (400), before the theme reads its options.
    app.connect("config-inited", set_addresses, priority=420)
    # After the executed notebook was put beside the page (450), before opengraph (500).
    app.connect("html-page-context", prepare_page, priority=460)
    # After the theme made its own buttons (501), which it adds to.
    app.connect("html-page-context", add_buttons, priority=550)
    app.connect("html-collect-pages", not_found_page)
    # Last: it reads pages as they are served.
    app.connect("build-finished", write_files, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
