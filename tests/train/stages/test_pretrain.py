"""Pretraining end to end: it learns, and a run that was stopped in any way continues bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from llmcore import runtime
from llmcore.data import read_corpus
from llmcore.formats import safetensors
from llmcore.generate import load
from llmcore.tokenizer import Tokenizer
from llmcore.train import GRPOConfig, Interrupted, PretrainConfig, Report, SFTConfig, TrainingError, loop, pretrain
from llmcore.train.checkpoint import latest_checkpoint, load_checkpoint
from llmcore.train.distributed.group import SingleProcess
from llmcore.train.log import RunLog
from llmcore.train.resume import RESUMABLE
from llmcore.train.stages.pretrain import PretrainStage
from support.runs import log_of

SIZES = {"vocab_size": 300, "context": 16, "layers": 1, "width": 32, "heads": 2, "batch_size": 4, "warmup": 5}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A few hundred lines of a tiny grammar, so that there is something to learn and to hold out."""
    rng = random.Random(1)
    nouns, verbs = ["the cat", "a dog", "the old man", "a child"], ["sees", "likes", "finds", "follows"]
    lines = [f"{rng.choice(nouns)} {rng.choice(verbs)} {rng.choice(nouns)}." for _ in range(800)]
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("\n".join(lines))
    return path


def config(corpus, out, **values):
    settings = {"steps": 30, "save_every": 10, "eval_every": 0, "sample_every": 0, **SIZES, **values}
    return PretrainConfig(data=str(corpus), out=str(out), **settings)


def assert_same_run(one, other):
    """Same model bytes, same last checkpoint (all but where it was written and how long it took), same losses."""
    assert Path(one, "model.safetensors").read_bytes() == Path(other, "model.safetensors").read_bytes()
    (tensors, state), (tensors2, state2) = (load_checkpoint(latest_checkpoint(run)) for run in (one, other))
    assert tensors.keys() == tensors2.keys()
    for name, values in tensors.items():
        assert values.tobytes() == tensors2[name].tobytes(), name
    for s in (state, state2):
        s["totals"].pop("seconds"), s["totals"].pop("elapsed")
        for name in RESUMABLE:
            s["config"].pop(name)
    assert state == state2
    figures = [[(r["step"], r["train/loss"], r["grad_norm"], r["tokens"]) for r in log_of(run)] for run in (one, other)]
    assert figures[0] == figures[1]


def test_learns(corpus, tmp_path):
    lm = pretrain(config(corpus, tmp_path / "run", steps=60, eval_every=20, lr=5e-3), report=Report())
    rows = log_of(tmp_path / "run")
    assert [r["step"] for r in rows] == list(range(1, 61))
    assert np.mean([r["train/loss"] for r in rows[-5:]]) < 0.6 * rows[0]["train/loss"]
    held_out = [r["val/bpb"] for r in rows if "val/bpb" in r]
    assert len(held_out) == 3
    assert held_out == sorted(held_out, reverse=True)
    again = load(tmp_path / "run", dtype=lm.model.dtype)
    assert str(again.generate("the cat", 8, seed=3)) == str(lm.generate("the cat", 8, seed=3))
    assert np.array_equal(again.model(np.array([[1, 2, 3]])).numpy(), lm.model(np.array([[1, 2, 3]])).numpy())


def test_bits_per_byte_is_what_the_model_assigns_to_the_held_out_text(corpus, tmp_path):
    run = config(corpus, tmp_path / "run", steps=3, dtype="float32")
    lm = pretrain(run, report=Report())
    text = read_corpus(str(corpus)).validation
    assert len(text) == 1
    ids = [lm.tokenizer.end_of_text, *lm.tokenizer.encode_ordinary(text[0])]
    bits = 0.0
    for start in range(0, len(ids) - 1, run.context):
        window = np.array([ids[start : start + run.context + 1]])
        logits = lm.model(window[:, :-1]).numpy()[0].astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        bits -= logp[np.arange(len(logp)), window[0, 1:]].sum() / np.log(2)
    assert log_of(tmp_path / "run")[-1]["val/bpb"] == pytest.approx(bits / len(text[0]), rel=1e-5)


@pytest.mark.parametrize(("accumulation", "dtype"), [(1, None), (3, "float32")])
def test_killed_at_any_moment_continues_bitwise(corpus, tmp_path, accumulation, dtype):
    values = {"steps": 150, "save_every": 7, "accumulation": accumulation, "dtype": dtype, "sample_every": 40}
    before = runtime.num_threads()
    try:
        pretrain(config(corpus, tmp_path / "straight", threads=1, **values), report=Report())
    finally:
        runtime.set_num_threads(before)
    settings = config(corpus, tmp_path / "killed", threads=2, **values)
    code = (
        "import json, sys; from llmcore.train import PretrainConfig, Report, pretrain\n"
        "pretrain(PretrainConfig(**json.loads(sys.argv[1])), resume=sys.argv[2] == 'resume', report=Report())"
    )
    rng = random.Random(accumulation)
    resume = "new"
    for moment in (rng.randint(15, 50), rng.randint(60, 110), None):
        process = subprocess.Popen([sys.executable, "-c", code, json.dumps(vars(settings)), resume])
        log = tmp_path / "killed/log.jsonl"
        while moment and process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= moment):
            time.sleep(0.001)
        if moment:
            process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == (-signal.SIGKILL if moment else 0)
        resume = "resume"
    assert_same_run(tmp_path / "straight", tmp_path / "killed")


def test_thread_count_changes_no_bit(corpus, tmp_path):
    before = runtime.num_threads()
    try:
        for threads in (1, 3):
            pretrain(config(corpus, tmp_path / str(threads), threads=threads, steps=10), report=Report())
    finally:
        runtime.set_num_threads(before)
    assert_same_run(tmp_path / "1", tmp_path / "3")


class Pressing(Report):
    """Presses Ctrl-C while a step is reported."""

    def __init__(self, step, times=1):
        self.step, self.times = step, times

    def update(self, row):
        if row["step"] == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_saves_and_resumes_bitwise(corpus, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    pretrain(config(corpus, tmp_path / "straight"), report=Report())
    stopped = config(corpus, tmp_path / "stopped")
    with pytest.raises(Interrupted, match=r"stopped at step 13 of 30; continue with --resume --out .*stopped"):
        pretrain(stopped, report=Pressing(13))
    assert signal.getsignal(signal.SIGINT) is handler
    assert latest_checkpoint(stopped.out).name == "step-00000013"
    assert not Path(stopped.out, "model.safetensors").exists()
    pretrain(stopped, resume=True, report=Report())
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


class Warned(Report):
    def __init__(self):
        self.lines = []

    def warn(self, line):
        self.lines.append(line)


def test_the_warm_up_of_a_short_run(corpus, tmp_path):
    """By default at most half of it, the same when it is continued; one that was given is kept, and warned of."""
    report, short = Warned(), {"steps": 12, "save_every": 5, "warmup": None, "lr": 1e-2}
    pretrain(config(corpus, tmp_path / "straight", **short), report=report)
    assert report.lines == []
    rates = [r["lr"] for r in log_of(tmp_path / "straight")]
    np.testing.assert_allclose(rates[:6], [1e-2 * (i + 1) / 6 for i in range(6)])
    assert rates[6] == max(rates) == 1e-2
    assert rates[-1] < 3e-3
    stopped = config(corpus, tmp_path / "stopped", **short)
    with pytest.raises(Interrupted):
        pretrain(stopped, report=Pressing(3))
    pretrain(stopped, resume=True, report=Report())
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    pretrain(config(corpus, tmp_path / "given", steps=3, warmup=3, lr=1e-2), report=report)
    line = "the learning rate rises for 3 updates (warmup) and the run has 3: it never reaches 0.01"
    assert report.lines == [line]
    defaults = [
        (c(), c(steps=1000).warmup_updates(), c(steps=7).warmup_updates())
        for c in (PretrainConfig, SFTConfig, GRPOConfig)
    ]
    assert [(c.warmup, long, few) for c, long, few in defaults] == [(None, 50, 3), (None, 10, 3), (None, 5, 3)]


def test_second_ctrl_c_stops_at_once(corpus, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        pretrain(config(corpus, tmp_path / "run"), report=Pressing(13, times=2))
    assert latest_checkpoint(tmp_path / "run").name == "step-00000010"


def test_accumulation_is_one_large_batch(corpus):
    """Even where the micro-batches have different numbers of supervised tokens."""
    text = read_corpus(str(corpus))
    tokenizer = Tokenizer.train(iter(text.train), SIZES["vocab_size"])
    gradients, rows = [], []
    for batch_size, accumulation in ((8, 1), (1, 8)):
        sizes = {"batch_size": batch_size, "accumulation": accumulation}
        settings = config(corpus, "unused", dtype="float32", grad_clip=0.0, lr=0.0, **sizes)
        stage = Masked(settings, [text], tokenizer)
        rows.append(loop.Run(stage, settings, Report(), SingleProcess()).update(0, 0, stage.batches))
        gradients.append({name: p.grad.numpy().astype(np.float64) for name, p in stage.model.named_parameters()})
    for key in ("train/loss", "grad_norm", "tokens"):
        assert rows[0][key] == pytest.approx(rows[1][key], rel=1e-6)
    for name, g in gradients[0].items():
        assert np.abs(g - gradients[1][name]).max() <= 1e-5 * np.abs(g).max(), name


class Masked(PretrainStage):
    """Row i of an update loses its last i targets."""

    def batches(self, step):
        batches = super().batches(step)
        row = 0
        for batch in batches:
            for t in batch.targets:
                if row:
                    t[-row:] = -1
                row += 1
        return batches

    def loss(self, batch):
        return self.model.loss(batch.inputs, batch.targets, reduction="sum"), int((batch.targets >= 0).sum())


def test_a_loss_that_is_no_number_stops(corpus, tmp_path):
    with pytest.raises(TrainingError, match=r"the loss is .* at step \d+: try a lower --lr") as caught:
        pretrain(config(corpus, tmp_path / "run", lr=1e30, warmup=0, save_every=1), report=Report())
    assert "\n" not in str(caught.value)
    tensors, _ = load_checkpoint(latest_checkpoint(tmp_path / "run"))
    assert all(np.isfinite(t).all() for t in tensors.values())


def test_max_minutes_ends_the_run_as_if_finished(corpus, tmp_path):
    lm = pretrain(config(corpus, tmp_path / "run", steps=10**6, max_minutes=0.005), report=Report())
    rows = log_of(tmp_path / "run")
    assert 10 < len(rows) < 10**5
    # The learning rate came down all the same, to near its last value of a tenth.
    assert rows[-1]["lr"] < 4e-4
    assert "val/bpb" in rows[-1]
    weights, _ = safetensors.load_file(tmp_path / "run/model.safetensors")
    assert sum(w.size for w in weights.values()) == lm.num_parameters


def test_the_minutes_of_a_resumed_run_are_all_that_it_had(corpus, tmp_path):
    timed = config(corpus, tmp_path / "run", steps=10**6, max_minutes=0.005)
    pretrain(timed, report=Report())
    step = len(log_of(tmp_path / "run"))
    pretrain(timed, report=Report(), resume=True)  # its time is up
    assert len(log_of(tmp_path / "run")) == step
    timed.max_minutes = 0.01
    pretrain(timed, report=Report(), resume=True)
    rates = [row["lr"] for row in log_of(tmp_path / "run")]
    assert len(rates) > step
    # Half of the new time is over: the rate goes on from there and does not begin at its highest again.
    assert 4e-4 < rates[step] < 0.8 * max(rates)
    assert rates[-1] < 4e-4


class Shown(Report):
    def __init__(self):
        self.steps = []

    def samples(self, step, samples):
        self.steps.append(step)


@pytest.mark.parametrize(("every", "shown"), [(0, []), (2, [2, 4, 5]), (5, [5])])
def test_what_the_finished_model_writes_is_shown(corpus, tmp_path, every, shown):
    report = Shown()
    pretrain(config(corpus, tmp_path / "run", steps=5, sample_every=every), report=report)
    assert report.steps == shown


def test_a_run_is_not_replaced_by_accident(corpus, tmp_path):
    run = config(corpus, tmp_path / "run", steps=2)
    pretrain(run, report=Report())
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match="already holds a run: continue it with --resume"):
        pretrain(run, report=Report())
    # Asked to replace it, but with a text that cannot be used: still there.
    (tmp_path / "short.txt").write_text("one line\nand another")
    with pytest.raises(ValueError, match="expected at least 17 for a context of 16"):
        pretrain(config(tmp_path / "short.txt", run.out), report=Report(), overwrite=True)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    pretrain(config(corpus, run.out, steps=1), report=Report(), overwrite=True)
    assert latest_checkpoint(run.out).name == "step-00000001"
    assert len(log_of(run.out)) == 1


def test_resuming_something_else_is_refused(corpus, tmp_path):
    run = config(corpus, tmp_path / "run", steps=4)
    with pytest.raises(ValueError, match=r"\[resume\] expected a checkpoint in .*run, got none"):
        pretrain(run, resume=True, report=Report())
    pretrain(run, report=Report())
    with pytest.raises(ValueError, match=r"\[resume\] expected lr 0.002 as in .*, got 0.5"):
        pretrain(config(corpus, run.out, steps=4, lr=0.5), resume=True, report=Report())
    corpus2 = tmp_path / "other.txt"
    corpus2.write_bytes(corpus.read_bytes()[:-50])
    state = dict(load_checkpoint(latest_checkpoint(run.out))[1]["config"], data=str(corpus))
    corpus_before = corpus.read_bytes()
    try:
        corpus.write_bytes(corpus2.read_bytes())
        with pytest.raises(ValueError, match=r"\[resume\] expected corpus '\w+' as in .*: the data changed"):
            pretrain(PretrainConfig(**state), resume=True, report=Report())
    finally:
        corpus.write_bytes(corpus_before)


def test_two_runs_do_not_share_a_directory(corpus, tmp_path):
    class Second(Report):
        """Tries another run in the same directory while the first is at its first step."""

        error = None

        def update(self, row):
            if self.error is None:
                with pytest.raises(FileExistsError, match="another run is writing to") as caught:
                    pretrain(config(corpus, tmp_path / "run", steps=1), report=Report())
                self.error = caught.value

    report = Second()
    pretrain(config(corpus, tmp_path / "run", steps=3, save_every=0), report=report)
    assert report.error is not None
    assert [row["step"] for row in log_of(tmp_path / "run")] == [1, 2, 3]


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    log = RunLog(tmp_path / "log.jsonl", 0)
    log._path = Path("/dev/full")

    def write():
        with log:
            log.write({"step": 1})

    with pytest.raises(TrainingError, match="cannot write /dev/full: No space left on device"):
        write()
