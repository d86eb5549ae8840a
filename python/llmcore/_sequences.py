"""Small questions about sequences of tokens and rows of numbers that several packages ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def common_prefix(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Return the length of the longest common prefix of two sequences."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    return next((i for i in range(n) if a[i] != b[i]), n)


def continuations(tokens: Sequence[int] | np.ndarray, n: int) -> np.ndarray:
    """Return the positions that follow each earlier occurrence of the last n tokens, in ascending order."""
    a = np.asarray(tokens)
    starts = max(len(a) - n, 0)
    matches = np.ones(starts, bool)
    for i, token in enumerate(a[starts:] if starts else ()):
        matches &= a[i : i + starts] == token
    return np.flatnonzero(matches) + n


def largest(row: np.ndarray, k: int) -> np.ndarray:
    """Return the indices of the k largest numbers of a row (all of a shorter one), largest first, the lower index first
    among equals."""
    k = min(k, len(row))
    if k < 1:
        return np.empty(0, np.intp)
    found = np.flatnonzero(row >= np.partition(row, -k)[-k])
    return found[np.lexsort((found, -row[found]))][:k]
