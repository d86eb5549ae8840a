"""Runs that are running or were stopped, loaded as models."""

import dataclasses
import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

import llmcore
from llmcore.errors import Error
from llmcore.train import DPOConfig, PretrainConfig, Report, SFTConfig, dpo, pretrain, sft
from llmcore.train.checkpoint import latest_checkpoint
from support.runs import StopsAt

SIZES = {"context": 64, "warmup": 0, "schedule": "constant", "eval_every": 0, "sample_every": 0, "dtype": "float32",
         "threads": 1, "save_every": 4}  # fmt: skip
MODEL = {"vocab_size": 280, "layers": 1, "width": 32, "heads": 2, "batch_size": 4}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text("\n".join(f"the cat number {i} sees {i * 7 % 13} dogs" for i in range(400)))
    rows = [{"prompt": f"how many are {i}?", "completion": f"{i} dogs"} for i in range(16)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = [{"prompt": f"how many are {i}?", "chosen": f"{i} dogs", "rejected": "none"} for i in range(16)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    pretrain(settings(folder, "base", steps=6), report=Report())
    return folder


def settings(home, name, **values):
    return PretrainConfig(data=str(home / "text.txt"), out=str(home / name), **{**SIZES, **MODEL, **values})


def stopped(train, config, step):
    with pytest.raises(KeyboardInterrupt):
        train(config, report=StopsAt(step), overwrite=True)


def logits(lm):
    return lm.model(np.array([[1, 2, 3, 4, 5]])).numpy()


def test_pretraining(home):
    stopped(pretrain, settings(home, "stopped", steps=50), 10)
    lm = llmcore.load(home / "stopped", dtype="float32")
    saved = load_file(latest_checkpoint(home / "stopped") / "tensors.safetensors")
    for name, p in lm.model.named_parameters():
        np.testing.assert_array_equal(p.numpy(), saved[f"model.{name}"])
    expected = (
        f"{home / 'stopped'} is a run that has not finished: this is its checkpoint of step 8 of 50, 0 minutes old"
    )
    assert lm.notes == (expected,)
    assert str(lm.generate("the cat", max_tokens=3, temperature=0))
    assert llmcore.load(home / "stopped", quantize="int8").model.dtype == "float32"
    lm.save(home / "copy")
    assert llmcore.load(home / "copy").notes == ()


def test_the_average_is_taken_where_the_run_takes_it(home):
    stopped(pretrain, settings(home, "average", steps=50, ema=0.9), 10)
    lm = llmcore.load(home / "average", dtype="float32")
    saved = load_file(latest_checkpoint(home / "average") / "tensors.safetensors")
    for name, p in lm.model.named_parameters():
        np.testing.assert_array_equal(p.numpy(), saved[f"ema.{name}"])
    assert any((saved[f"ema.{name}"] != saved[f"model.{name}"]).any() for name, _ in lm.model.named_parameters())


STAGES = [(sft, SFTConfig, "rows.jsonl", {"packing": False}), (dpo, DPOConfig, "pairs.jsonl", {})]


@pytest.mark.parametrize(("train", "kind", "data", "more"), STAGES, ids=["sft", "dpo"])
@pytest.mark.parametrize("lora", [{}, {"lora_rank": 2, "lr": 1e-2}], ids=["whole", "lora"])
def test_as_a_run_that_ends_at_that_step(home, train, kind, data, more, lora):
    values = {**SIZES, "batch_size": 2, "epochs": 0.0, "lr": 1e-3, "validation_fraction": 0.0, **more, **lora}
    values = {"model": str(home / "base"), "data": str(home / data), **values}
    whole = kind(out=str(home / "whole"), steps=4, **values)
    train(whole, report=Report(), overwrite=True)
    stopped(train, kind(out=str(home / "part"), steps=50, **values), 6)
    one, other = (llmcore.load(home / name, dtype="float32") for name in ("whole", "part"))
    np.testing.assert_array_equal(logits(other), logits(one))
    assert (logits(one) != logits(llmcore.load(home / "base", dtype="float32"))).any()
    assert "its checkpoint of step 4 of 50" in other.notes[-1]
    assert str(other.chat([{"role": "user", "content": "how many?"}], max_tokens=2, temperature=0)) is not None


def test_continued_pretraining(home):
    values = {
        **SIZES,
        "data": str(home / "text.txt"),
        "model": str(home / "base"),
        "batch_size": 2,
        "lr": 1e-3,
        "context": 32,
    }
    pretrain(PretrainConfig(out=str(home / "on"), steps=4, **values), report=Report(), overwrite=True)
    stopped(pretrain, PretrainConfig(out=str(home / "further"), steps=9, **values), 6)
    one, other = (llmcore.load(home / name, dtype="float32") for name in ("on", "further"))
    np.testing.assert_array_equal(logits(other), logits(one))


def test_adapters_on_adapters(home):
    """What the first had learned is there, and what the second has learned so far."""
    values = {**SIZES, "batch_size": 2, "epochs": 0.0, "lr": 1e-2, "validation_fraction": 0.0, "lora_rank": 2}
    first = SFTConfig(
        model=str(home / "base"), data=str(home / "rows.jsonl"), out=str(home / "first"), steps=4, **values
    )
    sft(first, report=Report(), overwrite=True)
    second = {"model": str(home / "first"), "data": str(home / "pairs.jsonl"), **values}
    dpo(DPOConfig(out=str(home / "both"), steps=4, **second), report=Report(), overwrite=True)
    stopped(dpo, DPOConfig(out=str(home / "half"), steps=9, **second), 6)
    one, other, earlier = (llmcore.load(home / name, dtype="float32") for name in ("both", "half", "first"))
    np.testing.assert_allclose(logits(other), logits(one), rtol=1e-5, atol=1e-6)
    assert (logits(one) != logits(earlier)).any()


def test_a_run_that_is_continued(home):
    """Its saved model is older than its newest checkpoint, until it ends again."""
    pretrain(settings(home, "more", steps=4), report=Report(), overwrite=True)
    assert llmcore.load(home / "more").notes == ()
    with pytest.raises(KeyboardInterrupt):
        pretrain(settings(home, "more", steps=20), report=StopsAt(10), resume=True)
    assert "step 8 of 20" in llmcore.load(home / "more").notes[-1]
    pretrain(settings(home, "more", steps=20), report=Report(), resume=True)
    assert llmcore.load(home / "more").notes == ()


def test_what_is_broken_is_never_read(home):
    stopped(pretrain, settings(home, "broken", steps=50), 10)
    newest = latest_checkpoint(home / "broken")
    (newest / "tensors.safetensors").write_bytes(b"half")
    half = newest.with_name(".unfinished-step-00000012")
    half.mkdir()
    lm = llmcore.load(home / "broken")
    assert f"{newest / 'tensors.safetensors'} is damaged" in lm.notes[0]
    assert lm.notes[0].endswith("step-00000004 is read instead")
    assert half.is_dir()
    for path in newest.parent.glob("step-*"):
        shutil.rmtree(path)
    with pytest.raises(FileNotFoundError, match="is a run that has saved no checkpoint yet"):
        llmcore.load(home / "broken")
    with pytest.raises(Error, match="dtype"):
        llmcore.load(home / "broken", dtype="f32")


def test_while_it_runs(home):
    """Again and again, while checkpoints come and go."""
    out = home / "running"
    config = dataclasses.asdict(settings(home, "running", steps=100000, save_every=1))
    code = "import json, sys; from llmcore.train import PretrainConfig, Report, pretrain\n"
    code += "pretrain(PretrainConfig(**json.loads(sys.argv[1])), report=Report())"
    process = subprocess.Popen([sys.executable, "-c", code, json.dumps(config)])
    try:
        end = time.monotonic() + 60
        while not any(out.glob("checkpoints/step-*")) and time.monotonic() < end:
            time.sleep(0.01)
        steps = []
        for _ in range(15):
            note = llmcore.load(out).notes[-1]
            steps.append(int(note.split(" step ")[1].split()[0]))
        assert process.poll() is None
        assert steps == sorted(steps)
        assert steps[-1] > steps[0]
    finally:
        process.kill()
        process.wait()
