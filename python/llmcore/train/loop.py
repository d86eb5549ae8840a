"""The one loop under every training stage: batches, gradients, update, log, evaluation, samples, checkpoints.

A stage says what a batch is, what the loss is, what to evaluate and what to show; everything else is here. All
randomness is keyed by the seed and the step, so a run continues from a checkpoint bit for bit.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from llmcore import optim, runtime
from llmcore._files import alone_in, write_atomically
from llmcore._tensor import Tensor, array_to_numpy
from llmcore.models import CausalLM
from llmcore.nn import Parameter
from llmcore.nn.module import assign
from llmcore.train import checkpoint, schedule
from llmcore.train.config import LoopConfig
from llmcore.train.report import Report

# Fields that may differ when a run is resumed: they change what is seen and kept, not what is computed.
RESUMABLE = ("out", "eval_every", "save_every", "sample_every", "keep", "threads", "max_minutes")
# What a run leaves in its directory, besides checkpoints/.
_MODEL_FILES = ("model.safetensors", "adapter_model.safetensors")
_RUN_FILES = ("config.json", "adapter_config.json", *_MODEL_FILES, "tokenizer.json", "log.jsonl")


class TrainingError(RuntimeError):
    """Training cannot go on; the message is one line."""


class Interrupted(TrainingError):
    """Stopped from the keyboard, after a checkpoint was saved."""


class Stage:
    """What a stage tells the loop. A batch is whatever the stage likes."""

    name: str
    model: CausalLM

    def batches(self, step: int) -> Sequence[Any]:
        """The micro-batches of one update: a function of the step, the weights, and what is kept."""
        raise NotImplementedError

    def tokens(self, batch: Any) -> int:
        """Tokens that the model reads in a batch (for the rate)."""
        raise NotImplementedError

    def loss(self, batch: Any) -> tuple[Tensor, int]:
        """Summed loss of a micro-batch and the number of terms in the sum, which normalise the update."""
        raise NotImplementedError

    def evaluate(self) -> Mapping[str, float]:
        """Figures on held-out data, by their names in the log."""
        raise NotImplementedError

    def samples(self, step: int) -> Sequence[tuple[str, str]]:
        """(prompt, what the model writes)"""
        raise NotImplementedError

    def state(self) -> Mapping[str, object]:
        """What a resumed run must agree on (data, sizes); JSON."""
        raise NotImplementedError

    def begin(self, directory: Path) -> None:
        """Write what a resumed run needs besides the checkpoints."""
        raise NotImplementedError

    def save(self, directory: Path) -> None:
        """Write the finished model."""
        raise NotImplementedError

    # What most stages have nothing special for:

    def trained(self) -> dict[str, Parameter]:
        """What an update changes, by the names in checkpoints."""
        return self.model.trained()

    def figures(self) -> Mapping[str, float]:
        """What else the log is to hold of the micro-batches since the last call."""
        return {}

    def kept(self) -> Mapping[str, np.ndarray]:
        """What later updates need of earlier ones, by names that differ from those of `trained`."""
        return {}

    def restore(self, kept: Mapping[str, np.ndarray]) -> None:
        """The reverse of `kept`. ValueError for what does not fit."""


def check_out(config: LoopConfig, resume: bool, overwrite: bool) -> None:
    """FileExistsError if config.out holds a model or checkpoints that a new run would destroy."""
    out = Path(config.out)
    if resume or overwrite:
        return
    if any((out / name).exists() for name in _MODEL_FILES) or any((out / "checkpoints").glob("step-*")):
        raise FileExistsError(
            f"[train] {out} already holds a run: continue it with --resume, give another --out, or replace it with "
            "--overwrite"
        )


def run(stage: Stage, config: LoopConfig, report: Report, resume: bool = False) -> None:
    """Train to config.steps, or for config.max_minutes, and save the model.

    With `resume`, continue from the newest whole checkpoint in config.out; without, an earlier run there is removed first
    (`check_out` refuses it in time). FileExistsError if another process is training into config.out.
    """
    with alone_in(Path(config.out), "[train] another run is writing to {}: wait for it, or give another --out"):
        _run(stage, config, report, resume)


def _run(stage: Stage, config: LoopConfig, report: Report, resume: bool) -> None:
    if config.threads is not None:
        runtime.set_num_threads(config.threads)
    out = Path(config.out)
    optimizer = _optimizer(stage, config)
    start, totals = 0, {"tokens": 0, "seconds": 0.0}
    if resume:
        start, totals = _restore(stage, optimizer, config, report)
    else:
        # A later --resume must not find the checkpoints of another run.
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        for name in _RUN_FILES:
            (out / name).unlink(missing_ok=True)
        stage.begin(out)
    began, limit = time.monotonic(), 60 * config.max_minutes or math.inf
    with (
        _Log(out / "log.jsonl", start) as log,
        report.running(stage.name, start, config.steps),
        _deferred_interrupt(report) as interrupted,
    ):
        step, saved, last = start, start, start == config.steps
        while not last:
            # Where the time will end the run before the steps do, the learning rate comes down with the time.
            place = max(step, int(config.steps * (time.monotonic() - began) / limit)) if step >= config.warmup else step
            row = _update(stage, optimizer, config, step, place, totals)
            step += 1
            late = time.monotonic() - began >= limit
            last = step == config.steps or late
            if last or _due(step, config.eval_every):
                row |= stage.evaluate()
            log.write(row)
            report.update(row)
            if _due(step, config.sample_every) and not last:
                report.samples(step, stage.samples(step))
            if last or _due(step, config.save_every) or interrupted():
                if step > saved:
                    _save(stage, optimizer, config, step, totals)
                saved = step
            if interrupted():
                raise Interrupted(
                    f"[train] stopped at step {step} of {config.steps}; continue with --resume --out {config.out}"
                )
            if late and step < config.steps:
                report.note(f"the time is up at step {step} of {config.steps}")
        stage.save(out)


def seconds_per_update(stage: Stage, config: LoopConfig, updates: int = 6) -> float:
    """Median time of one update, the first ones left out. The stage's model is changed: use one to throw away."""
    optimizer = _optimizer(stage, config)
    totals = {"tokens": 0, "seconds": 0.0}
    times = [_update(stage, optimizer, config, step, step, totals)["dt"] for step in range(updates)]
    return sorted(times[updates // 3 :])[(updates - updates // 3) // 2]


def _optimizer(stage: Stage, config: LoopConfig) -> optim.AdamW:
    betas = config.beta1, config.beta2
    return optim.AdamW(stage.trained().items(), config.lr, betas, weight_decay=config.weight_decay)


@contextmanager
def _deferred_interrupt(report: Report):
    """Ctrl-C waits for the end of the update, because half an update could not be continued bit for bit. Yields a
    function that says whether it came. A second Ctrl-C stops at once, without saving."""
    came: list[int] = []

    def handler(signum, frame):
        if came:
            raise KeyboardInterrupt
        came.append(signum)
        report.note("finishing this step, then saving (Ctrl-C again: stop without saving)")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, before)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _update(stage: Stage, optimizer: optim.AdamW, config: LoopConfig, step: int, place: int, totals: dict) -> dict:
    """One parameter update with the learning rate of step `place`; returns its line of the log."""
    began = time.perf_counter()
    lr = schedule.cosine(place, config.steps, config.lr, config.warmup, config.min_lr_ratio)
    batches = stage.batches(step)
    trained = stage.trained().values()
    for p in trained:
        p.zero_grad()
    nats, terms = 0.0, 0
    for batch in batches:
        loss, count = stage.loss(batch)
        nats += loss.item()
        terms += count
        loss.backward()
    if terms == 0:
        raise TrainingError(f"[train] expected something to learn from in step {step + 1}, got no supervised token")
    mean = nats / terms
    norm = optim.global_norm(trained) / terms
    if not (math.isfinite(mean) and math.isfinite(norm)):
        raise TrainingError(
            f"[train] the loss is {mean} and the gradient norm {norm} at step {step + 1}: try a lower --lr; "
            f"checkpoints in {config.out} are untouched"
        )
    clip = min(1.0, config.grad_clip / norm) if config.grad_clip > 0 and norm > 0 else 1.0
    optimizer.step(grad_scale=clip / terms, lr=lr)
    tokens = sum(map(stage.tokens, batches))
    seconds = time.perf_counter() - began
    totals["tokens"] += tokens
    totals["seconds"] += seconds
    return {
        "step": step + 1,
        "train/loss": mean,
        "lr": lr,
        "grad_norm": norm,
        "tokens": totals["tokens"],
        "dt": seconds,
        "tok/s": tokens / seconds,
        **stage.figures(),
    }


def _save(stage: Stage, optimizer: optim.AdamW, config: LoopConfig, step: int, totals: dict) -> None:
    tensors = {f"model.{name}": array_to_numpy(p.array) for name, p in stage.trained().items()}
    tensors |= optimizer.state_dict() | {f"kept.{name}": values for name, values in stage.kept().items()}
    state = {
        "stage": stage.name,
        "config": dataclasses.asdict(config),
        "agree": dict(stage.state()),
        "optimizer_steps": optimizer.steps,
        "totals": totals,
    }
    checkpoint.save_checkpoint(config.out, step, tensors, state, keep=config.keep)


def _restore(stage: Stage, optimizer: optim.AdamW, config: LoopConfig, report: Report) -> tuple[int, dict]:
    path = checkpoint.latest_checkpoint(config.out, warn=report.warn)
    if path is None:
        raise checkpoint.CheckpointError(f"[resume] expected a checkpoint in {config.out}, got none")
    tensors, state = checkpoint.load_checkpoint(path)
    for key in ("stage", "config", "agree", "optimizer_steps", "totals", "step"):
        if key not in state:
            raise checkpoint.CheckpointError(f"[resume] {path}: expected {key} in its state, got none")
    if state["stage"] != stage.name:
        raise ValueError(f"[resume] expected a run of {stage.name}, got {path}, which is one of {state['stage']}")
    ours = dataclasses.asdict(config)
    for name, value in state["config"].items():
        if name not in RESUMABLE and ours.get(name) != value:
            raise ValueError(f"[resume] expected {name} {value!r} as in {path}, got {ours.get(name)!r}")
    for name, value in stage.state().items():
        if state["agree"].get(name) != value:
            raise ValueError(
                f"[resume] expected {name} {state['agree'].get(name)!r} as in {path}, got {value!r}: the data changed"
            )
    weights, kept = (
        {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)} for start in ("model.", "kept.")
    )
    try:
        assign(stage.trained(), weights)
        stage.restore(kept)
        optimizer.load_state_dict(tensors, state["optimizer_steps"])
    except ValueError as e:
        raise checkpoint.CheckpointError(f"[resume] {path}: {e}") from None
    report.note(f"resuming {config.out} at step {state['step']} of {config.steps}")
    return state["step"], state["totals"]


class _Log:
    """One JSON object a line, appended; lines of steps that a resumed run does again are dropped first."""

    def __init__(self, path: Path, start: int):
        kept = []
        if start and path.exists():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    if json.loads(line)["step"] <= start:
                        kept.append(line)
                except (ValueError, KeyError, TypeError):
                    continue  # the last line of a killed run may be cut short
        write_atomically(path, "".join(f"{line}\n" for line in kept).encode())
        self._path = path

    def __enter__(self):
        self._file = self._path.open("a", encoding="utf-8", buffering=1)
        return self

    def __exit__(self, kind, *exc):
        try:
            self._file.close()
        except OSError as e:
            if kind is None:  # else it is the line that `write` has told about
                raise self._problem(e) from e

    def write(self, row: Mapping) -> None:
        line = json.dumps({k: float(v) if isinstance(v, np.floating) else v for k, v in row.items()})
        try:
            self._file.write(line + "\n")
        except OSError as e:
            raise self._problem(e) from e

    def _problem(self, error: OSError) -> TrainingError:
        return TrainingError(
            f"[train] cannot write {self._path}: {error.strerror}; checkpoints are untouched, continue with --resume"
        )
