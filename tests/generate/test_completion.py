"""Several completions, beams, forms, guesses, words: what `LanguageModel` makes of the engine."""

import itertools
import json
import sys

import numpy as np
import pytest

import llmcore
from llmcore import autograd, models

TEXT = ["the cat sat on the mat. the dog sat on the log. naïve café 日本語 🎉 " * 20]


def language_model(layers=2, width=32, seed=0, scale=0.3, tokenizer=None):
    tokenizer = tokenizer or llmcore.Tokenizer.train(iter(TEXT), 300)
    config = models.LlamaConfig(vocab_size=tokenizer.vocab_size, context=256, width=width, layers=layers, heads=4)
    model = models.Llama(config, "float32", seed=1)
    rng = np.random.default_rng(seed)
    for _, p in model.named_parameters():
        if p.ndim > 1:
            p.assign(rng.normal(0, scale, p.shape))
    return llmcore.LanguageModel(model, tokenizer)


@pytest.fixture(scope="module")
def lm():
    return language_model()


def logprobs_of(lm, ids):
    """(T, V) float64 of the whole sequence, without a cache."""
    with autograd.no_grad():
        logits = lm.model(np.array([ids])).numpy()[0].astype(np.float64)
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


# ---- several ----


def test_n_completions_have_seeds_of_their_own(lm):
    options = {"max_tokens": 10, "temperature": 1.2, "ignore_eos": True}
    groups = lm.generate(["the cat", "the dog"], n=3, seed=5, **options)
    assert [[c.seed for c in g] for g in groups] == [[5, 6, 7], [8, 9, 10]]
    for prompt, group in zip(("the cat", "the dog"), groups, strict=True):
        for c in group:
            assert lm.generate(prompt, seed=c.seed, **options).tokens == c.tokens
    assert [c.tokens for c in lm.generate("the cat", n=2, seed=5, **options)] == [c.tokens for c in groups[0][:2]]


def test_best_of_keeps_the_likeliest(lm):
    options = {"max_tokens": 8, "temperature": 1.5, "ignore_eos": True, "logprobs": True}
    every = lm.generate("the", n=6, seed=2, **options)
    best = lm.generate("the", n=2, best_of=6, seed=2, **options)
    ranked = sorted(every, key=lambda c: -np.mean(c.logprobs))
    assert [c.tokens for c in best] == [c.tokens for c in ranked[:2]]


def test_on_token_sees_every_token_and_ends_what_it_breaks(lm):
    seen = []
    c = lm.generate("the", 9, ignore_eos=True, seed=1, on_token=lambda c, text: seen.append((len(c.tokens), text)))
    assert [n for n, _ in seen] == list(range(1, 10))
    assert "".join(text for _, text in seen) == c.text

    def breaks(c, text):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        lm.generate("the", 9, on_token=breaks)
    assert lm.generate("the", 9, ignore_eos=True, seed=1).tokens == c.tokens


def test_a_stream_that_is_left_frees_its_blocks(lm):
    stream = lm.stream("the cat", 100, ignore_eos=True, seed=1)
    next(stream)
    stream.close()
    assert lm.engine._decoding == []
    lm.engine.reset()
    assert lm.engine.pool.free == lm.engine.pool.blocks - 1


def test_timeouts_say_so(lm):
    c = lm.generate("the", 100, timeout=0.0)
    assert (c.finish_reason, c.text) == ("timeout", "")


def test_stop_ids(lm):
    plain = lm.generate("the", 20, seed=1, ignore_eos=True)
    at = plain.tokens[5]
    c = lm.generate("the", 20, seed=1, ignore_eos=True, stop_ids=[at])
    assert c.tokens == plain.tokens[: plain.tokens.index(at)]
    assert c.finish_reason == "stop"


# ---- beams ----


def test_enough_beams_find_the_best_of_all():
    """Against the sequences of three tokens of which none is unlikely."""
    lm = language_model(scale=0.6)
    prompt = [1, 2]
    found = lm.generate(prompt, 3, beams=400, n=5, ignore_eos=True, logprobs=True)
    first = logprobs_of(lm, prompt)[-1]
    sums = {}
    for a in np.argsort(-first)[:60].tolist():
        second = logprobs_of(lm, [*prompt, a])[-1]
        for b in np.argsort(-second)[:30].tolist():
            third = logprobs_of(lm, [*prompt, a, b])[-1]
            for c in np.argsort(-third)[:30].tolist():
                sums[a, b, c] = first[a] + second[b] + third[c]
    expected = sorted(sums, key=lambda s: -sums[s])[:5]
    assert [tuple(c.tokens) for c in found] == expected
    np.testing.assert_allclose([sum(c.logprobs) for c in found], [sums[s] for s in expected], atol=1e-3)


def test_beams_end_where_texts_end(lm):
    end = lm.tokenizer.end_of_text
    found = lm.generate("the cat sat", 30, beams=4, n=4, logprobs=True)
    assert len({tuple(c.tokens) for c in found}) == 4
    for c in found:
        assert end not in c.tokens
        assert (c.finish_reason == "length") == (len(c.tokens) == 30)
    one = lm.generate("the cat sat", 30, beams=2, stop=["a"])
    assert "a" not in one.text


def test_one_beam_of_the_greedy_path_is_no_worse(lm):
    greedy = lm.generate("the dog", 12, temperature=0, ignore_eos=True, logprobs=True)
    beams = lm.generate("the dog", 12, beams=5, ignore_eos=True, logprobs=True)
    assert sum(beams.logprobs) >= sum(greedy.logprobs) - 1e-4


# ---- forms ----


def test_choices(lm):
    pytest.importorskip("llguidance")
    for seed in range(5):
        c = lm.generate("the", 50, seed=seed, temperature=2.0, choices=["a cat", "a dog", "日本語", "c++ (x)*"])
        assert c.text in ("a cat", "a dog", "日本語", "c++ (x)*")
        assert c.finish_reason == "stop"


def test_a_regular_expression(lm):
    import re

    pytest.importorskip("llguidance")
    texts = {lm.generate("the", 60, seed=s, temperature=2.0, regex=r"[a-c]{3}-(\d\d)?é").text for s in range(6)}
    assert len(texts) > 1
    assert all(re.fullmatch(r"[a-c]{3}-(\d\d)?é", t) for t in texts)


def test_a_json_schema(lm):
    pytest.importorskip("llguidance")
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 5},
            "age": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    for given in (schema, json.dumps(schema)):
        together = lm.generate(["the", "a"], 200, seed=3, temperature=1.5, json_schema=given)
        for c in together:
            value = json.loads(c.text)
            assert set(value) == {"name", "age"}
            assert 0 <= value["age"] <= 99
            assert len(value["name"]) <= 5
    free = lm.generate("the", 10, seed=3)
    beside = lm.generate(["the"], 10, seed=3)[0]
    assert free.tokens == beside.tokens


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regex": "(("}, r"\[constrain\] regex: expected what llguidance accepts"),
        ({"regex": 3}, r"\[constrain\] expected regex a text"),
        ({"choices": []}, r"\[constrain\] expected choices as a list of texts"),
        ({"choices": "yes"}, r"\[constrain\] expected choices as a list of texts"),
        ({"json_schema": "{"}, r"\[constrain\] expected json_schema as JSON"),
        ({"json_schema": {"type": "nothing"}}, r"\[constrain\] json_schema: expected what"),
        ({"regex": "a", "choices": ["b"]}, r"\[constrain\] expected one of"),
        ({"n": 0}, r"\[generate\] expected n an integer of 1"),
        ({"best_of": 2, "n": 3}, r"\[generate\] expected best_of of at least n = 3, got 2"),
        ({"beams": 2, "n": 3}, r"\[generate\] expected n of at most beams"),
        ({"draft": "guess"}, r"\[generate\] expected draft 'lookup' or a model, got 'guess'"),
        ({"draft": "lookup", "draft_tokens": 0}, r"\[generate\] expected draft_tokens >= 1, got 0"),
        ({"typical_p": 0}, r"\[generate\] expected typical_p in \(0, 1\]"),
        ({"banned": [-1]}, r"\[generate\] expected banned a list of token ids"),
        ({"forced": [100000]}, r"\[generate\] expected forced in \[0, "),
        ({"no_repeat_ngram": -1}, r"\[generate\] expected no_repeat_ngram an integer >= 0"),
    ],
)
def test_bad_options_are_one_line(lm, options, message):
    if "constrain" in message:
        pytest.importorskip("llguidance")
    with pytest.raises((ValueError, TypeError), match=message) as error:
        lm.generate("the", 4, **options)
    assert "\n" not in str(error.value)


def test_without_llguidance_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ImportError, match=r"pip install 'llmcore\[constrain\]'"):
        language_model().generate("the", 3, choices=["a"])


# ---- guesses ----


def test_a_draft_must_have_the_same_tokens(lm):
    other = language_model(tokenizer=llmcore.Tokenizer.train(iter(TEXT), 280))
    with pytest.raises(ValueError, match="expected a draft model of the same vocabulary"):
        lm.generate("the", draft=other)


def test_guesses_write_the_same_text(lm):
    options = {"max_tokens": 60, "seed": 8, "temperature": 0.7, "ignore_eos": True}
    plain = lm.generate("the cat sat on the mat. the cat", **options)
    for draft in ("lookup", lm, language_model(layers=1, tokenizer=lm.tokenizer)):
        assert lm.generate("the cat sat on the mat. the cat", draft=draft, **options).tokens == plain.tokens


# ---- words ----


def whole_words(lm, before, typed):
    """The oracle: every path of up to two tokens that spells a word which begins with what was typed, from full passes.
    {word: probability}, and the sum over all paths that match."""
    spelled = [lm.tokenizer.token_bytes(i) for i in range(lm.tokenizer.vocab_size)]
    specials = set(lm.tokenizer.special_tokens.values())
    letter = lambda s: s[:1].isalnum() or s[:1] == b"'" or s[:1] >= b"\x80"  # noqa: E731
    goes_on = np.array([letter(s) and i not in specials for i, s in enumerate(spelled)])
    ids = lm.prompt_ids(before)
    after = np.exp(logprobs_of(lm, ids)[-1])
    matched, words = 0.0, {}
    for i, s in enumerate(spelled):
        if i in specials or not s.startswith(typed):
            continue
        if typed == b" " and not (len(s) > 1 and letter(s[1:])):
            continue
        matched += after[i]
        then = np.exp(logprobs_of(lm, [*ids, i])[-1])
        words[s.decode("utf-8", "replace").strip()] = after[i] * (1 - then[: len(spelled)][goes_on].sum())
    return words, matched


def test_words_are_as_likely_as_their_tokens(lm):
    for text, before, typed in (("the cat ", "the cat", b" "), ("the cat sat on th", "the cat sat on", b" th")):
        words, matched = whole_words(lm, before, typed)
        got = lm.suggest(text, n=3)
        assert got
        assert all(a.probability >= b.probability for a, b in itertools.pairwise(got))
        for word, p in got:
            # Words of several tokens, or spelled in several ways, may add to it.
            assert p >= words.get(word, 0.0) / matched - 1e-4 if matched else True
            assert word.startswith(typed.decode().strip())
        best = max(words.items(), key=lambda w: w[1])
        assert got[0].probability >= best[1] / matched - 1e-4


def test_words_do_not_depend_on_what_was_typed_before(lm):
    texts = [
        "the",
        "the ",
        "the c",
        "the ca",
        "the cat ",
        "",
        "the dog sat on the l",
        "the c",
        "日本",
        "x" * 300 + " th",
    ]
    fresh = {t: language_model().suggest(t, 3) for t in set(texts)}
    for t in texts:
        got = lm.suggest(t, 3)
        assert [w for w, _ in got] == [w for w, _ in fresh[t]]
        np.testing.assert_allclose([p for _, p in got], [p for _, p in fresh[t]], rtol=1e-4)


def test_bad_suggestions(lm):
    with pytest.raises(TypeError, match=r"\[suggest\] expected a text"):
        lm.suggest(3)
    with pytest.raises(ValueError, match=r"\[suggest\] expected n >= 1, got 0"):
        lm.suggest("the", 0)
