"""The one loop under every training stage: batches, gradients, update, log, evaluation, samples, checkpoints.

A stage (`stage.py`) says what a batch is, what the loss is, what to evaluate and what to show; everything else is here. All
randomness is keyed by the seed and the step, so a run continues from a checkpoint bit for bit.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from llmcore import _device, optim, runtime
from llmcore._arrays import array_to_numpy
from llmcore._files import alone_in
from llmcore.nn import Parameter
from llmcore.nn.module import assign
from llmcore.runtime import default_dtype
from llmcore.train import checkpoint
from llmcore.train.background import AsyncSaver, Prefetcher
from llmcore.train.config import LoopConfig
from llmcore.train.distributed.group import ProcessGroup, SingleProcess, process_group
from llmcore.train.ema import EMA
from llmcore.train.errors import Interrupted, TrainingError
from llmcore.train.log import RunLog
from llmcore.train.report import Report, TerminalReport
from llmcore.train.schedule import learning_rate
from llmcore.train.stage import Stage
from llmcore.train.trackers import Trackers

# Fields that may differ when a run is resumed: they change what is seen and kept, not what is computed.
RESUMABLE = (
    *("out", "eval_every", "save_every", "sample_every", "keep", "keep_best", "threads", "max_minutes", "recompute"),
    *("log_to", "watch", "device"),
)
# These too, as long as the rows of an update stay the same, or where a stage is `resizable`.
_LAYOUT = ("batch_size", "accumulation")
# What a run leaves in its directory, besides checkpoints/ and best/.
_MODEL_FILES = ("model.safetensors", "adapter_model.safetensors")
_RUN_FILES = ("config.json", "adapter_config.json", *_MODEL_FILES, "tokenizer.json", "log.jsonl", "words.jsonl")


def prepared(config: LoopConfig, report: Report | None, resume: bool, overwrite: bool) -> Report:
    """Before anything is read: who is told what happens, which of several processes only the first does. FileExistsError if
    config.out holds a model or checkpoints that a new run would destroy."""
    group, out = process_group(), Path(config.out)
    held = any((out / name).exists() for name in _MODEL_FILES) or any((out / "checkpoints").glob("step-*"))
    if held and not resume and not overwrite:
        raise FileExistsError(
            f"[train] {out} already holds a run: continue it with --resume, give another --out, or replace it with "
            "--overwrite"
        )
    if group.rank:
        return Report()
    return TerminalReport() if report is None else report


def on_its_device(train: Callable) -> Callable:
    """Decorator of a stage's function: what it makes lies on config.device."""

    @functools.wraps(train)
    def run(config, *args, **kwargs):
        with _device.on(config.device):
            if _device.device() != "cpu" and process_group().size > 1:
                raise ValueError("[mpi] expected device cpu with several processes, got cuda: start it without mpiexec")
            return train(config, *args, **kwargs)

    return run


def run(stage: Stage, config: LoopConfig, report: Report, resume: bool = False) -> None:
    """Train to config.steps, or for config.max_minutes, and save the model.

    With `resume`, continue from the newest whole checkpoint in config.out; without, an earlier run there is removed first
    (`prepared` refuses it in time). FileExistsError if another process is training into config.out. Started by mpiexec,
    the processes share the work.
    """
    group = process_group()
    threads = config.threads or group.threads
    if threads is not None:
        runtime.set_num_threads(threads)
    if config.accumulation % group.size:
        raise ValueError(
            f"[mpi] expected accumulation a multiple of {group.size}, the number of processes, got {config.accumulation}: with "
            f"--accumulation {group.size} and a batch size as much smaller an update has the same rows"
        )
    stage.model.recompute = config.recompute
    with ExitStack() as held:
        killed = f"llmcore: a process of the run was killed; continue with --resume --out {config.out}"
        held.enter_context(group.training(stage.trainable(), killed))
        if group.rank == 0:
            where = "[train] another run is writing to {}: wait for it, or give another --out"
            held.enter_context(alone_in(Path(config.out), where))
        Run(stage, config, report if group.rank == 0 else Report(), group).run(resume)


class Run:
    """What belongs to one run: see `run`."""

    def __init__(self, stage: Stage, config: LoopConfig, report: Report, group: ProcessGroup):
        self.stage, self.config, self.report, self.group = stage, config, report, group
        self.out = Path(config.out)
        self.optimizer = build_optimizer(config, group.owned(stage.trainable()))
        self.average = EMA(stage.trainable(), config.ema) if config.ema and group.rank == 0 else None
        # seconds: of updates; elapsed: of everything, which max_minutes is about.
        self.totals: dict[str, float] = {"tokens": 0, "seconds": 0.0, "elapsed": 0.0, "rows": 0}
        self.first = group.rank == 0  # who writes
        self.saver = AsyncSaver()

    def run(self, resume: bool) -> None:
        stage, config, out = self.stage, self.config, self.out
        start = self._restore() if resume else 0
        trackers = Trackers(config, stage.name) if self.first else None  # refuses in time what is not installed
        self.group.check_same(self._what(start))
        if 0 < config.steps <= config.warmup_updates():
            self.report.warn(
                f"the learning rate rises for {config.warmup} updates (warmup) and the run has {config.steps}: it never comes "
                f"to {config.lr:g}"
            )
        if not resume and self.first:
            # A later --resume must not find the checkpoints of another run.
            for name in ("checkpoints", "best", "tensorboard"):
                shutil.rmtree(out / name, ignore_errors=True)
            for name in _RUN_FILES:
                (out / name).unlink(missing_ok=True)
            stage.begin(out)
        began, limit = time.monotonic() - self.totals["elapsed"], 60 * config.max_minutes or math.inf
        with ExitStack() as held:
            log = held.enter_context(RunLog(out / "log.jsonl", start)) if self.first else None
            words = held.enter_context(RunLog(out / "words.jsonl", start)) if self.first and stage.watched() else None
            if words is not None and not start:
                words.write({"step": 0, "groups": stage.watched()})
            if trackers is not None:
                held.enter_context(trackers.opened(start))
            flops = stage.flops_per_token() if stage.model.device == "cpu" else 0.0  # no GPU's peak is known here
            held.enter_context(self.report.running(stage.name, start, config.steps, flops, stage.model.dtype))
            interrupted = held.enter_context(_deferred_interrupt(self.report))
            batches: Callable = stage.batches
            if stage.prefetch:
                batches = held.enter_context(Prefetcher(stage.batches, config.steps))
            held.enter_context(self.saver)
            step, saved = start, start
            late = self.group.broadcast(self.totals["elapsed"] >= limit)
            if late and start < config.steps:
                self.report.note(f"the time was up at step {start} of {config.steps}: give more --max-minutes to go on")
            last = start == config.steps or late
            while not last:
                # Where the time will end the run before the steps do, the learning rate comes down with the time.
                elapsed = time.monotonic() - began  # since the run first began, but for what was not saved
                place = max(step, int(config.steps * elapsed / limit)) if step >= config.warmup_updates() else step
                place = self.group.broadcast(place)
                row = self.update(step, place, batches)
                step += 1
                self.totals["elapsed"] = time.monotonic() - began
                late = self.group.broadcast(self.totals["elapsed"] >= limit)
                last = step == config.steps or late
                if log is not None:
                    if last or _due(step, config.eval_every):
                        row |= self._evaluated(step)
                    log.write(row)
                    if trackers is not None:
                        trackers.write(row)
                    self.report.update(row)
                    if _due(step, config.sample_every) or (last and config.sample_every):
                        with self._averaged():
                            self.report.samples(step, stage.samples(step))
                stop = self.group.broadcast(interrupted())
                if words is not None and (last or _due(step, max(1, config.steps // 100))):
                    words.write({"step": step, "groups": stage.watched()})
                if (last or _due(step, config.save_every) or stop) and step > saved:
                    self._save(step)
                    saved = step
                if stop:
                    self.saver.wait()
                    raise Interrupted(
                        f"[train] stopped at step {step} of {config.steps}; continue with --resume --out {config.out}"
                    )
                if late and step < config.steps:
                    self.report.note(f"the time is up at step {step} of {config.steps}")
        if self.average is not None:
            assign(stage.trainable(), {k.removeprefix("ema."): v for k, v in self.average.state_dict().items()})
        if config.ema:
            self.group.broadcast_parameters(stage.trainable())
        if self.first:
            stage.save(out)
            if config.keep_best and "best_step" in self.totals:
                best, at = self.totals["best"], int(self.totals["best_step"])
                self.report.note(f"the lowest held-out loss, {best:.3f} at step {at}, is that of {out / 'best'}")
        self.group.barrier()  # nobody leaves before the model is there

    def _what(self, start: int) -> dict[str, Any]:
        """All that must be the same in every process."""
        config = {k: v for k, v in dataclasses.asdict(self.config).items() if k not in ("out", "threads", "device")}
        return {**config, **self.stage.state(), "step to begin with": start}

    def update(self, step: int, place: int, batches: Callable) -> dict:
        """One parameter update with the learning rate of step `place`; returns its line of the log."""
        began = time.perf_counter()
        stage, config = self.stage, self.config
        warmup = config.warmup_updates()
        lr = learning_rate(config.schedule, place, config.steps, config.lr, warmup, config.min_lr_ratio, config.decay)
        first, mine = self.group.shard(batches(step))
        waited = time.perf_counter() - began
        trained = stage.trainable().values()
        for p in trained:
            p.zero_grad()
        losses = []
        terms = tokens = 0.0
        for i, batch in enumerate(mine):
            stage.before(step, first + i)
            loss, count = stage.loss(batch)
            losses.append(loss)
            terms += count
            tokens += stage.tokens(batch)
            loss.backward(done=self.group.on_gradient if i == len(mine) - 1 else None)
        self.group.finish_reduce()
        # A GPU is waited for here, once an update: losses and norm are looked at before the weights change.
        nats = sum(loss.item() for loss in losses)
        owned = self.optimizer.parameters
        square = optim.global_norm(owned.values()) ** 2
        nats, terms, tokens, square = self.group.all_reduce([nats, terms, tokens, square])
        if terms == 0:
            raise TrainingError(f"[train] expected something to learn from in step {step + 1}, got no supervised token")
        mean = nats / terms
        norm = math.sqrt(square) / terms
        if not (math.isfinite(mean) and math.isfinite(norm)):
            raise TrainingError(
                f"[train] the loss is {mean} and the gradient norm {norm} at step {step + 1}: try a lower --lr; "
                f"checkpoints in {config.out} are untouched"
            )
        clip = min(1.0, config.grad_clip / norm) if config.grad_clip > 0 and norm > 0 else 1.0
        self.optimizer.step(grad_scale=clip / terms, lr=lr, done=self.group.on_updated if self.group.size > 1 else None)
        self.group.finish_broadcast()
        if self.average is not None:
            self.average.update(step + 1)
        seconds = time.perf_counter() - began
        self.totals["tokens"] += int(tokens)
        self.totals["seconds"] += seconds
        self.totals["rows"] += config.batch_size * config.accumulation
        return {
            "step": step + 1,
            "train/loss": mean,
            "lr": lr,
            "grad_norm": norm,
            "tokens": self.totals["tokens"],
            "dt": seconds,
            "tok/s": tokens / seconds,
            "data/wait": waited,
            **self.group.figures(),
            **self.group.mean(stage.figures()),
        }

    def _averaged(self):
        return self.average.applied() if self.average is not None else nullcontext()

    def _evaluated(self, step: int) -> dict[str, float]:
        """Held-out figures; where they are the best so far, the model is kept."""
        with self._averaged():
            figures = dict(self.stage.evaluate())
            loss = figures.get("val/loss")
            if self.config.keep_best and loss is not None and loss < self.totals.get("best", math.inf):
                self.totals |= {"best": loss, "best_step": step}
                self._keep_best()
            if self.config.keep_best and loss is None:
                self.report.warn("nothing is held out, so there is no best model to keep")
        return figures

    def _keep_best(self) -> None:
        """Whole or not at all, as far as names go."""
        best, made, old = (self.out / name for name in ("best", ".best-unfinished", ".best-replaced"))
        for path in (made, old):
            shutil.rmtree(path, ignore_errors=True)
        try:
            self.stage.save(made)
            if best.exists():
                best.rename(old)
            made.rename(best)
        finally:
            if old.exists() and not best.exists():
                old.rename(best)
            for path in (made, old):
                shutil.rmtree(path, ignore_errors=True)

    def _save(self, step: int) -> None:
        """In the background: the arrays are copied."""
        kept = self.group.gather(self.optimizer.state_dict())
        if not self.first:
            return
        stage, config = self.stage, self.config
        arrays = {f"model.{name}": array_to_numpy(p.array) for name, p in stage.trainable().items()}
        arrays |= kept | {f"kept.{name}": values for name, values in stage.kept().items()}
        arrays |= self.average.state_dict() if self.average is not None else {}
        state = {
            "stage": stage.name,
            "config": dataclasses.asdict(config),
            "agree": dict(stage.state()),
            "optimizer_steps": self.optimizer.steps,
            "totals": dict(self.totals),
        }
        self.saver.save(lambda arrays: checkpoint.save_checkpoint(config.out, step, arrays, state, config.keep), arrays)

    def _restore(self) -> int:
        stage, config, report = self.stage, self.config, self.report
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
            if name not in (*RESUMABLE, *_LAYOUT, "steps") and ours.get(name) != value:
                raise ValueError(
                    f"[resume] expected {name} {value!r} as in {path}, got {ours.get(name)!r}: go on with what it began "
                    "with, or begin anew in another --out"
                )
        for name, value in stage.state().items():
            if state["agree"].get(name) != value:
                raise ValueError(
                    f"[resume] expected {name} {state['agree'].get(name)!r} as in {path}, got {value!r}: the data changed"
                )
        parts: dict[str, dict[str, np.ndarray]] = {"model.": {}, "kept.": {}}
        for key, values in tensors.items():
            for start, found in parts.items():
                if key.startswith(start):
                    found[key.removeprefix(start)] = values
        try:
            assign(stage.trainable(), parts["model."])
            stage.restore(parts["kept."])
            self.optimizer.load_state_dict(tensors, state["optimizer_steps"])
            if self.average is not None:
                self.average.load_state_dict(tensors)
        except ValueError as e:
            raise checkpoint.CheckpointError(f"[resume] {path}: {e}") from None
        report.note(f"resuming {config.out} at step {state['step']} of {config.steps}")
        layout = state["config"]
        self.totals["rows"] = (
            state["step"] * layout["batch_size"] * layout["accumulation"]
        )  # where it was not yet counted
        self.totals |= state["totals"]
        if layout["steps"] != config.steps:
            if config.steps < state["step"]:
                raise ValueError(
                    f"[resume] expected at least {state['step']} steps, as {path} has taken, got {config.steps}"
                )
            report.note(
                f"{config.steps} steps instead of {layout['steps']}: from here on the learning rate is that of the new number"
            )
        self._continue_layout(state["config"], state["step"], path)
        return state["step"]

    def _continue_layout(self, before: Mapping[str, Any], step: int, path: Path) -> None:
        """Say what another layout of batches changes. ValueError where it cannot be."""
        old, new = ([c[name] for name in _LAYOUT] for c in (before, dataclasses.asdict(self.config)))
        rows = old[0] * old[1], new[0] * new[1]
        self.stage.first_row = int(self.totals["rows"]) - step * rows[1] if self.stage.resizable else 0
        if old == new:
            return
        said = f"{new[0]} x {new[1]} rows an update instead of {old[0]} x {old[1]} (batch_size x accumulation)"
        if rows[0] == rows[1]:
            self.report.note(f"{said}: the same rows, summed in another order, so equal to rounding and not to the bit")
        elif self.stage.resizable:
            self.report.note(
                f"{said}: the data goes on at the row where it stopped; the steps, and what the learning rate is at "
                "each, stay"
            )
        else:
            raise ValueError(
                f"[resume] expected {rows[0]} rows an update (batch_size x accumulation) as in {path}, got {said}"
            )


def seconds_per_update(stage: Stage, config: LoopConfig, updates: int = 6) -> float:
    """Median time of one update, the first ones left out. The stage's model is changed: use one to throw away."""
    trial = Run(stage, config, Report(), SingleProcess())
    times = [trial.update(step, step, stage.batches)["dt"] for step in range(updates)]
    return sorted(times[updates // 3 :])[(updates - updates // 3) // 2]


def build_optimizer(config: LoopConfig, parameters: Mapping[str, Parameter]) -> optim.Optimizer:
    """The one that a configuration asks for."""
    named, lr, decay, betas = parameters.items(), config.lr, config.weight_decay, (config.beta1, config.beta2)
    if config.optimizer == "muon":
        dtype = config.dtype or default_dtype()
        return optim.Muon(named, lr, config.momentum, betas, weight_decay=decay, dtype=dtype)
    if config.optimizer == "lion":
        return optim.Lion(named, lr, betas, decay)
    if config.optimizer == "sgd":
        return optim.SGD(named, lr, config.momentum, weight_decay=decay)
    return optim.AdamW(named, lr, betas, weight_decay=decay)


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
