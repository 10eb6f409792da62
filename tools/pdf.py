"""Print the built book as one PDF: python tools/pdf.py [--output FILE] [PAGE ...]

It reads _build/html (make book), puts the articles of all pages, or of the named ones, into one
document in the order of _toc.yml, and lets Chromium print it: A4, with links, an outline and tags.
A live figure is its picture, a solution is open, and the folded code of a figure is left out. With
BOOK_URL set, a link to a file that is not in the document leads to the site; else only its words
stay.
"""

from __future__ import annotations

import argparse
import logging
import os
import posixpath
import shutil
import sys
import tempfile
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

import yaml
from bs4 import BeautifulSoup, Tag
from playwright.sync_api import Playwright, sync_playwright
from pypdf import PdfWriter
from pypdf.generic import DictionaryObject, NameObject, TextStringObject

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MARGIN, WIDTH, HEIGHT = 18, 210, 297  # millimetres
PIXELS = 96 / 25.4  # in a millimetre

# What only a screen can use.
DROPPED = "script, noscript, button, .headerlink, .toctree-wrapper, .cell details.above-input"

STYLE = """
@page {{
  size: A4;
  margin: {margin}mm;
  @bottom-center {{ content: counter(page); font: 9pt sans-serif; color: #555; }}
}}
@page title {{ @bottom-center {{ content: none; }} }}
html {{ font-size: 13.5px !important; }}
body {{ margin: 0; background: white; }}
.book-page, .book-contents {{ break-before: page; }}
.title-page {{ page: title; padding-top: 60mm; text-align: center; }}
.title-page .name {{ font-size: 3.4rem; font-weight: 700; }}
.title-page img {{ max-width: 100%; margin: 3rem 0; }}
.live-figure-picture {{ max-height: 13cm; }}
.book-contents ol {{ list-style: none; padding: 0; }}
.book-contents .part {{ font-weight: 700; margin-top: 0.8rem; }}
"""

# A formula or a table that is wider than the page becomes smaller. Then nothing is cut off.
FIT = """
() => {
    const boxes = "div.math, .output, .pst-scrollable-table-container";
    for (const box of document.querySelectorAll(boxes)) {
        const ratio = box.clientWidth / box.scrollWidth;
        if (ratio < 1) {
            const size = parseFloat(getComputedStyle(box).fontSize);
            box.style.fontSize = `${0.99 * ratio * size}px`;
        }
    }
}
"""

HEADINGS = """
() => [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")]
    .filter(heading => heading.checkVisibility())
    .map(heading => heading.textContent.trim().replace(/\\s+/g, " "))
"""


class Page(NamedTuple):
    """A page of the book: its name without ending, and the part that it begins, if it does."""

    name: str
    part: str = ""

    @property
    def id(self) -> str:
        """Its anchor in the document."""
        return self.name.rpartition("/")[2]


def pages_in_order(toc: Path) -> Iterator[Page]:
    """The pages that a table of contents names."""
    contents = yaml.safe_load(toc.read_text(encoding="utf-8"))
    yield Page(contents["root"])
    for part in contents["parts"]:
        for i, chapter in enumerate(part["chapters"]):
            yield Page(chapter["file"], "" if i else part["caption"])


def article(page: Page, html: Path, anchors: dict[str, str], address: str) -> Tag:
    """The article of a built page, with addresses that are right in the document.

    ``anchors`` holds the document's anchor of every page in it.
    """
    text = (html / f"{page.name}.html").read_text(encoding="utf-8")
    found = BeautifulSoup(text, "html.parser").select_one("article")
    if found is None:
        raise SystemExit(f"{page.name}.html has no article: was it built by make book?")
    for tag in found.select(DROPPED):
        tag.decompose()
    for tag in found.select("details"):
        tag["open"] = ""
    for tag in found.select("[loading]"):
        del tag["loading"]  # a printer does not scroll
    for tag in found.select("[id]"):
        tag["id"] = f"{page.id}--{tag['id']}"
    for name in ("for", "aria-labelledby", "aria-describedby"):
        for tag in found.select(f"[{name}]"):
            tag[name] = " ".join(f"{page.id}--{part}" for part in str(tag[name]).split())
    for tag in found.select("[src]"):
        if not urlsplit(str(tag["src"])).scheme:
            tag["src"] = posixpath.normpath(urljoin(f"{page.name}.html", str(tag["src"])))
    for tag in found.select("a[href]"):
        mend_link(tag, page, anchors, address)
    found.name = "div"
    found["class"] = [*found.get_attribute_list("class"), "book-page"]
    found["id"] = page.id
    return found


def mend_link(link: Tag, page: Page, anchors: dict[str, str], address: str) -> None:
    """Let a link lead within the document, to the site, or nowhere."""
    parts = urlsplit(urljoin(f"{page.name}.html", str(link["href"])))
    if parts.scheme:
        return
    path = unquote(parts.path) or f"{page.name}.html"
    if path in anchors:
        anchor = f"{anchors[path]}--{unquote(parts.fragment)}" if parts.fragment else anchors[path]
        link["href"] = f"#{anchor}"
    elif address:
        link["href"] = urljoin(address.rstrip("/") + "/", parts.geturl())
    else:
        link.unwrap()


def document(pages: list[Page], html: Path, address: str) -> str:
    """The html of the whole book; the addresses in it start at the folder of the pages."""
    anchors = {f"{page.name}.html": page.id for page in pages}
    articles = [article(page, html, anchors, address) for page in pages]
    first = BeautifulSoup((html / f"{pages[0].name}.html").read_text("utf-8"), "html.parser")
    base = f"{pages[0].name}.html"
    styles = "\n".join(
        f'<link rel="stylesheet" href="{posixpath.normpath(urljoin(base, str(link["href"])))}" />'
        for link in first.select("link[rel=stylesheet]")
    )
    inline = "\n".join(str(style) for style in first.select("head > style"))
    entries = []
    for page, text in zip(pages, articles, strict=True):
        title = text.select_one("h1")
        if page.part:
            entries.append(f'<li class="part">{escape(page.part)}</li>')
        name = title.get_text() if title else page.id
        entries.append(f'<li><a href="#{page.id}">{escape(name)}</a></li>')
    where = f'<p><a href="{escape(address)}">{escape(address)}</a></p>' if address else ""
    body = "\n".join(str(text) for text in articles)
    return f"""<!doctype html>
<html lang="en" data-theme="light" data-mode="light" data-content_root="./">
<head><meta charset="utf-8" /><title>One Sampler</title>
<base href="{html.as_uri()}/" />
<link rel="stylesheet" href="_static/live/widgets.css" />
{styles}
{inline}
<style>{STYLE.format(margin=MARGIN)}</style>
{mathjax(first)}
</head>
<body>
<div class="title-page">
<p class="name">One Sampler</p>
<p>DPM-Solver++(2M) SDE, term by term</p>
<img src="{(ROOT / "assets" / "cover.png").as_uri()}" alt="" />
<p>The One Sampler authors</p>
{where}
<p>The live figures of the pages are pictures here, and the code that draws a figure is left out:
both are in the pages and in the notebooks.</p>
</div>
<nav class="book-contents" aria-label="Contents"><h1>Contents</h1><ol>{"".join(entries)}</ol></nav>
<main>{body}</main>
</body></html>"""


def mathjax(page: BeautifulSoup) -> str:
    """The scripts that set the formulas, where a page does it itself."""
    scripts = [s for s in page.select("script") if "mathjax" in f"{s.get('src')} {s.text}".lower()]
    if not any(script.get("src") for script in scripts):
        return ""
    for script in scripts:
        if script.get("src"):
            script["src"] = str(script["src"]).removeprefix("../")
    return "\n".join(str(script) for script in scripts)


def chromium(playwright: Playwright) -> str:
    """The Chromium that CHROMIUM names, or the system's, or Playwright's own."""
    paths = [shutil.which(name) for name in (os.environ.get("CHROMIUM", ""), *BROWSERS) if name]
    paths.append(playwright.chromium.executable_path)
    found = next((path for path in paths if path and Path(path).is_file()), None)
    if found is None:
        raise SystemExit("There is no Chromium: install one, or name it: CHROMIUM=/path/to/it.")
    return found


def print_pdf(source: str, output: Path) -> None:
    """Let Chromium print the document, once its formulas are set and its pictures are there."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "book.html"
        file.write_text(source, encoding="utf-8")
        flags = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
        browser = playwright.chromium.launch(executable_path=chromium(playwright), args=flags)
        page = browser.new_page(
            viewport={
                "width": round((WIDTH - 2 * MARGIN) * PIXELS),
                "height": round((HEIGHT - 2 * MARGIN) * PIXELS),
            }
        )
        page.set_default_timeout(600_000)
        missing: list[str] = []
        page.on("requestfailed", lambda request: missing.append(request.url))
        page.goto(file.as_uri())
        page.emulate_media(media="print", color_scheme="light")
        page.evaluate("async () => { await window.MathJax?.startup?.promise }")
        page.evaluate("() => document.fonts.ready.then(() => true)")
        page.evaluate(FIT)
        if missing:
            raise SystemExit(f"These files are missing: {', '.join(sorted(set(missing)))}")
        output.parent.mkdir(parents=True, exist_ok=True)
        page.pdf(
            path=output, prefer_css_page_size=True, print_background=True, outline=True, tagged=True
        )
        titles = page.evaluate(HEADINGS)
        browser.close()
    name_outline(output, titles)


def name_outline(file: Path, titles: list[str]) -> None:
    """Give the outline's entries the words of their headings: Chromium writes some words twice."""
    # It would warn of a count in Chromium's file that no reader minds.
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    writer = PdfWriter(clone_from=file)
    entries = list(outline(writer.root_object["/Outlines"].get_object()))  # type: ignore[arg-type]
    if len(entries) != len(titles):
        raise SystemExit(f"The outline has {len(entries)} entries for {len(titles)} headings.")
    for entry, title in zip(entries, titles, strict=True):
        entry[NameObject("/Title")] = TextStringObject(title)
    writer.add_metadata({"/Author": "The One Sampler authors"})
    writer.write(file)


def outline(parent: DictionaryObject) -> Iterator[DictionaryObject]:
    """The entries below one of an outline, in their order on the pages."""
    entry = parent.get("/First")
    while entry is not None:
        found = entry.get_object()
        yield found
        yield from outline(found)
        entry = found.get("/Next")


def main(arguments: list[str]) -> None:
    """Print the pages that the command line names."""
    parser = argparse.ArgumentParser(description="Print the built book as one PDF.")
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="such as chapters/mesh; else all")
    parser.add_argument("--html", type=Path, default=HTML, help="the folder of the built pages")
    parser.add_argument("--output", type=Path, default=HTML.parent / "one-sampler.pdf")
    options = parser.parse_args(arguments)
    pages = list(pages_in_order(ROOT / "_toc.yml"))
    unknown = set(options.pages) - {page.name for page in pages}
    if unknown:
        parser.error(f"_toc.yml does not name {', '.join(sorted(unknown))}")
    chosen = [page for page in pages if not options.pages or page.name in options.pages]
    if not (options.html / f"{chosen[0].name}.html").is_file():
        parser.error(f"there is no book in {options.html}: run 'make book' first")
    address = os.environ.get("BOOK_URL", "").strip()
    print_pdf(document(chosen, options.html.resolve(), address), options.output)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main(sys.argv[1:])
