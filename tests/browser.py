"""Runs the page's JavaScript modules in a headless Chromium, without a server or a network."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

WIDGETS = Path(__file__).resolve().parents[1] / "dpmpp_core" / "widgets"
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
