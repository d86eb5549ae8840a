"""The best model of a run by its held-out figure, and when to stop waiting for a better one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from llmcore._tensor import array_to_numpy
from llmcore.formats import safetensors
from llmcore.nn.module import assign
from llmcore.train import checkpoint
from llmcore.train.loop_config import LoopConfig
from llmcore.train.report import Report
from llmcore.train.stage import Stage

# The figures that say which model is better, and what to multiply each with so that less is better.
_FIGURES = {"val/loss": 1.0, "val/reward": -1.0}
_NAMES = {"val/loss": "the lowest held-out loss", "val/reward": "the highest held-out reward"}


class BestModel:
    """Keeps the best model so far: in best/ with `keep_best`, and its weights beside the checkpoints with `patience`.

    totals: those of the run, which checkpoints hold, so that a resumed run goes on with the same best: "best/" and the name
    of the figure, "best_step", when it came, and "waited", how many evaluations since then brought none better.
    """

    def __init__(self, stage: Stage, config: LoopConfig, totals: dict[str, float], report: Report):
        self.stage, self.config, self.totals, self.report = stage, config, totals, report
        self._out = Path(config.out)
        self._weights = self._out / "checkpoints" / "best.safetensors"

    @property
    def is_final(self) -> bool:
        """Whether enough evaluations in a row brought nothing better."""
        return 0 < self.config.patience <= self.totals.get("waited", 0)

    def seen(self, figures: Mapping[str, float], step: int) -> bool:
        """Take note of an evaluation of the present weights; return whether they are the best so far and were kept."""
        config, totals = self.config, self.totals
        if not (config.keep_best or config.patience):
            return False
        name = next((name for name in _FIGURES if name in figures), None)
        if name is None:
            self.report.warn("nothing is held out, so there is no best model to keep")
            return False
        before = totals.get(f"best/{name}", math.inf * _FIGURES[name])
        if not figures[name] * _FIGURES[name] < before * _FIGURES[name]:
            totals["waited"] = totals.get("waited", 0) + 1
            return False
        totals |= {f"best/{name}": figures[name], "best_step": step, "waited": 0}
        if config.keep_best:
            checkpoint.replace_folder(self._out / "best", self.stage.save)
        if config.patience:
            arrays = {name: array_to_numpy(p.array) for name, p in self.stage.trainable().items()}
            self._weights.parent.mkdir(parents=True, exist_ok=True)
            safetensors.save_file(arrays, self._weights, {"step": str(step)})
        return True

    def said(self) -> str:
        """Return which figure was the best, and when it came."""
        name = next(name for name in _FIGURES if f"best/{name}" in self.totals)
        return f"{_NAMES[name]}, {self.totals[f'best/{name}']:.3f} at step {int(self.totals['best_step'])}"

    def take(self, step: int) -> None:
        """Give the model that was trained for `step` updates the best weights, if it has patience, and say so."""
        if "best_step" not in self.totals:
            return
        if self.config.patience and int(self.totals["best_step"]) != step:
            arrays, metadata = safetensors.load_file(self._weights) if self._weights.is_file() else ({}, {})
            if metadata.get("step") != str(int(self.totals["best_step"])):
                self.report.warn(
                    f"the weights with {self.said()} are not in {self._weights}: the last ones are the model"
                )
                return
            assign(self.stage.trainable(), arrays)
            self.report.note(f"the model is the one with {self.said()}, not that of the last step, {step}")
        if self.config.keep_best:
            self.report.note(f"{self.said()}, is that of {self._out / 'best'}")
