"""Supervised fine-tuning: what is learned, packing that keeps examples apart, accumulation, resuming, learning."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from llmcore import models
from llmcore.data.examples import Example, ExampleBatches, is_held_out
from llmcore.data.python_qa import first_sentence, python_qa
from llmcore.data.rows import Row, read_rows
from llmcore.errors import CorpusError
from llmcore.generate import load
from llmcore.generate.chat.template import ChatTemplate
from llmcore.train import Report, SFTConfig, sft
from llmcore.train.stages.finetune import prepare
from llmcore.train.stages.learning import Learning
from llmcore.train.stages.sft import examples_of, token_figures
from support.chat_models import FACTS
from support.runs import StopsAt, assert_same_weights
from support.small_models import CONFIGS


@pytest.fixture
def lm(base):
    return load(base, "float32")


def config(base, facts, out, **values):
    settings = {"steps": 12, "epochs": 0.0, "save_every": 4, "eval_every": 0, "sample_every": 0, "batch_size": 4,
                "context": 100, "lr": 3e-3, "warmup": 2, "dtype": "float32", "packing": True, **values}  # fmt: skip
    return SFTConfig(model=str(base), data=str(facts), out=str(out), **settings)


def example_of(lm, row):
    (example,) = examples_of(Learning(lm), row)
    return example


def spelled(lm, example):
    """What is learned between brackets."""
    text, inside = "", False
    for i, learned in zip(example.ids.tolist(), example.mask.tolist(), strict=True):
        text += "[" * (learned and not inside) + "]" * (inside and not learned) + lm.token_text(i)
        inside = learned
    return text + "]" * inside


# ---- what is learned ----


def test_answers_are_learned_with_their_ends(lm):
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi <|im_end|>"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Bye bye"},
    ]
    got = spelled(lm, example_of(lm, Row({"messages": messages}, "here")))
    assert got == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi <|im_end|><|im_end|>\n"
        "<|im_start|>assistant\n[Hello<|im_end|>]\n<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n[Bye bye<|im_end|>]\n"
    )
    # What a user says is text; the ids are those that the model will be asked with.
    example = example_of(lm, Row({"messages": messages}, "here"))
    end = lm.tokenizer.special_tokens["<|im_end|>"]
    assert example.ids.tolist().count(end) == 5
    asked = lm.chat_prompt(messages[:4])
    assert example.ids[: len(asked)].tolist() == asked


def test_prompts_texts_and_lists(lm):
    row = {"prompt": "A?", "completion": "B."}
    whole = spelled(lm, example_of(lm, Row(row, "x")))
    assert whole == "<|im_start|>user\nA?<|im_end|>\n<|im_start|>assistant\n[B.<|im_end|>]\n"
    before = [
        {"role": "user", "content": "A?"},
        {"role": "assistant", "content": "old"},
        {"role": "user", "content": "C"},
    ]
    row = {"prompt": before, "completion": [{"role": "assistant", "content": "new"}]}
    assert spelled(lm, example_of(lm, Row(row, "x"))).count("[") == 1
    assert "[new<|im_end|>]" in spelled(lm, example_of(lm, Row(row, "x")))
    assert spelled(lm, example_of(lm, Row({"text": "all of it"}, "x"))) == "[all of it<|im_end|>]"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"question": "a"},
            r"\[sft\] .*file.jsonl:3: expected messages, prompt and completion, or text; the columns are: question \(--columns prompt=",
        ),
        ({"messages": "a"}, r"\[sft\] .*file.jsonl:3: expected messages as a list of messages, got 'a'"),
        ({"messages": [{"role": "user", "content": "a"}]}, r"\[sft\] .*file.jsonl:3: expected something to learn"),
        (
            {"prompt": "a", "completion": 3},
            r"\[sft\] .*file.jsonl:3: expected completion as a text or a list of messages, got 3",
        ),
    ],
)
def test_rows_with_nothing_to_learn_are_named(base, tmp_path, fields, message):
    path = tmp_path / "file.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' * 2 + json.dumps(fields) + "\n")
    with pytest.raises(CorpusError, match=message) as error:
        sft(config(base, path, tmp_path / "run"), report=Report())
    assert "\n" not in str(error.value)
    assert "--bad-rows skip" in str(error.value)

    class Hears(Report):
        def warn(self, text):
            warnings.append(text)

    warnings = []
    sft(config(base, path, tmp_path / "run", bad_rows="skip", validation_fraction=0.0, steps=1), report=Hears())
    warnings = [w for w in warnings if "skipped" in w]
    assert len(warnings) == 1
    assert re.fullmatch(r"1 of 3 rows skipped:\n  .*" + message.removeprefix(r"\[sft\] ") + ".*", warnings[0])


def test_answers_behind_the_context_are_named(base, tmp_path):
    path = tmp_path / "file.jsonl"
    path.write_text(json.dumps({"prompt": "a b c " * 40, "completion": "b"}) + "\n")
    with pytest.raises(CorpusError, match=r"file.jsonl:1: expected something to learn in the first 30 tokens"):
        sft(config(base, path, tmp_path / "run", context=30), report=Report())


def test_templates_that_move_answers_are_refused(lm):
    lm.chat_template = ChatTemplate("{% for m in messages[-1:] %}{{ m.content }}<|im_end|>{% endfor %}")
    messages = [
        {"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    ]
    with pytest.raises(ValueError, match="expected a template that puts each answer after its prompt"):
        example_of(lm, Row({"messages": messages}, "x"))
    lm.chat_template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(ValueError, match="expected an answer that ends with a token that ends texts"):
        example_of(lm, Row({"messages": messages}, "x"))


def test_a_model_without_a_template_gets_a_plain_one(lm):
    lm.chat_template = None
    prepare(lm)
    got = spelled(lm, example_of(lm, Row({"prompt": "A?", "completion": "B."}, "x")))
    assert got == "### user\nA?\n### assistant\n[B.<|im_end|>]\n"


# ---- batches ----


def examples(n, seed=0, longest=30):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        length = int(rng.integers(2, longest))
        learned = rng.random(length) < 0.6
        learned[-1] = True
        found.append(Example(rng.integers(0, 99, length).astype(np.int32), learned))
    return found


@pytest.mark.parametrize("packing", [True, False])
def test_every_epoch_has_all_examples_once(packing):
    batches = ExampleBatches(examples(58), 3, 40, packing, seed=2)
    assert sorted(i for b in batches.bins for i in b) == list(range(58))
    assert all(sum(len(batches.examples[i].ids) - 1 for i in b) <= 40 for b in batches.bins)
    if packing:
        assert len(batches.bins) < 58 / 1.5
    rows, per_epoch = [], len(batches.bins)
    for step in range(2 * batches.steps_per_epoch):
        batch = batches.batch(step)
        assert len(batch.inputs) in (2, 3)
        again = batches.batch(step)
        for a, b in zip(batch, again, strict=True):
            np.testing.assert_array_equal(a, b)
        rows += [row[row >= 0].tolist() for row in batch.targets]
    first, second = rows[:per_epoch], rows[per_epoch : 2 * per_epoch]
    assert sorted(first) == sorted(second)
    assert first != second


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_examples_do_not_see_each_other(name):
    """Loss and gradients of rows that examples share are those of the examples by themselves."""
    c = CONFIGS[name]
    model = models.ARCHITECTURES[c.model_type](c, "float32", seed=3)
    some = examples(9, seed=4, longest=12)
    packed, apart = (ExampleBatches(some, 2, 24, packing, 0) for packing in (True, False))
    assert len(packed.bins) < len(apart.bins)

    def losses_and_gradients(batches):
        model.zero_grad()
        total = 0.0
        for batch in batches.in_order(3):
            loss = model.loss(batch.inputs, batch.targets, "sum", batch.starts)
            loss.backward()
            total += loss.item()
        return total, {n: np.array(p.grad.numpy()) for n, p in model.named_parameters() if p.grad is not None}

    (a, grads_a), (b, grads_b) = losses_and_gradients(packed), losses_and_gradients(apart)
    assert a == pytest.approx(b, rel=1e-5)
    for key, grad in grads_a.items():
        scale = np.abs(grad).max()
        np.testing.assert_allclose(grads_b[key], grad, atol=2e-5 * max(scale, 1e-3), err_msg=key)


def test_figures_are_those_of_the_softmax(lm):
    batch = ExampleBatches(examples(5), 5, 60, True, 0).of([[0, 1], [2, 3, 4]])
    nats, right, count = token_figures(lm, batch)
    expected_nats = expected_right = expected_count = 0
    for e in examples(5):
        logits = lm.model(e.ids[None, :-1]).numpy()[0].astype(np.float64)
        logprobs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        at = np.flatnonzero(e.targets >= 0)
        expected_nats -= logprobs[at, e.targets[at]].sum()
        expected_right += (logits[at].argmax(1) == e.targets[at]).sum()
        expected_count += len(at)
    assert (right, count) == (expected_right, expected_count)
    assert nats == pytest.approx(expected_nats, rel=1e-5)


def test_the_held_out_part_stays_when_rows_are_added():
    keys = [f"row {i}" for i in range(4000)]
    held = [k for k in keys if is_held_out(k, 0.1)]
    assert 300 < len(held) < 500
    assert not any(is_held_out(k, 0.0) for k in keys)


# ---- runs ----


def test_it_learns_to_answer_and_to_stop(base, facts, tmp_path):
    lm = sft(
        config(base, facts, tmp_path / "run", steps=250, lr=1e-2, save_every=0, validation_fraction=0.0),
        report=Report(),
    )
    again = load(tmp_path / "run")
    right = 0
    for q, a in FACTS:
        c = again.chat([{"role": "user", "content": q}], 20, temperature=0)
        assert c.finish_reason == "stop"
        right += c.text == a
    assert right >= 15
    assert lm.chat_template.source == again.chat_template.source


def test_eight_at_once_are_eight_one_by_one(base, facts, tmp_path):
    for name, rows, times in (("a", 8, 1), ("b", 1, 8), ("c", 2, 4)):
        values = {"batch_size": rows, "accumulation": times, "steps": 3, "packing": False, "save_every": 0}
        sft(config(base, facts, tmp_path / name, **values), report=Report())
    weights = [load(tmp_path / n, "float32").model.state_dict() for n in "abc"]
    for key, w in weights[0].items():
        for other in weights[1:]:
            np.testing.assert_allclose(other[key], w, atol=3e-5, err_msg=key)


@pytest.mark.parametrize("packing", [True, False])
def test_a_stopped_run_goes_on_bit_for_bit(base, facts, tmp_path, packing):
    straight = config(base, facts, tmp_path / "straight", packing=packing, accumulation=2, batch_size=2)
    sft(straight, report=Report())

    stopped = config(base, facts, tmp_path / "stopped", packing=packing, accumulation=2, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        sft(stopped, report=StopsAt(7))
    sft(stopped, resume=True, report=Report())
    assert_same_weights(tmp_path / "straight", tmp_path / "stopped")


def test_other_data_is_refused_on_resume(base, facts, tmp_path):
    sft(config(base, facts, tmp_path / "run"), report=Report())
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    moved = config(base, facts, tmp_path / "run")
    moved.data = str(other)
    with pytest.raises(ValueError, match=r"\[resume\] expected data .* as in"):
        sft(moved, resume=True, report=Report())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected some rows, got none"),
        ("[1]\n", r"bad.jsonl:1: expected a JSON object, got int"),
        ('{"prompt": "a", "completion": "b"}\n{\n', r"bad.jsonl:2: not valid JSON"),
        ('{"prompt": "a"}\n', r"bad.jsonl:1: expected messages, prompt and completion, or text"),
    ],
)
def test_bad_files_are_named(base, tmp_path, text, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(CorpusError, match=message):
        sft(config(base, path, tmp_path / "run"), report=Report())
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_context_that_the_model_does_not_have(base, facts, tmp_path):
    with pytest.raises(ValueError, match=r"\[sft\] expected a context of at most 128 \(the model's\), got 200"):
        sft(config(base, facts, tmp_path / "run", context=200), report=Report())


def test_the_command(base, facts, tmp_path):
    pytest.importorskip("typer")

    def run(*arguments):
        command = [sys.executable, "-m", "llmcore", "sft", "--model", str(base), "--data", str(facts), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    shown = run("--preview")
    assert shown.returncode == 0
    assert "tokens are learned" in shown.stdout
    out = tmp_path / "run"
    done = run("--out", str(out), "--steps", "3", "--context", "64", "--no-packing")
    assert done.returncode == 0, done.stderr
    assert load(out).chat_template is not None
    again = run("--out", str(out), "--steps", "3")
    assert again.returncode == 2
    assert "already holds a run" in again.stderr


# ---- python-qa ----


def test_python_qa_has_questions_with_answers():
    pairs = python_qa()
    assert len(pairs) > 4000
    assert len({p["prompt"] for p in pairs}) == len(pairs)
    by_prompt = {p["prompt"]: p for p in pairs}
    join = by_prompt["What does json.dumps do?"]
    assert join["completion"].startswith("Serialize ``obj`` to a JSON formatted ``str``")
    assert join["group"] == "json"
    rows = read_rows("python-qa")
    assert [r.fields for r in rows] == pairs


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Join two paths. More of it.", "Join two paths."),
        ("Return x\nof y\n\nLong text.", "Return x of y."),
        ("pow(x, y) -> number\n\nx to the y.", None),
        (">>> f()", None),
        ("Use e.g. this one here. Then", "Use e.g. this one here."),
        ("Short.", None),
    ],
)
def test_first_sentences(docstring, sentence):
    assert first_sentence(docstring) == sentence


@pytest.mark.parametrize(("rows", "together"), [(1, 8), (3, 8), (10, 4), (10, 3), (8, 8), (9, 8)])
def test_no_row_stands_twice_in_a_batch(rows, together):
    batches = ExampleBatches(examples(rows), together, 40, False, seed=1)
    for epoch in range(3):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        numbers = [[row[0] for row in batches.numbers(step)] for step in steps]
        assert sorted(i for batch in numbers for i in batch) == list(range(rows))
        assert max(map(len, numbers)) <= together
        assert max(map(len, numbers)) - min(map(len, numbers)) <= 1
