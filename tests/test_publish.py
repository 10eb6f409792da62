"""What the site has besides its pages: sphinx_ext/publish.py, tools/zip_site.py, and the workflows.

A small book is built with the addresses that the workflow gives, and looked at as if it were at its
address. The rest is read from the built book: run 'make book' first.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree
from zipfile import ZipFile

import nbformat
import pytest
import scripts
import yaml
from browser import in_browser
from bs4 import BeautifulSoup
from nbclient import NotebookClient
from PIL import Image
from playwright.sync_api import Browser, Page, Route

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
URL = "https://book.example/one-sampler/"
REPOSITORY = "https://github.com/somebody/one-sampler"
PAGE = r"""---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  name: python3
---

# A small book

It has one page, which adds $\drift{1}$ and 1. (And [another](notes/other.md).) Its second sentence
is here.

```{code-cell} ipython3
1 + 1
```
"""


@pytest.fixture(scope="module")
def publish() -> object:
    return scripts.load("sphinx_ext/publish.py")


@pytest.fixture(scope="module")
def book() -> Path:
    if not (HTML / "index.html").is_file():
        pytest.fail("there is no _build/html/index.html: run 'make book' first", pytrace=False)
    return HTML


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of a small book, built as the workflow builds the book."""
    folder = tmp_path_factory.mktemp("small")
    for name in ("_config.yml", "assets", "dpmpp_core", "references.bib", "sphinx_ext"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "intro.md").write_text(PAGE, encoding="utf-8")
    (folder / "notes").mkdir()
    (folder / "notes" / "other.md").write_text("# Other & <more>\n\nThe word is zebra.\n")
    toc = "format: jb-book\nroot: intro\nchapters:\n- file: notes/other\n"
    (folder / "_toc.yml").write_text(toc)
    environment = os.environ | {
        "BOOK_URL": URL.rstrip("/"),
        "BOOK_REPOSITORY": f"{REPOSITORY}.git",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [Path(sys.executable).with_name("jupyter-book"), "build", "-W", "-n", "--keep-going", "."],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "_build" / "html"


def soup(file: Path) -> BeautifulSoup:
    return BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")


def meta(file: Path, name: str) -> str | None:
    head = file.read_text(encoding="utf-8").split("</head>")[0]
    tag = BeautifulSoup(head, "html.parser").select_one(
        f'meta[name="{name}"], meta[property="{name}"]'
    )
    return None if tag is None else str(tag["content"])


# --- with addresses


def test_the_map_of_the_site_lists_its_pages_and_robots_are_told_of_it(small: Path) -> None:
    tree = ElementTree.parse(small / "sitemap.xml")
    space = {"s": "http://www.sitemaps.org/schemas/sitemap/0.9"}
    found = [loc.text for loc in tree.iterfind("s:url/s:loc", space)]
    assert found == [f"{URL}intro.html", f"{URL}notes/other.html"]
    assert f"Sitemap: {URL}sitemap.xml" in (small / "robots.txt").read_text().splitlines()


def test_each_page_names_its_own_address(small: Path) -> None:
    for name in ("intro.html", "notes/other.html"):
        (link,) = soup(small / name).select("link[rel=canonical]")
        assert link["href"] == meta(small / name, "og:url") == URL + name
    assert soup(small / "404.html").select("link[rel=canonical]") == []


def test_a_link_preview_has_a_picture_and_a_sentence(small: Path) -> None:
    for name in ("intro.html", "notes/other.html", "index.html"):
        page = small / name
        address = meta(page, "og:image")
        assert address is not None
        assert address.startswith(URL)
        with Image.open(small / address.removeprefix(URL)) as card:
            assert card.size == (1200, 630)
            assert card.convert("L").resize((1, 1)).getpixel((0, 0)) > 200  # light
        assert (meta(page, "og:image:width"), meta(page, "og:image:height")) == ("1200", "630")
        assert meta(page, "twitter:card") == "summary_large_image"
        assert "eta 0, 0.1 and 1" in str(meta(page, "og:image:alt"))
        assert meta(page, "description") == meta(page, "og:description")
    sentences = "It has one page, which adds 1 and 1. (And another.) Its second sentence is here."
    assert meta(small / "intro.html", "description") == sentences


def test_each_page_leads_to_its_source_and_its_notebook_to_colab_and_binder(small: Path) -> None:
    found = {str(link["href"]) for link in soup(small / "intro.html").select("a[href]")}
    assert found >= {
        REPOSITORY,
        f"{REPOSITORY}/blob/main/intro.md?plain=1",
        f"{REPOSITORY}/edit/main/intro.md",
        "https://colab.research.google.com/github/somebody/one-sampler/blob/notebooks/intro.ipynb",
        "https://mybinder.org/v2/gh/somebody/one-sampler/notebooks?urlpath=lab/tree/intro.ipynb",
    }
    assert found >= {f"{URL}one-sampler.pdf", f"{URL}one-sampler.zip"}
    other = str(soup(small / "notes" / "other.html"))
    assert f"{REPOSITORY}/edit/main/notes/other.md" in other
    assert "colab" not in other  # it has no code


def test_a_notebook_begins_with_the_package_that_it_imports(small: Path) -> None:
    notebook = nbformat.read(small / "_sources" / "intro.ipynb", as_version=4)
    nbformat.validate(notebook)
    first = notebook.cells[0]
    assert first.cell_type == "code"
    assert f'%pip install -q "dpmpp-core[book] @ git+{REPOSITORY}@main"' in first.source
    assert "\nbook = [" in (ROOT / "pyproject.toml").read_text()


@in_browser
def test_the_page_for_404_works_at_any_depth(chromium: Browser, small: Path) -> None:
    wrong: list[str] = []

    def answer(route: Route) -> None:
        path = urlsplit(route.request.url).path.removeprefix(urlsplit(URL).path)
        if not route.request.url.startswith(URL):
            wrong.append(route.request.url)
            route.abort()
        elif (small / path).is_file():
            route.fulfill(path=small / path)
        else:
            if route.request.resource_type != "document":
                wrong.append(route.request.url)
            route.fulfill(status=404, path=small / "404.html")

    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.route("**/*", answer)
    page = context.new_page()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(f"{URL}was/never/here.html")
    assert page.locator("article h1").inner_text() == "This page is not there"
    page.locator("article").get_by_role("link", name="Other & <more>").click()
    page.wait_for_url(f"{URL}notes/other.html")
    page.goto(f"{URL}was/never/here.html")
    page.locator("article").get_by_role("link", name="Search the book").click()
    page.wait_for_url(f"{URL}search.html")
    page.goto(f"{URL}search.html?q=zebra")
    page.locator("#search-results a[href*='notes/other.html']").first.wait_for()
    context.close()
    assert wrong == []


# --- without addresses


def test_without_an_address_nothing_pretends_to_have_one(book: Path) -> None:
    if os.environ.get("BOOK_URL"):
        pytest.skip("this book has an address")
    for name in ("sitemap.xml", "robots.txt"):
        assert not (book / name).exists()
    for name in ("intro.html", "404.html", "index.html"):
        text = (book / name).read_text(encoding="utf-8")
        for word in ("og:image", "og:url", "canonical", "/one-sampler.pdf", "mybinder.org"):
            assert word not in text, (name, word)
    notebook = nbformat.read(book / "_sources" / "intro.ipynb", as_version=4)
    assert notebook.cells[0].cell_type == "markdown"
    assert "pip install" in notebook.cells[0].source


def test_a_description_is_whole_sentences_without_markup(book: Path) -> None:
    seen = {}
    pages = [
        *sorted((book / "chapters").glob("*.html")),
        *map(book.joinpath, ("intro.html", "search.html")),
    ]
    for file in pages:
        description = str(meta(file, "description"))
        assert re.fullmatch(r"[A-Z].{30,}[.?!)]", description), (file.name, description)
        assert not re.search(r"[\\{}$\[\]]|\.\.\.|…", description), (file.name, description)
        assert seen.setdefault(description, file.name) == file.name


def test_the_first_page_has_a_title_and_leads_on(book: Path) -> None:
    first = soup(book / "index.html")
    assert first.title is not None
    assert first.select_one("meta[http-equiv=refresh]")["content"] == "0; url=intro.html"
    assert first.select_one("a")["href"] == "intro.html"


@pytest.mark.parametrize("name", ["intro", "chapters/one-step", "chapters/kernel"])
def test_a_downloaded_notebook_runs_in_an_empty_folder(
    book: Path, tmp_path: Path, name: str
) -> None:
    notebook = nbformat.read(book / "_sources" / f"{name}.ipynb", as_version=4)
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    with ThreadPoolExecutor(1) as thread:  # another test's browser may have a loop in this one
        thread.submit(asyncio.run, client.async_execute()).result()
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source]
    assert all(cell.execution_count for cell in code)


# --- search

QUERIES = {
    "lambda": {"symbols", "api-mesh"},
    "half log-SNR": {"symbols", "api-mesh"},
    "A_k": {"symbols", "api-sampler"},
    "s_noise": {"symbols", "api-sampler"},
    "step_table": {"symbols", "api-mesh"},
    "eta": {"symbols", "api-mesh"},
    "solver_type": {"symbols", "api-sampler"},
}


@in_browser
def test_the_search_finds_a_symbol_by_its_name(chromium: Browser, book: Path) -> None:
    """From the disk, where less is allowed than over http; test_book.py searches over both."""
    page = chromium.new_page()
    for query, wanted in QUERIES.items():
        page.goto(f"{book.as_uri()}/search.html?q={quote(query)}")
        for name in wanted:
            link = page.locator(f"#search-results a[href*='chapters/{name}.html']").first
            link.wait_for(state="attached", timeout=15_000)
    page.close()


# --- to take along


@in_browser
def test_the_zip_works_from_a_folder_of_any_name(
    chromium: Browser, book: Path, tmp_path: Path
) -> None:
    file = tmp_path / "one-sampler.zip"
    scripts.load("tools/zip_site.py").pack(book, file)
    folder = tmp_path / "à lire"
    with ZipFile(file) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {"one-sampler"}
        archive.extractall(folder)
    wrong: list[str] = []
    for name in ("intro.html", "chapters/one-step.html"):
        page = chromium.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.on("requestfailed", lambda request: wrong.append(request.url))
        page.goto((folder / "one-sampler" / name).as_uri())
        page.locator(".live-figure").first.scroll_into_view_if_needed()
        page.locator(".live-figure.live canvas, .live-figure.live svg").first.wait_for()
        page.close()
    assert wrong == []


# --- on paper


def shown(page: Page, selector: str) -> int:
    return page.locator(selector).evaluate_all(
        "found => found.filter(element => element.checkVisibility({visibilityProperty: true})"
        " && element.getBoundingClientRect().height > 0).length"
    )


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_printed_page_has_its_text_its_solutions_and_its_pictures_alone(
    chromium: Browser, book: Path, scheme: str
) -> None:
    context = chromium.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto((book / "chapters" / "one-step.html").as_uri())
    page.locator(".live-figure").first.scroll_into_view_if_needed()
    page.locator(".live-figure.live").first.wait_for()
    page.emulate_media(media="print", color_scheme=scheme)
    # A browser tells the page before it prints it.
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    for gone in ("button", "nav", ".headerlink", ".live-root", "details.above-input", "footer"):
        assert shown(page, gone) == 0, gone
    assert shown(page, "h1") == 1
    pictures = page.locator("article .live-figure-picture").count()
    assert pictures > 0
    assert shown(page, "article .live-figure-picture") == pictures
    solutions = page.locator("article .solution").count()
    assert solutions > 1
    assert shown(page, "article .solution > section > p:first-of-type") == solutions
    colour = page.evaluate("() => getComputedStyle(document.querySelector('article p')).color")
    assert max(map(int, re.findall(r"\d+", colour)[:3])) < 100  # dark, for paper is light
    context.close()


# --- what publishes it

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_workflow_calls_what_is_there(file: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for job in yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"].values():
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]), step["uses"]
                continue
            for line in step["run"].splitlines():
                for target in re.findall(r"^\s*make ((?:[a-z][\w-]* ?)+)(?=$|[A-Z])", line):
                    for name in target.split():
                        assert f".PHONY: {name}\n" in makefile, name
                for script in re.findall(r"tools/[\w.]+", line):
                    assert os.access(ROOT / script, os.X_OK), script


def test_binder_installs_what_the_book_pins() -> None:
    folder = ROOT / "binder"
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    (pins,) = [line.removeprefix("-r ") for line in lines if line.startswith("-r ")]
    assert (folder / pins).resolve() == ROOT / "requirements.txt"
    assert (folder / "runtime.txt").read_text() == "python-3.12\n"
    assert os.access(folder / "postBuild", os.X_OK)
