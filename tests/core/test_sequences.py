import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmcore._sequences import common_prefix, continuations, largest

tokens = st.lists(st.integers(0, 2), max_size=30)


@given(tokens, tokens)
def test_the_common_prefix_is_the_longest(a, b):
    n = common_prefix(a, tuple(b))
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]


@given(tokens, st.integers(0, 5))
def test_continuations_follow_every_earlier_occurrence(a, n):
    expected = [i + n for i in range(len(a) - n) if a[i : i + n] == a[len(a) - n :]]
    assert continuations(a, n).tolist() == expected


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, -np.inf]), max_size=30), st.integers(0, 40))
def test_the_largest_are_in_a_stable_order(row, k):
    expected = sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]
    assert largest(np.array(row, np.float32), k).tolist() == expected
