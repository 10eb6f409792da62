"""The live figures: a sampler in JavaScript, and what brings it into a page.

Nothing here is imported by the package itself: a widget is imported by the chapter that shows it.
"""

from .explorer import TARGETS, FreshNoise, TrajectoryExplorer, target
from .live import LiveFigure

__all__ = ["TARGETS", "FreshNoise", "LiveFigure", "TrajectoryExplorer", "target"]
