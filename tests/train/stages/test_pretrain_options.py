"""What `pretrain` can be told: optimizers and schedules, averaged weights, recomputation, mixtures, files of tokens, documents
apart, another layout on resuming, what is kept and recorded."""

import dataclasses
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import llmcore
from llmcore import models
from llmcore.generate import load
from llmcore.terminal import sparkline
from llmcore.train import PretrainConfig, Report, pretrain
from llmcore.train.background import AsyncSaver, Prefetcher
from llmcore.train.checkpoint import CheckpointSaveError, latest_checkpoint, load_checkpoint
from llmcore.train.ema import EMA
from llmcore.train.schedule import learning_rate
from support.runs import assert_same_weights, log_of

SIZES = {"vocab_size": 300, "context": 16, "layers": 1, "width": 32, "heads": 2, "batch_size": 4, "warmup": 5}
QUIET = {"save_every": 10, "eval_every": 0, "sample_every": 0}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    rng = random.Random(2)
    words = ["cat", "dog", "man", "child", "sees", "likes", "finds", "follows"]
    path = tmp_path_factory.mktemp("corpus") / "text.jsonl"
    path.write_text(
        "\n".join(json.dumps({"text": " ".join(rng.choices(words, k=rng.randint(3, 30)))}) for _ in range(300))
    )
    return path


def config(corpus, out, **values):
    return PretrainConfig(data=str(corpus), out=str(out), **{"steps": 20, **QUIET, **SIZES, **values})


class Notes(Report):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


KILLED = """
import json, os, sys
from llmcore import train

class Killed(train.Report):
    def update(self, row):
        if row["step"] == 25:
            os.kill(os.getpid(), 9)

train.pretrain(train.PretrainConfig(**json.loads(sys.argv[1])), report=Killed())
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "lion", "sgd"])
def test_sixty_steps_are_25_killed_and_35(corpus, tmp_path, optimizer, threads):
    """With accumulation, documents apart, averaged weights and recomputation."""
    values = {"steps": 60, "save_every": 9, "optimizer": optimizer, "accumulation": 2, "isolate": True, "ema": 0.9,
              "recompute": threads == 2, "schedule": "wsd", "lr": 1e-3, "architecture": "llama"}  # fmt: skip
    pretrain(config(corpus, tmp_path / "straight", threads=1, **values), report=Report())
    killed = config(corpus, tmp_path / "killed", threads=threads, **values)
    command = [sys.executable, "-c", KILLED, json.dumps(dataclasses.asdict(killed))]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == -signal.SIGKILL
    pretrain(killed, resume=True, report=Report())
    assert_same_weights(tmp_path / "straight", tmp_path / "killed")


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "lion", "sgd"])
def test_every_optimizer_learns(corpus, tmp_path, optimizer):
    lr = {"adamw": 5e-3, "muon": 5e-3, "lion": 1e-3, "sgd": 0.3}[optimizer]
    pretrain(config(corpus, tmp_path, steps=60, lr=lr, optimizer=optimizer), report=Report())
    losses = [r["train/loss"] for r in log_of(tmp_path)]
    assert np.mean(losses[-5:]) < 0.8 * losses[0]


def test_schedules():
    def rates(schedule, **more):
        return [learning_rate(schedule, s, 100, 2.0, 10, 0.1, **more) for s in range(101)]

    for schedule in ("cosine", "linear", "constant", "wsd"):
        assert rates(schedule)[:10] == pytest.approx([0.2 * (s + 1) for s in range(10)])
    assert rates("cosine")[55] == pytest.approx(2 * (0.1 + 0.9 / 2))
    assert rates("linear")[55] == pytest.approx(2 * (0.1 + 0.9 / 2))
    assert rates("linear")[32] == pytest.approx(2 - 1.8 * 22 / 90)
    assert set(rates("constant")[10:]) == {2.0}
    stable = rates("wsd", decay=0.4)
    assert set(stable[10:61]) == {2.0}
    assert stable[80] == pytest.approx(2 * (0.1 + 0.9 / 2))
    assert [rates(s)[100] for s in ("cosine", "linear", "wsd")] == pytest.approx([0.2] * 3)


def test_averaged_weights_are_measured_and_saved(corpus, tmp_path):
    values = {"steps": 30, "eval_every": 30, "dtype": "float32"}
    pretrain(config(corpus, tmp_path / "plain", **values), report=Report())
    lm = pretrain(config(corpus, tmp_path / "averaged", ema=0.8, **values), report=Report())
    weights, state = load_checkpoint(latest_checkpoint(tmp_path / "averaged"))
    plain, _ = load_checkpoint(latest_checkpoint(tmp_path / "plain"))
    for name, p in lm.model.named_parameters():
        assert np.array_equal(weights[f"model.{name}"], plain[f"model.{name}"])  # training is not changed
        assert np.array_equal(weights[f"ema.{name}"], p.numpy())
    assert state["config"]["ema"] == 0.8
    saved = load(tmp_path / "averaged", "float32").model.tokens.weight.numpy()
    assert np.array_equal(saved, weights["ema.tokens.weight"])
    losses = [log_of(tmp_path / name)[-1]["val/loss"] for name in ("plain", "averaged")]
    assert losses[0] != losses[1]


def test_the_average_is_what_it_says():
    p = llmcore.nn.Parameter(np.zeros(5))
    average, twin = EMA({"p": p}, 0.9), np.zeros(5)
    for t in range(1, 40):
        p.assign(np.full(5, float(t)))
        average.update(t)
        d = min(0.9, (1 + t) / (10 + t))
        twin = twin + (1 - d) * (t - twin)
    np.testing.assert_allclose(average.state_dict()["ema.p"], twin, rtol=1e-5)
    with average.applied():
        np.testing.assert_allclose(p.numpy(), twin, rtol=1e-5)
    assert p.numpy().tolist() == [39.0] * 5
    with pytest.raises(ValueError, match=r"\[average\] expected ema.p of shape \(5,\), got None"):
        average.load_state_dict({})


@pytest.mark.parametrize("name", ["GPT2", "Llama", "GPTNeoX", "Gemma2", "Qwen3MoE"])
def test_recomputation_changes_no_bit(name):
    kind = getattr(models, name)
    extra = {"experts": 4, "experts_used": 2} if name == "Qwen3MoE" else {}
    c = getattr(models, f"{name}Config")(vocab_size=50, context=16, width=32, layers=2, heads=4, **extra)
    ids = np.random.default_rng(0).integers(0, 50, (2, 17))
    found = []
    for recompute in (False, True):
        model = kind(c, "float32", seed=1)
        model.recompute = recompute
        told = []
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward(done=told.append)
        named = {id(p): n for n, p in model.named_parameters()}
        complete = [named[id(t)] for t in told]
        assert len(complete) == len(set(complete))
        assert set(complete) == {n for n, p in model.named_parameters() if p.grad is not None}
        found.append((loss.item(), {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}))
    assert found[0][0] == found[1][0]
    assert found[0][1].keys() == found[1][1].keys()
    for key, g in found[0][1].items():
        np.testing.assert_array_equal(g, found[1][1][key], err_msg=key)


def test_a_gradient_is_told_when_it_is_complete():
    """Of a matrix that is used twice, behind its last use."""
    w = llmcore.tensor(np.ones((3, 3), np.float32), requires_grad=True)
    x = llmcore.tensor(np.ones((2, 3), np.float32), requires_grad=True)
    told = []
    y = llmcore.ops.linear(llmcore.ops.linear(x, w), w)
    y.backward(np.ones((2, 3), np.float32), done=lambda t: told.append((t, np.array(t.grad.numpy()))))
    assert [t for t, _ in told] == [x, w]
    for t, then in told:
        np.testing.assert_array_equal(then, t.grad.numpy())


def test_mixture(corpus, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("\n".join(f"number {i} and {i + 1}" for i in range(400)))
    both = [str(corpus), str(other)]
    run = dataclasses.replace(config(corpus, tmp_path / "run"), data=both, weights=[3, 1])
    pretrain(run, report=Report())
    last = log_of(run.out)[-1]
    assert {"val/bpb", f"val/bpb/{corpus}", f"val/bpb/{other}"} <= set(last)
    with pytest.raises(ValueError, match=r"expected 2 weights > 0, one for each data, got \[1.0\]"):
        dataclasses.replace(run, weights=[1])
    straight = load_checkpoint(latest_checkpoint(run.out))[0]
    again = dataclasses.replace(run, out=str(tmp_path / "again"), steps=20)
    pretrain(again, report=Report())
    for name, values in load_checkpoint(latest_checkpoint(again.out))[0].items():
        assert np.array_equal(values, straight[name])


@pytest.mark.parametrize("header", [False, True])
def test_token_file(corpus, tmp_path, header):
    tokenizer = llmcore.Tokenizer.train(iter(["the cat sees a dog and a child"] * 9), 280)
    tokenizer.save(tmp_path / "tok")
    texts = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    ids = np.concatenate([[*tokenizer.encode_ordinary(t), tokenizer.end_of_text] for t in texts]).astype("<u2")
    head = np.zeros(256, "<i4")
    head[:3] = 20240520, 1, len(ids)
    path = tmp_path / "all.bin"
    path.write_bytes((head.tobytes() if header else b"") + ids.tobytes())
    run = config(path, tmp_path / "run", tokenizer=str(tmp_path / "tok"))
    pretrain(run, report=Report())
    assert log_of(run.out)[-1]["val/bpb"] > 0
    # nanoGPT's layout: what is held out lies beside.
    whole, held_out = llmcore.data.TokenFile(path, tokenizer).encode(tokenizer)
    (tmp_path / "train.bin").write_bytes(np.asarray(whole).tobytes())
    (tmp_path / "val.bin").write_bytes(held_out.tobytes())
    beside = llmcore.data.TokenFile(tmp_path / "train.bin", tokenizer)
    assert np.array_equal(np.asarray(beside.encode(tokenizer)[0]), np.asarray(whole))
    assert np.array_equal(beside.encode(tokenizer)[1], held_out)
    text = tokenizer.decode_bytes([i for i in held_out.tolist() if i != tokenizer.end_of_text])
    assert beside.validation_bytes == len(text)


def test_token_files_that_cannot_be_used(corpus, tmp_path):
    tokenizer = llmcore.Tokenizer.train(iter(["abc"]), 258)
    path = tmp_path / "x.bin"
    path.write_bytes(b"abc")
    with pytest.raises(ValueError, match=r"x.bin: expected uint16 ids, got 3 bytes"):
        llmcore.data.TokenFile(path, tokenizer)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"x.bin: expected uint16 ids, got 0 bytes"):
        llmcore.data.TokenFile(path, tokenizer)
    path.write_bytes(np.full(100, tokenizer.end_of_text, "<u2").tobytes())
    with pytest.raises(
        ValueError, match="is too short to hold a part out: 100 tokens, of which 9 would be, without any"
    ):
        llmcore.data.TokenFile(path, tokenizer)
    path.write_bytes(np.full(100, 999, "<u2").tobytes())
    with pytest.raises(ValueError, match=r"x.bin: expected ids below 2\d\d, the tokenizer's vocabulary, got 999 at 0"):
        llmcore.data.TokenFile(path, tokenizer)
    head = np.zeros(256, "<i4")
    head[:3] = 20240520, 1, 7
    path.write_bytes(head.tobytes() + bytes(10))
    with pytest.raises(
        ValueError, match=r"expected version 1 and 5 tokens in llm.c's header, got version 1 and 7 tokens"
    ):
        llmcore.data.TokenFile(path, tokenizer)
    with pytest.raises(ValueError, match=r"expected the --tokenizer that .*x.bin was made with, got none"):
        pretrain(config(path, tmp_path / "run"), report=Report())
    with pytest.raises(ValueError, match=r"cannot read .*none.bin"):
        llmcore.data.TokenFile(tmp_path / "none.bin", tokenizer)


def test_documents_apart_are_documents_alone(corpus, tmp_path):
    """The loss of packed documents is the sum of theirs alone, each asked for from an end of text on."""
    lm = pretrain(config(corpus, tmp_path / "run", steps=5, isolate=True, dtype="float32"), report=Report())
    tok, end = lm.tokenizer, lm.tokenizer.end_of_text
    texts = [tok.encode_ordinary(t) for t in ("cat sees", "dog", "man likes child")]
    row = np.array([[i for ids in texts for i in (end, *ids)]], np.int32)
    starts = llmcore.data.document_starts(row[:, :-1], end)
    together = lm.model.loss(row[:, :-1], row[:, 1:], "sum", starts).item()
    alone = [np.array([[end, *ids, end]], np.int32) for ids in texts]
    alone[-1] = alone[-1][:, :-1]
    apart = sum(lm.model.loss(a[:, :-1], a[:, 1:], "sum").item() for a in alone)
    assert together == pytest.approx(apart, rel=1e-5)


@pytest.mark.parametrize("layout", [(2, 4), (8, 1)])
def test_another_layout_of_the_same_rows(corpus, tmp_path, layout):
    values = {"dtype": "float32", "lr": 1e-3}
    pretrain(config(corpus, tmp_path / "straight", accumulation=2, **values), report=Report())
    first = config(corpus, tmp_path / "changed", accumulation=2, **values)
    with pytest.raises(RuntimeError, match="enough"):
        pretrain(first, report=Stopping(12))
    said = Notes()
    changed = dataclasses.replace(first, batch_size=layout[0], accumulation=layout[1])
    pretrain(changed, resume=True, report=said)
    assert any(f"{layout[0]} x {layout[1]} rows per update instead of 4 x 2" in n for n in said.notes)
    assert any("equal to rounding and not to the bit" in n for n in said.notes)
    one, other = (load_checkpoint(latest_checkpoint(tmp_path / name))[0] for name in ("straight", "changed"))
    for name, w in one.items():
        if name.startswith("model."):
            np.testing.assert_allclose(w, other[name], atol=2e-5)


def test_another_number_of_rows_goes_on_in_the_data(corpus, tmp_path):
    first = config(corpus, tmp_path / "run")
    with pytest.raises(RuntimeError, match="enough"):
        pretrain(first, report=Stopping(12))
    from llmcore.train.stages import pretrain as stage

    seen = []

    class Seeing(stage.PretrainStage):
        def batches(self, step):
            rows = self.config.batch_size * self.config.accumulation
            seen.append((step, self.first_row + step * rows))
            return super().batches(step)

    said, before = Notes(), stage.PretrainStage
    stage.PretrainStage = Seeing
    try:
        pretrain(dataclasses.replace(first, batch_size=6), resume=True, report=said)
    finally:
        stage.PretrainStage = before
    assert (10, 40) in seen  # ten updates of four rows
    assert (11, 46) in seen
    assert any("the data continues at the row where it stopped" in n for n in said.notes)


class Stopping(Report):
    """As if the machine had failed."""

    def __init__(self, step):
        self.step = step

    def update(self, row):
        if row["step"] == self.step:
            raise RuntimeError("enough")


def test_the_best_model_is_kept(corpus, tmp_path):
    """With a learning rate that spoils what was learned."""
    run = config(corpus, tmp_path / "run", steps=40, eval_every=5, keep_best=True, lr=2.0, warmup=40, dtype="float32")
    said = Notes()
    pretrain(run, report=said)
    assert any("the lowest held-out loss, " in n and n.endswith("run/best") for n in said.notes)
    losses = {r["step"]: r["val/loss"] for r in log_of(run.out) if "val/loss" in r}
    best = load(tmp_path / "run/best", "float32")
    assert min(losses.values()) < list(losses.values())[-1]
    text = llmcore.data.read_corpus(str(corpus))
    from llmcore.evaluate import evaluate_texts

    found = evaluate_texts(best, text.validation, context=16)
    assert found["loss"] == pytest.approx(min(losses.values()), rel=1e-5)


def test_a_run_is_made_longer(corpus, tmp_path):
    """While the rate is constant it is the longer run from the beginning, to the bit."""
    pretrain(config(corpus, tmp_path / "long", steps=30, schedule="wsd"), report=Report())
    short = config(corpus, tmp_path / "run", steps=20, schedule="wsd")
    with pytest.raises(RuntimeError, match="enough"):
        pretrain(short, report=Stopping(12))
    said = Notes()
    pretrain(dataclasses.replace(short, steps=30), resume=True, report=said)
    assert any("30 steps instead of 20" in n for n in said.notes)
    assert_same_weights(tmp_path / "long", tmp_path / "run")
    with pytest.raises(ValueError, match=r"expected at least 30 steps, as .* has taken, got 15"):
        pretrain(dataclasses.replace(short, steps=15), resume=True, report=Report())


def test_what_is_not_installed_is_said_before_a_run_is_replaced(corpus, tmp_path, monkeypatch):
    run = config(corpus, tmp_path / "run", steps=2)
    pretrain(run, report=Report())
    before = {path: path.read_bytes() for path in Path(run.out).rglob("*") if path.is_file()}
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(
        ValueError, match=r"log_to tensorboard needs tensorboardX: pip install 'llmcore\[tensorboard\]'"
    ):
        pretrain(dataclasses.replace(run, log_to=["tensorboard"]), report=Report(), overwrite=True)
    assert {path: path.read_bytes() for path in Path(run.out).rglob("*") if path.is_file()} == before


def test_a_best_model_that_cannot_be_written_leaves_the_one_before(corpus, tmp_path, monkeypatch):
    run = config(corpus, tmp_path / "run", steps=20, eval_every=5, keep_best=True, lr=5e-3)
    from llmcore.train.stages.pretrain import PretrainStage

    whole, saves = PretrainStage.save, []

    def failing(self, directory):
        saves.append(directory)
        if len(saves) == 3:
            Path(directory).mkdir()
            Path(directory, "tokenizer.json").write_text("half")
            raise OSError(28, "No space left on device")
        whole(self, directory)

    monkeypatch.setattr(PretrainStage, "save", failing)
    with pytest.raises(OSError, match="No space"):
        pretrain(run, report=Report())
    assert [p.name for p in Path(run.out).iterdir() if p.name.startswith(".best")] == []
    load(tmp_path / "run/best")


def test_words_are_watched(corpus, tmp_path):
    run = config(corpus, tmp_path / "run", steps=6, watch=["cat dog", "sees"])
    lm = pretrain(run, report=Report())
    rows = [json.loads(line) for line in Path(run.out, "words.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [0, 1, 2, 3, 4, 5, 6]
    assert [list(g) for g in rows[-1]["groups"]] == [["cat", "dog"], ["sees"]]
    ids = lm.tokenizer.encode_ordinary(" dog")
    want = lm.model.tokens.weight.numpy()[ids].mean(axis=0)
    np.testing.assert_allclose(rows[-1]["groups"][0]["dog"], want, atol=1e-5)


def test_depth_stands_for_the_sizes():
    small, deep = PretrainConfig(), PretrainConfig(depth=12)
    assert (small.layers, small.width, small.heads, small.lr, small.batch_size) == (6, 384, 6, 1e-3, 16)
    assert (deep.layers, deep.width, deep.heads, deep.batch_size) == (12, 768, 12, 32)
    assert deep.lr == pytest.approx(6e-4, rel=0.01)  # GPT-3's 125M
    given = PretrainConfig(depth=12, width=256, lr=1e-2)
    assert (given.layers, given.width, given.heads, given.lr) == (12, 256, 4, 1e-2)
    with pytest.raises(ValueError, match="expected depth >= 0, got -1"):
        PretrainConfig(depth=-1)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"optimizer": "adam"}, "expected optimizer adamw, muon, lion or sgd, got 'adam'"),
        ({"schedule": "step"}, "expected schedule cosine, linear, constant or wsd, got 'step'"),
        ({"momentum": 1.0}, "expected momentum < 1, got 1.0"),
        ({"ema": 1.5}, "expected ema < 1, got 1.5"),
        ({"decay": 2}, "expected decay in"),
        ({"watch": ["king", " "]}, "expected words in every group to watch"),
        ({"log_to": ["paper"]}, "expected log_to tensorboard or wandb, got 'paper'"),
    ],
)
def test_bad_options(values, problem):
    with pytest.raises(ValueError, match=problem):
        PretrainConfig(**values)


def test_batches_are_made_ahead():
    made = []

    def make(step):
        made.append(step)
        if step == 3:
            raise ValueError("no three")
        return step * step

    with Prefetcher(make, 5) as ahead:
        assert [ahead(0), ahead(1), ahead(2)] == [0, 1, 4]
        with pytest.raises(ValueError, match="no three"):
            ahead(3)
    assert sorted(set(made)) == [0, 1, 2, 3]


def test_what_goes_wrong_in_the_background_is_told():
    def write(arrays):
        assert arrays["a"].tolist() == [1, 2]
        raise OSError("full")

    values = np.array([1, 2])
    saver = AsyncSaver()
    saver.save(write, {"a": values})
    values[:] = 0  # it has its own copy
    with pytest.raises(OSError, match="full"):
        saver.wait()
    saver.wait()


def test_a_full_disk_leaves_the_checkpoints(corpus, tmp_path, monkeypatch):
    from llmcore.train import checkpoint

    whole = checkpoint.save_checkpoint

    def full(out, step, *more, **options):
        if step == 20:
            raise CheckpointSaveError("checkpoint", "cannot save: the disk is full")
        return whole(out, step, *more, **options)

    monkeypatch.setattr(checkpoint, "save_checkpoint", full)
    run = config(corpus, tmp_path / "run", steps=30)
    with pytest.raises(CheckpointSaveError, match="the disk is full"):
        pretrain(run, report=Report())
    monkeypatch.undo()
    assert latest_checkpoint(run.out).name == "step-00000010"
    pretrain(run, resume=True, report=Report())
    pretrain(config(corpus, tmp_path / "straight", steps=30), report=Report())
    assert_same_weights(tmp_path / "straight", tmp_path / "run")


def test_sparkline():
    assert sparkline([]) == sparkline([1.0]) == ""
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([3.0] * 40) == "▁" * 16
    assert sparkline([5, 5, 1, 1], width=2) == "█▁"


@pytest.mark.peers
def test_tensorboard(corpus, tmp_path):
    pytest.importorskip("tensorboardX")
    run = config(corpus, tmp_path / "run", steps=4, log_to=["tensorboard"])
    pretrain(run, report=Report())
    events = list(Path(run.out, "tensorboard").glob("events.*"))
    assert len(events) == 1
    assert b"train/loss" in events[0].read_bytes()


@pytest.mark.peers
@pytest.mark.filterwarnings("default")  # what wandb's own dependencies warn of
def test_wandb(corpus, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = config(corpus, tmp_path / "run", steps=4, log_to=["wandb"])
    pretrain(run, report=Report())
    written = list(Path(run.out, "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(written) == 1
    assert b"train/loss" in written[0].read_bytes()
