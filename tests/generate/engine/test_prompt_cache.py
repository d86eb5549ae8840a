"""Prompt caches in files: the same tokens as without, in another process too, and nothing but this model's own, whole."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import llmcore
from llmcore import models
from llmcore.errors import Error
from llmcore.formats import safetensors
from llmcore.generate import Engine
from llmcore.models.rope_scaling import RopeScaling
from llmcore.tokenizer import Tokenizer

TEXT = "a prompt that is long enough for three blocks, and asked again and again. " * 3
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [3.0] * 4,
    "original_max_position_embeddings": 64,
}


def made(seed=3, context=512, dtype="float32", **config):
    tokenizer = Tokenizer.train(iter(["ab " * 9]), 257)  # a byte is a token
    config = models.LlamaConfig(
        tokenizer.vocab_size, context=context, layers=2, heads=4, kv_heads=2, width=32, **config
    )
    model = models.Llama(config, dtype, seed=seed)
    rng = np.random.default_rng(seed)
    for _, p in model.named_parameters():
        if p.ndim > 1:
            p.assign(rng.normal(0, 0.25, p.shape))
    return llmcore.LanguageModel(model, tokenizer)


def ask(lm, text=TEXT, n=12):
    return lm.generate(text, n, temperature=1.0, seed=5, logprobs=True)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("cache") / "prompt.cache"
    assert made().save_cache(path, TEXT) == len(TEXT)
    return path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cache", ["float32", "bfloat16", "int8"])
def test_the_same_tokens_as_without(tmp_path, dtype, cache):
    def one():
        lm = made(dtype=dtype)
        lm.engine = Engine(lm.model, cache_dtype=cache)
        return lm

    first = one()
    expected, other = ask(first), ask(first, TEXT[:90] + "but goes on otherwise")
    assert first.save_cache(tmp_path / "all") > len(TEXT) + 30  # the two share a beginning
    assert first.save_cache(tmp_path / "one", TEXT[:100]) == 100
    for name, cached in (("all", len(TEXT) - 1), ("one", 100)):
        lm = one()
        free = lm.engine.pool.free
        lm.load_cache(tmp_path / name)
        lm.load_cache(tmp_path / name)  # again changes nothing
        done = ask(lm)
        assert (done.tokens, done.logprobs, done.cached_tokens) == (expected.tokens, expected.logprobs, cached)
        assert ask(lm, TEXT[:90] + "but goes on otherwise").tokens == other.tokens
        lm.engine.reset()
        assert lm.engine.pool.free == free
    first.engine.reset()
    assert first.save_cache(tmp_path / "none") == 0 == one().load_cache(tmp_path / "none")


def test_prompts_on_both_sides_of_longropes_border(tmp_path):
    """Beyond 64 tokens keys turn otherwise: a cached prompt is used on its own side only."""

    def one():
        return made(context=512, rope_scaling=RopeScaling.from_hf(LONGROPE, 512))

    first = one()
    short, long = ask(first, TEXT[:40], 4), ask(first)
    for prompt in (TEXT[:40], TEXT):
        first.save_cache(tmp_path / "cache", prompt)
        lm = one()
        lm.load_cache(tmp_path / "cache")
        for text, expected, n in ((TEXT[:40], short, 4), (TEXT, long, 12)):
            done = ask(lm, text, n)
            assert (done.tokens, done.logprobs) == (expected.tokens, expected.logprobs)
            assert done.cached_tokens == (len(text) - 1 if text == prompt else 0)


def test_the_cache_holds_what_a_plain_pass_computes(file):
    """The oracle: the last position's logits from cached keys and values, against a pass over all tokens without any."""
    lm = made()
    lm.load_cache(file)
    done = lm.generate(TEXT, 1, temperature=0, logprobs=True)
    logits = lm.model(np.asarray([lm.prompt_ids(TEXT)])).numpy()[0, -1].astype(np.float64)
    assert done.cached_tokens == len(TEXT) - 1
    assert done.tokens == [int(logits.argmax())]
    assert done.logprobs[0] == pytest.approx(logits.max() - np.log(np.exp(logits).sum()), abs=1e-4)


def test_another_process_reads_it(tmp_path):
    lm = made()
    lm.save(tmp_path / "model")
    loaded = llmcore.load(tmp_path / "model", dtype="float32")
    expected = ask(loaded)
    loaded.save_cache(tmp_path / "cache", TEXT)
    code = (
        "import json, sys, llmcore; llmcore.set_num_threads(1); lm = llmcore.load(sys.argv[1], dtype='float32'); lm.load_cache(sys.argv[2]);"
        "c = lm.generate(sys.argv[3], 12, temperature=1.0, seed=5); print(json.dumps([c.tokens, c.cached_tokens]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model"), str(tmp_path / "cache"), TEXT]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout
    assert json.loads(out) == [expected.tokens, len(TEXT) - 1]


def nudged():
    lm = made()
    rows = np.array(lm.model.tokens.weight.numpy())
    rows[lm.prompt_ids("p")] += 1e-3  # one of the text's
    lm.model.tokens.weight.assign(rows)
    return lm


@pytest.mark.parametrize(
    "other",
    [
        lambda: made(seed=4), lambda: made(dtype="bfloat16"), lambda: made(rope_base=9e3), lambda: made(context=500),
        lambda: made(eps=1e-3), nudged,
    ],
)  # fmt: skip
def test_another_model_is_refused(file, other):
    with pytest.raises(Error, match=r"prompt\.cache.*this model.*remove it"):
        other().load_cache(file)


def test_new_weights_are_another_model(tmp_path):
    lm = made()
    ask(lm)
    last = list(lm.model.named_parameters())[-2][1]
    last.assign(last.numpy() + np.float32(1e-3))
    assert lm.save_cache(tmp_path / "cache") == 0  # what was computed with the old ones is not kept
    ask(lm)
    lm.save_cache(tmp_path / "cache")
    with pytest.raises(Error, match=r"cache: expected what this model computes"):
        made().load_cache(tmp_path / "cache")


def test_a_file_that_is_too_large_for_the_engine(file):
    lm = made()
    lm.engine = Engine(lm.model, cache_bytes=3 * lm.model.new_pool(1).bytes_per_block)
    with pytest.raises(Error, match=r"prompt\.cache: expected at most 192 tokens.*got 222"):
        lm.load_cache(file)
    assert ask(lm, TEXT[:80]).tokens == ask(made(), TEXT[:80]).tokens


def test_damaged_files_are_refused(file, tmp_path):
    """Every piece of the file changed in turn, and headers and trees that lie: one line that names the file, or the very same
    tokens where the change is in a byte that means nothing."""
    whole, rng, lm = file.read_bytes(), np.random.default_rng(1), made()
    expected = ask(made()).tokens
    broken = tmp_path / "broken"
    places = [*range(0, 64), *rng.integers(64, len(whole), 100).tolist()]
    for data in [whole[:n] for n in (0, 7, 100, len(whole) // 2, len(whole) - 1)] + [
        whole[:at] + bytes([whole[at] ^ (1 << int(rng.integers(8)))]) + whole[at + 1 :] for at in places
    ]:
        broken.write_bytes(data)
        said = ""
        try:
            lm.load_cache(broken)
        except Error as error:
            said = str(error)
        assert "\n" not in said
        assert "broken" in said if said else ask(lm).tokens == expected


@pytest.mark.parametrize(
    "change",
    [
        {"parents": [-1, 0, 1, 3]}, {"parents": [-2, 0, 1, 2]}, {"parents": [3, 0, 1, 2]}, {"lengths": [64, 64, 65, 29]},
        {"lengths": [64, 64, 64, -1]}, {"lengths": [0, 64, 64, 94]}, {"lengths": [30, 64, 64, 64]}, {"tokens": 257},
        {"tokens": -258}, {"tokens": 2**31 - 1}, {"tokens": -(2**31)}, {"lengths": 64}, {"tokens": None},
    ],
)  # fmt: skip
def test_trees_that_cannot_be_are_refused(file, tmp_path, change, monkeypatch):
    from llmcore.generate.engine import prompt_cache

    tensors, metadata = safetensors.load_file(file)
    for name, value in change.items():
        if value is None:
            del tensors[name]
        elif name == "tokens":
            tensors[name][3] = value
        else:
            tensors[name] = np.array(value, np.int32)
    metadata["data"] = prompt_cache._digest(tensors)  # a forger would
    safetensors.save_file(tensors, tmp_path / "forged", metadata)
    with pytest.raises(Error, match="forged"):
        made().load_cache(tmp_path / "forged")


def test_other_files_are_named(tmp_path):
    lm = made()
    lm.save(tmp_path / "model")
    with pytest.raises(Error, match=r"model\.safetensors: expected a file that save_cache wrote"):
        lm.load_cache(tmp_path / "model/model.safetensors")
    with pytest.raises(FileNotFoundError, match="absent"):
        lm.load_cache(tmp_path / "absent")
    with pytest.raises(OSError, match=r"absent/cache'$"):
        lm.save_cache(tmp_path / "absent/cache", "a")
    os.mkfifo(tmp_path / "pipe")
    for name, error in (("pipe", FileExistsError), ("model", IsADirectoryError)):  # as a device, never to be replaced
        with pytest.raises(error, match=rf"{name}'$"):
            lm.save_cache(tmp_path / name, "a")
    assert sorted(os.listdir(tmp_path)) == ["model", "pipe"]
    with pytest.raises(Error, match="pipe: expected a file that save_cache wrote"):
        lm.load_cache(tmp_path / "pipe")
    assert ask(lm).tokens == ask(made()).tokens
