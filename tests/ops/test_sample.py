"""Sampling against the sorted float64 twin, and the promises of the draw."""

import numpy as np
import pytest

import llmcore
from llmcore import ops
from reference import sample as reference
from support.gradcheck import random, representable
from support.threads import assert_same_bits

FILTERS = [
    {},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 50, "top_p": 0.95},
    {"top_p": 0.5},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"top_p": 1e-7},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 40, "top_p": 0.9, "min_p": 0.1},
    {"top_p": 0.8, "min_p": 0.02},
]


def probabilities(logits, **parameters):
    return ops.sample(logits, return_probs=True, **parameters).probs.numpy()


def check_row(logits, dtype="float32", seed=0, step=0, **parameters):
    """Distribution, token and log-probability of one row against the twin."""
    logits = representable(logits, dtype)
    parameters = {k: float(np.float32(v)) if k != "top_k" else v for k, v in parameters.items()}
    got = ops.sample(llmcore.tensor(logits[None], dtype), seed=seed, step=step, return_probs=True, **parameters)
    want = reference.filtered(logits, **parameters)
    probs, token = got.probs.numpy()[0], got.tokens.numpy()[0]
    np.testing.assert_array_equal(probs > 0, want > 1e-38)
    np.testing.assert_allclose(probs, want, rtol=1e-5, atol=1e-37)
    scores = reference.scores(want, seed, step)
    assert scores[token] >= scores.max() - 1e-4  # float32 may see a tie where float64 does not
    with np.errstate(divide="ignore"):
        top = logits.max()
        logprob = logits[token] - top - np.log(np.exp(logits - top).sum())
    np.testing.assert_allclose(got.logprobs.numpy()[0], logprob, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("parameters", FILTERS, ids=str)
def test_against_the_twin(parameters, temperature, dtype):
    for seed, V in enumerate((1, 2, 5, 33, 1000)):
        logits = random(V, seed=seed, scale=3)
        check_row(logits, dtype, seed, 11, temperature=temperature, **parameters)
        check_row(np.round(logits), dtype, seed, 12, temperature=temperature, **parameters)  # many ties


@pytest.mark.parametrize("scale", [0.5, 5.0])
@pytest.mark.parametrize("parameters", FILTERS, ids=str)
def test_large_vocabulary(parameters, scale):
    logits = random(20000, scale=scale)
    got = probabilities(logits[None].astype(np.float32), **parameters)[0]
    want = reference.filtered(logits, **{k: float(np.float32(v)) if k != "top_k" else v for k, v in parameters.items()})
    # Where the float64 mass before a token lies within rounding of the limit, one token may differ.
    assert np.count_nonzero((got > 0) != (want > 0)) <= 1
    assert np.abs(got - want).max() < 1e-5


@pytest.mark.parametrize("parameters", [{}, {"temperature": 0.3}, {"temperature": 30.0}, {"top_k": 20000}], ids=str)
def test_the_draw_from_a_large_vocabulary(parameters):
    """Several pieces, in which most of the noise is passed over without its logarithms."""
    logits = random(30011, scale=3).astype(np.float32)
    got = ops.sample(np.tile(logits, (3, 1)), seed=[1, 2, 3], step=5, **parameters).tokens.numpy()
    want = reference.filtered(logits.astype(np.float64), **parameters)
    for seed, token in zip((1, 2, 3), got, strict=True):
        scores = reference.scores(want, seed, 5)
        assert scores[token] >= scores.max() - 1e-4


def test_top_p_keeps_exactly_two_of_the_trap():
    """25%, 25%, 12.5%, 12.5%, ... with p = 0.5: the first two, whatever the tail and wherever they stand."""
    rng = np.random.default_rng(0)
    for _ in range(1000):
        tail = rng.random(rng.integers(3, 60))
        tail = np.minimum(tail / tail.sum() * 0.25, 0.1249)
        p = np.concatenate([[0.25, 0.25, 0.125, 0.125], tail * 0.25 / tail.sum()])
        p /= p.sum()
        order = rng.permutation(len(p))
        got = probabilities(np.log(p[order])[None].astype(np.float32), top_p=0.5)[0]
        np.testing.assert_array_equal(np.flatnonzero(got), np.sort(np.flatnonzero(order < 2)))


def test_ties_go_to_the_lowest_id():
    logits = np.zeros((1, 3000), np.float32)
    np.testing.assert_array_equal(np.flatnonzero(probabilities(logits, top_k=77)[0]), np.arange(77))
    np.testing.assert_array_equal(np.flatnonzero(probabilities(logits, top_p=0.1)[0]), np.arange(300))
    assert ops.sample(logits, temperature=0).tokens.numpy()[0] == 0
    logits[0, [5, 2000]] = 1
    assert ops.sample(logits, temperature=0).tokens.numpy()[0] == 5
    logits[0] = 0.0
    logits[0, ::2] = -0.0  # equal to 0
    np.testing.assert_array_equal(np.flatnonzero(probabilities(logits, top_k=9)[0]), np.arange(9))


@pytest.mark.parametrize("parameters", [{}, {"temperature": 0.5}, {"top_k": 6}, {"top_p": 0.8}, {"min_p": 0.3}])
def test_frequencies(parameters):
    """Pearson's chi-square over 40000 draws; the bound is the 99.99th percentile for up to 19 degrees of freedom."""
    logits = random(20, seed=5).astype(np.float32)
    want = reference.filtered(logits.astype(np.float64), **parameters)
    draws = 40000
    tokens = ops.sample(np.tile(logits, (draws, 1)), seed=1234, step=np.arange(draws), **parameters).tokens.numpy()
    counts, kept = np.bincount(tokens, minlength=20), want > 0
    assert counts[~kept].sum() == 0
    assert (((counts - draws * want)[kept] ** 2) / (draws * want[kept])).sum() < 52


def test_many_equal_tokens_are_drawn_equally():
    """Rounding of the noise must not favour low ids, nor ever make it infinite."""
    V, draws = 4096, 4096
    tokens = ops.sample(np.zeros((draws, V), np.float32), seed=np.arange(draws)).tokens.numpy()
    counts = np.bincount(tokens * 16 // V, minlength=16)
    assert ((counts - draws / 16) ** 2 / (draws / 16)).sum() < 45


def test_the_noise_is_never_infinite():
    """Among 67 million draws of noise none lifts a token that is e^40 times less likely."""
    logits = np.full((1024, 4096), -40.0, np.float32)
    logits[:, 7] = 0.0
    for seed in range(16):
        tokens = ops.sample(logits, seed=seed, step=np.arange(1024)).tokens.numpy()
        assert (tokens == 7).all()


def test_filters_do_not_change_the_noise():
    """The token of the whole distribution is also the token of every filtered one that keeps it."""
    logits = random((500, 64), seed=2).astype(np.float32)
    step = np.arange(500)
    free = ops.sample(logits, seed=9, step=step).tokens.numpy()
    some = ops.sample(logits, seed=9, step=step, top_k=20, return_probs=True)
    kept = some.probs.numpy()[step, free] > 0
    assert 100 < kept.sum() < 500
    np.testing.assert_array_equal(some.tokens.numpy()[kept], free[kept])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("V", [7, 1500])
def test_a_row_alone_and_in_a_batch(V, dtype):
    rng = np.random.default_rng(0)
    B = 40
    logits = llmcore.tensor(random((B, V), dtype), dtype).numpy()
    parameters = {
        "temperature": rng.choice([0, 0.5, 1.0], B),
        "top_k": rng.choice([0, 3, 50], B),
        "top_p": rng.choice([0.5, 0.9, 1.0], B),
        "min_p": rng.choice([0.0, 0.1], B),
        "seed": rng.integers(0, 2**60, B),
        "step": rng.integers(0, 2**40, B),
    }
    together = ops.sample(logits, return_probs=True, **parameters)
    for b in range(B):
        alone = ops.sample(logits[b : b + 1], return_probs=True, **{k: v[b] for k, v in parameters.items()})
        for got, want in zip(alone, together, strict=True):
            np.testing.assert_array_equal(got.numpy()[0], want.numpy()[b])


def test_threads_do_not_change_bits():
    logits = random((37, 3001)).astype(np.float32)

    def compute():
        for parameters in FILTERS:
            yield from (t.numpy() for t in ops.sample(logits, seed=np.arange(37), return_probs=True, **parameters))

    assert_same_bits(compute)


CHANGES = [
    {"logit_bias": {3: 2.0, 0: -1.5, 8: -np.inf}},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7, "presence_penalty": 0.4},
    {"presence_penalty": -0.5, "frequency_penalty": 0.25},
    {"logit_bias": {1: 5.0}, "repetition_penalty": 2.0, "presence_penalty": 0.1, "frequency_penalty": 0.2},
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("filters", [{}, {"temperature": 0.0}, {"top_k": 5, "top_p": 0.9}], ids=str)
@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_bias_and_penalties(changes, filters, dtype):
    """Rows of one batch, with other histories; the log-probabilities stay those of the logits as they were given."""
    V = 12
    logits = random((4, V), dtype, scale=2)
    history, prompts = [[], [3, 3, 1, 5, 3, 1], [7] * 6 + [0], list(range(V)) * 3], [0, 2, 7, 20]
    got = ops.sample(
        llmcore.tensor(logits, dtype), return_probs=True, history=history, prompt_lengths=prompts, **changes, **filters
    )
    plain = ops.softmax(llmcore.tensor(logits, "float32")).numpy()
    for b in range(4):
        changed = reference.changed(
            logits[b],
            changes.get("logit_bias"),
            history[b],
            prompts[b],
            *(
                changes.get(f"{name}_penalty", off)
                for name, off in (("repetition", 1), ("presence", 0), ("frequency", 0))
            ),
        )
        np.testing.assert_allclose(got.probs.numpy()[b], reference.filtered(changed, **filters), rtol=1e-5, atol=1e-7)
        token = got.tokens.numpy()[b]
        np.testing.assert_allclose(got.logprobs.numpy()[b], np.log(plain[b, token]), rtol=1e-5, atol=1e-5)


def test_changes_of_a_row_alone_and_in_a_batch():
    """A large vocabulary, whose rows are cut into pieces; some rows are changed, others are not."""
    rng = np.random.default_rng(0)
    B, V = 5, 20001
    logits = random((B, V)).astype(np.float32)
    history = [rng.integers(0, V, n).tolist() for n in (0, 1, 500, 3000, 40)]
    bias = [None, {5: 1.0}, {}, {V - 1: 9.0, 0: -np.inf}, {7: 0.5}]
    each = {
        "repetition_penalty": rng.random(B) + 0.5,
        "presence_penalty": rng.random(B),
        "seed": rng.integers(0, 99, B),
    }

    def draw(rows):
        return ops.sample(
            logits[rows],
            top_p=0.9,
            return_probs=True,
            logit_bias=[bias[b] for b in rows],
            history=[history[b] for b in rows],
            prompt_lengths=[len(history[b]) // 2 for b in rows],
            **{k: v[rows] for k, v in each.items()},
        )

    together = [a.numpy() for a in draw(np.arange(B))]
    for b in range(B):
        for got, want in zip(draw(np.array([b])), together, strict=True):
            np.testing.assert_array_equal(got.numpy()[0], want[b])
    assert_same_bits(lambda: [a.numpy() for a in draw(np.arange(B))])
    assert_same_bits(lambda: [a.numpy() for a in draw(np.array([3]))])


def test_a_single_row_is_the_same_for_any_number_of_threads():
    logits = random((1, 50000)).astype(np.float32)

    def compute():
        for parameters in FILTERS:
            yield from (t.numpy() for t in ops.sample(logits, seed=5, return_probs=True, **parameters))

    assert_same_bits(compute)


def test_bad_changes():
    logits = np.zeros((2, 4), np.float32)
    rows = [[0], [1, 2]]
    for expected, kind, arguments in (
        (r"a history for the penalties, got None", ValueError, {"presence_penalty": 1.0}),
        (r"history \(2, L\), got \(1, 1\)", ValueError, {"history": [[0]]}),
        (r"history in \[0, 4\), got 4", ValueError, {"history": [[0], [4]]}),
        (r"history in \[0, 4\), got -1", ValueError, {"history": [[0], [-7]]}),
        (r"history as a list of tokens for each row, got \[0.5\]", TypeError, {"history": [[0.5], [1]]}),
        (r"prompt_lengths in \[0, history_lengths\], got 2", ValueError, {"history": rows, "prompt_lengths": 2}),
        (r"repetition_penalty > 0, got 0", ValueError, {"history": rows, "repetition_penalty": 0}),
        (r"presence_penalty a finite number, got nan", ValueError, {"history": rows, "presence_penalty": np.nan}),
        (r"frequency_penalty a number, got 'x'", TypeError, {"history": rows, "frequency_penalty": "x"}),
        (r"bias ids in \[0, 4\), got 4", ValueError, {"logit_bias": {4: 1.0}}),
        (r"bias ids in \[0, 4\), got 2147483647", ValueError, {"logit_bias": {2**32: 1.0}}),
        (r"bias values below infinity, got inf", ValueError, {"logit_bias": {1: np.inf}}),
        (r"bias values below infinity, got nan", ValueError, {"logit_bias": {1: np.nan}}),
        (r"tokens of logit_bias as integers, got \[0.5\]", TypeError, {"logit_bias": [{0.5: 1.0}, {}]}),
        (r"bias offsets \(3,\), got \(2,\)", ValueError, {"logit_bias": [{1: 1.0}]}),
        (r"a finite logit in every row, got row 1", ValueError, {"logit_bias": [{}, dict.fromkeys(range(4), -np.inf)]}),
    ):
        with pytest.raises(kind, match=rf"^\[sample\] expected {expected}"):
            ops.sample(logits, **arguments)


def test_excluded_and_infinite_logits():
    logits = np.array([[np.nan, -np.inf, 1.0, np.nan, 0.0]], np.float32)
    for parameters in ({"temperature": 0}, *FILTERS):
        probs = probabilities(logits, **parameters)[0]
        np.testing.assert_array_equal(probs[[0, 1, 3]], 0)
        assert abs(probs.sum() - 1) < 1e-6
        assert ops.sample(logits, **parameters).tokens.numpy()[0] in (2, 4)
        certain = np.array([[0.0, np.inf, 3e38, -np.inf]], np.float32)
        assert ops.sample(certain, **parameters).tokens.numpy()[0] == 1
        assert ops.sample(np.float32([[-3e38, 3e38]]), **parameters).tokens.numpy()[0] == 1
    for temperature in (1e-30, 1e-44, 1e30):
        assert ops.sample(logits, temperature=temperature, top_k=1).tokens.numpy()[0] == 2
    for row in ([np.nan, np.nan], [-np.inf, -np.inf]):
        with pytest.raises(ValueError, match=r"\[sample\] expected a finite logit in every row, got row 1 without one"):
            ops.sample(np.array([[0, 1], row], np.float32))


def test_bad_input():
    logits = np.zeros((2, 4), np.float32)
    for name, value, expected in (
        ("temperature", -1.0, "temperature >= 0"),
        ("temperature", np.nan, "temperature >= 0"),
        ("temperature", np.inf, "temperature >= 0"),
        ("top_k", -1, r"top_k >= 0 \(0 is off\)"),
        ("top_p", 0.0, r"top_p in \(0, 1\]"),
        ("top_p", 1.5, r"top_p in \(0, 1\]"),
        ("min_p", -0.1, r"min_p in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=rf"\[sample\] expected {expected}, got"):
            ops.sample(logits, **{name: value})
    with pytest.raises(ValueError, match=r"\[sample\] expected seed \(2,\), got \(3,\)"):
        ops.sample(logits, seed=np.arange(3))
    with pytest.raises(TypeError, match=r"\[sample\] expected top_k an integer, got 1.5"):
        ops.sample(logits, top_k=1.5)
    with pytest.raises(TypeError, match=r"\[sample\] expected top_k an integer, got \[1.5, 2.5\]"):
        ops.sample(logits, top_k=[1.5, 2.5])
    with pytest.raises(TypeError, match=r"\[sample\] expected temperature a number, got 'warm'"):
        ops.sample(logits, temperature="warm")
    for wide in (2**32 + 1, np.array([1, 2**32 + 1])):
        with pytest.raises(ValueError, match=r"\[sample\] expected top_k below 2\^31, got 4294967297"):
            ops.sample(logits, top_k=wide)
    with pytest.raises(ValueError, match=r"\[sample\] expected logits \(B, V\), got \(4,\)"):
        ops.sample(logits[0])
    with pytest.raises(ValueError, match=r"\[sample\] expected at least one logit, got \(2, 0\)"):
        ops.sample(logits[:, :0])
    with pytest.raises(TypeError, match=r"\[sample\] expected logits float32 or bfloat16, got int32"):
        ops.sample(logits.astype(np.int32))
    assert ops.sample(logits[:0]).tokens.shape == (0,)
