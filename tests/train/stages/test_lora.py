"""Training adapters: what is learned, what stays, resuming, accumulation, quantized bases, reading the run."""

import json

import numpy as np
import pytest

import llmcore
from llmcore.generate import load
from llmcore.models import adapter_files, adapters
from llmcore.train import DPOConfig, Report, SFTConfig, dpo, sft
from llmcore.train.checkpoint import latest_checkpoint, load_checkpoint
from support.chat_models import FACTS
from support.runs import StopsAt


def config(base, facts, out, **values):
    settings = {"steps": 9, "epochs": 0.0, "save_every": 4, "eval_every": 0, "sample_every": 0, "batch_size": 4,
                "context": 100, "lr": 1e-2, "warmup": 2, "dtype": "float32", "lora_rank": 4,
                "packing": True, **values}  # fmt: skip
    return SFTConfig(model=str(base), data=str(facts), out=str(out), **settings)


def weights(run):
    """The adapter and the last checkpoint of a run."""
    tensors, _ = load_checkpoint(latest_checkpoint(run))
    return (run / adapter_files.WEIGHTS).read_bytes(), {k: v.tobytes() for k, v in tensors.items()}


@pytest.mark.parametrize("quantize", ["none", "int8", "stored"])
def test_a_stopped_run_goes_on_bit_for_bit(base, facts, tmp_path, quantize):
    if quantize == "stored":
        file = tmp_path / "base.gguf"
        load(base).save(file, "Q4_1")
        base = file
    options = {"quantize": quantize, "lora_dropout": 0.2, "accumulation": 2}
    sft(config(base, facts, tmp_path / "whole" / "run", **options), report=Report())
    stopped = config(base, facts, tmp_path / "stopped" / "run", **options)

    with pytest.raises(KeyboardInterrupt):
        sft(stopped, report=StopsAt(6))
    assert not (tmp_path / "stopped" / "run" / adapter_files.WEIGHTS).exists()
    sft(stopped, resume=True, report=Report())
    assert weights(tmp_path / "whole" / "run") == weights(tmp_path / "stopped" / "run")


def test_checkpoints_hold_adapters_only_and_the_base_stays(base, facts, tmp_path):
    before = (base / "model.safetensors").read_bytes()
    lm = sft(config(base, facts, tmp_path / "run"), report=Report())
    _, tensors = weights(tmp_path / "run")
    assert tensors
    assert all(".lora." in name for name in tensors)
    assert (base / "model.safetensors").read_bytes() == before
    frozen = {n: p for n, p in lm.model.named_parameters() if not p.requires_grad}
    kept = dict(load(base, "float32").model.named_parameters())
    assert set(frozen) == set(kept)
    for name, p in frozen.items():
        np.testing.assert_array_equal(p.stored(), kept[name].stored())


def test_dropout_is_drawn_anew_at_every_update(base, facts, tmp_path):
    one = sft(config(base, facts, tmp_path / "one", lora_dropout=0.5), report=Report())
    two = sft(config(base, facts, tmp_path / "two"), report=Report())
    a, b = (next(iter(m.model.trainable().values())).numpy() for m in (one, two))
    assert np.abs(a - b).max() > 1e-3
    dropout = adapters.dropout_of(one.model)
    x = llmcore.tensor(np.ones((50, 40), np.float32))
    dropout.begin(3)
    first, second = dropout(x).numpy().copy(), dropout(x).numpy().copy()
    dropout.begin(3)
    np.testing.assert_array_equal(dropout(x).numpy(), first)
    assert (first != second).any()
    assert set(np.unique(first)) == {0.0, 2.0}
    assert abs(first.mean() - 1) < 0.15  # six standard deviations


def test_eight_at_once_are_eight_one_by_one(base, facts, tmp_path):
    runs = [
        sft(config(base, facts, tmp_path / f"{rows}", batch_size=rows, accumulation=8 // rows, packing=False,
                   steps=5), report=Report())
        for rows in (8, 1)
    ]  # fmt: skip
    for a, b in zip(*(r.model.trainable().values() for r in runs), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-4)


def test_it_learns_and_is_read_again(base, facts, tmp_path):
    """A model that can answer learns another tone."""
    steps = {"steps": 250, "validation_fraction": 0.0}
    sft(config(base, facts, tmp_path / "able", lora_rank=0, **steps), report=Report())
    loud = tmp_path / "loud.jsonl"
    loud.write_text("".join(json.dumps({"prompt": q, "completion": a.upper()}) + "\n" for q, a in FACTS))
    lm = sft(config(tmp_path / "able", loud, tmp_path / "run", lora_rank=16, lr=3e-3, **steps), report=Report())
    again, able = load(tmp_path / "run", "float32"), load(tmp_path / "able", "float32")
    prompts = [lm.chat_prompt([{"role": "user", "content": q}]) for q, _ in FACTS]
    loud_answers, answers, before = (
        [str(c) for c in m.generate(prompts, 20, temperature=0)] for m in (lm, again, able)
    )
    assert loud_answers == answers
    assert sum(c.startswith("IT") and c.isupper() for c in answers) >= 14, answers
    assert sum(c == a for c, (_, a) in zip(before, FACTS, strict=True)) >= 14
    with pytest.raises(FileExistsError):
        sft(config(base, facts, tmp_path / "run"), report=Report())


def test_preferences_with_adapters(base, tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": q, "chosen": a, "rejected": "It is wrong."} for q, a in FACTS]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    settings = {"steps": 30, "beta": 0.3, "epochs": 0.0, "eval_every": 0, "sample_every": 0, "context": 100, "dtype": "float32",
                "lora_rank": 8, "lr": 1e-2, "validation_fraction": 0.0}  # fmt: skip
    dpo(DPOConfig(model=str(base), data=str(path), out=str(tmp_path / "run"), **settings), report=Report())
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[0]["train/loss"] == pytest.approx(np.log(2), abs=1e-5)  # the reference is the model without adapters
    assert log[-1]["train/loss"] < 0.4
    assert log[-1]["rewards/accuracies"] == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora_rank": 0, "lora_alpha": 32.0}, r"\[config\] expected lora_rank with lora_alpha: it says how .*, got 0"),
        ({"lora_rank": 0, "lora_targets": ["q_proj"]}, r"\[config\] expected lora_rank with lora_targets"),
        ({"lora_rank": 0, "lora_dora": True}, r"\[config\] expected lora_rank with lora_dora"),
        ({"lora_rank": 0, "quantize": "int8"}, r"\[config\] expected lora_rank with quantize"),
        ({"quantize": "int3"}, r"\[config\] expected quantize none, int8, int4 or stored, got 'int3'"),
        ({"lora_dropout": 1.0}, r"\[config\] expected lora_dropout in \[0, 1\), got 1.0"),
        ({"lora_alpha": 0.0}, r"\[config\] expected lora_alpha > 0, got 0"),
    ],
)
def test_bad_options(base, facts, tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        config(base, facts, tmp_path / "run", **values)
