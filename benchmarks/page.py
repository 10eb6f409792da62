"""Weighs and times the live figures in Chromium: python benchmarks/page.py

It builds a page with all of them. First it prints what that page carries, in kB as a host sends it
(gzip -9). Then it moves one control at a time, with and without workers, and prints milliseconds,
median and 95th percentile: what the sampler took, wherever it ran; what drawing took of the main
thread; and the wait from the input event to the end of the drawing, which the browser shows with
the next frame. An input comes at any time of a frame. Quote the figures with the machine.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from playwright.sync_api import Page, sync_playwright

from dpmpp_core.widgets import LiveFigure

ROOT = Path(__file__).parents[1]
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FIGURES = tuple(LiveFigure.__subclasses__())
PAGE = """<!doctype html>
<html lang="en" data-theme="light"><head><meta charset="utf-8"><title>Figures</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="live/widgets.css"><link rel="stylesheet" href="book.css">
<style>body {{ font-family: sans-serif; margin: 1rem auto; max-width: 47rem; }}</style>
{scripts}</head>
<body><main><h1>Figures</h1>{figures}</main></body></html>
"""
ETA = [0.3 + 0.02 * i for i in range(60)]
EXPLORER: dict[str, list[float]] = {
    "eta": ETA,
    "s_noise": [0.7 + 0.01 * i for i in range(60)],
    "Seed": [100 + i for i in range(25)],
    "Steps": [21 + i for i in range(25)],
}
# What is shown, by the fragment of the link to it, and what is moved there.
RUNS = {
    "explorer?steps=20&particles=300": EXPLORER,
    "explorer?steps=20&particles=2000": EXPLORER,
    "compare?a_steps=20&b_steps=20&particles=1000": {"eta": ETA},
    "variance?target=mixture": {"eta": ETA},
    "map?up=steps": {"eta": ETA, "s_noise": EXPLORER["s_noise"], "Spread": ETA},
    "terms?steps=20": {"eta": ETA, "s_noise": EXPLORER["s_noise"]},
    "line?steps=20": {"eta": ETA},
    "line?steps=40": {"eta": ETA, "s_noise": EXPLORER["s_noise"], "Steps": EXPLORER["Steps"]},
    "digits?steps=20&label=3": {"eta": ETA, "Seed": EXPLORER["Seed"], "Steps": EXPLORER["Steps"]},
    "digits?steps=20&w=3": {"eta": ETA, "Guidance": [1.5 + 0.1 * i for i in range(50)]},
}
SCRIPT = """async ([name, label, values]) => {
    const input = [...document.querySelectorAll(`#live-${name} input`)]
        .find(input => input.labels[0].textContent.startsWith(label));
    const figure = document.querySelector(`#live-${name} > .live-root`).figure;
    const frame = () => new Promise(requestAnimationFrame);
    const run = [], draw = [], wait = [];
    for (const value of values) {
        await figure.settled();
        await new Promise(done => setTimeout(done, 20 + 16 * Math.random()));
        const before = figure.frames, began = performance.now();
        input.value = value;
        input.dispatchEvent(new Event('input', {bubbles: true}));
        input.dispatchEvent(new Event('change', {bubbles: true}));
        while (figure.frames === before) await frame();
        wait.push(figure.timing.at - began);
        run.push(figure.timing.run);
        draw.push(figure.timing.draw);
    }
    return [run, draw, wait].map(times => times.slice(5).sort((a, b) => a - b));
}"""


def extension() -> ModuleType:
    """sphinx_ext/live_figures.py, which is no package's."""
    spec = importlib.util.spec_from_file_location(
        "live_figures", ROOT / "sphinx_ext" / "live_figures.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(folder: Path, figures: Sequence[type[LiveFigure]] = FIGURES) -> Path:
    """A page with these figures, as the book's pages carry them."""
    live = extension()
    live.write_files(folder / "live")
    shutil.copyfile(ROOT / "assets" / "book.css", folder / "book.css")
    scripts = live.page_scripts(cls.module for cls in figures)
    page = PAGE.format(
        scripts="\n".join(f'<script defer src="live/{name}"></script>' for name in scripts),
        figures="".join(cls().page_html() for cls in figures),
    )
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    return path


def weights(page: Path, figures: Sequence[type[LiveFigure]] = FIGURES) -> dict[str, int]:
    """Compressed bytes of each part that the page carries for its figures, by name."""
    html = page.read_text(encoding="utf-8")
    names = re.findall(r'(?:src|href)="(live/[\w.]+)"', html)
    parts = {name: (page.parent / name).read_bytes() for name in names}
    inside = re.findall(r'<div class="live-figure".*?</div>', html, re.DOTALL)
    for cls, part in zip(figures, inside, strict=True):
        parts[f"{cls.module} in the page"] = part.encode()
    return {name: len(gzip.compress(part, 9)) for name, part in parts.items()}


def quantiles(values: list[float]) -> str:
    return "".join(f"{values[int(q * (len(values) - 1))]:7.1f}" for q in (0.5, 0.95))


def measure(page: Page, fragment: str, moves: dict[str, list[float]]) -> None:
    name, _, settings = fragment.partition("?")
    page.wait_for_selector(f"#live-{name}.live")
    page.locator(f"#live-{name}").scroll_into_view_if_needed()
    page.wait_for_timeout(1000)
    for label, values in moves.items():
        times = page.evaluate(SCRIPT, [name, label, values])
        print(f"{name:9}{settings:38}{label:8}", *map(quantiles, times))


def main() -> None:
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        sys.exit("No Chromium found; CHROMIUM=/path/to/it names one.")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = build(Path(folder))
        parts = weights(path)
        for part, size in sorted(parts.items(), key=lambda item: -item[1]):
            print(f"{size / 1000:6.1f} kB  {part}")
        print(f"{sum(parts.values()) / 1000:6.1f} kB  in all, compressed\n")

        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        print(f"Chromium {browser.version}, {platform.machine()}, {os.cpu_count()} cores")
        for where in ("workers", "the main thread"):
            print(f"\n{f'in {where}':55}   sampler         drawing         input to drawn")
            for fragment, moves in RUNS.items():
                page = browser.new_page(viewport={"width": 1280, "height": 900})
                if where != "workers":
                    page.add_init_script("delete globalThis.Worker")
                page.goto(f"{path.as_uri()}#live-{fragment}")
                measure(page, fragment, moves)
                page.close()
        browser.close()


if __name__ == "__main__":
    main()
