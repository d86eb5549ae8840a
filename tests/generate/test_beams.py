"""Beam search: what it finds against all that there is, and against transformers; what it is asked beside."""

import itertools

import numpy as np
import pytest

import llmcore
from llmcore import autograd, models
from support import plain_dry
from support.last_token_model import last_token_model


def language_model(seed=0, scale=0.6):
    tokenizer = llmcore.Tokenizer.train(iter(["the cat sat on the mat. the dog sat on the log. " * 20]), 270)
    config = models.LlamaConfig(vocab_size=tokenizer.vocab_size, context=128, width=32, layers=2, heads=4)
    model = models.Llama(config, "float32", seed=1)
    rng = np.random.default_rng(seed)
    for _, p in model.named_parameters():
        if p.ndim > 1:
            p.assign(rng.normal(0, scale, p.shape))
    return llmcore.LanguageModel(model, tokenizer)


@pytest.fixture(scope="module")
def lm():
    return language_model()


def logits_of(lm, rows):
    """(B, T, V) float64 of whole sequences of one length."""
    with autograd.no_grad():
        return lm.model(np.array(rows)).numpy().astype(np.float64)


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def ranked(lm, prompt, letters, ends, length, score, length_penalty):
    """The oracle: every sequence of some tokens, and those that end earlier, by what `score` makes of each."""
    found = {}
    for n in range(1, length + 1):
        rows = [(*s, end) for s in itertools.product(letters, repeat=n - 1) for end in ends]
        rows = list({*rows, *itertools.product(letters, repeat=n)}) if n == length else rows
        if not rows:
            continue
        logits = logits_of(lm, [[*prompt, *row] for row in rows])[:, len(prompt) - 1 : -1]
        for row, x in zip(rows, logits, strict=True):
            found[row] = score(row, x) / n**length_penalty
    return sorted((s for s in found if found[s] > -np.inf), key=lambda s: -found[s]), found


CASES = [
    {},
    {"length_penalty": 0.0},
    {"length_penalty": 2.0, "logit_bias": {97: 2.5, 98: -1.0}},
    {"no_repeat_ngram": 2},
    {"min_tokens": 2, "repetition_penalty": 1.3},
    {"presence_penalty": 0.7, "frequency_penalty": 0.4},
    {"dry_multiplier": 1.5, "dry_allowed_length": 1, "dry_base": 1.5, "dry_breakers": ["d"]},
    {"stop_ids": [99]},
    {"ignore_eos": True},
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_enough_beams_find_the_best_of_all(lm, options):
    prompt, letters, end = [97, 98, 97], (97, 98, 99, 100), lm.end_ids[0]
    spelled = [lm.tokenizer.token_bytes(i) for i in range(lm.config.vocab_size)]
    ends = {*options.get("stop_ids", ()), *(() if options.get("ignore_eos") else (end,))}

    def score(row, logits):
        total = 0.0
        for i, (token, x) in enumerate(zip(row, logits, strict=True)):
            before, changed = [*prompt, *row[:i]], x[token]
            if token in ends and i < options.get("min_tokens", 0):
                return -np.inf
            if token in ends and i < len(row) - 1:
                return -np.inf
            if token == end and token not in ends:
                return -np.inf
            n = options.get("no_repeat_ngram")
            if n and (*before[len(before) - n + 1 :], token) in {
                tuple(before[j : j + n]) for j in range(len(before) - n + 1)
            }:
                return -np.inf
            changed += options.get("logit_bias", {}).get(token, 0.0)
            if "dry_multiplier" in options:
                changed -= plain_dry.penalties(before, spelled, 1.5, 1.5, 1, [b"d"]).get(token, 0.0)
            if token in before:
                r = options.get("repetition_penalty", 1.0)
                changed = changed / r if changed > 0 else changed * r
            count = before[len(prompt) :].count(token)
            if count:
                changed -= count * options.get("frequency_penalty", 0.0) + options.get("presence_penalty", 0.0)
            total += log_softmax(x)[token] + changed - x[token]
        return total

    best, scores = ranked(lm, prompt, letters, ends, 4, score, options.get("length_penalty", 1.0))
    banned = sorted({*range(lm.config.vocab_size)} - {*letters, end})
    if options.get("ignore_eos"):
        banned.append(end)
    found = lm.generate(prompt, 4, beams=300, n=5, banned=banned, logprobs=True, **options)
    rows = [(*c.tokens, c.stop_reason) if c.stop_reason is not None else tuple(c.tokens) for c in found]
    np.testing.assert_allclose([scores[r] for r in rows], [scores[r] for r in best[:5]], rtol=1e-5)
    assert rows == best[:5]
    for c, row in zip(found, rows, strict=True):
        x = logits_of(lm, [[*prompt, *row]])[0, len(prompt) - 1 : -1]
        np.testing.assert_allclose(c.logprobs, [log_softmax(x[i])[t] for i, t in enumerate(c.tokens)], atol=1e-4)


def test_what_comes_with_a_completion(lm):
    prompt = [97, 98, 99]
    options = {"beams": 3, "ignore_eos": True, "top_logprobs": 2, "prompt_logprobs": True}
    c = lm.generate(prompt, 4, **options)
    x = log_softmax(logits_of(lm, [[*prompt, *c.tokens]])[0])
    np.testing.assert_allclose(c.prompt_logprobs, [x[i, t] for i, t in enumerate(prompt[1:])], atol=1e-4)
    for i, top in enumerate(c.top_logprobs):
        best = np.argsort(-x[2 + i])[:2]
        assert [t for t, _ in top] == best.tolist()
        np.testing.assert_allclose([p for _, p in top], x[2 + i, best], atol=1e-4)
    forced = lm.generate(prompt, 4, beams=3, ignore_eos=True, forced=[100, 101])
    assert forced.tokens[:2] == [100, 101]
    late = lm.generate(prompt, 50, beams=3, ignore_eos=True, timeout=0.0)
    assert (late.finish_reason, late.text) == ("timeout", "")


def test_forms():
    """The likelier of two answers, though each begins less likely than what no answer is."""
    pytest.importorskip("llguidance")
    lm = last_token_model({"?": {"i": 9.0, "y": 5.0, "n": 5.5}, "y": "e", "e": "s", "s": "", "n": {"o": 1.0}, "o": ""})
    for options in ({"choices": ["yes", "no"]}, {"regex": "yes|no"}, {"json_schema": {"enum": ["yes", "no"]}}):
        c = lm.generate("?", 8, beams=3, **options)
        assert c.text.strip('"') == "yes"
        assert c.finish_reason == "stop"
    both = lm.generate("?", 8, beams=3, n=2, choices=["yes", "no"])
    assert [c.text for c in both] == ["yes", "no"]
    assert [c.text for c in lm.generate("?", 8, beams=4, n=1, choices=["yes", "no"], ignore_eos=True)] == ["yes"]


def test_a_stop_text_may_span_tokens():
    lm = last_token_model({"?": "a", "a": "b", "b": "c", "c": "d"})
    c = lm.generate("?", 9, beams=3, stop=["x", "bc"])
    assert (c.text, c.finish_reason, c.stop_reason) == ("a", "stop", "bc")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_k", 5), ("top_p", 0.9), ("min_p", 0.1), ("typical_p", 0.5),
        ("xtc_probability", 0.5), ("best_of", 4), ("draft", "lookup"),
        ("on_token", print), ("priority", 1), ("temperature", 0.5),
    ],
)  # fmt: skip
def test_what_beams_cannot_do_is_refused_by_name(lm, name, value):
    with pytest.raises(ValueError, match=rf"\[generate\] expected .*{name}.*: nothing is drawn, got"):
        lm.generate("the", 4, beams=3, **{name: value})


def test_a_length_penalty_is_for_beams(lm):
    with pytest.raises(ValueError, match=r"\[generate\] expected beams with length_penalty, got none"):
        lm.generate("the", 4, length_penalty=2.0)


@pytest.mark.peers
@pytest.mark.host
def test_as_transformers(tmp_path):
    """The same beams in the same order for random lengths, penalties, biases and bans."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    for seed in range(3):
        rng, lm = np.random.default_rng(seed), language_model(seed)
        other = transformers.AutoModelForCausalLM.from_pretrained(lm.save(tmp_path / str(seed)), dtype=torch.float32)
        ends, prompt = [lm.end_ids[0], int(rng.integers(260))], rng.integers(0, 270, 5).tolist()
        for length_penalty, ngram, least in ((1.0, 0, 0), (0.0, 2, 3), (2.0, 3, 0), (-1.0, 2, 0)):
            beams, most = int(rng.integers(2, 7)), int(rng.integers(4, 12))
            bias = {int(i): float(v) for i, v in zip(rng.integers(0, 270, 5), rng.normal(0, 3, 5), strict=True)}
            bias[ends[0]] = 5.0
            banned = sorted({*rng.integers(0, 260, 20).tolist()} - {*ends})
            mine = lm.generate(
                prompt, most, beams=beams, n=beams, length_penalty=length_penalty, logit_bias=bias,
                no_repeat_ngram=ngram, min_tokens=least, banned=banned, stop_ids=ends[1:],
            )  # fmt: skip
            theirs = other.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, 5, dtype=torch.long), max_new_tokens=most,
                num_beams=beams, num_return_sequences=beams, length_penalty=length_penalty, do_sample=False,
                eos_token_id=ends, pad_token_id=ends[0], sequence_bias={(i,): v for i, v in bias.items()},
                no_repeat_ngram_size=ngram or None, min_new_tokens=least or None, bad_words_ids=[[b] for b in banned],
            )[:, 5:].tolist()  # fmt: skip
            cut = [next((i for i, t in enumerate(row) if t in ends), len(row)) for row in theirs]
            assert [c.tokens for c in mine] == [row[:n] for row, n in zip(theirs, cut, strict=True)]
