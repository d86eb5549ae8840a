"""The one loop under every training stage: batches, gradients, update, log, evaluation, samples, checkpoints.

A stage (`stage.py`) says what a batch is, what the loss is, what to evaluate and what to show; everything else is here, and
what a checkpoint holds is in `resume.py`. All randomness is keyed by the seed and the step, so a run continues from a
checkpoint bit for bit.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from llmcore import _device, optim, runtime
from llmcore._files import alone_in
from llmcore.errors import Error, ExistingFileError
from llmcore.nn import Parameter
from llmcore.nn.module import assign
from llmcore.runtime import default_dtype
from llmcore.train import checkpoint, signals
from llmcore.train.background import AsyncSaver, Prefetcher
from llmcore.train.best import BestModel
from llmcore.train.distributed.group import ProcessGroup, SingleProcess, process_group
from llmcore.train.ema import EMA
from llmcore.train.errors import Interrupted, TrainingError
from llmcore.train.log import RunLog
from llmcore.train.loop_config import LoopConfig
from llmcore.train.report import Report, TerminalReport
from llmcore.train.resume import RunState
from llmcore.train.schedule import learning_rate
from llmcore.train.stage import Stage
from llmcore.train.trackers import Trackers

# The files that a run leaves in its directory, besides checkpoints/ and best/.
_MODEL_FILES = ("model.safetensors", "adapter_model.safetensors")
_SAVING = 50  # times as long as a checkpoint takes lie between those that are saved by time
_RUN_FILES = ("config.json", "adapter_config.json", *_MODEL_FILES, "tokenizer.json", "log.jsonl", "words.jsonl")


def prepare_run(config: LoopConfig, report: Report | None, resume: bool, overwrite: bool) -> Report:
    """Return the report of this process, before anything is read: of several processes, only the first one reports. Raises
    FileExistsError if config.out holds a model or checkpoints that a new run would destroy."""
    group, out = process_group(), Path(config.out)
    held = any((out / name).exists() for name in _MODEL_FILES) or any((out / "checkpoints").glob("step-*"))
    if held and not resume and not overwrite:
        raise ExistingFileError(
            "train",
            f"{out} already holds a run: continue it with --resume, give another --out, or replace it with --overwrite",
        )
    if group.rank:
        return Report()
    return TerminalReport() if report is None else report


def on_config_device(train: Callable) -> Callable:
    """Decorate a stage's function, so that everything it creates lies on config.device."""

    @functools.wraps(train)
    def run(config, *args, **kwargs):
        with _device.on(config.device):
            if _device.device() != "cpu" and process_group().size > 1:
                raise Error("mpi", expected="device cpu with several processes", got="cuda: start it without mpiexec")
            return train(config, *args, **kwargs)

    return run


def run(stage: Stage, config: LoopConfig, report: Report, resume: bool = False) -> None:
    """Train to config.steps, or for config.max_minutes, and save the model.

    With `resume`, continue from the newest whole checkpoint in config.out; without, remove an earlier run there first
    (`prepare_run` refuses one early). Raises FileExistsError if another process is training into config.out. Processes
    started by mpiexec share the work.
    """
    group = process_group()
    threads = config.threads or group.threads
    if threads is not None:
        runtime.set_num_threads(threads)
    if config.accumulation % group.size:
        raise Error(
            "mpi",
            expected=f"accumulation a multiple of {group.size}, the number of processes",
            got=f"{config.accumulation}: with --accumulation {group.size} and a batch size as much smaller an "
            "update has the same rows",
        )
    stage.model.recompute = config.recompute
    with ExitStack() as held:
        held.enter_context(group.training(stage.trainable()))
        if group.rank == 0:
            taken = "another run is writing to {}: wait for it, or give another --out"
            held.enter_context(alone_in(Path(config.out), "train", taken))
            if group.size > 1:  # said early: mpiexec kills the rest without passing on what they say last
                report.note(
                    f"{group.size} processes: if one is killed, all stop; continue with --resume --out {config.out}"
                )
        Run(stage, config, report if group.rank == 0 else Report(), group).run(resume)


class Run:
    """One run of a stage in this process: see `run`."""

    def __init__(self, stage: Stage, config: LoopConfig, report: Report, group: ProcessGroup):
        self.stage, self.config, self.report, self.group = stage, config, report, group
        self.out = Path(config.out)
        self.writes = group.rank == 0  # one process writes files
        ema = EMA(stage.trainable(), config.ema) if config.ema and self.writes else None
        self.state = RunState(stage, config, build_optimizer(config, group.owned(stage.trainable())), ema)
        self.best, self._improved = BestModel(stage, config, self.state.totals, report), False
        self.saver = AsyncSaver()
        self._log: RunLog | None = None
        self._words: RunLog | None = None
        self._trackers: Trackers | None = None
        self._began, self._limit = time.monotonic(), 60 * config.max_minutes or math.inf
        self._saved = self._began  # when the last checkpoint was begun

    def run(self, resume: bool) -> None:
        """Train, log and save, from the first update or the newest checkpoint to the last update."""
        stage, config = self.stage, self.config
        start = self._start(resume)
        with ExitStack() as held:
            self._open_logs(held, start)
            flops = stage.flops_per_token() if stage.model.device == "cpu" else 0.0  # a GPU's peak is not known here
            held.enter_context(self.report.running(stage.name, start, config.steps, flops, stage.model.dtype))
            came = held.enter_context(signals.deferred(self.report))
            batches: Callable = stage.batches
            if stage.prefetch:
                batches = held.enter_context(Prefetcher(stage.batches, config.steps))
            held.enter_context(self.saver)
            step, saved = start, start
            late = self._is_late()
            if late and start < config.steps:
                self.report.note(
                    f"the time was up at step {start} of {config.steps}: give more --max-minutes to continue"
                )
            last = start == config.steps or late or self.best.is_final
            while not last:
                row = self.update(step, self._schedule_step(step), batches)
                step += 1
                self.state.totals["elapsed"] = time.monotonic() - self._began
                late = self._is_late()
                last = step == config.steps or late
                self._record(row, step, last)
                stop, due, over = self._agreed(came())
                last = last or over
                if (last or due or _due(step, config.save_every) or stop) and step > saved:
                    self._save(step)
                    saved = step
                if stop:
                    self.saver.wait()
                    raise Interrupted(
                        "train",
                        f"stopped at step {step} of {config.steps}; continue with --resume --out {config.out}",
                        signal=stop,
                    )
                if late and step < config.steps:
                    self.report.note(f"the time is up at step {step} of {config.steps}")
                elif over and step < config.steps:
                    self.report.note(
                        f"{config.patience} evaluations brought no better model: stopped at step {step} of {config.steps}"
                    )
        self._finish(step)

    def update(self, step: int, schedule_step: int, batches: Callable) -> dict:
        """Do one parameter update with the learning rate of `schedule_step`, and return its line of the log."""
        began = time.perf_counter()
        stage, config, state, group = self.stage, self.config, self.state, self.group
        lr = learning_rate(
            config.schedule, schedule_step, config.steps, config.lr, config.warmup_updates(), config.min_lr_ratio, config.decay
        )  # fmt: skip
        first, mine = group.shard(batches(step))
        waited = time.perf_counter() - began
        for p in stage.trainable().values():
            p.zero_grad()
        losses = []
        terms = tokens = 0.0
        for i, batch in enumerate(mine):
            stage.before(step, first + i)
            loss, count = stage.loss(batch)
            losses.append(loss)
            terms += count
            tokens += stage.tokens(batch)
            loss.backward(done=group.on_gradient if i == len(mine) - 1 else None)
        group.finish_reduce()
        # The one synchronisation with a GPU per update: loss and norm are checked before the weights change.
        nats = sum(loss.item() for loss in losses)
        square = optim.global_norm(state.optimizer.parameters.values()) ** 2
        nats, terms, tokens, square = group.all_reduce([nats, terms, tokens, square])
        if terms == 0:
            raise TrainingError(
                "train", expected=f"something to learn from in step {step + 1}", got="no supervised token"
            )
        mean = nats / terms
        norm = math.sqrt(square) / terms
        if not (math.isfinite(mean) and math.isfinite(norm)):
            raise TrainingError(
                "train",
                f"the loss is {mean} and the gradient norm {norm} at step {step + 1}: try a lower --lr; "
                f"checkpoints in {config.out} are untouched",
            )
        clip = min(1.0, config.grad_clip / norm) if config.grad_clip > 0 and norm > 0 else 1.0
        state.optimizer.step(grad_scale=clip / terms, lr=lr, done=group.on_updated if group.size > 1 else None)
        group.finish_broadcast()
        if state.ema is not None:
            state.ema.update(step + 1)
        seconds = time.perf_counter() - began
        state.totals["tokens"] += int(tokens)
        state.totals["seconds"] += seconds
        state.totals["rows"] += config.batch_size * config.accumulation
        return {
            "step": step + 1,
            "train/loss": mean,
            "lr": lr,
            "grad_norm": norm,
            "tokens": state.totals["tokens"],
            "dt": seconds,
            "tok/s": tokens / seconds,
            "data/wait": waited,
            **group.figures(),
            **group.mean(stage.figures()),
        }

    # ---- before the first update ----

    def _start(self, resume: bool) -> int:
        """Restore the run, or clear its directory; return the step to start at."""
        config = self.config
        start = self.state.restore(self.report) if resume else 0
        self._trackers = (
            Trackers(config, self.stage.name) if self.writes else None
        )  # fails early if one is not installed
        self.group.check_same(self._shared_settings(start))
        if 0 < config.steps <= config.warmup_updates():
            self.report.warn(
                f"the learning rate rises for {config.warmup} updates (warmup) and the run has {config.steps}: it never "
                f"reaches {config.lr:g}"
            )
        if config.steps < config.eval_every * config.patience:
            self.report.warn(
                f"the run of {config.steps} updates ends before {config.patience} evaluations, one every {config.eval_every}: "
                "for --patience to end it give a lower --eval-every"
            )
        if not resume and self.writes:
            # A later --resume must not find the checkpoints of another run.
            for name in ("checkpoints", "best", "tensorboard"):
                shutil.rmtree(self.out / name, ignore_errors=True)
            for name in _RUN_FILES:
                (self.out / name).unlink(missing_ok=True)
            self.stage.begin(self.out)
        if self.writes:
            mark = self.out / checkpoint.UNFINISHED
            mark.parent.mkdir(exist_ok=True)
            mark.touch()
        self._saved = time.monotonic()
        self._began = self._saved - self.state.totals["elapsed"]
        return start

    def _shared_settings(self, start: int) -> dict[str, Any]:
        """Return everything that must be the same in every process."""
        config = {k: v for k, v in dataclasses.asdict(self.config).items() if k not in ("out", "threads", "device")}
        return {**config, **self.stage.state(), "first step": start}

    def _open_logs(self, held: ExitStack, start: int) -> None:
        if not self.writes:
            return
        self._log = held.enter_context(RunLog(self.out / "log.jsonl", start))
        if watched := self.stage.watched():
            self._words = held.enter_context(RunLog(self.out / "words.jsonl", start))
            if not start:
                self._words.write({"step": 0, "groups": watched})
        if self._trackers is not None:
            held.enter_context(self._trackers.opened(start))

    # ---- time ----

    def _is_late(self) -> bool:
        """Return whether the time of the run is up, in all processes alike."""
        return self.group.broadcast(self.state.totals["elapsed"] >= self._limit)

    def _schedule_step(self, step: int) -> int:
        """Return the step at which the learning-rate schedule stands: if the time will end the run before the steps do, the
        schedule follows the time."""
        elapsed = time.monotonic() - self._began  # since the run first began, without what was lost unsaved
        warm = step >= self.config.warmup_updates()
        return self.group.broadcast(max(step, int(self.config.steps * elapsed / self._limit)) if warm else step)

    def _agreed(self, came: int) -> tuple[int, bool, bool]:
        """Return, in all processes alike, the number of the signal that came to any of them, or 0; whether a checkpoint is
        due, because the model is the best so far or by the time since the last one: a fifty times as long as it takes, so
        that saving costs at most 2%; and whether the run waits for a better model no longer."""
        wait = max(60 * self.config.save_minutes or math.inf, _SAVING * self.saver.seconds)
        due = self._improved or (self.group.rank == 0 and time.monotonic() - self._saved >= wait)
        over = self.group.rank == 0 and self.best.is_final
        numbers = signals.numbers()
        *asked, due_there, over_there = self.group.all_reduce(
            [*(float(came == n) for n in numbers), float(due), float(over)]
        )
        return next((n for n, count in zip(numbers, asked, strict=True) if count), 0), due_there > 0, over_there > 0

    # ---- between updates ----

    def _record(self, row: dict, step: int, last: bool) -> None:
        """Write an update's line of the log; evaluate, sample and record the watched words when their turn has come."""
        config = self.config
        self._improved = False
        if self._log is not None:
            if last or _due(step, config.eval_every):
                row |= self._evaluated(step)
            self._log.write(row)
            if self._trackers is not None:
                self._trackers.write(row)
            self.report.update(row)
            if _due(step, config.sample_every) or (last and config.sample_every):
                with self._averaged():
                    self.report.samples(step, self.stage.samples(step))
        if self._words is not None and (last or _due(step, max(1, config.steps // 100))):
            self._words.write({"step": step, "groups": self.stage.watched()})

    def _averaged(self):
        return self.state.ema.applied() if self.state.ema is not None else nullcontext()

    def _evaluated(self, step: int) -> dict[str, float]:
        """Return the held-out figures, and keep the model if they are the best so far."""
        with self._averaged():
            figures = dict(self.stage.evaluate())
            self._improved = self.best.seen(figures, step)
        return figures

    def _save(self, step: int) -> None:
        """Save a checkpoint in the background, from copies of the arrays."""
        self._saved = time.monotonic()
        optimizer = self.group.gather(self.state.optimizer.state_dict())
        if self.writes:
            self.saver.save(*self.state.checkpoint(step, optimizer))

    # ---- after the last update ----

    def _finish(self, step: int) -> None:
        """Save the model; with an average, the averaged weights; with patience, the best ones."""
        stage, ema = self.stage, self.state.ema
        if ema is not None:
            assign(stage.trainable(), {k.removeprefix("ema."): v for k, v in ema.state_dict().items()})
        if self.writes:
            self.best.take(step)
        if self.config.ema or self.config.patience:
            self.group.broadcast_parameters(stage.trainable())
        if self.writes:
            stage.save(self.out)
            (self.out / checkpoint.UNFINISHED).unlink(missing_ok=True)
        self.group.barrier()  # no process leaves before the model is saved


def seconds_per_update(stage: Stage, config: LoopConfig, updates: int = 6) -> float:
    """Return the median time of an update, without the first ones. This changes the stage's model: use one to throw away."""
    trial = Run(stage, config, Report(), SingleProcess())
    times = [trial.update(step, step, stage.batches)["dt"] for step in range(updates)]
    return sorted(times[updates // 3 :])[(updates - updates // 3) // 2]


def build_optimizer(config: LoopConfig, parameters: Mapping[str, Parameter]) -> optim.Optimizer:
    """Return the optimizer that a configuration asks for."""
    named, lr, decay, betas = parameters.items(), config.lr, config.weight_decay, (config.beta1, config.beta2)
    if config.optimizer == "muon":
        dtype = config.dtype or default_dtype()
        return optim.Muon(named, lr, config.momentum, betas, weight_decay=decay, dtype=dtype)
    if config.optimizer == "lion":
        return optim.Lion(named, lr, betas, decay)
    if config.optimizer == "sgd":
        return optim.SGD(named, lr, config.momentum, weight_decay=decay)
    return optim.AdamW(named, lr, betas, weight_decay=decay)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
