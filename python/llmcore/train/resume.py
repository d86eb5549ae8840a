"""What a checkpoint holds of a run, and how a run continues from one, with other settings where that is possible."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmcore import optim
from llmcore._tensor import array_to_numpy
from llmcore.errors import Error
from llmcore.nn.module import assign
from llmcore.train import checkpoint
from llmcore.train.ema import EMA
from llmcore.train.loop_config import LoopConfig
from llmcore.train.report import Report
from llmcore.train.stage import Stage

# Fields that may differ when a run is resumed: they change what is shown and saved, not what is computed.
RESUMABLE = (
    *(
        "out",
        "eval_every",
        "save_every",
        "save_minutes",
        "sample_every",
        "keep",
        "keep_best",
        "patience",
        "threads",
        "max_minutes",
        "recompute",
    ),
    *("log_to", "watch", "device"),
)
# These too, as long as the rows of an update stay the same, or if the stage is `resizable`.
_LAYOUT = ("batch_size", "accumulation")


def stored_config(out: str, stage: str) -> dict[str, Any]:
    """Return the options with which the run in `out` began, from its newest checkpoint."""
    # The loop warns of broken checkpoints when it loads one.
    path = checkpoint.latest_checkpoint(out, warn=lambda _: None)
    if path is None:
        raise checkpoint.CheckpointError("resume", expected=f"a checkpoint in {out}", got="none")
    state = checkpoint.load_checkpoint(path)[1]
    if state.get("stage") != stage or not isinstance(state.get("config"), dict):
        raise checkpoint.CheckpointError(
            "resume", expected=f"a run of {stage}", got=f"{path}, which is of another kind"
        )
    return state["config"]


@dataclass
class RunState:
    """What changes while a run trains. totals: tokens and rows so far; seconds: the time of all updates; elapsed: the time
    of everything, which max_minutes limits."""

    stage: Stage
    config: LoopConfig
    optimizer: optim.Optimizer
    ema: EMA | None
    totals: dict[str, float] = dataclasses.field(
        default_factory=lambda: {"tokens": 0, "seconds": 0.0, "elapsed": 0.0, "rows": 0}
    )

    def checkpoint(
        self, step: int, optimizer: Mapping[str, np.ndarray]
    ) -> tuple[Callable[[dict[str, np.ndarray]], object], dict[str, np.ndarray]]:
        """Return the function that writes this state's arrays, and the arrays. optimizer: the optimizer state of all
        processes."""
        stage, config = self.stage, self.config
        arrays = {f"model.{name}": array_to_numpy(p.array) for name, p in stage.trainable().items()}
        arrays |= {**optimizer, **{f"kept.{name}": values for name, values in stage.kept().items()}}
        arrays |= self.ema.state_dict() if self.ema is not None else {}
        state = {
            "stage": stage.name,
            "config": dataclasses.asdict(config),
            "agree": dict(stage.state()),
            "optimizer_steps": self.optimizer.steps,
            "totals": dict(self.totals),
        }
        return lambda arrays: checkpoint.save_checkpoint(config.out, step, arrays, state, config.keep), arrays

    def restore(self, report: Report) -> int:
        """Load the newest whole checkpoint in config.out and return its step. Raises ValueError if it does not fit this
        run, `CheckpointError` if there is none or it cannot be used."""
        config = self.config
        path = checkpoint.latest_checkpoint(config.out, warn=report.warn)
        if path is None:
            raise checkpoint.CheckpointError("resume", expected=f"a checkpoint in {config.out}", got="none")
        tensors, saved = checkpoint.load_checkpoint(path)
        for key in ("stage", "config", "agree", "optimizer_steps", "totals", "step"):
            if key not in saved:
                raise checkpoint.CheckpointError("resume", path, expected=f"{key} in its state", got="none")
        self._check_same_run(saved, path)
        self._load(tensors, saved, path)
        step, layout = saved["step"], saved["config"]
        report.note(f"resuming {config.out} at step {step} of {config.steps}")
        self.totals["rows"] = step * layout["batch_size"] * layout["accumulation"]  # for checkpoints without this total
        self.totals |= saved["totals"]
        if layout["steps"] != config.steps:
            if config.steps < step:
                raise Error("resume", expected=f"at least {step} steps, as {path} has taken", got=config.steps)
            report.note(
                f"{config.steps} steps instead of {layout['steps']}: from here on the learning rate follows the new number"
            )
        self._continue_with_layout(layout, step, path, report)
        return step

    def _check_same_run(self, saved: Mapping[str, Any], path: Path) -> None:
        """Raise ValueError if a setting or the data differs from the saved run's."""
        stage, ours = self.stage, dataclasses.asdict(self.config)
        if saved["stage"] != stage.name:
            raise Error("resume", expected=f"a run of {stage.name}", got=f"{path}, which is one of {saved['stage']}")
        for name, value in saved["config"].items():
            if name not in (*RESUMABLE, *_LAYOUT, "steps") and ours.get(name) != value:
                raise Error(
                    "resume",
                    expected=f"{name} {value!r} as in {path}",
                    got=f"{ours.get(name)!r}: continue with the value that the run began with, or start from scratch "
                    "in another --out",
                )
        for name, value in stage.state().items():
            if saved["agree"].get(name) != value:
                raise Error(
                    "resume",
                    expected=f"{name} {saved['agree'].get(name)!r} as in {path}",
                    got=f"{value!r}: the {'starting model' if name == 'model' else 'data'} changed",
                )

    def _load(self, tensors: Mapping[str, np.ndarray], saved: Mapping[str, Any], path: Path) -> None:
        parts: dict[str, dict[str, np.ndarray]] = {"model.": {}, "kept.": {}}
        for key, values in tensors.items():
            for prefix, found in parts.items():
                if key.startswith(prefix):
                    found[key.removeprefix(prefix)] = values
        try:
            assign(self.stage.trainable(), parts["model."])
            self.stage.restore(parts["kept."])
            self.optimizer.load_state_dict(tensors, saved["optimizer_steps"])
            if self.ema is not None:
                self.ema.load_state_dict(tensors)
        except ValueError as e:
            raise checkpoint.CheckpointError("resume", f"{path}: {e}") from None

    def _continue_with_layout(self, before: Mapping[str, Any], step: int, path: Path, report: Report) -> None:
        """Say what another layout of batches changes. Raises ValueError if the stage cannot continue with it."""
        old, new = ([c[name] for name in _LAYOUT] for c in (before, dataclasses.asdict(self.config)))
        rows = old[0] * old[1], new[0] * new[1]
        self.stage.first_row = int(self.totals["rows"]) - step * rows[1] if self.stage.resizable else 0
        if old == new:
            return
        said = f"{new[0]} x {new[1]} rows per update instead of {old[0]} x {old[1]} (batch_size x accumulation)"
        if rows[0] == rows[1]:
            report.note(f"{said}: the same rows, summed in another order, so equal to rounding and not to the bit")
        elif self.stage.resizable:
            report.note(
                f"{said}: the data continues at the row where it stopped; the steps, and the learning rate at each of "
                "them, stay the same"
            )
        else:
            raise Error(
                "resume", expected=f"{rows[0]} rows per update (batch_size x accumulation) as in {path}", got=said
            )
