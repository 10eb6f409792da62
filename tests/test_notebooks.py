"""Live figures in notebooks: with a reader there, with nobody there, and without a kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import nbformat
import pytest
from browser import in_browser
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from playwright.sync_api import Browser, Page

VIEW = "application/vnd.jupyter.widget-view+json"
FIGURES = (
    "TrajectoryExplorer(steps=3, particles=9)",
    "SideBySide('steps', particles=9)",
    "VarianceExplorer()",
    "VarianceMap()",
    "TermSizes(particles=100)",
)
OWN = "TrajectoryExplorer(particles=9, denoiser={})"
CELLS = (*FIGURES, OWN.format("lambda x, sigma: 0 * x"), OWN.format("lambda x, sigma: x[:, 0]"))


@pytest.fixture(scope="module")
def notebooks() -> dict[str, nbformat.NotebookNode]:
    """The same cells run by nbclient, and as JupyterLab runs them."""

    async def run() -> dict[str, nbformat.NotebookNode]:
        new = nbformat.v4.new_code_cell
        first = new("from dpmpp_core.widgets import *")
        notebook = nbformat.v4.new_notebook(cells=[first, *map(new, FIGURES), *map(new, CELLS)])
        client = NotebookClient(notebook, timeout=120, kernel_name="python3")
        async with client.async_setup_kernel():
            assert client.kc is not None
            for i, cell in enumerate(notebook.cells):
                # What a request of JupyterLab's says, and one of nbclient's does not: that there
                # is somebody who can answer the cell.
                client.kc.allow_stdin = i > len(FIGURES)
                await client.async_execute_cell(cell, i)
            client.set_widgets_metadata()
        alone, read = notebook.cells[: 1 + len(FIGURES)], notebook.cells[1 + len(FIGURES) :]
        return {
            "nobody": nbformat.v4.new_notebook(cells=alone, metadata=notebook.metadata),
            # JupyterLab does not save the models of widgets, unless it is told to.
            "reader": nbformat.v4.new_notebook(cells=read),
        }

    # In a thread of its own: another test's browser may have a loop under way in this one.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, run()).result()


@contextmanager
def shown(chromium: Browser, html: str) -> Iterator[Page]:
    page = chromium.new_page()
    page.set_content(html)
    yield page
    page.close()


def test_with_nobody_there_a_cell_has_the_picture_and_no_view(
    notebooks: dict[str, nbformat.NotebookNode],
) -> None:
    for cell in notebooks["nobody"].cells[1:]:
        (output,) = cell.outputs
        assert set(output.data) == {"text/html", "image/png", "text/plain"}
        assert 'data-module="' in output.data["text/html"]


def test_with_a_reader_there_a_cell_has_the_view_and_beside_it_the_picture(
    notebooks: dict[str, nbformat.NotebookNode],
) -> None:
    for cell in notebooks["reader"].cells[: len(FIGURES)]:
        view, still = cell.outputs
        assert set(view.data) == {VIEW}
        assert set(still.data) == {"text/html", "image/png", "text/plain"}
        assert f"live-view-{view.data[VIEW]['model_id']}" in still.data["text/html"]


def test_a_denoiser_of_ones_own_leaves_a_picture_that_says_so_or_what_is_wrong_with_it(
    notebooks: dict[str, nbformat.NotebookNode],
) -> None:
    good, bad = notebooks["reader"].cells[len(FIGURES) :]
    html = good.outputs[1].data["text/html"]
    assert "a denoiser of one&#x27;s own" in html
    assert "data-module" not in html
    view, still = bad.outputs
    assert set(view.data) == {VIEW}
    assert "No picture was drawn: model must return a tensor" in still.data["text/html"]
    assert "Traceback" not in str(bad.outputs)


@in_browser
@pytest.mark.parametrize("who", ["nobody", "reader"])
@pytest.mark.parametrize("template", ["lab", "classic", "basic"])
@pytest.mark.filterwarnings("ignore:Your element with mimetype:UserWarning")  # a view alone
def test_nbconvert_shows_the_pictures(
    chromium: Browser, notebooks: dict[str, nbformat.NotebookNode], who: str, template: str
) -> None:
    html, _ = HTMLExporter(template_name=template).from_notebook_node(notebooks[who])
    with shown(chromium, html) as page:
        images = page.locator("img.live-figure-picture")
        assert images.count() == len(FIGURES) + (who == "reader")
        for image in images.all():
            assert image.is_visible()
            assert image.evaluate("image => image.naturalWidth") > 300
        assert page.locator(".jupyter-widgets").count() == 0


LAB = """<div class="jp-OutputArea">
<div class="jp-OutputArea-child">print's words</div>
<div class="jp-OutputArea-child"><div id="view" class="jupyter-widgets">Error displaying widget:
model not found</div></div>
<div class="jp-OutputArea-child">{html}</div></div>"""


@in_browser
def test_jupyterlab_shows_either_the_live_view_or_the_picture(
    chromium: Browser, notebooks: dict[str, nbformat.NotebookNode]
) -> None:
    for cell in notebooks["reader"].cells[: len(FIGURES)]:
        view, still = cell.outputs
        name = f"live-view-{view.data[VIEW]['model_id']}"
        with shown(chromium, LAB.format(html=still.data["text/html"])) as page:
            error, picture = page.locator("#view"), page.locator("img")
            assert not error.is_visible()
            assert picture.is_visible()
            page.evaluate("name => { document.querySelector('#view').className = name }", name)
            page.evaluate("() => { document.querySelector('#view').classList.add('live-root') }")
            assert error.is_visible()  # and is the live view now
            assert not picture.is_visible()
            assert page.get_by_text("print's words").is_visible()
