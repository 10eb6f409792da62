"""The base of every live figure: one class, live in Jupyter and in a page without a kernel.

In Jupyter a figure is an anywidget: its traits are Python state and the numbers are computed by
:mod:`dpmpp_core`. In a built page there is no Python. So each figure also displays itself as html:
the name of its JavaScript module, its settings as JSON, and a picture. ``sphinx_ext`` puts the
module beside the pages, and a small script hands it the settings; then the module computes by
itself. Where no script runs (print, a notebook on a website, nbconvert) the picture stays.
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
import torch
import traitlets
from matplotlib.figure import Figure
from PIL import Image

from .. import figures

__all__ = ["Choice", "Device", "LiveFigure", "Name", "Number", "Whole"]

_FOLDER = Path(__file__).parent

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
    """The name of a device that torch can use here."""

    def validate(self, obj: Any, value: Any) -> str:
        try:
            torch.empty(0, device=value)
        except (RuntimeError, AssertionError, TypeError) as refusal:
            raise traitlets.TraitError(
                f"{self.name} must be one that torch can use here, got {value!r}"
            ) from refusal
        return str(value)


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
    _css = (_FOLDER / "widgets.css").read_text(encoding="utf-8")

    name = Name("figure").tag(sync=True, page=True)
    """The figure's name in a link to it; two figures on one page need two names."""

    result: Any = traitlets.Dict(default_value=None, allow_none=True).tag(sync=True)
    """What :meth:`compute` returned, with the number of the call; None before a view is shown."""

    def __init__(self, **settings: Any) -> None:
        unknown = sorted(set(settings) - set(self.trait_names()))
        if unknown:
            known = ", ".join(sorted(self.traits(page=True)))
            raise TypeError(f"{type(self).__name__} has no setting {unknown[0]!r}, but {known}")
        super().__init__(**settings)
        self._computed = 0
        self.on_msg(self._heard)
        self.observe(self._changed, names=list(self.traits(run=True)))

    # --- in Jupyter

    def compute(self) -> dict[str, Any]:
        """The numbers that the view draws; bytes travel as they are."""
        raise NotImplementedError

    def _heard(self, _: Any, content: Any, buffers: Any) -> None:
        if content == "shown" and self.result is None:
            self._refresh()

    def _changed(self, change: Any) -> None:
        if self.result is not None:
            self._refresh()

    def _refresh(self) -> None:
        # The number tells the view that an answer is new even where all its bytes are the same.
        self._computed += 1
        self.result = {**self.compute(), "number": self._computed}

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

    def page_html(self) -> str:
        """The figure for a page without a kernel."""
        # In JSON "<" may be written so, and then no "</script>" can end the element early.
        state = json.dumps(self.page_state(), separators=(",", ":")).replace("<", "\\u003c")
        picture = base64.b64encode(self._png()).decode()
        return (
            f'<div class="live-figure" id="live-{self.name}" data-module="{self.module}">'
            f'<script type="application/json">{state}</script>'
            f'<img class="live-figure-picture" alt="{html.escape(self.describe())}" '
            f'src="data:image/png;base64,{picture}"></div>'
        )

    def _png(self) -> bytes:
        """The picture with 48 colours: half of the bytes, and no difference to be seen."""
        whole, small = io.BytesIO(), io.BytesIO()
        with figures.style():
            figure = self.picture()
            figure.savefig(whole, format="png", dpi=130)
            plt.close(figure)
        with Image.open(whole) as image:
            # This method keeps rare colours, such as those of the arrows.
            few = image.convert("RGB").quantize(
                48, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
            )
        few.save(small, "PNG", optimize=True)
        return small.getvalue()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle: Any = super()._repr_mimebundle_(**options)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**data, "text/html": self.page_html()}, metadata
