"""New tokens: their ids and rows, what a run learns of them, and that files and adapters hold them."""

import json

import numpy as np
import pytest

from llmcore import models, train
from llmcore.generate import LanguageModel, load
from llmcore.tokenizer import Tokenizer
from llmcore.tokenizer.vocabulary import PipelineVocabulary
from llmcore.train import Report
from support.runs import StopsAt

TEXT = "the cat sees the dog and the dog sees a cat"
NEW = ["<|tool|>", "<|obs|>"]
ROWS = [{"text": f"the cat<|tool|>{i} sees<|obs|>the dog"} for i in range(6)]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture(scope="module", params=["tied", "untied", "padded"])
def base(request, tmp_path_factory):
    tokenizer = Tokenizer.train(iter([TEXT] * 9), 270)
    size = tokenizer.vocab_size + (16 if request.param == "padded" else 0)
    config = models.LlamaConfig(size, context=64, layers=1, heads=2, kv_heads=2, width=32, tied=request.param == "tied")
    lm = LanguageModel(models.Llama(config, "float32", seed=2), tokenizer)
    rng = np.random.default_rng(1)
    for _, p in lm.model.named_parameters():
        if p.ndim > 1:
            p.assign(rng.normal(0, 0.3, p.shape).astype(np.float32))
    return lm.save(tmp_path_factory.mktemp("base") / "model")


def run(stage, base, data, out, resume=False, report=None, **values):
    config = {"sft": train.SFTConfig, "dpo": train.DPOConfig}[stage](
        model=str(base), data=str(data), out=str(out), add_tokens=NEW, context=60, batch_size=2, warmup=0,
        dtype="float32", validation_fraction=0.0, eval_every=0, sample_every=0, **{"steps": 3, "lr": 1e-2, **values},
    )  # fmt: skip
    return getattr(train, stage)(config, resume=resume, report=report or Report())


def test_rows_are_the_mean_and_others_keep_their_probabilities(base):
    lm, before = load(base, "float32"), load(base, "float32")
    known = before.tokenizer.vocab_size
    assert lm.add_tokens([*NEW, "<|endoftext|>"]) == [known, known + 1, before.tokenizer.end_of_text]
    assert lm.add_tokens(NEW) == [known, known + 1]
    assert lm.config.vocab_size == max(known + 2, before.config.vocab_size)
    for ours, theirs in ((lm.model.tokens, before.model.tokens), (lm.model.head, before.model.head)):
        if ours is not None:
            table = theirs.weight.array.numpy()
            np.testing.assert_array_equal(ours.weight.array.numpy()[:known], table[:known])
            np.testing.assert_allclose(
                ours.weight.array.numpy()[known : known + 2], [table[:known].mean(0)] * 2, atol=1e-6
            )
    ids = np.array([before.tokenizer.encode(TEXT)])
    np.testing.assert_array_equal(lm.model(ids).numpy()[..., :known], before.model(ids).numpy()[..., :known])
    assert lm.tokenizer.encode("a<|tool|>", allowed_special="all")[-1] == known
    assert lm.tokenizer.encode_ordinary("a<|tool|>") == before.tokenizer.encode_ordinary("a<|tool|>")
    assert lm.generate("the cat", 3).text is not None


@pytest.mark.parametrize("lora", [0, 4])
def test_a_run_learns_and_saves_them(base, rows, tmp_path, lora):
    lm = run("sft", base, rows, tmp_path / "run", lora_rank=lora, steps=60)
    again = load(tmp_path / "run", "float32")
    tool = again.tokenizer.special_tokens["<|tool|>"]
    ids = np.array([again.tokenizer.encode("the cat<|tool|>", allowed_special="all")])
    assert ids[0, -1] == tool
    np.testing.assert_allclose(again.model(ids).numpy(), lm.model(ids).numpy(), atol=1e-5)
    assert again.model(ids).numpy()[0, -2].argmax() == tool
    if lora:
        merged = again.merged().save(tmp_path / "merged")
        np.testing.assert_allclose(load(merged, "float32").model(ids).numpy(), again.model(ids).numpy(), atol=1e-4)
    gguf = load(again.save(tmp_path / "model.gguf", "F32"), "float32")
    np.testing.assert_allclose(gguf.model(ids).numpy(), again.model(ids).numpy(), atol=1e-4)
    assert gguf.tokenizer.encode("<|obs|>", allowed_special="all") == [again.tokenizer.special_tokens["<|obs|>"]]


@pytest.mark.parametrize("lora", [0, 4])
def test_the_reference_model_and_a_resumed_run_have_them(base, rows, tmp_path, lora):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "the cat", "chosen": " sees", "rejected": " and"}\n' * 4)
    run("dpo", base, pairs, tmp_path / "dpo", lora_rank=lora, steps=1)
    run("sft", base, rows, tmp_path / "a" / "run", lora_rank=lora, steps=4, save_every=1)
    with pytest.raises(KeyboardInterrupt):
        run("sft", base, rows, tmp_path / "b" / "run", lora_rank=lora, steps=4, save_every=1, report=StopsAt(2))
    run("sft", base, rows, tmp_path / "b" / "run", lora_rank=lora, steps=4, save_every=1, resume=True)
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    assert (tmp_path / "a/run" / name).read_bytes() == (tmp_path / "b/run" / name).read_bytes()


def test_pretraining_finds_them_in_its_text(base, tmp_path):
    (tmp_path / "text.txt").write_text(" ".join(row["text"] for row in ROWS * 20))
    config = train.PretrainConfig(
        model=str(base), data=str(tmp_path / "text.txt"), out=str(tmp_path / "run"), add_tokens=NEW, steps=90, lr=1e-2,
        context=32, batch_size=4, warmup=0, dtype="float32", eval_every=0, sample_every=0,
    )  # fmt: skip
    train.pretrain(config, report=Report())
    lm = load(tmp_path / "run", "float32")
    tool = lm.tokenizer.added_tokens["<|tool|>"]
    assert lm.tokenizer.encode_ordinary("the cat<|tool|>")[-1] == tool
    assert lm.next_tokens("the cat", 1)[0][1] == tool
    with pytest.raises(ValueError, match="expected a model with add_tokens"):
        train.PretrainConfig(add_tokens=NEW)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 300])
def test_names_that_can_be_no_token(base, name):
    with pytest.raises(ValueError, match="expected a new token of printable letters"):
        load(base).add_tokens([name])
    with pytest.raises(TypeError, match="expected a list of tokens, got '<a>'"):
        load(base).add_tokens("<a>")


def test_pipelines_take_them_too():
    words = {"[UNK]": 0, "the": 1, "cat": 2}
    document = {
        "added_tokens": [{"id": 0, "content": "[UNK]", "special": True, "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False}],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"},
    }  # fmt: skip
    tokenizer = Tokenizer(PipelineVocabulary(document))
    more = tokenizer.with_tokens(["<|tool|>"])
    assert more.encode("<|tool|>", allowed_special="all") == [tokenizer.vocab_size]
    assert more.special_tokens == tokenizer.special_tokens | {"<|tool|>": tokenizer.vocab_size}
    assert "<|tool|>" in tokenizer.with_tokens(["<|tool|>"], special=False).added_tokens


@pytest.mark.peers
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("lora", [0, 4])
def test_transformers_opens_them(base, rows, tmp_path, lora):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    run("sft", base, rows, tmp_path / "run", lora_rank=lora)
    lm = load(tmp_path / "run", "float32")
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    if lora:
        peft = pytest.importorskip("peft")
        model.resize_token_embeddings(lm.config.vocab_size)
        model = peft.PeftModel.from_pretrained(model, tmp_path / "run")
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "run")
    ids = tokenizer("the cat<|tool|>dog", add_special_tokens=False)["input_ids"]
    assert ids == lm.tokenizer.encode("the cat<|tool|>dog", allowed_special="all")
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits.numpy()
    np.testing.assert_allclose(lm.model(np.array([ids])).numpy(), theirs, atol=2e-4)
