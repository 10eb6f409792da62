"""The live figures: a sampler in JavaScript, and what brings it into a page.

Nothing here is imported by the package itself: a widget is imported by the chapter that shows it.
"""

from .compare import PRESETS, SideBySide
from .explorer import FreshNoise, TrajectoryExplorer
from .live import LiveFigure
from .plane_target import TARGETS, target
from .variance import VarianceExplorer

__all__ = [
    "PRESETS",
    "TARGETS",
    "FreshNoise",
    "LiveFigure",
    "SideBySide",
    "TrajectoryExplorer",
    "VarianceExplorer",
    "target",
]
