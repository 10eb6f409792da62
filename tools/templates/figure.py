"""A live figure to begin with: the noise of one step, against the length of the step."""

from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import traitlets
from matplotlib.figure import Figure

from .. import figures
from ..coefficients import step_table
from ..mesh import Mesh
from .live import LiveFigure, Name, Number
from .modules import module_source

__all__ = ["Sketch"]

LENGTHS = [k / 50 for k in range(1, 151)]


class Sketch(LiveFigure):
    """The factor D of a step from sigma = 1, against h; see :func:`~dpmpp_core.step_table`.

    Args:
        eta: 0 to 2.
        name: its name in links; another figure on the same page needs another.

    Raises:
        traitlets.TraitError: for values outside these ranges, now and later.
    """

    module = "sketch"
    _esm = module_source("sketch.js")

    # `page` puts a setting into the static page; `run` computes anew when it changes.
    name = Name("sketch").tag(sync=True, page=True)
    eta = Number(1.0, 0.0, 2.0).tag(sync=True, page=True, run=True)
    offers = traitlets.Dict().tag(sync=True, page=True)
    """What the page's script needs besides the settings; the ranges of the controls, above all."""

    @traitlets.default("offers")
    def _offers(self) -> dict[str, Any]:
        return {"limits": self.limits(), "lengths": LENGTHS}

    def compute(self) -> dict[str, Any]:
        """The numbers in Jupyter. `answer` in the .js file returns the same ones in a page."""
        rows = (step_table(Mesh.from_sigmas([1.0, math.exp(-h)]), self.eta)[0] for h in LENGTHS)
        return {"noise": [row.D for row in rows]}

    def picture(self) -> Figure:
        """What stands on the page where no script runs."""
        term = figures.TERMS["noise"]
        fig, ax = plt.subplots(figsize=(7.0, 3.3), layout="constrained")
        ax.plot(LENGTHS, self.compute()["noise"], color=term.color, ls=term.line, lw=2.0)
        ax.set(xlabel="length of the step $h$", ylabel="$D$", xlim=(0, LENGTHS[-1]), ylim=(0, 0.7))
        ax.set_title(rf"noise of a step from $\sigma = 1$, $\eta = {self.eta:g}$")
        return fig

    def describe(self) -> str:
        """What the picture shows, for readers who do not see it."""
        noise = self.compute()["noise"]
        most = int(np.argmax(noise))
        return (
            f"The size D of the noise of a step from sigma 1, against the length h of the step, "
            f"with eta {self.eta:g}. The most is {noise[most]:.3f}, at h = {LENGTHS[most]:.2f}."
        )
