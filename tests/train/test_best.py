"""Early stopping: when a run waits no longer, and which weights are its result."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from llmcore.errors import CorpusError
from llmcore.generate import load
from llmcore.nn import Parameter
from llmcore.train import Interrupted, PretrainConfig, Report, SFTConfig, pretrain, sft
from llmcore.train.best import BestModel
from llmcore.train.loop_config import LoopConfig
from llmcore.train.stages.pretrain import PretrainStage
from support.chat_models import FACTS, save_chat_model
from support.runs import log_of


class Heard(Report):
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)

    warn = note


class OneWeight:
    def __init__(self):
        self.weight = Parameter(np.zeros(2, np.float32))

    def trainable(self):
        return {"w": self.weight}


@pytest.mark.parametrize(
    ("name", "figures", "best", "ends"),
    [
        ("val/loss", [3.0, 2.0, 2.5, 2.0, 1.0, 1.5, 1.5, 1.5], 5, 8),
        ("val/loss", [3.0, 2.0, 2.5, 2.5, 2.5, 0.5], 2, 5),
        ("val/reward", [-1.0, 0.5, 0.25, 0.5, 0.0], 2, 5),
        ("val/loss", [1.0, float("nan"), float("nan"), float("nan")], 1, 4),
        ("val/loss", [0.0, 1.0, 1.0, 1.0], 1, 4),
    ],
)
def test_when_it_ends(tmp_path, name, figures, best, ends):
    stage, totals = OneWeight(), {}
    model = BestModel(stage, LoopConfig(out=str(tmp_path), patience=3), totals, Report())
    for step, figure in enumerate(figures, 1):
        stage.weight.assign(np.full(2, step, np.float32))
        model.seen({name: figure}, step)
        if model.is_final:
            break
    assert step == ends
    heard = Heard()
    BestModel(stage, LoopConfig(out=str(tmp_path), patience=3), totals, heard).take(step)
    assert stage.weight.numpy().tolist() == [best, best]
    assert f"{figures[best - 1]:.3f} at step {best}" in heard.said[0]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    rng = random.Random(1)
    words = ["the cat", "a dog", "sees", "likes", "the old man"]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(" ".join(rng.choices(words, k=5)) for _ in range(300)))
    return str(path)


def config(text, out, **values):
    """A run whose learning rate rises until it learns no more."""
    sizes = {"vocab_size": 280, "context": 16, "layers": 1, "width": 32, "heads": 2, "batch_size": 4}
    rest = {
        "steps": 60,
        "eval_every": 4,
        "sample_every": 0,
        "save_every": 3,
        "lr": 0.2,
        "warmup": 60,
        "dtype": "float32",
    }
    return PretrainConfig(data=text, out=str(out), **{**sizes, **rest, **values})


def expected(figures, patience):
    """When such a run ends and its best evaluation, from all of its figures."""
    best = waited = 0
    for i, figure in enumerate(figures):
        better = i == 0 or figure < figures[best]
        best, waited = (i, 0) if better else (best, waited + 1)
        if waited == patience:
            break
    return i, best


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_the_result_is_the_best_model(text, tmp_path, ema):
    pretrain(config(text, tmp_path / "whole", ema=ema), report=Report())
    figures = [row["val/loss"] for row in log_of(tmp_path / "whole") if "val/loss" in row]
    last, best = expected(figures, 2)
    assert 0 < best < last < len(figures) - 1
    heard = Heard()
    lm = pretrain(config(text, tmp_path / "run", patience=2, keep_best=True, ema=ema), report=heard)
    assert len(log_of(tmp_path / "run")) == 4 * (last + 1)
    assert f"2 evaluations brought no better model: stopped at step {4 * (last + 1)} of 60" in heard.said
    assert any(s.startswith("the model is the one with the lowest held-out loss") for s in heard.said)
    stored = Path(tmp_path / "run/model.safetensors").read_bytes()
    assert stored == Path(tmp_path / "run/best/model.safetensors").read_bytes()
    ids = np.array([[1, 2, 3]])
    assert np.array_equal(load(tmp_path / "run", "float32").model(ids).numpy(), lm.model(ids).numpy())


@pytest.mark.parametrize("moment", [7, 11, 15])
def test_resumes_bitwise(text, tmp_path, monkeypatch, moment):
    pretrain(config(text, tmp_path / "straight", patience=2), report=Report())
    steps = len(log_of(tmp_path / "straight"))
    whole, calls = PretrainStage.loss, []

    def stops(self, batch):
        calls.append(batch)
        if len(calls) == moment:
            raise Interrupted("train", "stopped")
        return whole(self, batch)

    monkeypatch.setattr(PretrainStage, "loss", stops)
    with pytest.raises(Interrupted):
        pretrain(config(text, tmp_path / "stopped", patience=2), report=Report())
    monkeypatch.undo()
    pretrain(config(text, tmp_path / "stopped", patience=2), resume=True, report=Report())
    # A finished run that is resumed stays as it is.
    pretrain(config(text, tmp_path / "stopped", patience=2), resume=True, report=Report())
    assert len(log_of(tmp_path / "stopped")) == steps
    files = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("straight", "stopped")]
    assert files[0] == files[1]


def test_patience_needs_something_to_look_at(tmp_path, text):
    with pytest.raises(ValueError, match="expected eval_every > 0 with patience, got 0"):
        LoopConfig(patience=1, eval_every=0)
    base = save_chat_model(tmp_path / "base", [f"{q} {a}" for q, a in FACTS], 300)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": q, "completion": a}) + "\n" for q, a in FACTS))
    settings = SFTConfig(model=str(base), data=str(rows), out=str(tmp_path / "run"), patience=2, context=64)
    with pytest.raises(CorpusError, match="held-out rows for patience, got none: give --validation"):
        sft(settings, report=Report())
    heard = Heard()
    pretrain(config(text, tmp_path / "short", steps=6, warmup=1, patience=2), report=heard)
    assert any("the run of 6 updates ends before 2 evaluations, one every 4" in s for s in heard.said)
