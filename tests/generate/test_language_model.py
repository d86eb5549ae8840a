"""Generation: determinism, stop rules, streaming, batches, context limits, saving and loading."""

import json

import numpy as np
import pytest

import llmcore
from llmcore import models
from llmcore.generate.engine.params import SamplingParams
from llmcore.generate.text import TextStream
from reference import sample as reference

TEXT = ["the cat sat on the mat. the dog sat on the log. naïve café 日本語 🎉 " * 20]


@pytest.fixture(scope="module")
def tokenizer():
    return llmcore.Tokenizer.train(iter(TEXT), 300)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def lm(request, tokenizer):
    sizes = {"vocab_size": tokenizer.vocab_size, "context": 64, "width": 32, "layers": 2, "heads": 4}
    if request.param == "gpt2":
        model = models.GPT2(models.GPT2Config(**sizes), dtype="bfloat16", seed=1)
    else:
        model = models.Llama(models.LlamaConfig(**sizes, kv_heads=2), dtype="float32", seed=1)
    rng = np.random.default_rng(0)
    for _, p in model.named_parameters():
        if p.ndim > 1:
            p.assign(rng.normal(0, 0.3, p.shape))
    return llmcore.LanguageModel(model, tokenizer)


def test_greedy_follows_the_largest_logit(lm):
    ids = lm.tokenizer.encode_ordinary("the cat")
    c = lm.generate("the cat", max_tokens=12, temperature=0, ignore_eos=True, logprobs=True)
    for token, logprob in zip(c.tokens, c.logprobs, strict=True):
        logits = lm.model(np.array([ids])).numpy()[0, -1].astype(np.float64)
        assert token == int(np.argmax(logits))
        expected = logits[token] - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        assert logprob == pytest.approx(
            expected, abs=0.02
        )  # the cache rounds to bfloat16 like the full pass, not always alike
        ids.append(token)
    assert c.finish_reason == "length"
    assert c.prompt_tokens == len(lm.tokenizer.encode_ordinary("the cat"))


@pytest.mark.host
def test_same_seed_same_text_alone_and_in_a_batch(lm):
    prompts = ["the cat", "the dog sat on the log. the", "", "日本語"]
    options = {"max_tokens": 20, "temperature": 1.2, "top_k": 50, "top_p": 0.95, "ignore_eos": True}
    together = lm.generate(prompts, seed=7, **options)
    for i, prompt in enumerate(prompts):
        alone = lm.generate(prompt, seed=7 + i, **options)
        assert alone.tokens == together[i].tokens
        assert str(alone) == together[i].text
    assert lm.generate("the cat", seed=8, **options).tokens != together[0].tokens


def test_penalties_and_bias_follow_the_tokens(lm):
    """Greedy steps against logits changed by hand, alone and beside a row without penalties."""
    options = {"max_tokens": 15, "temperature": 0, "ignore_eos": True}
    penalties = {"repetition_penalty": 0.2, "presence_penalty": 0.3, "frequency_penalty": 0.2}
    bias = {5: 1.0, 6: -2.0}
    got = lm.generate(["the cat", "the"], logit_bias=bias, **penalties, **options)
    for prompt, c in zip(["the cat", "the"], got, strict=True):
        assert lm.generate(prompt, logit_bias=bias, **penalties, **options).tokens == c.tokens
        start = len(lm.tokenizer.encode_ordinary(prompt))
        ids = lm.tokenizer.encode_ordinary(prompt)
        for token in c.tokens:
            logits = lm.model(np.array([ids])).numpy()[0, -1]
            changed = reference.changed(logits, bias, ids, start, *penalties.values())
            assert changed[token] >= changed.max() - 0.02  # the cache rounds like the full pass, not always alike
            ids.append(token)
    plain = lm.generate("the cat", **options)
    assert plain.tokens != got[0].tokens
    first = plain.tokens[0]
    assert lm.generate("the cat", logit_bias={first: -np.inf}, **options).tokens[0] != first


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_do_not_change_the_text(lm, threads):
    before = llmcore.num_threads()
    options = {"max_tokens": 16, "temperature": 1.0, "seed": 3, "ignore_eos": True}
    expected = lm.generate("the", **options).tokens
    try:
        llmcore.set_num_threads(threads)
        assert lm.generate("the", **options).tokens == expected
    finally:
        llmcore.set_num_threads(before)


def test_stream_joins_to_the_text(lm):
    for seed in range(5):
        options = {"max_tokens": 40, "temperature": 1.5, "seed": seed}
        assert "".join(lm.stream("the", **options)) == lm.generate("the", **options).text


def test_stop_text_ends_and_is_left_out(lm):
    whole = lm.generate("the", max_tokens=50, temperature=1.3, seed=5, ignore_eos=True).text
    stop = whole[10:13]
    at = whole.index(stop)
    c = lm.generate("the", max_tokens=50, temperature=1.3, seed=5, ignore_eos=True, stop=stop)
    assert c.text == whole[:at]
    assert c.finish_reason == "stop"
    assert "".join(lm.stream("the", max_tokens=50, temperature=1.3, seed=5, ignore_eos=True, stop=[stop])) == c.text


def test_end_of_text_ends_unless_ignored(lm):
    end = lm.tokenizer.end_of_text
    for seed in range(200):  # among many draws at a high temperature one is the end of text
        c = lm.generate("the", max_tokens=40, temperature=2.0, seed=seed)
        if c.finish_reason == "stop":
            break
    else:
        pytest.fail("no completion ended by itself")
    assert end not in c.tokens
    longer = lm.generate("the", max_tokens=40, temperature=2.0, seed=seed, ignore_eos=True)
    assert longer.tokens[: len(c.tokens)] == c.tokens
    assert longer.tokens[len(c.tokens)] == end


def test_generation_stops_where_the_context_ends(lm):
    c = lm.generate([1] * 60, max_tokens=100, temperature=1.0, seed=0, ignore_eos=True)
    assert len(c.tokens) == 4
    assert c.finish_reason == "length"
    with pytest.raises(ValueError, match="prompt of 1 to 63 tokens"):
        lm.generate([1] * 64)
    assert lm.generate("the", max_tokens=0).tokens == []


def test_next_tokens_are_the_softmax(lm):
    logits = lm.model(np.array([lm.tokenizer.encode_ordinary("the")])).numpy()[0, -1].astype(np.float64)
    for temperature in (0.2, 0.7, 1.5):
        p = np.exp(logits / temperature - (logits / temperature).max())
        p /= p.sum()
        top = lm.next_tokens("the", k=5, temperature=temperature)
        assert [i for _, i, _ in top] == list(np.argsort(-p, kind="stable")[:5])
        np.testing.assert_allclose([x for _, _, x in top], np.sort(p)[::-1][:5], rtol=1e-4)
    assert lm.next_tokens("the", k=3, temperature=0)[0][2] == 1.0
    assert len(lm.next_tokens("the", k=50, top_k=4)) == 4


def test_score_is_the_log_softmax(lm):
    text = "the cat sat"
    scores = lm.score(text)
    ids = lm.tokenizer.encode_ordinary(text)
    assert [i for _, i, _ in scores] == ids
    row = [lm.tokenizer.end_of_text, *ids]
    logits = lm.model(np.array([row[:-1]])).numpy()[0].astype(np.float64)
    lse = np.log(np.exp(logits).sum(-1))
    np.testing.assert_allclose([s for _, _, s in scores], logits[range(len(ids)), ids] - lse, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 2.5}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"stop": ""}, "stop"),
        ({"seed": "x"}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"presence_penalty": float("inf")}, "presence_penalty"),
        ({"frequency_penalty": "much"}, "frequency_penalty"),
        ({"logit_bias": {"the": 1.0}}, "logit_bias"),
        ({"logit_bias": {1: float("inf")}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises((ValueError, TypeError), match=words):
        SamplingParams(**options)


def test_bad_prompts_are_named(lm):
    with pytest.raises(ValueError, match="token ids"):
        lm.generate([1, 10**6])
    with pytest.raises(ValueError, match="k >= 1"):
        lm.next_tokens("the", k=0)


def test_save_and_load_round_trip(lm, tmp_path):
    lm.save(tmp_path / "m")
    again = llmcore.load(tmp_path / "m", dtype=lm.model.dtype)
    options = {"max_tokens": 10, "temperature": 1.0, "seed": 1}
    assert again.generate("the cat", **options).tokens == lm.generate("the cat", **options).tokens
    assert again.num_parameters == lm.num_parameters


def damage(path, kind):
    config = json.loads((path / "config.json").read_text())
    if kind == "no folder":
        return path / "nothing", "not there"
    if kind == "no config":
        (path / "config.json").unlink()
        return path, "config.json"
    if kind == "config is no JSON":
        (path / "config.json").write_text("{")
        return path, "config.json"
    if kind == "unknown architecture":
        (path / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
        return path, "mamba"
    if kind == "huge vocabulary":
        (path / "config.json").write_text(json.dumps(config | {"vocab_size": 2**40}))
        return path, "of shape"
    if kind == "truncated weights":
        data = (path / "model.safetensors").read_bytes()
        (path / "model.safetensors").write_bytes(data[: len(data) // 2])
        return path, "model.safetensors"
    (path / "tokenizer.json").write_text("[]")
    return path, "tokenizer.json"


KINDS = ["no folder", "no config", "config is no JSON", "unknown architecture", "huge vocabulary", "truncated weights"]


@pytest.mark.parametrize("kind", [*KINDS, "broken tokenizer"])
def test_damaged_models_give_one_line(lm, tmp_path, kind):
    lm.save(tmp_path / "m")
    path, words = damage(tmp_path / "m", kind)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as e:
        llmcore.load(path)
    assert "\n" not in str(e.value)


class FakeTokenizer:
    """One character a token, for stop texts."""

    def stream_decoder(self, continues):
        class Decoder:
            def push(self, i):
                return chr(i)

            def finish(self):
                return ""

        return Decoder()


def test_stop_texts_are_found_across_tokens_and_held_back():
    stream = TextStream(FakeTokenizer(), ("END", "EXIT"))
    out = [stream.push(ord(ch)) for ch in "aEbENxEND"]
    assert out == ["a", "", "Eb", "", "", "ENx", "", "", ""]
    assert stream.stopped_by == "END"
    stream = TextStream(FakeTokenizer(), ("END",))
    assert "".join(stream.push(ord(ch)) for ch in "aEN") == "a"
    assert stream.finish() == "EN"


def test_prompts_and_parameters_of_other_types(lm):
    for prompt in (b"the cat", 5, None, [1.5, 2], [["the"]]):
        with pytest.raises(TypeError, match=r"^\[prompt\] expected a text or token ids, got "):
            lm.generate(prompt, 3)
    with pytest.raises(TypeError, match=r"^\[generate\] expected stop a text or several, got 5"):
        lm.generate("the", 3, stop=5)
    with pytest.raises(TypeError, match=r"^\[generate\] expected top_k an integer >= 0"):
        lm.generate("the", 3, top_k=1.5)
    ids = lm.tokenizer.encode_ordinary("the cat")
    numpy = lm.generate(np.array(ids), np.int64(5), temperature=np.float32(0.5), top_k=np.int32(9), seed=np.int64(3))
    assert numpy.tokens == lm.generate(ids, 5, temperature=0.5, top_k=9, seed=3).tokens


def test_ids_that_a_model_cannot_have(lm):
    for ids in (2**32 + 5, -1, lm.config.vocab_size):  # the first would be 5 in 32 bits
        with pytest.raises(ValueError, match=r"^\[model\] expected ids in \[0, "):
            lm.model(np.array([[ids]]))
