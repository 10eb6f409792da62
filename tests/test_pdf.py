"""The PDF of two pages of the book; and of all, when it is there: make pdf."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import report_no_browser
from bs4 import BeautifulSoup
from pypdf import PdfReader
from pypdf.generic import DictionaryObject

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
PAGES = ("intro", "chapters/one-step")
POINTS = 72 / 25.4  # in a millimetre


def names_in_toc() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [toc["root"], *chapters]


def headings(name: str) -> list[str]:
    """The words of a built page's headings, the title first."""
    text = (HTML / f"{name}.html").read_text(encoding="utf-8")
    article = BeautifulSoup(text, "html.parser").select_one("article")
    assert article is not None
    for link in article.select(".headerlink"):
        link.decompose()
    found = article.select("h1, h2, h3, h4, h5, h6")
    return [" ".join(heading.get_text().split()) for heading in found]


def titles(entries: Any) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, list):
            yield from titles(entry)
        else:
            yield entry.title


def links(pdf: PdfReader) -> Iterator[DictionaryObject]:
    for page in pdf.pages:
        for reference in page.get("/Annots") or []:
            annotation = reference.get_object()
            if annotation["/Subtype"] == "/Link":
                yield annotation


def names(pdf: PdfReader) -> set[str]:
    """The places that a link can name, as a link names them."""
    return {f"/{name.removeprefix('/')}" for name in pdf.named_destinations}


def read(file: Path) -> PdfReader:
    # Strict would stop at a count in Chromium's trailer that no reader minds.
    return PdfReader(file)


@pytest.fixture(scope="module")
def pdf(tmp_path_factory: pytest.TempPathFactory) -> PdfReader:
    if not (HTML / "index.html").is_file():
        pytest.fail("there is no _build/html/index.html: run 'make book' first", pytrace=False)
    file = tmp_path_factory.mktemp("pdf") / "book.pdf"
    command = [sys.executable, str(ROOT / "tools" / "pdf.py"), "--output", str(file), *PAGES]
    done = subprocess.run(command, capture_output=True, text=True)
    if "There is no Chromium" in done.stderr:
        report_no_browser()
    assert done.returncode == 0, done.stderr
    return read(file)


@pytest.fixture(scope="module")
def whole() -> PdfReader:
    file = ROOT / "_build" / "one-sampler.pdf"
    newest = HTML / "index.html"
    if not file.is_file() or file.stat().st_mtime < newest.stat().st_mtime:
        pytest.skip("there is no PDF of the whole book: 'make pdf' prints it")
    return read(file)


@pytest.mark.browser
def test_the_outline_holds_every_heading_of_the_pages(pdf: PdfReader) -> None:
    expected = [heading for name in PAGES for heading in headings(name)]
    plain = [title for title in expected if "\\" not in title]  # a formula reads another way
    assert len(plain) > 10
    found = list(titles(pdf.outline))
    assert found[0] == "Contents"
    assert len(found) == 1 + len(expected)
    assert set(plain) <= set(found)


@pytest.mark.browser
def test_every_link_within_the_pdf_leads_to_a_page_of_it(pdf: PdfReader) -> None:
    inside = [link["/Dest"] for link in links(pdf) if "/Dest" in link]
    assert len(inside) > 5
    assert {str(name) for name in inside if isinstance(name, str)} - names(pdf) == set()


@pytest.mark.browser
def test_no_link_of_the_pdf_leads_to_a_file_of_the_disk(pdf: PdfReader) -> None:
    outside = [link["/A"]["/URI"] for link in links(pdf) if "/A" in link]
    assert [address for address in outside if not address.startswith("https://")] == []


@pytest.mark.browser
def test_the_pdf_has_the_pictures_of_the_pages(pdf: PdfReader) -> None:
    pictures = 1  # on the title page
    for name in PAGES:
        soup = BeautifulSoup((HTML / f"{name}.html").read_text("utf-8"), "html.parser")
        pictures += len(soup.select("article img"))
    assert pictures > 5
    assert sum(len(page.images) for page in pdf.pages) >= pictures


@pytest.mark.browser
def test_the_pdf_is_on_a4_with_the_solutions_open_and_no_buttons(pdf: PdfReader) -> None:
    for page in pdf.pages:
        size = (float(page.mediabox.width) / POINTS, float(page.mediabox.height) / POINTS)
        assert size == pytest.approx((210, 297), abs=0.3)
    text = "\n".join(page.extract_text() for page in pdf.pages)
    assert "Solution to" in text
    assert "The fraction is" in text  # in a solution that the page folds
    for button in ("Show code cell source", "Toggle", "Copy"):
        assert button not in text


def test_the_whole_book_is_in_its_pdf(whole: PdfReader) -> None:
    assert len(whole.pages) > 100
    found = set(titles(whole.outline))
    assert {headings(name)[0] for name in names_in_toc()} - found == set()
    inside = {str(link["/Dest"]) for link in links(whole) if isinstance(link.get("/Dest"), str)}
    assert len(inside) > 100
    assert inside - names(whole) == set()
