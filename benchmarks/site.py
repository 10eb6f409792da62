"""Measures the built book with Lighthouse, on a phone and on a desktop: python benchmarks/site.py

It needs Node (for npx), a Chromium and a built book, and asks the npm registry for Lighthouse.
Pages may be named: python benchmarks/site.py intro.html chapters/one-step.html. Each page is opened
for the first time, from a server that compresses as hosts do. Lighthouse simulates a slow 4G line
and a phone's processor for "mobile", and a fast line for "desktop"; both from what this machine
measured, so do it while the machine does nothing else. The results go to
benchmarks/results/site.json, or to the file that --out names; --html names another folder of pages.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import cache
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LIGHTHOUSE = "12.8.2"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-quic --disable-background-networking"
CATEGORIES = ("performance", "accessibility", "best-practices", "seo")
COMPRESSED = {".html", ".css", ".js", ".svg", ".json", ".txt", ".xml"}


@cache
def compressed(path: Path, changed: float) -> bytes:
    return gzip.compress(path.read_bytes(), 9)


class Host(SimpleHTTPRequestHandler):
    """Serves files as a host of static pages does."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.suffix not in COMPRESSED or not path.is_file():
            return super().do_GET()
        body = compressed(path, path.stat().st_mtime)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(path) + "; charset=utf-8")
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "max-age=31536000")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def lighthouse(address: str, preset: str, chromium: str) -> dict[str, Any]:
    """What Lighthouse found on one page."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        command = [
            *("npx", "--yes", f"lighthouse@{LIGHTHOUSE}", address, "--quiet"),
            *("--output=json", f"--output-path={out}", f"--chrome-flags={FLAGS}"),
            *(["--preset=desktop"] if preset == "desktop" else []),
        ]
        environment = {**os.environ, "CHROME_PATH": chromium}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        return dict(json.loads(out.read_text(encoding="utf-8")))


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """Scores from 0 to 100, bytes over the line, seconds, and the names of what failed."""
    audits, categories = report["audits"], report["categories"]
    failed = {
        entry["id"]
        for name in CATEGORIES[1:]
        for entry in categories[name]["auditRefs"]
        if entry["weight"] and audits[entry["id"]]["score"] not in (1, None)
    }
    return {
        **{name: round(100 * categories[name]["score"]) for name in CATEGORIES},
        "bytes": round(audits["total-byte-weight"]["numericValue"]),
        "first_paint_s": round(audits["first-contentful-paint"]["numericValue"] / 1000, 2),
        "largest_paint_s": round(audits["largest-contentful-paint"]["numericValue"] / 1000, 2),
        "blocked_ms": round(audits["total-blocking-time"]["numericValue"]),
        "layout_shift": round(audits["cumulative-layout-shift"]["numericValue"], 3),
        "failed": sorted(failed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pages", nargs="*", help="such as chapters/one-step.html; all if none")
    parser.add_argument("--html", type=Path, default=ROOT / "_build" / "html")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "site.json")
    parser.add_argument("--preset", choices=("mobile", "desktop"), action="append")
    asked = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None or shutil.which("npx") is None:
        sys.exit("This needs npx and a Chromium; CHROMIUM=/path/to/it names one.")
    pages = asked.pages or sorted(
        path.relative_to(asked.html).as_posix()
        for path in asked.html.rglob("*.html")
        if "_static" not in path.parts and path.name != "index.html"
    )
    results: dict[str, dict[str, Any]] = {}
    versions: dict[str, str] = {}
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: Host(*args, directory=str(asked.html))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_address[1]}/"
        for page in pages:
            for preset in asked.preset or ("mobile", "desktop"):
                report = lighthouse(base + page, preset, chromium)
                found = results.setdefault(page, {})[preset] = summary(report)
                agent = report["environment"]["hostUserAgent"].split("Chrome/")[-1].split()[0]
                versions = {"lighthouse": report["lighthouseVersion"], "chromium": agent}
                scores = " ".join(f"{found[name]:4}" for name in CATEGORIES)
                print(
                    f"{page:44}{preset:8}{scores}  {found['bytes'] / 1000:6.0f} kB"
                    f"  {found['largest_paint_s']:5.2f} s  {found['blocked_ms']:5} ms"
                    f"  {found['layout_shift']:.3f}  {' '.join(found['failed'])}",
                    flush=True,
                )
        server.shutdown()
    record = {"date": datetime.date.today().isoformat(), **versions, "pages": results}
    asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
