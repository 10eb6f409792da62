"""Shared by the tests: golden numbers, hypothesis without chance, and pages of live figures."""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from browser import THREAD, Open, launch, report_no_browser, settle, write_page
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

if not torch.cuda.is_available():
    # Triton reads it when it is first imported, by whichever test needs something that imports it.
    os.environ["TRITON_INTERPRET"] = "1"

GOLDEN = Path(__file__).parent / "golden"

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


def golden_cases(name: str) -> list[Any]:
    """The cases of a golden file, each with its arrays as tensors."""
    cases = json.loads((GOLDEN / f"{name}.json").read_text())
    arrays = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)
    for case in cases:
        prefix = case["name"] + "/"
        case["arrays"] = {
            key.removeprefix(prefix): torch.from_numpy(arrays[key])
            for key in arrays.files
            if key.startswith(prefix)
        }
    return [pytest.param(case, id=case["name"]) for case in cases]


# --- a page of live figures. The module that asks for it says which: figures_on_the_page()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    def start() -> tuple[Playwright, Browser | None]:
        playwright = sync_playwright().start()
        return playwright, launch(playwright)

    playwright, chromium = THREAD.submit(start).result()
    if chromium is not None:
        yield chromium
        THREAD.submit(chromium.close).result()
    THREAD.submit(playwright.stop).result()
    if chromium is None:
        report_no_browser()


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the page."""
    folder = tmp_path_factory.mktemp("site")
    return write_page(folder, *request.module.figures_on_the_page())


@pytest.fixture(scope="module")
def figures_address(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/page.html"
        server.shutdown()


@pytest.fixture
def visit(chromium: Browser, figures_address: str) -> Iterator[Open]:
    """Opens the page; at the end nothing may have failed, nor gone to another host."""
    wrong: list[str] = []
    contexts = []

    def open_page(
        fragment: str = "", url: str = figures_address, script: str = "", **options: Any
    ) -> Page:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(script)
        base = url.rsplit("/", 1)[0]
        page.on(
            "request",
            lambda r: None if r.url.startswith((base, "data:", "blob:")) else wrong.append(r.url),
        )
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(request.url))
        page.goto(url + fragment)
        if options.get("java_script_enabled", True):
            page.wait_for_function("() => document.querySelector('.live-root')?.figure")
            settle(page)
        return page

    yield open_page
    THREAD.submit(lambda: [context.close() for context in contexts]).result()
    assert wrong == []
