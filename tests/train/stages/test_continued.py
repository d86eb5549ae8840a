"""Pretraining that goes on from a model, and held-out files."""

import json
import random

import numpy as np
import pytest

from llmcore import data, models
from llmcore.generate import LanguageModel, load
from llmcore.tokenizer import Tokenizer
from llmcore.train import Interrupted, PretrainConfig, Report, SFTConfig, pretrain, sft
from llmcore.train.stages.pretrain import PretrainStage
from llmcore.train.stages.texts import Marks, open_held_out
from support.runs import log_of

WORDS = ["the cat", "a dog", "sees", "likes", "the old man", "a child", "and", "finds"]


def sentences(seed, count):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=6)) + "." for _ in range(count)]


def jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return str(path)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return jsonl(tmp_path_factory.mktemp("text") / "text.jsonl", sentences(0, 400))


@pytest.fixture(scope="module")
def begins(tmp_path_factory):
    """A Llama of which every text begins with <s> and ends with </s>, untied."""
    tokenizer = Tokenizer.train(iter(sentences(1, 200)), 290, special_tokens=["<s>", "</s>"])
    tokenizer = Tokenizer(tokenizer.vocabulary._replace(begin=(tokenizer.special_tokens["<s>"],)))
    sizes = {"context": 64, "width": 32, "layers": 2, "heads": 2, "tied": False}
    model = models.Llama(models.LlamaConfig(vocab_size=tokenizer.vocab_size, **sizes), "float32", seed=1)
    folder = tmp_path_factory.mktemp("begins") / "model"
    return LanguageModel(model, tokenizer, [tokenizer.special_tokens["</s>"]]).save(folder)


def config(base, text, out, **values):
    return PretrainConfig(model=str(base), data=text, out=str(out), **{
        "steps": 8, "save_every": 3, "eval_every": 0, "sample_every": 0, "warmup": 2, "context": 32, "batch_size": 4,
        "dtype": "float32", **values})  # fmt: skip


class Heard(Report):
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)

    warn = note


def test_goes_on_from_the_model_and_keeps_what_it_is(base, text, tmp_path):
    before = load(base, "float32")
    lm = pretrain(config(base, text, tmp_path / "run", steps=40, lr=3e-3, eval_every=1), report=Report())
    held_out = data.read_corpus(text).validation
    rows = log_of(tmp_path / "run")
    assert rows[-1]["val/bpb"] < 0.7 * rows[0]["val/bpb"]
    # After one update at a rate that warms up, the figure is still nearly that of the base.
    ids = data.encode_documents(held_out, before.tokenizer)
    windows = data.evaluation_windows(ids, 32, before.tokenizer.end_of_text)
    nats = sum(before.model.loss(i, t, "sum").item() for i, t in windows.batches(4))
    assert rows[0]["val/bpb"] == pytest.approx(data.bits_per_byte(nats, sum(map(len, held_out))), rel=0.1)
    again = load(tmp_path / "run", "float32")
    assert (again.config, again.end_ids, again.tokenizer) == (before.config, before.end_ids, before.tokenizer)
    assert again.chat_template.sources == before.chat_template.sources
    ids = np.array([[1, 2, 3]])
    assert np.array_equal(again.model(ids).numpy(), lm.model(ids).numpy())
    assert not np.array_equal(again.model(ids).numpy(), before.model(ids).numpy())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resumes_bitwise(begins, text, tmp_path, optimizer, monkeypatch):
    values = {"optimizer": optimizer, "isolate": True, "ema": 0.9}
    pretrain(config(begins, text, tmp_path / "straight", **values), report=Report())
    whole = PretrainStage.loss
    calls = []

    def stops(self, batch):
        calls.append(batch)
        if len(calls) == 6:
            raise Interrupted("train", "stopped")
        return whole(self, batch)

    monkeypatch.setattr(PretrainStage, "loss", stops)
    with pytest.raises(Interrupted):
        pretrain(config(begins, text, tmp_path / "stopped", **values), report=Report())
    monkeypatch.setattr(PretrainStage, "loss", whole)
    pretrain(config(begins, text, tmp_path / "stopped", **values), resume=True, report=Report())
    files = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("straight", "stopped")]
    assert files[0] == files[1]


def test_every_document_stands_between_the_models_marks(begins, tmp_path):
    """<s> the text </s>, by hand; only what spells text is predicted, and a document kept apart begins at its <s>."""
    documents = ["the cat sees.", "a dog.", "and"]
    lm = load(begins, "float32")
    first, last = (lm.tokenizer.special_tokens[t] for t in ("<s>", "</s>"))
    wanted = [i for d in documents for i in (first, *lm.tokenizer.encode_ordinary(d), last)]
    c = config(begins, jsonl(tmp_path / "d.jsonl", documents * 9), tmp_path / "run", isolate=True,
               validation=jsonl(tmp_path / "v.jsonl", documents))  # fmt: skip
    marks = Marks.of(lm.tokenizer, lm.end_ids)
    held_out = open_held_out(c, lm.tokenizer, marks, Report())
    assert held_out[0].tokens.tolist() == wanted
    assert held_out[0].bytes == sum(map(len, documents))
    stage = PretrainStage(c, [data.read_corpus(c.data, None)], lm.tokenizer, held_out, lm)
    assert len(stage.train_batches.tokens) == len(wanted) * 9
    window = stage.windows[0]
    assert window.inputs.reshape(-1)[: len(wanted) - 1].tolist() == wanted[:-1]
    text = [i for i in wanted if i not in (first, last)]
    assert [t for t in window.targets.reshape(-1).tolist() if t >= 0] == text
    row = np.array([wanted[:12]])
    at = [i for i, token in enumerate(wanted[:12]) if token == first]
    assert stage._batch(row, row).starts.tolist() == [[max(p for p in at if p <= i) for i in range(12)]]


def test_shards_put_the_beginning_before_documents_too(begins, tmp_path):
    documents = sentences(2, 30)
    lm = load(begins, "float32")
    first = lm.tokenizer.special_tokens["<s>"]
    data.tokenize_files([jsonl(tmp_path / "d.jsonl", documents)], lm.tokenizer, tmp_path / "shards", shard_tokens=100)
    shards = data.ShardSet(tmp_path / "shards", None)
    wanted = [i for d in documents for i in (first, *lm.tokenizer.encode_ordinary(d))]
    assert np.asarray(shards.encode(lm.tokenizer)[0]).tolist() == wanted
    held = data.ShardSet(tmp_path / "shards", 0.2)
    tokens = np.asarray(held.encode(lm.tokenizer)[1], np.int64)
    assert held.validation_bytes == len(lm.tokenizer.decode_bytes(tokens[tokens != first]))


@pytest.mark.parametrize(("name", "value"), [("tokenizer", "x"), ("vocab_size", 300), ("pattern", "gpt2"), ("depth", 6), ("layers", 2),
                                             ("architecture", "gpt2"), ("width", 64), ("heads", 4), ("kv_heads", 2)])  # fmt: skip
def test_sizes_beside_a_model_are_refused(name, value):
    with pytest.raises(ValueError, match=f"expected no {name} beside model, which has its own, got {value}"):
        PretrainConfig(model="m", **{name: value})


def test_what_cannot_be_is_refused(begins, text, tmp_path):
    with pytest.raises(ValueError, match=r"a context of at most 64 \(the model's\), got 65"):
        pretrain(config(begins, text, tmp_path / "run", context=65), report=Report())
    with pytest.raises(ValueError, match="expected another --out than the --model"):
        pretrain(config(begins, text, begins), report=Report(), overwrite=True)
    assert load(begins, "float32").config.width == 32
    for kind in (PretrainConfig, SFTConfig):
        with pytest.raises(ValueError, match="validation or validation_fraction, got both"):
            kind(validation="x", validation_fraction=0.1)


def test_defaults_follow_from_model_and_text(begins, text, tmp_path):
    heard = Heard()
    c = config(begins, text, tmp_path / "run", steps=0, lr=0.0, batch_size=0, context=0)
    pretrain(c, report=heard)
    windows = next(int(s.split("(")[1].split(" tokens")[0].replace(",", "")) for s in heard.said if " MB to" in s) // 64
    # 2e-5 for a width of 4096, by the power law of the fine-tuning stages.
    assert c.lr == pytest.approx(2e-5 * (4096 / 32) ** 0.781, rel=0.03)
    assert (c.context, c.batch_size) == (64, max(1, windows // 16))
    assert c.steps == -(-3 * windows // c.batch_size)


def test_held_out_files_each_have_a_figure(base, text, tmp_path):
    near, far = jsonl(tmp_path / "near.jsonl", sentences(7, 20)), tmp_path / "far.txt"
    far.write_text("Quite another text: 0123456789 ÄÖÜ.\n" * 4)
    heard = Heard()
    c = config(base, text, tmp_path / "run", lr=3e-3, validation=[near, str(far)])
    lm = pretrain(c, report=heard)
    row = log_of(tmp_path / "run")[-1]
    for path, documents in ((near, [s.encode() for s in sentences(7, 20)]), (str(far), [far.read_bytes()])):
        windows = data.evaluation_windows(data.encode_documents(documents, lm.tokenizer), 32, lm.tokenizer.end_of_text)
        nats = sum(lm.model.loss(i, t, "sum").item() for i, t in windows.batches(4))
        assert row[f"val/bpb/{path}"] == pytest.approx(data.bits_per_byte(nats, sum(map(len, documents))), rel=1e-6)
    assert row[f"val/bpb/{near}"] < row[f"val/bpb/{far}"]
    assert not any("held-out" in s and "also" in s for s in heard.said)
    # All of the data is learned from.
    learned = sum(len(s) for s in sentences(0, 400)) / 1e6
    assert any(f"{learned:.2f} MB to learn from" in s for s in heard.said)


def test_held_out_text_that_is_learned_is_named(base, text, tmp_path):
    heard = Heard()
    pretrain(config(base, text, tmp_path / "same", steps=1, validation=text), report=heard)
    assert any("text.jsonl: to learn from and held out" in s for s in heard.said)
    heard = Heard()
    part = jsonl(tmp_path / "part.jsonl", [*sentences(0, 400)[:3], "quite new"])
    pretrain(config(base, text, tmp_path / "part", steps=1, validation=part), report=heard)
    assert "3 of 4 held-out documents are also among those to learn from" in heard.said


def test_held_out_tokens(base, text, tmp_path):
    """A .bin and a shard set hold out what the text does."""
    lm = load(base, "float32")
    documents = sentences(7, 20)
    held = jsonl(tmp_path / "v.jsonl", documents)
    data.encode_documents([d.encode() for d in documents], lm.tokenizer).astype(np.uint16).tofile(tmp_path / "v.bin")
    data.tokenize_files([held], lm.tokenizer, tmp_path / "shards")
    marks = Marks.of(lm.tokenizer, lm.end_ids)
    c = config(base, text, tmp_path / "run", validation=[held, str(tmp_path / "v.bin"), str(tmp_path / "shards")])
    found = open_held_out(c, lm.tokenizer, marks, Report())
    assert len({tuple(part.tokens.tolist()) for part in found}) == 1
    assert {part.bytes for part in found} == {sum(map(len, documents))}


def test_a_new_model_with_a_held_out_file(text, tmp_path):
    held = jsonl(tmp_path / "v.jsonl", sentences(7, 20))
    sizes = {"vocab_size": 290, "layers": 1, "width": 32, "heads": 2}
    c = PretrainConfig(
        data=text, out=str(tmp_path / "run"), validation=held, steps=2, context=16, batch_size=2, **sizes
    )
    pretrain(c, report=Report())
    assert log_of(tmp_path / "run")[-1]["val/bpb"] > 0
    jsonl(tmp_path / "v.jsonl", sentences(8, 20))
    with pytest.raises(ValueError, match=r"expected corpus .* the data changed"):
        pretrain(c, resume=True, report=Report())


def test_rows_in_a_held_out_file(base, facts, tmp_path):
    rows = [json.loads(line) for line in facts.read_text().splitlines()]
    held = tmp_path / "held.jsonl"
    held.write_text("".join(json.dumps(r) + "\n" for r in [*rows[:2], {"prompt": "Quite new?", "completion": "Yes."}]))
    heard = Heard()
    c = SFTConfig(model=str(base), data=str(facts), out=str(tmp_path / "run"), validation=str(held), steps=1, context=90,
                  sample_every=0, dtype="float32")  # fmt: skip
    sft(c, report=heard)
    assert "val/loss" in log_of(tmp_path / "run")[-1]
    assert any("16 examples" in s and "3 held out" in s for s in heard.said)
    assert "2 of 3 held-out rows ask what rows to learn from ask too" in heard.said


def test_a_gguf_base(base, text, tmp_path):
    load(base, "float32").save(tmp_path / "base.gguf", "Q8_0")
    lm = pretrain(config(tmp_path / "base.gguf", text, tmp_path / "run", steps=2), report=Report())
    assert lm.model.output_weight().quantized is None
    assert load(tmp_path / "run").chat_template is not None
