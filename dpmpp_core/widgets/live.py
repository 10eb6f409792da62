"""The base of every live figure: one class, live in Jupyter and in a page without a kernel.

In Jupyter a figure is an anywidget: its traits are Python state and the numbers are computed by
:mod:`dpmpp_core`. In a built page there is no Python. So each figure also displays itself as html:
the name of its JavaScript module, its settings as JSON, and a picture. ``sphinx_ext`` puts the
module beside the pages, and a small script hands it the settings; then the module computes by
itself. Where no script runs (print, a notebook on a website, nbconvert) the picture stays.

A notebook that is opened without being run has no model for the live view, and JupyterLab then
shows a line of error. So where a reader runs a cell, the cell gets two outputs, the live view and
the picture, and a style sheet shows the picture exactly while there is no live view. A notebook
that is executed with nobody there (nbclient, and so nbconvert and the book) gets the picture only.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import matplotlib.pyplot as plt
import numpy as np
import torch
import traitlets
from IPython.core.getipython import get_ipython
from IPython.display import publish_display_data
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from .. import figures, schedule
from .kept import KeptStarts

__all__ = ["SCHEDULES", "Choice", "Device", "LiveFigure", "Name", "Number", "Whole"]

SCHEDULES = {
    "karras": "Karras",
    "exponential": "exponential",
    "kl_optimal": "even in arctan σ",
}
"""The schedules that a figure offers, by their names in :mod:`dpmpp_core.schedule`."""

_FOLDER = Path(__file__).parent
DPI = 100
"""Of the pictures behind the figures: on a screen as large as the figure's column."""

_VIEW = "application/vnd.jupyter.widget-view+json"

_Trait = traitlets.TraitType[Any, Any]


class Number(_Trait):
    """A finite number between two bounds, both allowed."""

    def __init__(self, default: float, low: float, high: float, **options: Any) -> None:
        super().__init__(default, **options)
        self.low, self.high = low, high

    def validate(self, obj: Any, value: Any) -> float:
        if not isinstance(value, bool) and isinstance(value, Real):
            number = float(value)
            if self.low <= number <= self.high:
                return number
        raise traitlets.TraitError(
            f"{self.name} must be a number from {self.low:g} to {self.high:g}, got {value!r}"
        )


class Whole(Number):
    """An integer between two bounds, both allowed."""

    def validate(self, obj: Any, value: Any) -> int:
        if not isinstance(value, bool) and isinstance(value, Integral):
            number = int(value)
            if self.low <= number <= self.high:
                return number
        raise traitlets.TraitError(
            f"{self.name} must be an integer from {int(self.low)} to {int(self.high)}, "
            f"got {value!r}"
        )


class Device(_Trait):
    """The name of a device that torch can use here, or a ``torch.device``."""

    def validate(self, obj: Any, value: Any) -> str:
        refusal: Exception | None = None
        if isinstance(value, str | torch.device):
            try:
                # Asked for back, because a tensor on "meta" has no values.
                torch.zeros(1, device=value).cpu()
                return str(value)
            except (RuntimeError, AssertionError) as reason:
                refusal = reason
        raise traitlets.TraitError(
            f"{self.name} must be one that torch can use here, got {value!r}"
        ) from refusal


class Choice(_Trait):
    """One of a few names."""

    def __init__(self, default: str, names: Iterable[str], **options: Any) -> None:
        super().__init__(default, **options)
        self.names = tuple(names)

    def validate(self, obj: Any, value: Any) -> str:
        if isinstance(value, str) and value in self.names:
            return value
        names = " or ".join(
            filter(None, [", ".join(map(repr, self.names[:-1])), f"{self.names[-1]!r}"])
        )
        raise traitlets.TraitError(f"{self.name} must be {names}, got {value!r}")


class Name(_Trait):
    """Lower-case words joined by hyphens, fit for an address."""

    def validate(self, obj: Any, value: Any) -> str:
        if isinstance(value, str) and re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", value):
            return value
        raise traitlets.TraitError(
            f"{self.name} must be lower-case words joined by hyphens, got {value!r}"
        )


class LiveFigure(anywidget.AnyWidget):
    """A figure with controls.

    A subclass sets ``module``, the name of its JavaScript file, and ``_esm``, the source that
    :func:`~dpmpp_core.widgets.modules.module_source` makes of it; it tags the traits that the
    page's script needs with ``sync=True, page=True``; and it draws :meth:`picture`.

    In Jupyter a subclass that computes in Python does so in :meth:`compute`, which is first called
    when a view is shown, and again after each change of a trait tagged ``run=True``. So a notebook
    that is executed without being looked at, as for the book, stores no trajectories.
    """

    module: ClassVar[str]
    inks: ClassVar[tuple[str, ...]] = ()
    """Colours of the picture besides ink, paper and those of the terms."""
    _css = (_FOLDER / "widgets.css").read_text(encoding="utf-8")

    name = Name("figure").tag(sync=True, page=True)
    """The figure's name in a link to it; two figures on one page need two names."""

    result: Any = traitlets.Dict(default_value=None, allow_none=True).tag(sync=True)
    """What :meth:`compute` returned, the settings that it is for, and the number of the call; None
    before a view is shown."""

    trouble = traitlets.Unicode("").tag(sync=True)
    """Why the last call of :meth:`compute` failed, in a sentence; empty if it did not. The result
    then is still that of the call before."""

    def __init__(self, **settings: Any) -> None:
        unknown = sorted(set(settings) - set(self.trait_names()))
        if unknown:
            known = ", ".join(sorted(self.traits(page=True)))
            raise TypeError(f"{type(self).__name__} has no setting {unknown[0]!r}, but {known}")
        super().__init__(**settings)
        self.kept_starts = KeptStarts()
        self._computed = 0
        self._shown = False
        self._answered: dict[str, Any] = {}
        self.on_msg(self._heard)
        self.observe(self._changed, names=list(self.traits(run=True)))

    # --- in Jupyter

    def compute(self) -> dict[str, Any]:
        """The numbers that the view draws; bytes travel as they are."""
        raise NotImplementedError

    def sigmas(self, steps: int) -> Tensor:
        """The noise levels of the chosen schedule."""
        levels: Tensor = getattr(schedule, self.schedule)(steps, self.sigma_min, self.sigma_max)
        return levels

    def to_device(self, x: Tensor) -> Tensor:
        """A state on the chosen device, in float64 where it has that; Apple's have not."""
        dtype = torch.float32 if self.device.startswith("mps") else torch.float64
        return x.to(self.device, dtype)

    def limits(self) -> dict[str, Any]:
        """The ranges and names of the page's settings, for its controls and links."""
        limits: dict[str, Any] = {}
        for name, trait in self.traits(page=True).items():
            if isinstance(trait, Number):
                whole = isinstance(trait, Whole)
                limits[name] = {"low": trait.low, "high": trait.high, "whole": whole}
            elif isinstance(trait, Choice):
                limits[name] = {"names": list(trait.names)}
        return limits

    def _heard(self, _: Any, content: Any, buffers: Any) -> None:
        if content == "shown":
            self._shown = True
            if self.result is None:
                self._refresh()

    def _changed(self, change: Any) -> None:
        # Where many traits change at once, the first of their notifications computes for all.
        if self._shown and not _same(self._answered, self._question()):
            self._refresh()

    def _question(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.traits(run=True)}

    def _refresh(self) -> None:
        self._answered = self._question()
        state = self.page_state()
        settings = {name: state[name] for name in state if self.trait_metadata(name, "run")}
        # What a figure computes is small: more threads would wait for each other, and for the
        # browser, longer than they work. A denoiser of the reader's own may be large.
        threads = torch.get_num_threads()
        if getattr(self, "denoiser", None) is None:
            torch.set_num_threads(1)
        try:
            answer = self.compute()
        except Exception as error:
            # A slider moved, so there is no cell under which this could be seen.
            self.trouble = f"Nothing new was computed: {_sentence(error)}"
            return
        finally:
            torch.set_num_threads(threads)
        # The number tells the view that an answer is new even where all its bytes are the same.
        self._computed += 1
        self.result = {**answer, "settings": settings, "number": self._computed}
        self.trouble = ""

    # --- without a kernel

    def picture(self) -> Figure:
        """The figure as it stands, drawn with :mod:`dpmpp_core.figures`."""
        raise NotImplementedError

    def describe(self) -> str:
        """What the picture shows, for readers who do not see it."""
        raise NotImplementedError

    def page_state(self) -> dict[str, Any]:
        """The traits that the page's script starts from, as JSON can hold them."""
        names = sorted(self.traits(page=True))
        return {name: value for name, value in self.get_state(names).items() if name in names}

    def why_still(self) -> str:
        """Why a page without Python cannot show the figure live; empty if it can."""
        return ""

    def page_html(self) -> str:
        """The figure for a page without a kernel: live, or the picture and why it is no more."""
        return self._html(self._png())

    def _html(self, png: bytes) -> str:
        picture = (
            f'<img class="live-figure-picture" alt="{html.escape(self.describe())}" '
            f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        )
        if why := self.why_still():
            return f'<div class="live-still">{picture}<p>{html.escape(why)}</p></div>'
        # In JSON "<" may be written so, and then no "</script>" can end the element early.
        state = json.dumps(self.page_state(), separators=(",", ":")).replace("<", "\\u003c")
        return (
            f'<div class="live-figure" id="live-{self.name}" data-module="{self.module}">'
            f'<script type="application/json">{state}</script>{picture}</div>'
        )

    def _png(self) -> bytes:
        """The picture in the colours of :func:`_palette`: half of the bytes."""
        whole, small = io.BytesIO(), io.BytesIO()
        with figures.style():
            figure = self.picture()
            figure.savefig(whole, format="png", dpi=DPI)
            plt.close(figure)
        palette = Image.new("P", (1, 1))
        palette.putpalette([part for colour in _palette(self.inks) for part in colour])
        with Image.open(whole) as image:
            few = image.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE)
        few.save(small, "PNG", optimize=True)
        return small.getvalue()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle: Any = super()._repr_mimebundle_(**options)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        if _reader_is_there() is False:
            del data[_VIEW]
        return {**data, **self._still()}, metadata

    def _ipython_display_(self) -> None:
        """Two outputs where a reader is there; see the module's text."""
        if not _reader_is_there():
            raise NotImplementedError  # and IPython asks for the bundle
        self.add_class(f"live-view-{self.model_id}")
        bundle: Any = super()._repr_mimebundle_()
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        _publish({_VIEW: data.pop(_VIEW)})
        try:
            data |= self._still()
        except Exception as error:
            data["text/html"] = f"<p>No picture was drawn: {html.escape(_sentence(error))}</p>"
        data["text/html"] = _BESIDE_A_VIEW.format(id=self.model_id, html=data["text/html"])
        _publish(data)

    def _still(self) -> dict[str, str]:
        """The figure without a kernel, in the two ways that a notebook can keep it."""
        png = self._png()
        # Not every page takes html: LaTeX does not, and some sites show none that is another's.
        return {"text/html": self._html(png), "image/png": base64.b64encode(png).decode()}


# What JupyterLab puts around an output is .jp-OutputArea-child: the first rule takes away the
# error that stands there when the notebook has lost the view.
_BESIDE_A_VIEW = """<style>
.jp-OutputArea-child:has(+ .jp-OutputArea-child .live-beside-{id}):not(:has(.live-root)),
:root:has(.live-view-{id}.live-root) .live-beside-{id} {{ display: none; }}
</style><div class="live-beside-{id}">{html}</div>"""


def _palette(inks: Iterable[str]) -> list[tuple[int, int, int]]:
    """Eight greys from ink to paper; of each term its colour and the one half way to paper; and
    the colours of the figure's own."""
    paper = np.ones(3)
    shades = [(figures.INK, 1.0 - i / 7) for i in range(8)] + [(ink, 1.0) for ink in inks]
    shades += [(term.color, part) for term in figures.TERMS.values() for part in (1.0, 0.5)]
    mixed = (part * np.array(to_rgb(colour)) + (1.0 - part) * paper for colour, part in shades)
    return [(int(r), int(g), int(b)) for r, g, b in (np.round(255 * rgb) for rgb in mixed)]


def _reader_is_there() -> bool | None:
    """Whether the running cell was sent by a program in which a reader could answer a question.

    That is so in JupyterLab and other notebook programs, and is not in nbclient; None without a
    kernel, and in the answer to a message that runs no cell.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    request = kernel.get_parent("shell") if kernel is not None else {}
    answer: bool | None = request.get("content", {}).get("allow_stdin")
    return answer


def _publish(data: dict[str, Any]) -> None:
    """Give the running cell an output."""
    publish_display_data(data)  # type: ignore[no-untyped-call]


def _same(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether all values are: numbers and names by value, anything else by identity."""
    return old.keys() == new.keys() and all(
        old[name] is value or (isinstance(value, str | float | int) and old[name] == value)
        for name, value in new.items()
    )


def _sentence(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
