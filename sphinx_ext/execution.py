"""Executes the chapters before Sphinx reads them: side by side, and only what may have changed.

MyST-NB by itself executes one notebook after the other, and its cache notices a change of a
chapter's cells but not of the package that they import. Here the cache is emptied when anything
changed that a cell can see, and what it lacks is executed on all cores. MyST-NB then finds every
notebook in it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution
from myst_nb.core.read import create_nb_reader
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.typing import ExtensionMetadata

SEEN_BY_CELLS = ("dpmpp_core", "benchmarks/results", "requirements.txt")
"""What the cells of a chapter import or read."""

SEEN_BY_PAGES = (*SEEN_BY_CELLS, "sphinx_ext", "assets", "tests", "references.bib", "_toc.yml")
"""What a page can show besides its own text and its outputs, which Sphinx watches."""

LEFT_OUT = {"__pycache__", ".ipynb_checkpoints"}

log = logging.getLogger(__name__)


def fingerprint(root: Path, names: Iterable[str]) -> str:
    """A hash of the content of files and folders, and of the Python that runs them."""
    found = hashlib.sha256(platform.python_version().encode())
    for path in files(root, names):
        found.update(path.relative_to(root).as_posix().encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def files(root: Path, names: Iterable[str]) -> Iterator[Path]:
    for name in names:
        path = root / name
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (p for p in inside if p.is_file() and not LEFT_OUT & set(p.parts))


def mark_outdated(
    app: Sphinx, env: Any, added: set[str], changed: set[str], removed: set[str]
) -> Sequence[str]:
    """Every page is built again when something changed that Sphinx does not watch."""
    now = fingerprint(Path(app.srcdir), SEEN_BY_PAGES)
    before = getattr(env, "one_sampler_seen", None)
    env.one_sampler_seen = now
    return [] if before == now else sorted(env.found_docs)


def execute(app: Sphinx, env: Any, docnames: list[str]) -> None:
    """Execute what the cache lacks of the pages that are about to be read.

    Raises:
        ExtensionError: if a cell fails, with its traceback. What succeeded stays in the cache.
    """
    if app.config.nb_execution_mode != "cache":
        return
    folder = Path(env.mystnb_config.execution_cache_path)
    seen, now = folder / "seen", fingerprint(Path(app.srcdir), SEEN_BY_CELLS)
    if not seen.is_file() or seen.read_text(encoding="utf-8") != now:
        shutil.rmtree(folder, ignore_errors=True)
    cache = get_cache(folder)
    seen.parent.mkdir(parents=True, exist_ok=True)
    seen.write_text(now, encoding="utf-8")

    missing = []
    for name in docnames:
        path = Path(env.doc2path(name))
        text = path.read_text(encoding="utf-8")
        reader = create_nb_reader(str(path), env.myst_config, env.mystnb_config, text)
        if reader is None:
            continue
        notebook = reader.read(text)
        try:
            cache.match_cache_notebook(notebook)
        except KeyError:
            missing.append((name, path, notebook))

    if not missing:
        return
    failed = []
    # The longest first, by their length: the last to end has then little left to do alone.
    missing.sort(key=lambda job: -job[1].stat().st_size)
    timeout = app.config.nb_execution_timeout
    # Each notebook's client has a process: in threads it leaves sockets and event loops behind.
    workers = min(os.cpu_count() or 1, len(missing))
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        runs = [
            pool.submit(single_nb_execution, notebook, str(path.parent), timeout, False)
            for _, path, notebook in missing
        ]
        for (name, path, _), run in zip(missing, runs, strict=True):
            done = run.result()
            if done.exc_string is None:
                bundle = CacheBundleIn(done.nb, str(path))
                cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
                log.info("executed %s in %.0f s", name, done.time)
            else:
                failed.append(f"{name}: {done.exc_string}")
    if failed:
        raise ExtensionError("A cell failed.\n" + "\n".join(failed))


def setup(app: Sphinx) -> ExtensionMetadata:
    """Connect the functions above."""
    app.connect("env-get-outdated", mark_outdated)
    app.connect("env-before-read-docs", execute)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
