"""Vectors of texts, neighbours of words, and what scores come to."""

import math

import numpy as np
import pytest

import llmcore
from llmcore import models
from llmcore.generate import LanguageModel


@pytest.fixture(scope="module")
def lm():
    tokenizer = llmcore.Tokenizer.train(iter(["the cat sat on the mat, the dog sat too"]), 290, pattern="gpt2")
    c = models.LlamaConfig(tokenizer.vocab_size, 32, 24, 2, 2)
    model = models.Llama(c, seed=1)
    rng = np.random.default_rng(0)
    for _, p in model.named_parameters():
        p.assign(rng.normal(float(p.ndim == 1), 0.3, p.shape))
    return LanguageModel(model, tokenizer)


def test_pooling(lm):
    text = "the cat sat"
    hidden = lm.model.hidden(np.array([lm.tokenizer.encode(text)])).numpy()[0].astype(np.float64)
    for pooling, expected in (("mean", hidden.mean(0)), ("last", hidden[-1])):
        np.testing.assert_allclose(lm.embed(text, pooling, normalize=False), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(lm.embed(text, pooling), expected / np.linalg.norm(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.host
def test_a_vector_never_depends_on_other_texts(lm):
    texts = ["the cat", "a", "the dog sat too, the mat"]
    together = lm.embed(texts)
    assert together.shape == (3, 24)
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_array_equal(lm.embed(text), row)
    assert lm.embed([]).shape == (0, 24)


def test_nearest_are_the_smallest_angles(lm):
    table = lm.model.tokens.weight.numpy().astype(np.float64)[: lm.tokenizer.vocab_size]
    [id] = lm.tokenizer.encode(" the")
    cosines = table @ table[id] / np.linalg.norm(table, axis=1) / np.linalg.norm(table[id])
    expected = [i for i in np.argsort(-cosines) if i != id][:5]
    found = lm.nearest("the", 5)
    assert [i for _, i, _ in found] == expected
    np.testing.assert_allclose([c for _, _, c in found], cosines[expected], rtol=1e-5)
    assert found[0][0] == lm.token_text(expected[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lm: lm.embed("a", "max"), r"\[embed\] expected pooling 'mean' or 'last', got 'max'"),
        (lambda lm: lm.embed("a b c d e f g h " * 9), r"\[embed\] expected a text of at most 32 tokens"),
        (lambda lm: lm.embed([3]), r"\[embed\] expected text as one or several texts, got 3"),
        (lambda lm: lm.nearest("a", 0), r"\[nearest\] expected k >= 1, got 0"),
        (lambda lm: lm.nearest(" "), r"\[nearest\] expected a word, got none"),
    ],
)
def test_bad_requests_are_one_line(lm, call, message):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        call(lm)
    assert "\n" not in str(error.value)


def test_a_score_and_what_it_comes_to(lm):
    """Against float64 softmax of the logits, also beyond the context."""
    text = "the cat sat on the mat"
    ids = [lm.tokenizer.end_of_text, *lm.tokenizer.encode(text)]
    logits = lm.model(np.array([ids])).numpy()[0].astype(np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = [logp[t, i] for t, i in enumerate(ids[1:])]
    score = lm.score(text)
    np.testing.assert_allclose([t.logprob for t in score], expected, rtol=1e-5)
    assert score == [tuple(t) for t in score]
    assert "".join(t.text for t in score) == text
    assert score.bits == pytest.approx(-sum(expected) / math.log(2))
    assert score.bits_per_byte == pytest.approx(score.bits / len(text))
    assert score.perplexity == pytest.approx(math.exp(-np.mean(expected)))
    assert len(lm.score(text * 9)) > lm.config.context
    empty = lm.score("")
    assert (list(empty), empty.bits_per_byte, empty.perplexity) == ([], None, None)


def test_begin_is_put_before_texts_and_not_before_ids_or_chats(lm):
    vocabulary = lm.tokenizer.vocabulary._replace(begin=(lm.tokenizer.end_of_text,))
    beginning = LanguageModel(lm.model, llmcore.Tokenizer(vocabulary))
    ids = lm.tokenizer.encode("the cat")
    assert beginning.prompt_ids("the cat") == [lm.tokenizer.end_of_text, *ids]
    assert beginning.prompt_ids(ids) == ids
    assert beginning.tokenizer.encode("the cat") == ids
    assert beginning.score("the cat") == lm.score("the cat")
