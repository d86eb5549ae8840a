"""Every architecture through a folder in the Hugging Face format and through GGUF, and llama.cpp's opinion of the latter."""

import dataclasses
import itertools

import numpy as np
import pytest

import llmcore
from llmcore import models
from llmcore.generate import LanguageModel
from support.small_models import CONFIGS


@pytest.fixture(scope="module")
def tokenizer():
    return llmcore.Tokenizer.train(iter(["ab abc abcd, and the cat sat on the mat"]), 280, pattern="gpt2")


def make(name, tokenizer) -> LanguageModel:
    c = dataclasses.replace(CONFIGS[name], vocab_size=tokenizer.vocab_size)
    if name == "gemma2":  # GGUF does not say other scales
        c = dataclasses.replace(c, query_scalar=16.0)
    if name == "mistral":
        c = dataclasses.replace(c, window=64)
    if name == "qwen3-moe-plain":
        c = dataclasses.replace(c, normalised=True)
    model = models.ARCHITECTURES[c.model_type](c, seed=3)
    rng = np.random.default_rng(0)
    for path, p in model.named_parameters():
        gain = p.ndim == 1 and "norm" in path and path.endswith("weight")
        p.assign(rng.normal(float(gain), 0.15 if p.ndim > 1 else 0.1, p.shape))
    return LanguageModel(model, tokenizer)


def some_ids(lm):
    return np.random.default_rng(1).integers(0, lm.config.vocab_size, (2, 30))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_folder_and_back(name, tokenizer, tmp_path):
    lm = make(name, tokenizer)
    again = llmcore.load(lm.save(tmp_path / "folder"), dtype="float32")
    assert again.config == lm.config
    ids = some_ids(lm)
    # What stands in a file as an offset from 1 loses bits on the way.
    tolerance = 2e-6 if name.startswith("gemma") else 0
    np.testing.assert_allclose(again.model(ids).numpy(), lm.model(ids).numpy(), rtol=0, atol=tolerance * 30)
    half = llmcore.load(lm.save(tmp_path / "half", "bfloat16"), dtype="float32")
    error = np.abs(half.model(ids).numpy() - lm.model(ids).numpy()).max() / np.abs(lm.model(ids).numpy()).max()
    assert 0 < error < 0.15


@pytest.mark.parametrize("name", CONFIGS)
def test_gguf_and_back(name, tokenizer, tmp_path):
    lm = make(name, tokenizer)
    again = llmcore.load(lm.save(tmp_path / "model.gguf", "F32"), dtype="float32")
    assert again.config == lm.config or name == "mistral"  # which is a Llama there
    assert again.tokenizer == tokenizer
    ids = some_ids(lm)
    np.testing.assert_array_equal(again.model(ids).numpy(), lm.model(ids).numpy())
    # Written again, it is the same file, byte for byte.
    assert again.save(tmp_path / "model2.gguf").stat().st_size == (tmp_path / "model.gguf").stat().st_size
    one, two = (llmcore.formats.gguf.load_gguf(tmp_path / f"model{n}.gguf") for n in ("", "2"))
    assert all(np.array_equal(one.tensors[t].data, two.tensors[t].data) for t in one.tensors)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
def test_types_of_gguf(kind, tokenizer, tmp_path):
    lm = make("llama-untied", tokenizer)
    path = lm.save(tmp_path / "model.gguf", kind)
    again = llmcore.load(path, dtype="float32", quantize="none")
    # Through a folder nothing more is lost, and what is kept quantized is written as it is.
    folder = llmcore.load(again.save(tmp_path / "folder"), dtype="float32")
    ids = some_ids(lm)
    np.testing.assert_array_equal(folder.model(ids).numpy(), again.model(ids).numpy())
    once_more = llmcore.load(path, quantize="none").save(tmp_path / "again.gguf")
    first, second = (llmcore.formats.gguf.load_gguf(p).tensors for p in (path, once_more))
    assert {n: t.type for n, t in first.items()} == {n: t.type for n, t in second.items()}
    assert all(np.array_equal(first[n].data, second[n].data) for n in first)


def test_what_gguf_cannot_say_is_refused(tokenizer, tmp_path):
    for name, change, message in [
        ("mistral", {"window": 7}, "a window of at least the context for GGUF"),
        ("qwen3-moe", {"normalised": False}, "normalised weights of experts for GGUF"),
        ("gemma2", {"query_scalar": 24.0}, "query_scalar the head's size for GGUF"),
        ("smollm3", {"rotary_layers": (True,) * 5}, "every fourth layer without rotation for GGUF"),
    ]:
        lm = make(name, tokenizer)
        c = dataclasses.replace(lm.config, **change)
        changed = LanguageModel(models.ARCHITECTURES[c.model_type](c, seed=0), tokenizer)
        with pytest.raises(ValueError, match=message):
            changed.save(tmp_path / "model.gguf")
        assert not (tmp_path / "model.gguf").exists()
    with pytest.raises(ValueError, match=r"\[save\] expected dtype one of F32, F16, BF16, Q8_0, Q4_0, Q4_1"):
        lm.save(tmp_path / "model.gguf", "Q2_K")


@pytest.mark.peers
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("name", "kind"),
    # It leaves Phi-3's window out, and activations that it rounds choose other experts.
    [p for p in itertools.product(CONFIGS, ("F32", "Q8_0")) if p[0] != "phi3" and p != ("qwen3-moe", "Q8_0")],
)
def test_llama_cpp_gives_the_same_logits(name, kind, tokenizer, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    lm = make(name, tokenizer)
    path = lm.save(tmp_path / "model.gguf", kind)
    ids = some_ids(lm)[0]
    expected = llmcore.load(path, dtype="float32", quantize="none").model(ids[None]).numpy()[0]
    theirs = llama_cpp.Llama(str(path), n_ctx=64, logits_all=True, verbose=False, n_threads=2)
    theirs.eval(ids.tolist())
    got = theirs.scores[: len(ids)]
    # It keeps keys and values in float16, and quantizes activations beside quantized weights.
    assert np.abs(got - expected).max() / np.abs(expected).max() < (3e-3 if kind == "F32" else 6e-2)
