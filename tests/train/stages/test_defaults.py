"""What a fine-tuning run does where its settings leave it open."""

import json

import pytest

from llmcore.train import DPOConfig, Report, SFTConfig, defaults, dpo, sft
from support.chat_models import FACTS


class Hears(Report):
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)

    warn = note


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("rows", "epochs"), [(1, 25), (3, 25), (10, 10), (33, 3), (34, 3), (1000, 3), (8333, 3), (10_000, 2), (52_000, 1)]
)
def test_few_rows_have_more_epochs(rows, epochs):
    """The numbers of OpenAI's rule: 3 epochs, but 100 rows seen at least, in at most 25 epochs, and 25,000 at most."""
    assert defaults.epochs(rows) == epochs


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (10, 1), (40, 2), (100, 6), (128, 8), (10_000, 8)])
def test_an_epoch_of_few_rows_has_sixteen_updates(rows, size):
    assert defaults.batch_size(rows, 1) == size
    assert defaults.batch_size(rows, 4) == max(1, min(8, rows // 64))


def test_rates_follow_width_and_adapters():
    """The exponent for Llama and the factor for adapters that Schulman and Thinking Machines Lab (2025) measured."""
    assert defaults.learning_rate(2e-5, 4096, False) == 2e-5
    assert defaults.learning_rate(2e-5, 4096, True) == 2e-4
    assert defaults.learning_rate(2e-5, 576, True) == pytest.approx(2e-4 * (4096 / 576) ** 0.781, rel=0.05)
    assert defaults.learning_rate(2e-5, 576, False) < defaults.learning_rate(2e-5, 256, False)


def test_ten_rows_are_all_learned_ten_times(base, tmp_path):
    rows = [{"prompt": q, "completion": a} for q, a in FACTS[:10]]
    report, config = (
        Hears(),
        SFTConfig(model=str(base), data=written(tmp_path / "rows.jsonl", rows), out=str(tmp_path / "run")),
    )
    sft(config, report=report)
    lines = log(tmp_path / "run")
    assert len(lines) == 100
    assert not any("val/loss" in line for line in lines)
    assert any("100 updates, 10 epochs" in text for text in report.said)
    assert not any("handful" in text for text in report.said)
    assert config.lr == defaults.learning_rate(2e-5, 32, False)


def test_a_handful_of_updates_is_said(base, tmp_path):
    rows = [{"prompt": q, "chosen": a, "rejected": "No."} for q, a in FACTS[:10]]
    values = {"model": str(base), "data": written(tmp_path / "rows.jsonl", rows), "batch_size": 8, "epochs": 1.0}
    report = Hears()
    dpo(DPOConfig(out=str(tmp_path / "run"), **values), report=report)
    assert len(log(tmp_path / "run")) == 2
    assert any("2 updates are a handful" in text and "--epochs" in text for text in report.said)
    asked = Hears()
    dpo(DPOConfig(out=str(tmp_path / "other"), **values, steps=2), report=asked)
    assert not any("handful" in text for text in asked.said)


@pytest.mark.parametrize(("accumulation", "parts"), [(1, 1), (2, 2), (8, 5)])
def test_micro_batches_of_fewer_rows_than_asked_for(base, tmp_path, accumulation, parts):
    """Ten rows of which an update takes up to 8 are five and five, in at most as many micro-batches as there are rows."""
    from llmcore.generate import load
    from llmcore.train.stages.sft import SFTStage

    rows = [{"prompt": q, "completion": a} for q, a in FACTS[:10]]
    config = SFTConfig(model=str(base), data=written(tmp_path / "rows.jsonl", rows), batch_size=8 // accumulation,
                       accumulation=accumulation, context=60, packing=False)  # fmt: skip
    stage = SFTStage(config, load(base, "float32"), Report())
    batches = [stage.batches(step) for step in range(2)]
    assert [len(b) for b in batches] == [parts, parts]
    assert [sum(len(p.inputs) for p in b) for b in batches] == [5, 5]
