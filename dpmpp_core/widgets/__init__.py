"""The live figures: a sampler in JavaScript, and what brings it into a page.

Nothing here is imported by the package itself: a widget is imported by the chapter that shows it.
"""

from .compare import PRESETS, SideBySide
from .digits import DigitsExplorer
from .explorer import FreshNoise, TrajectoryExplorer
from .line import LineExplorer
from .live import LiveFigure
from .map import VarianceMap
from .plane_target import TARGETS, target
from .terms import TermSizes
from .variance import VarianceExplorer

__all__ = [
    "PRESETS",
    "TARGETS",
    "DigitsExplorer",
    "FreshNoise",
    "LineExplorer",
    "LiveFigure",
    "SideBySide",
    "TermSizes",
    "TrajectoryExplorer",
    "VarianceExplorer",
    "VarianceMap",
    "target",
]
