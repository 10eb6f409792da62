"""A headless Chromium for the tests: the page's JavaScript alone, or a page of live figures."""

from __future__ import annotations

import base64
import functools
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import scripts
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from dpmpp_core.widgets import LiveFigure

ROOT = Path(__file__).resolve().parents[1]
WIDGETS = ROOT / "dpmpp_core" / "widgets"
NO_BROWSER = "no Chromium found: the browser tests did not run"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Whatever a page asks of another host fails here, and is noted by the tests.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
LOAD = """
async ([sources, script, argument]) => {
    const modules = {};
    for (const [name, source] of Object.entries(sources)) {
        const url = URL.createObjectURL(new Blob([source], {type: "text/javascript"}));
        modules[name] = await import(url);
    }
    return await (0, eval)(script)(modules, argument);
}
"""


def run_js(script: str, argument: Any = None, sources: dict[str, str] | None = None) -> Any:
    """What the function ``(modules, argument) => ...`` returns in a fresh page.

    ``modules`` holds the exports of each of ``sources``, the texts of ES modules without relative
    imports (``philox`` and ``bridge`` if None), imported from a Blob as the built page does it.
    Playwright runs in a thread of its own, so that it does not meet another one that a fixture
    keeps open.
    """
    if sources is None:
        names = ("philox", "bridge")
        sources = {name: (WIDGETS / f"{name}.js").read_text(encoding="utf-8") for name in names}
    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(_run, [sources, script, argument]).result()
    if result is None:
        report_no_browser()
    return result["value"]


def launch(playwright: Playwright) -> Browser | None:
    """The Chromium that CHROMIUM names, or the system's, or Playwright's own; None without one."""
    paths = [shutil.which(name) for name in (os.environ.get("CHROMIUM", ""), *NAMES) if name]
    paths.append(playwright.chromium.executable_path)
    path = next((path for path in paths if path and Path(path).is_file()), None)
    if path is None:
        return None
    return playwright.chromium.launch(executable_path=path, args=list(FLAGS))


def report_no_browser() -> None:
    """Say that the browser tests did not run; in CI they must."""
    if os.environ.get("CI") == "true":
        pytest.fail(NO_BROWSER, pytrace=False)
    pytest.skip(NO_BROWSER)


def _run(argument: list[Any]) -> dict[str, Any] | None:
    with sync_playwright() as playwright:
        chromium = launch(playwright)
        if chromium is None:
            return None
        try:
            return {"value": chromium.new_page().evaluate(LOAD, argument)}
        finally:
            chromium.close()


# --- pages of live figures; their fixtures are in conftest.py

# Playwright's objects belong to the thread that made them, and those of test_book.py live in the
# main one. So whatever touches the browser in a test of a figure runs in this thread.
THREAD = ThreadPoolExecutor(1)

Test = Callable[..., None]
Open = Callable[..., Page]


def in_browser(test: Test) -> Test:
    """Marks a test, and runs it in the browser's thread."""

    @pytest.mark.browser
    @functools.wraps(test)
    def submit(*values: Any, **fixtures: Any) -> None:
        THREAD.submit(test, *values, **fixtures).result()

    return submit


PAGE = """<!doctype html>
<html lang="en" data-theme="light"><head><meta charset="utf-8"><title>Figures</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<link rel="stylesheet" href="live/widgets.css"><link rel="stylesheet" href="book.css">
<style>
  html {{ --pst-color-background: #ffffff; --pst-color-text-base: #222832;
         --pst-color-text-muted: #48566b; --pst-color-surface: #f3f4f5;
         --pst-color-border: #c9ccd1; }}
  html[data-theme="dark"] {{ --pst-color-background: #14181e; --pst-color-text-base: #ced6dd;
         --pst-color-text-muted: #9ca4af; --pst-color-surface: #29313d;
         --pst-color-border: #48566b; --pst-color-link: #7fb5ff; }}
  body {{ background: var(--pst-color-background); color: var(--pst-color-text-base);
         font-family: sans-serif; margin: 1rem auto; max-width: 700px; padding: 0 0.9rem; }}
</style>
{scripts}</head>
<body><main><h1>Figures</h1>{first}<div style="height: 4000px"></div>{second}</main></body></html>
"""


def write_page(folder: Path, first: LiveFigure, second: LiveFigure) -> Path:
    """Two figures far apart on a page as the Sphinx extension makes it; returns the folder."""
    extension = scripts.load("sphinx_ext/live_figures.py")
    extension.write_files(folder / "live")
    shutil.copyfile(ROOT / "assets" / "book.css", folder / "book.css")
    needed = extension.page_scripts([first.module, second.module])
    page = PAGE.format(
        scripts="\n".join(f'<script defer src="live/{name}"></script>' for name in needed),
        first=first.page_html(),
        second=second.page_html(),
    )
    (folder / "page.html").write_text(page, encoding="utf-8")
    return folder


def settle(page: Page) -> None:
    """Wait until every figure in sight has drawn what its settings ask for."""
    page.evaluate(
        "() => Promise.all([...document.querySelectorAll('.live-root')]"
        ".map(root => root.figure.settled()))"
    )


KERNEL = """
async ([state, esm]) => {
    const listeners = {}, sent = [];
    const bytes = text => new DataView(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
    state.result = null;
    const model = {
        get: name => state[name],
        set(name, value) { state[name] = value; listeners["change:" + name]?.(); },
        on(event, listener) { listeners[event] = listener; },
        off() {}, save_changes() {}, send: message => sent.push(message),
    };
    const url = URL.createObjectURL(new Blob([esm], { type: "text/javascript" }));
    const el = document.querySelector("main").insertBefore(
        document.createElement("div"), document.querySelector("h1"));
    el.id = "kernel";
    window.kernel = { model, sent, show(settings, result) {
        for (const [name, value] of Object.entries(settings)) model.set(name, value);
        model.set("result", Object.fromEntries(Object.entries(result).map(
            ([name, value]) => [name, value?.$bytes ? bytes(value.$bytes) : value])));
    } };
    await (await import(url)).default.render({ model, el });
}
"""


def with_kernel(page: Page, figure: LiveFigure) -> None:
    """Put the figure above all, as JupyterLab runs it, with a stand-in for the kernel's model."""
    page.evaluate(KERNEL, [figure.page_state(), figure._esm])
    kernel_shows(page, figure)


def kernel_shows(page: Page, figure: LiveFigure) -> None:
    """Send that figure what Python computes for the settings of this one."""
    figure._handle_custom_msg("shown", [])
    result = {
        name: {"$bytes": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
        for name, value in figure.result.items()
    }
    settings = {name: value for name, value in figure.page_state().items() if name != "offers"}
    page.evaluate("([settings, result]) => kernel.show(settings, result)", [settings, result])
    settle(page)
