"""DRY and XTC against plain Python, llama.cpp's answers, and their promises."""

import numpy as np
import pytest

from llmcore.generate.engine.dry import Breakers, coin, penalties, without_top
from llmcore.generate.engine.params import SamplingParams
from reference import sample
from support import plain_dry as reference
from support.last_token_model import last_token_model

TEXTS = [b"a", b"b", b" c", b"d:", b"\n", b"e\n", b"fg"]


@pytest.mark.parametrize("breakers", [["\n", ":"], [], ["d"], ["fg", "a"]])
def test_penalties_as_described(breakers):
    rng = np.random.default_rng(len(breakers))
    some = 0
    for _ in range(300):
        few = rng.choice(len(TEXTS), rng.integers(1, 5), replace=False)
        tokens = rng.choice(few, rng.integers(0, 40)).tolist()
        base, allowed = float(rng.choice([1.0, 1.2, 1.75])), int(rng.integers(1, 5))
        p = SamplingParams(dry_multiplier=0.8, dry_base=base, dry_allowed_length=allowed, dry_breakers=breakers)
        got = penalties(tokens, p, Breakers(TEXTS.__getitem__, breakers))
        want = reference.penalties(tokens, TEXTS, 0.8, base, allowed, [b.encode() for b in breakers])
        assert got.keys() == want.keys()
        for token, penalty in want.items():
            assert got[token] == pytest.approx(penalty)
        some += bool(want)
    assert some > 50


# (tokens as letters, options, what llama.cpp subtracts for each letter)
LLAMA_CPP = [
    ("abcabcab", {}, {"c": 0.8 * 1.75**3}),
    ("abcab:ab", {}, {"c": 0.8}),  # a colon between: "ab" is the longest repetition
    ("abcab", {"dry_allowed_length": 3}, {}),
    ("aaaaaa", {"dry_base": 2.0}, {"a": 0.8 * 2.0**3}),
    ("abxabyab", {}, {"x": 0.8, "y": 0.8}),
    ("ab:ab", {}, {}),  # what would come is a breaker itself
    ("abcdabcxabc", {"dry_range": 7}, {"x": 0.8 * 1.75}),
]


@pytest.mark.parametrize(("text", "options", "expected"), LLAMA_CPP)
def test_penalties_as_llama_cpp(text, options, expected):
    p = SamplingParams(dry_multiplier=0.8, **options)
    got = penalties([*text.encode()], p, Breakers(lambda i: bytes([i]), p.dry_breakers))
    assert {chr(t): v for t, v in got.items()} == pytest.approx(expected)


def test_breakers_may_span_tokens():
    breakers = Breakers(TEXTS.__getitem__, ["b c", "gd"])
    assert breakers.since([0, 1, 2, 0, 0], 9) == 2
    assert breakers.since([1, 2], 9) == 0
    assert breakers.since([6, 3, 1], 9) == 1
    assert breakers.since([2, 1, 0], 9) == 3
    assert breakers.since([1, 2, 0, 0, 0], 2) == 2


def test_a_loop_is_left():
    """A model that says the same for ever stops doing so, in any batch and with beams; a form is kept."""
    lm = last_token_model({"a": {"b": 9.0, "x": 4.0}, "b": {"a": 9.0, "y": 3.0}, "x": "x"})
    assert lm.generate("a", 20, temperature=0).text == "ba" * 10
    options = {"temperature": 0, "dry_multiplier": 1.0}
    alone = lm.generate("a", 20, **options)
    assert "bababab" not in alone.text
    seven = lm.generate(["a", "b", "a", "x", "ab"], 20, **options)
    assert [c.tokens for c in (seven[0], seven[2])] == [alone.tokens] * 2
    assert "abababab" not in lm.generate("a", 20, beams=2, dry_multiplier=1.0).text
    pytest.importorskip("llguidance")
    assert lm.generate("a", 20, regex="(ba){8}", dry_multiplier=9.0, dry_base=9.0, temperature=0).text == "ba" * 8
    # text: b a b a b | "abab" would follow: 1.75 ** (n - 2) per token
    plain, changed = [9.0, 3.0], []
    for n in range(2, 9):
        changed.append(plain[0] - 1.75 ** (n - 2) > plain[1])
    assert changed[0]
    assert not changed[-1]


@pytest.mark.parametrize("threshold", [0.02, 0.1, 0.3, 0.5])
def test_xtc_as_described(threshold):
    rng = np.random.default_rng(0)
    cut = 0
    for _ in range(200):
        probs = rng.dirichlet(np.full(rng.integers(2, 30), rng.choice([0.1, 1.0])))
        kept = without_top(probs, threshold, ())
        want = reference.without_top(probs, threshold)
        np.testing.assert_array_equal(np.ones(len(probs), bool) & (probs > 0) if kept is None else kept, want > 0)
        cut += kept is not None
    assert cut or threshold == 0.5


def test_xtc_draws_from_what_is_left():
    """The draw has the same noise as without it: the token is the largest score among those that are left, after the
    filters, in any batch; where the coin says no, it is that of no XTC at all."""
    logits = {"a": 3.0, "b": 2.6, "c": 2.2, "d": 1.4, "e": 1.0, "f": 0.1}
    lm = last_token_model({"?": logits})
    vocab = lm.config.vocab_size
    row = np.zeros(vocab)
    for text, logit in logits.items():
        row[ord(text)] = logit
    options = {"temperature": 0.9, "top_k": 6, "top_p": 0.95, "xtc_probability": 0.5, "xtc_threshold": 0.15}
    probs = sample.filtered(row, 0.9, 6, 0.95)
    seeds = range(60)
    drawn = [lm.generate("?", 1, seed=s, **options).tokens[0] for s in seeds]
    cut = 0
    for seed, token in zip(seeds, drawn, strict=True):
        acts = coin(seed, 0) < 0.5
        scores = sample.scores(reference.without_top(probs, 0.15) if acts else probs, seed, 0)
        assert scores[token] >= scores.max() - 1e-4
        cut += acts
    assert 15 < cut < 45
    many = lm.generate(["?"] * 60, 1, seed=0, **options)
    assert [c.tokens[0] for c in many] == drawn
    assert lm.generate("?", 1, **options | {"temperature": 0}).text == "a"
    never = lm.generate(["?"] * 60, 1, seed=0, **options | {"xtc_probability": 0.0})
    both = [(a, c.tokens[0]) for a, c, s in zip(drawn, never, seeds, strict=True) if coin(s, 0) >= 0.5]
    assert all(a == b for a, b in both)


def test_xtc_leaves_the_end_of_a_text():
    lm = last_token_model({"?": {"a": 9.0, "": 9.0, "b": 8.0}, "a": ""})
    options = {"xtc_probability": 1.0, "temperature": 1.0}
    assert {lm.generate("?", 4, seed=s, **options).text for s in range(40)} >= {"", "a"}
    other = lm.generate("?", 1, seed=1, **options, ignore_eos=True)
    assert other.text == "b"


def test_filters_are_shown():
    """What `next_tokens` says of XTC and typical-p is what is drawn from, and `trace_filters` shows each stage."""
    lm = last_token_model({"?": dict(zip("abcd", np.log([0.5, 0.3, 0.16, 0.04]) + 30, strict=True))})
    shown = lm.next_tokens("?", 4, xtc_probability=0.5, xtc_threshold=0.1)
    assert [text for text, _, _ in shown] == ["c", "a", "b", "d"]
    np.testing.assert_allclose([p for *_, p in shown], [0.48, 0.25, 0.15, 0.12], atol=5e-4)
    stages = lm.trace_filters("?", top_k=3, typical_p=0.6, xtc_probability=0.1, xtc_threshold=0.2)
    assert [name for name, _ in stages] == ["the model", "top-k 3", "typical-p 0.6", "xtc 0.2"]
    kept = [[chr(i) for i in np.flatnonzero(p > 1e-6)] for _, p in stages]
    assert kept[:2] == [["a", "b", "c", "d"], ["a", "b", "c"]]
    want = sample.filtered(np.log(stages[0][1] + 1e-30), 1.0, 3, typical_p=0.6)
    np.testing.assert_allclose(stages[2][1], want, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(stages[3][1], reference.without_top(want, 0.2), rtol=1e-4, atol=1e-9)
    with pytest.raises(TypeError, match=r"^\[next_tokens\] expected filters top_k, .*, got 'top_a'"):
        lm.next_tokens("?", top_a=1)
