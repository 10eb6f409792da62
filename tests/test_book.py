"""The built book, as a reader meets it: in a browser, over http and straight from the disk.

`make test` builds the book first. The browser tests need a Chromium of the system (or the one that
Playwright can install, or the path in the variable CHROMIUM); without one they are skipped and say
so, and with CI=true they fail.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import nbformat
import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from browser import launch, report_no_browser
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

import dpmpp_core

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
PHONE_WIDTH = 390
# Code, formulas, the contents of the book and of the page, the page's head.
BULK = (".highlight", "mjx-container")
ALIKE = (*BULK, ".bd-sidebar-primary", ".bd-sidebar-secondary", "header")


# --- the book, its pages, a server and a browser


@pytest.fixture(scope="session")
def book() -> Path:
    if not (HTML / "index.html").is_file():
        pytest.fail("there is no _build/html/index.html: run 'make book' first", pytrace=False)
    return HTML


@pytest.fixture(scope="session")
def pages(book: Path) -> list[str]:
    """Every page but index.html, which only leads on to the first one."""
    found = sorted(
        path.relative_to(book).as_posix()
        for path in book.rglob("*.html")
        if "_static" not in path.parts and path.name != "index.html"
    )
    assert "intro.html" in found
    return found


@pytest.fixture(scope="session")
def few_listings(book: Path, pages: list[str]) -> list[str]:
    """The pages, but of the listings only the shortest: a test below says that they are alike."""
    listings = [name for name in pages if name.startswith("source/")]
    shortest = min(listings, key=lambda name: (book / name).stat().st_size)
    return [shortest, *(name for name in pages if name not in listings)]


@pytest.fixture(scope="session")
def soups(book: Path, pages: list[str]) -> dict[str, BeautifulSoup]:
    return {
        name: BeautifulSoup((book / name).read_text(encoding="utf-8"), "html.parser")
        for name in pages
    }


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def address(book: Path) -> Iterator[str]:
    handler = partial(QuietHandler, directory=str(book))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = launch(playwright)
        if chromium is None:
            report_no_browser()
        yield chromium
        chromium.close()


def settle(page: Page) -> None:
    """Wait for the fonts."""
    page.evaluate("async () => { await document.fonts.ready }")


@dataclass(frozen=True)
class Visit:
    url: str
    foreign: list[str]
    errors: list[str]
    formulas: int
    set_formulas: int
    undrawn: list[str]
    width_on_a_phone: int
    out_of_reach: list[str]
    search_fields: int


def visit(browser: Browser, base: str, name: str) -> Visit:
    foreign: list[str] = []
    errors: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()

    def note_request(request: Request) -> None:
        if not request.url.startswith((base, "data:", "blob:")):
            foreign.append(request.url)

    def note_message(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(f"console: {message.text}")

    page.on("request", note_request)
    page.on("console", note_message)
    page.on("pageerror", lambda error: errors.append(f"page: {error}"))
    page.on("requestfailed", lambda request: errors.append(f"failed: {request.url}"))
    page.goto(base + name)
    settle(page)
    search_fields = page.evaluate(
        """() => [...document.querySelectorAll('.search-button__button, form.bd-search')]
                 .filter(element => element.checkVisibility()).length"""
    )
    formulas = page.locator("article .math").count()
    # A screen reader reads the MathML; the eye sees what a rule draws, in MathJax's font.
    set_formulas = page.locator("article .math > mjx-container > mjx-assistive-mml > math").count()
    undrawn = page.locator("mjx-merror, mjx-c").evaluate_all(
        """nodes => [...new Set(nodes.filter(node => node.tagName === "MJX-MERROR"
                || getComputedStyle(node, "::before").content === "none"
                || !getComputedStyle(node, "::before").fontFamily.includes("MJX"))
            .map(node => node.className || node.tagName))]"""
    )
    # Every section has been in sight on the wide screen, and most are out of it on the narrow one.
    page.add_style_tag(content="section { content-visibility: visible !important }").evaluate(
        """async style => {
            await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
            style.remove();
        }"""
    )
    page.set_viewport_size({"width": PHONE_WIDTH, "height": 800})
    width = page.evaluate("() => document.documentElement.scrollWidth")
    out_of_reach = page.evaluate(
        """async () => {
            await new Promise(done => requestAnimationFrame(() => setTimeout(done, 100)));
            return [...document.querySelectorAll('article *')].filter(box =>
                box.scrollWidth > box.clientWidth + 1 && box.tabIndex < 0 && box.checkVisibility()
                && /auto|scroll/.test(getComputedStyle(box).overflowX)
                && !box.querySelector('a[href], button, input, select, [tabindex="0"]'),
            ).map(box => `${box.tagName} ${box.className}`);
        }"""
    )
    context.close()
    return Visit(
        url=base + name,
        foreign=foreign,
        errors=errors,
        formulas=formulas,
        set_formulas=set_formulas,
        undrawn=undrawn,
        width_on_a_phone=width,
        out_of_reach=out_of_reach,
        search_fields=search_fields,
    )


@pytest.fixture(scope="session", params=["http", "file"])
def visits(
    request: pytest.FixtureRequest,
    browser: Browser,
    book: Path,
    address: str,
    few_listings: list[str],
) -> list[Visit]:
    """One look at every page; the tests below read what was seen."""
    base = address if request.param == "http" else book.as_uri() + "/"
    return [visit(browser, base, name) for name in few_listings]


# --- in the browser


@pytest.mark.browser
def test_no_page_asks_another_host_for_anything(visits: list[Visit]) -> None:
    assert {v.url: v.foreign for v in visits if v.foreign} == {}


@pytest.mark.browser
def test_no_page_reports_an_error(visits: list[Visit]) -> None:
    assert {v.url: v.errors for v in visits if v.errors} == {}


@pytest.mark.browser
def test_no_page_scrolls_sideways_on_a_phone(visits: list[Visit]) -> None:
    too_wide = {v.url: v.width_on_a_phone for v in visits if v.width_on_a_phone > PHONE_WIDTH}
    assert too_wide == {}


@pytest.mark.browser
def test_what_scrolls_on_a_phone_scrolls_by_keyboard_too(visits: list[Visit]) -> None:
    assert {v.url: v.out_of_reach for v in visits if v.out_of_reach} == {}


@pytest.mark.browser
def test_every_formula_is_set_and_every_character_of_it_drawn(visits: list[Visit]) -> None:
    assert any(v.formulas for v in visits), "no page has a formula: is '.math' still the class?"
    unset = {v.url: (v.formulas, v.set_formulas) for v in visits if v.set_formulas < v.formulas}
    assert unset == {}
    assert {v.url: v.undrawn for v in visits if v.undrawn} == {}


@pytest.mark.browser
def test_every_page_shows_one_way_to_search(visits: list[Visit]) -> None:
    assert {v.url: v.search_fields for v in visits if v.search_fields != 1} == {}


@pytest.mark.browser
def test_the_first_page_opens_from_index_html(browser: Browser, book: Path) -> None:
    page = browser.new_page()
    page.goto((book / "index.html").as_uri())
    page.wait_for_url("**/intro.html")
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["http", "file"])
def test_the_search_finds_the_chapter_that_has_the_word(
    browser: Browser, book: Path, address: str, scheme: str
) -> None:
    base = address if scheme == "http" else book.as_uri() + "/"
    page = browser.new_page()
    page.goto(base + "search.html?q=changelog")
    page.locator("#search-results a[href*='chapters/changelog.html']").first.wait_for()
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_mend(
    browser: Browser, address: str, few_listings: list[str], scheme: str
) -> None:
    axe = Path(AXE_FILE_PATH).read_text(encoding="utf-8")
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    found: dict[str, list[str]] = {}
    for name in few_listings:
        page.goto(address + name)
        settle(page)
        assert page.locator("html").get_attribute("data-theme") == scheme
        # What is folded is read too: open it.
        page.evaluate(
            """() => {
                document.querySelectorAll('details').forEach(element => { element.open = true });
                document.querySelectorAll('.toggle-button.toggle-button-hidden')
                        .forEach(element => element.click());
            }"""
        )
        page.evaluate(axe)
        # What looks alike on every page is read on one, for axe takes minutes for all of it; and of
        # what it looks for, only the contrast differs between the themes. It goes through what it
        # was told to leave out, too: the bulk of that is taken away.
        whole = name == "chapters/one-step.html"
        if not whole:
            page.evaluate(
                """bulk => document.querySelectorAll(bulk)
                    .forEach(element => element.replaceChildren())""",
                ", ".join(BULK),
            )
        context_of = {} if whole else {"exclude": [[part] for part in ALIKE]}
        options: dict[str, object] = {"preload": False, "resultTypes": ["violations"]}
        if scheme == "dark":
            options["runOnly"] = ["color-contrast"]
        violations = page.evaluate(
            """async ([context, options]) => (await axe.run(
                "exclude" in context ? context : document, options,
            )).violations""",
            [context_of, options],
        )
        for violation in violations:
            for node in violation["nodes"]:
                found.setdefault(name, []).append(f"{violation['id']}: {node['html'][:160]}")
    context.close()
    assert found == {}


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_three_terms_are_legible_on_the_page(
    browser: Browser, address: str, scheme: str
) -> None:
    """At least 4.5:1 against the page and against the boxes that stand on it."""
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(address + "intro.html")
    colours = page.evaluate(
        """() => {
            const style = getComputedStyle(document.documentElement);
            const read = name => {
                const probe = document.body.appendChild(document.createElement('span'));
                probe.style.color = style.getPropertyValue(name);
                const numbers = getComputedStyle(probe).color.match(/[0-9.]+/g).map(Number);
                probe.remove();
                return numbers.slice(0, 3);
            };
            return Object.fromEntries([
                '--term-drift-text', '--term-history-text', '--term-noise-text',
                '--pst-color-background', '--pst-color-surface',
            ].map(name => [name, read(name)]));
        }"""
    )
    context.close()
    for term in ("drift", "history", "noise"):
        for ground in ("background", "surface"):
            ratio = contrast(colours[f"--term-{term}-text"], colours[f"--pst-color-{ground}"])
            assert ratio >= 4.5, (term, ground, ratio)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_of_a_live_figure_reaches_the_page(
    browser: Browser, address: str, scheme: str
) -> None:
    """A figure asks for its colours by names that it puts together: no search finds them all."""
    sheet = (ROOT / "dpmpp_core" / "widgets" / "widgets.css").read_text(encoding="utf-8")
    names = sorted(set(re.findall(r"--live-[\w-]+(?=:)", sheet)))
    assert "--live-noise" in names
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(address + "intro.html")
    page.locator(".live-figure.live .live-root").first.wait_for()
    found = page.locator(".live-root").first.evaluate(
        """(root, names) => {
            const style = getComputedStyle(root);
            return Object.fromEntries(names.map(name => [name, style.getPropertyValue(name)]));
        }""",
        names,
    )
    keys = page.locator(".live-root .live-key").evaluate_all(
        """all => all.map(getComputedStyle)
            .map(({borderTopColor, borderTopStyle}) => [borderTopColor, borderTopStyle])"""
    )
    context.close()
    assert [name for name, value in found.items() if not value] == []
    assert len({tuple(key) for key in keys}) == len({colour for colour, _ in keys}) == 3


def contrast(one: list[float], other: list[float]) -> float:
    """The contrast ratio of WCAG 2 between two sRGB colours."""

    def luminance(colour: list[float]) -> float:
        red, green, blue = (
            c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4
            for c in colour
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


# --- in the files


def test_listings_differ_in_their_lines_alone(soups: dict[str, BeautifulSoup]) -> None:
    """What they load, but for what quotes say, such as their names; and the form of the text."""
    forms = {}
    for name, soup in soups.items():
        if not name.startswith("source/"):
            continue
        loaded = tuple(
            (tag.get("src"), tag.get("href"), re.sub(r"'[^']*'|\"[^\"]*\"", "", tag.get_text()))
            for tag in soup.select("script, link[rel=stylesheet]")
        )
        text = {(tag.name, *tag.get("class", [])) for tag in soup.select("article *:not(pre *)")}
        forms[name] = (re.sub(r"(\.\./)+", "", str(loaded)), text)
    assert len(forms) > 20
    first = next(iter(forms.values()))
    assert [name for name, form in forms.items() if form != first] == []


def test_every_link_anchor_and_picture_inside_the_book_is_there(
    book: Path, soups: dict[str, BeautifulSoup]
) -> None:
    anchors = {
        name: {str(tag["id"]) for tag in soup.select("[id]")} for name, soup in soups.items()
    }
    broken = []
    for name, soup in soups.items():
        for tag in soup.select("[href], [src]"):
            target = str(tag.get("href") or tag.get("src"))
            parts = urlsplit(urljoin(name, target))
            if parts.scheme or parts.netloc:
                continue
            path = unquote(parts.path) or name
            anchor = unquote(parts.fragment)
            if not (book / path).is_file() or (
                anchor and path in anchors and anchor not in anchors[path]
            ):
                broken.append(f"{name}: {target}")
    assert broken == []


def test_no_page_loads_a_script_a_style_or_a_picture_by_a_full_address(
    book: Path, pages: list[str]
) -> None:
    loading = re.compile(r"""<(?:script|img|iframe|source|link)\b[^>]*\b(?:src|href)=["']https?:""")
    full = {name: loading.findall((book / name).read_text(encoding="utf-8")) for name in pages}
    assert {name: tags for name, tags in full.items() if tags} == {}


def test_every_page_has_a_title_and_a_description(soups: dict[str, BeautifulSoup]) -> None:
    without = []
    for name, soup in soups.items():
        description = soup.select_one("meta[name=description]")
        if soup.title is None or description is None or not description.get("content"):
            without.append(name)
    assert without == []


def test_every_chapter_with_code_offers_its_executed_notebook(book: Path) -> None:
    sources = [path for path in ROOT.glob("chapters/**/*.md") if "kernelspec:" in path.read_text()]
    assert sources, "no chapter has code: is it still the kernelspec that tells?"
    for source in [*sources, *(p for p in [ROOT / "intro.md"] if "kernelspec:" in p.read_text())]:
        name = source.relative_to(ROOT).with_suffix("").as_posix()
        path = book / "_sources" / f"{name}.ipynb"
        assert path.is_file(), f"{name} has no notebook to download"
        assert f"{source.stem}.ipynb" in (book / f"{name}.html").read_text(encoding="utf-8")
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        # JupyterLab refuses an .ipynb whose metadata pairs it with a text file only.
        assert "formats" not in notebook.metadata.get("jupytext", {})
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        cells = [cell for cell in cells if "install" not in cell.metadata.get("tags", [])]
        assert all(cell.execution_count for cell in cells), f"{name} has a cell that did not run"
        # Jupyter does not know the macros of the book's pages.
        prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        assert re.findall(r"\\(?:drift|history|noise)\{", prose) == []


def test_every_name_that_the_package_exports_stands_on_a_page_of_the_api(
    soups: dict[str, BeautifulSoup],
) -> None:
    found: set[str] = set()
    for soup in (soup for name, soup in soups.items() if name.startswith("chapters/api-")):
        found |= {str(tag["id"]).split(".")[-1] for tag in soup.select("dt[id]")}
    assert set(dpmpp_core.__all__) - found == {"schedule"}  # a module


def test_no_notebook_file_is_kept_beside_the_chapters() -> None:
    kept = [path for folder in ("chapters", "assets") for path in (ROOT / folder).rglob("*.ipynb")]
    assert [path for path in kept if ".ipynb_checkpoints" not in path.parts] == []
