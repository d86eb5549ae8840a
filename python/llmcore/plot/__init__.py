"""Plots of runs, with matplotlib (`pip install 'llmcore[plot]'`): training curves, and the drift of word vectors."""

from llmcore.plot.curves import draw_curves
from llmcore.plot.drift import draw_drift

__all__ = ["draw_curves", "draw_drift"]
