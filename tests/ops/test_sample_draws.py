"""What is drawn is distributed as it should be, and masks and typical sampling leave what they should."""

import numpy as np
import pytest

import llmcore
from llmcore import _core, ops
from reference import sample as reference
from support.arrays import array
from support.gradcheck import random

SAMPLERS = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.7},
    "top-k": {"top_k": 5},
    "top-p": {"top_p": 0.8},
    "min-p": {"min_p": 0.1},
    "typical": {"typical_p": 0.7},
    "all": {"temperature": 1.3, "top_k": 12, "top_p": 0.95, "min_p": 0.02, "typical_p": 0.9},
}


def chi_square(counts, expected):
    """(sum of (observed - expected)² / expected, degrees of freedom)."""
    some = expected > 0
    return ((counts[some] - expected[some]) ** 2 / expected[some]).sum(), some.sum() - 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_hundred_thousand_draws(name):
    draws, rows, V = 100_000, 2000, 40
    logits = random(V, seed=3, scale=2)
    want = reference.filtered(logits.astype(np.float64), **SAMPLERS[name])
    counts = np.zeros(V)
    many = np.tile(logits.astype(np.float32), (rows, 1))
    for step in range(draws // rows):
        tokens = ops.sample(many, seed=np.arange(rows), step=step, **SAMPLERS[name]).tokens.numpy()
        counts += np.bincount(tokens, minlength=V)
    assert counts[want == 0].sum() == 0
    statistic, freedom = chi_square(counts, want * draws)
    # Its mean is `freedom`, its variance twice that: five deviations of a normal number, and some for small ones.
    assert statistic <= freedom + 5 * np.sqrt(2 * freedom) + 5


def test_half_of_the_mass_is_two_tokens():
    """25%, 25%, 12.5%, 12.5% and a tail: with p = 0.5 the first two survive, whatever the tail."""
    rng = np.random.default_rng(0)
    for _ in range(1000):
        tail = rng.random(rng.integers(1, 200))
        probs = np.concatenate([[0.25, 0.25, 0.125, 0.125], 0.25 * tail / tail.sum()])
        probs[4:] = np.minimum(probs[4:], 0.124)
        probs[4:] *= 0.25 / probs[4:].sum()
        if probs[4:].max() >= 0.125:
            continue
        order = rng.permutation(len(probs))
        logits = np.log(probs[order]) + rng.normal(0, 3)
        got = ops.sample(logits[None].astype(np.float32), top_p=0.5, return_probs=True).probs.numpy()[0]
        assert sorted(np.flatnonzero(got).tolist()) == sorted(np.argsort(order)[:2].tolist())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("others", [{}, {"top_k": 20}, {"top_p": 0.9}, {"min_p": 0.05}], ids=str)
@pytest.mark.parametrize("V", [1, 2, 37, 5000])
def test_typical(V, others, temperature):
    for typical_p in (0.2, 0.5, 0.95):
        logits = random(V, seed=V, scale=3)
        parameters = {"temperature": temperature, "typical_p": float(np.float32(typical_p)), **others}
        drawn = ops.sample(logits[None].astype(np.float32), return_probs=True, seed=9, **parameters)
        want = reference.filtered(logits.astype(np.float32).astype(np.float64), **parameters)
        got = drawn.probs.numpy()[0]
        # Where two surprises are alike up to rounding, one token may take the other's place.
        assert np.count_nonzero((got > 0) != (want > 0)) <= 2
        assert np.abs(got - want).max() < 1e-4 or np.count_nonzero((got > 0) != (want > 0))
        assert got[drawn.tokens.numpy()[0]] > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("V", [1, 31, 32, 33, 1000, 20011])
def test_masks(V, dtype):
    """A mask is minus infinity where a bit is not set; rows without one are not changed."""
    rng = np.random.default_rng(V)
    logits = rng.normal(0, 2, (3, V)).astype(np.float32)
    allowed = rng.random((3, V)) < 0.3
    allowed[:, rng.integers(V)] = True
    allowed[1] = True
    bits = np.zeros((3, -(-V // 32) * 32), bool)
    bits[:, :V] = allowed
    mask = np.packbits(bits, axis=1, bitorder="little").view(np.uint32)
    given = llmcore.tensor(logits, dtype)
    hidden = np.where(allowed, np.asarray(given.numpy(), np.float32), -np.inf)
    options = {"temperature": 0.9, "top_p": 0.95, "seed": 4, "return_probs": True}
    got, want = ops.sample(given, mask=mask, **options), ops.sample(hidden, **options)
    np.testing.assert_array_equal(got.tokens.numpy(), want.tokens.numpy())
    np.testing.assert_allclose(got.probs.numpy(), want.probs.numpy(), rtol=1e-5)
    model = np.asarray(given.numpy(), np.float64)  # whose log-probability it is, masked or not
    log_sum = np.log(np.exp(model - model.max(1, keepdims=True)).sum(1)) + model.max(1)
    expected = model[np.arange(3), got.tokens.numpy()] - log_sum
    np.testing.assert_allclose(got.logprobs.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_bad_masks():
    logits = np.zeros((2, 40), np.float32)
    for mask, kind, message in (
        (np.ones((2, 1), np.uint32), ValueError, r"\[sample\] expected mask \(2, 2\), got \(2, 1\)"),
        (np.ones((2, 2), np.int32), TypeError, r"\[sample\] expected mask uint32"),
        (np.zeros((2, 2), np.uint32), ValueError, r"\[sample\] expected a finite logit in every row"),
    ):
        with pytest.raises(kind, match=message):
            ops.sample(logits, mask=mask)
    with pytest.raises(ValueError, match=r"\[sample\] expected typical_p in \(0, 1\], got 0"):
        ops.sample(logits, typical_p=0.0)
    assert _core.sample(array(logits), 0.0, 0, 1.0, 0.0, 0, 0)[0].numpy().tolist() == [0, 0]
