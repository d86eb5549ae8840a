"""Normalizing a text word by word: words come again and again."""

from __future__ import annotations

import functools
from collections.abc import Callable

_MOST = 1 << 15
_LONG = 40  # characters of a word that is not likely to come again


def by_words(normalize: Callable[[str], str]) -> Callable[[str], str]:
    """Return a normalizer of texts, of whose words none reaches over the space before or after it, and which keeps that
    space as it is."""
    known = functools.lru_cache(_MOST)(normalize)

    def apply(text: str) -> str:
        if text.isascii():
            return normalize(text)
        return " ".join([known(word) if len(word) < _LONG else normalize(word) for word in text.split(" ")])

    return apply
