"""Preference optimisation: what is compared, that it learns, accumulation, resuming, its figures."""

import json
import subprocess
import sys

import numpy as np
import pytest

from llmcore.data.rows import Row
from llmcore.errors import CorpusError
from llmcore.generate import load
from llmcore.train import DPOConfig, Report, dpo
from llmcore.train.config import PAIR_LOSSES
from llmcore.train.stages.dpo import DPOStage
from llmcore.train.stages.learning import Learning
from llmcore.train.stages.pairs import pair_of
from support.chat_models import QUESTIONS
from support.runs import StopsAt, assert_same_weights, log_of


def config(base, pairs, out, **values):
    settings = {"steps": 8, "epochs": 0.0, "save_every": 3, "eval_every": 0, "sample_every": 0, "batch_size": 4,
                "context": 90, "lr": 1e-3, "warmup": 1, "dtype": "float32", "validation_fraction": 0.25, **values}  # fmt: skip
    return DPOConfig(model=str(base), data=str(pairs), out=str(out), **settings)


@pytest.mark.parametrize("loss_type", PAIR_LOSSES)
def test_it_learns_which_answers_are_better(base, pairs, tmp_path, loss_type):
    beta = 2.0 if loss_type == "simpo" else 0.1
    dpo(config(base, pairs, tmp_path / "run", steps=40, loss_type=loss_type, beta=beta, save_every=0), report=Report())
    first, *_, last = log_of(tmp_path / "run")
    assert last["train/loss"] < first["train/loss"]
    if loss_type == "discopop":
        return  # its slope at a margin of nothing points the other way: it falls, to one below
    assert last["val/rewards/accuracies"] == 1.0
    assert last["val/rewards/margins"] > 0


def test_the_first_loss_is_that_of_a_policy_that_is_its_reference(base, pairs, tmp_path):
    dpo(config(base, pairs, tmp_path / "run", steps=1), report=Report())
    (row,) = log_of(tmp_path / "run")
    assert row["train/loss"] == pytest.approx(np.log(2), rel=1e-5)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
        assert row[name] == pytest.approx(0.0, abs=1e-4)
    assert row["logps/chosen"] < 0 > row["logps/rejected"]


def test_log_probabilities_are_those_of_the_answers(base, pairs, tmp_path):
    lm = load(base, "float32")
    stage = DPOStage(config(base, pairs, tmp_path / "x"), lm, Report())
    for number, pair in enumerate(stage.train.pairs[:4]):
        for k, e in enumerate(pair[:2]):
            logits = lm.model(e.ids[None, :-1]).numpy()[0].astype(np.float64)
            logprobs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
            at = np.flatnonzero(e.targets >= 0)
            wanted = logprobs[at, e.targets[at]].sum()
            assert stage._reference[0][2 * number + k] == pytest.approx(wanted, rel=1e-5)
    assert len(stage.train.pairs) + len(stage.held_out.pairs) == len(QUESTIONS)


def test_eight_at_once_are_eight_one_by_one(base, pairs, tmp_path):
    for name, rows, times in (("a", 8, 1), ("b", 1, 8)):
        dpo(config(base, pairs, tmp_path / name, batch_size=rows, accumulation=times, steps=3), report=Report())
    a, b = (load(tmp_path / n, "float32").model.state_dict() for n in "ab")
    for key, w in a.items():
        np.testing.assert_allclose(b[key], w, atol=2e-5, err_msg=key)


def test_a_stopped_run_goes_on_bit_for_bit(base, pairs, tmp_path):
    dpo(config(base, pairs, tmp_path / "straight", accumulation=2), report=Report())

    stopped = config(base, pairs, tmp_path / "stopped", accumulation=2)
    with pytest.raises(KeyboardInterrupt):
        dpo(stopped, report=StopsAt(5))
    dpo(stopped, resume=True, report=Report())
    assert_same_weights(tmp_path / "straight", tmp_path / "stopped")


def test_conversations_that_begin_alike(base):
    lm = load(base, "float32")
    start = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    fields = {k: [*start, {"role": "assistant", "content": k}] for k in ("chosen", "rejected")}
    explicit = {"prompt": start, **{k: v[3:] for k, v in fields.items()}}
    both = (pair_of(Learning(lm), Row(f, "x"))[:2] for f in (fields, explicit))
    for a, b in zip(*both, strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_array_equal(a.mask, b.mask)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"prompt": "a", "chosen": "b"},
            r"\[dpo\] .*f.jsonl:1: expected prompt, chosen and rejected; the columns are: prompt, chosen",
        ),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, r".*f.jsonl:1: expected chosen and rejected to differ"),
        (
            {"prompt": "a b " * 99, "chosen": "b", "rejected": "c"},
            r"chosen: expected something to learn in the first 90 tokens",
        ),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "x"}, r"expected margin a number, got 'x'"),
        (
            {"chosen": "b", "rejected": "c"},
            r"\[dpo\] .*f.jsonl:1: expected a prompt beside chosen and rejected; the columns are",
        ),
        (
            {"prompt": "a", "chosen": 1, "rejected": "c"},
            r"\[dpo\] .*f.jsonl:1: expected chosen as a text or a list of messages, got 1",
        ),
        (
            {
                "prompt": "a",
                "chosen": [{"role": "user", "content": "x"}],
                "rejected": [{"role": "user", "content": "y"}],
            },
            r"\[dpo\] .*f.jsonl:1: expected prompt among the messages with which chosen and rejected begin",
        ),
    ],
)
def test_bad_rows_are_named(base, tmp_path, fields, message):
    path = tmp_path / "f.jsonl"
    path.write_text(json.dumps(fields) + "\n" + '{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    with pytest.raises(CorpusError, match=message):
        dpo(config(base, path, tmp_path / "run"), report=Report())
    dpo(config(base, path, tmp_path / "run", bad_rows="skip", steps=1, validation_fraction=0.0), report=Report())


def test_bad_options(base, pairs, tmp_path):
    with pytest.raises(ValueError, match=r"\[config\] expected loss_type sigmoid, hinge"):
        dpo(config(base, pairs, tmp_path / "run", loss_type="ppo"), report=Report())
    with pytest.raises(ValueError, match=r"\[config\] expected beta > 0, got 0"):
        config(base, pairs, tmp_path / "run", beta=0.0)


def test_the_command(base, pairs, tmp_path):
    pytest.importorskip("typer")
    command = [sys.executable, "-m", "llmcore", "dpo", "--model", str(base), "--data", str(pairs), "--out"]
    done = subprocess.run(
        [*command, str(tmp_path / "run"), "--steps", "2", "--context", "64"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "run").chat_template is not None
