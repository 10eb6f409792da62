"""Times the live figure of the built landing page in Chromium: python benchmarks/page.py

Moves one control at a time, 2,000 particles and 20 steps unless the control says otherwise, and
prints milliseconds: the work of a frame (running the sampler, drawing) and the wait from the input
event to the drawn frame, which includes the wait for the next frame. Quote them with the machine.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PAGE = Path(__file__).parents[1] / "_build" / "html" / "intro.html"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MOVES = {
    "eta": [0.3 + 0.02 * i for i in range(60)],
    "s_noise": [0.7 + 0.01 * i for i in range(60)],
    "Seed": [100 + i for i in range(20)],
    "Steps": [21 + i for i in range(20)],
}
SCRIPT = """async ([label, values]) => {
    const input = [...document.querySelectorAll('#live-explorer input')]
        .find(input => input.labels[0].textContent.startsWith(label));
    const figure = document.querySelector('#live-explorer .live-figure, #live-explorer').figure
        ?? [...document.querySelectorAll('*')].find(element => element.figure).figure;
    const frame = () => new Promise(requestAnimationFrame);
    const work = [], wait = [];
    for (const value of values) {
        await frame();
        const before = figure.frames, began = performance.now();
        input.value = value;
        input.dispatchEvent(new Event('input', {bubbles: true}));
        input.dispatchEvent(new Event('change', {bubbles: true}));
        for (let i = 0; figure.frames === before && i < 300; i++) await frame();
        wait.push(performance.now() - began);
        work.push(figure.timing.run + figure.timing.draw);
    }
    return [work.slice(5), wait.slice(5)];
}"""


def quantiles(values: list[float]) -> str:
    ordered = sorted(values)
    return "  ".join(f"{ordered[int(q * (len(ordered) - 1))]:7.1f}" for q in (0.0, 0.5, 0.95))


def main() -> None:
    if not PAGE.exists():
        sys.exit("The book is not built: run make book first.")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        sys.exit("No Chromium found; CHROMIUM=/path/to/it names one.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{PAGE.as_uri()}#live-explorer?particles=2000&steps=20")
        page.wait_for_selector("#live-explorer input")
        page.wait_for_timeout(2000)
        print(f"Chromium {browser.version}, {platform.machine()}, {os.cpu_count()} cores")
        print(f"{'moved':8}  {'work: least, median, p95':27}  input to drawn: least, median, p95")
        for label, values in MOVES.items():
            work, wait = page.evaluate(SCRIPT, [label, values])
            print(f"{label:8}  {quantiles(work)}  {quantiles(wait):>34}")
        browser.close()


if __name__ == "__main__":
    main()
