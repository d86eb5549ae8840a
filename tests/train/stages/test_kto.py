"""Preferences from single answers: what is compared, that it learns, accumulation, resuming, bad rows."""

import json

import numpy as np
import pytest

from llmcore.errors import CorpusError
from llmcore.generate import load
from llmcore.train import KTOConfig, Report, kto
from llmcore.train.stages.kto import KTOStage
from support.chat_models import QUESTIONS
from support.runs import StopsAt, assert_same_weights, log_of


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Yes is good, no is bad."""
    path = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    rows = [
        {"prompt": q, "completion": f"yes it is {q[8]}" if i % 3 else f"no it is not {q[8]}", "label": bool(i % 3)}
        for i, q in enumerate(QUESTIONS)
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def config(base, answers, out, **values):
    settings = {"steps": 8, "epochs": 0.0, "save_every": 3, "eval_every": 0, "sample_every": 0, "batch_size": 4,
                "context": 90, "lr": 1e-3, "warmup": 1, "dtype": "float32", "validation_fraction": 0.25, **values}  # fmt: skip
    return KTOConfig(model=str(base), data=str(answers), out=str(out), **settings)


def test_it_learns_what_is_good(base, answers, tmp_path):
    kto(config(base, answers, tmp_path / "run", steps=40, save_every=0), report=Report())
    first, *_, last = log_of(tmp_path / "run")
    assert first["train/loss"] == pytest.approx(0.5, abs=1e-5)  # 1 − σ(0), of a policy that is its reference
    assert first["kl"] == pytest.approx(0.0, abs=1e-5)
    assert last["val/loss"] < 0.45
    assert last["val/rewards/chosen"] > last["val/rewards/rejected"] + 0.5


def test_what_the_distance_is_estimated_from(base, answers, tmp_path):
    """Answers behind the prompts of others, of which each is the policy's log-ratio."""
    lm = load(base, "float32")
    stage = KTOStage(config(base, answers, tmp_path / "x"), lm, Report())
    train = stage.train
    assert len(train.examples) == len(train.strangers)
    for own, other in zip(train.examples, train.strangers, strict=True):
        assert other.prompt == own.prompt
        assert other.ids[other.mask].tolist() != own.ids[own.mask].tolist()
    rng = np.random.default_rng(0)
    for p in lm.model.parameters():
        p.assign(p.numpy() + rng.normal(0, 0.02, p.shape).astype(np.float32))
    ratios = []
    for other, reference in zip(train.strangers[:6], train.stranger_reference[:6], strict=True):
        logits = lm.model(other.ids[None, :-1]).numpy()[0].astype(np.float64)
        table = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        at = np.flatnonzero(other.targets >= 0)
        ratios.append(table[at, other.targets[at]].sum() - reference)
    assert train.kl(lm, range(6), 4) == pytest.approx(max(0.0, np.mean(ratios)), abs=1e-4)


def test_pairs_are_two_answers(base, tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": q, "chosen": "yes it is", "rejected": "no it is not"} for q in QUESTIONS]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    stage = KTOStage(config(base, path, tmp_path / "x", validation_fraction=0.0), load(base, "float32"), Report())
    assert stage.train.good.tolist() == [True, False] * len(QUESTIONS)
    for own, other in zip(stage.train.examples, stage.train.strangers, strict=True):
        assert other.prompt == own.prompt


def test_eight_at_once_are_eight_one_by_one(base, answers, tmp_path):
    for name, rows, times in (("a", 8, 1), ("b", 1, 8)):
        kto(config(base, answers, tmp_path / name, batch_size=rows, accumulation=times, steps=3), report=Report())
    a, b = (load(tmp_path / n, "float32").model.state_dict() for n in "ab")
    for key, w in a.items():
        np.testing.assert_allclose(b[key], w, atol=2e-5, err_msg=key)


def test_a_stopped_run_goes_on_bit_for_bit(base, answers, tmp_path):
    kto(config(base, answers, tmp_path / "straight"), report=Report())

    stopped = config(base, answers, tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        kto(stopped, report=StopsAt(5))
    kto(stopped, resume=True, report=Report())
    assert_same_weights(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "a", "completion": "b"}, "expected prompt, completion and label, or prompt, chosen and rejected"),
        ({"prompt": "a", "completion": "b", "label": "yes"}, "expected label true or false, got 'yes'"),
        ({"prompt": "a", "completion": 3, "label": True}, "expected completion as a text or a list of messages, got 3"),
    ],
)
def test_bad_rows_are_named(base, tmp_path, fields, message):
    path = tmp_path / "f.jsonl"
    path.write_text(json.dumps(fields) + "\n" + '{"prompt": "a", "completion": "b", "label": true}\n')
    with pytest.raises(CorpusError, match=rf"\[kto\] .*f.jsonl:1: {message}"):
        kto(config(base, path, tmp_path / "run"), report=Report())
