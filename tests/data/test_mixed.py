"""Mixtures: shares, order, any row at once."""

from collections import Counter

import numpy as np
import pytest

from llmcore.data import MixedBatches, TokenBatches, document_starts

PERIOD = MixedBatches.PERIOD


def texts(*sizes):
    """Texts of which every token says which one it is of."""
    return [TokenBatches(np.full(size, number, np.int32), 1, 8, seed=5) for number, size in enumerate(sizes)]


def test_every_text_has_its_share():
    mixed = MixedBatches(texts(500, 900, 90), [2.5, 1, 0.5], seed=1)
    for first in (0, PERIOD, 10**12 * PERIOD):
        which, _ = mixed.sources(np.arange(first, first + PERIOD))
        assert Counter(which.tolist()) == {0: 2560, 1: 1024, 2: 512}
    # and about its share in any stretch
    which, _ = mixed.sources(np.arange(1000, 1400))
    assert 200 < Counter(which.tolist())[0] < 300


def test_the_rows_of_a_text_come_one_after_another():
    mixed = MixedBatches(texts(500, 900), [1, 2], seed=1)
    which, numbers = mixed.sources(np.arange(3 * PERIOD))
    for text in (0, 1):
        np.testing.assert_array_equal(numbers[which == text], np.arange((which == text).sum()))


def test_any_row_can_be_had_directly():
    tokens = [np.arange(3000, dtype=np.int32), np.arange(10_000, 10_500, dtype=np.int32)]
    each = [TokenBatches(t, 1, 8, seed=3) for t in tokens]
    mixed = MixedBatches(each, [1, 1], seed=7)
    inputs, targets = mixed.rows(PERIOD - 5, 12)  # over the border of a period
    which, numbers = mixed.sources(np.arange(PERIOD - 5, PERIOD + 7))
    for row in range(12):
        window = each[which[row]].windows(numbers[row : row + 1])[0]
        np.testing.assert_array_equal(inputs[row], window[:-1])
        np.testing.assert_array_equal(targets[row], window[1:])
        one = MixedBatches(each, [1, 1], seed=7).rows(PERIOD - 5 + row, 1)
        np.testing.assert_array_equal(one[0][0], inputs[row])
    other = MixedBatches(each, [1, 1], seed=8).rows(PERIOD - 5, 12)
    assert not np.array_equal(other[0], inputs)


def test_weights_that_cannot_be():
    which, _ = MixedBatches(texts(50, 50), [1e308, 1e308]).sources(np.arange(PERIOD))
    assert Counter(which.tolist()) == {0: PERIOD // 2, 1: PERIOD // 2}
    with pytest.raises(ValueError, match="expected 2 weights of at least 1 in 4096"):
        MixedBatches(texts(50, 50), [1, 1e-9])


def test_document_starts():
    rows = np.array([[5, 9, 1, 2, 9, 9, 3], [1, 2, 3, 4, 5, 6, 7], [9, 1, 1, 1, 1, 1, 9]], np.int32)
    want = [[0, 1, 1, 1, 4, 5, 5], [0] * 7, [0, 0, 0, 0, 0, 0, 6]]
    got = document_starts(rows, 9)
    assert got.dtype == np.int32
    assert got.tolist() == want
