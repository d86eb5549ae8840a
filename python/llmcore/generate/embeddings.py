"""Vectors of texts and tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmcore import autograd
from llmcore._fields import flag, number
from llmcore._sequences import largest
from llmcore.errors import ArgumentTypeError, Error
from llmcore.generate.text_model import TextModel

_ROWS = 8192  # rows of the token embedding at a time


def embed(lm: TextModel, texts: Sequence[str], pooling: str, normalize: bool) -> np.ndarray:
    """See `LanguageModel.embed`. Texts are computed one by one, so a vector never depends on the others."""
    if not isinstance(pooling, str) or pooling not in ("mean", "last"):
        raise Error("embed", expected="pooling 'mean' or 'last'", got=repr(pooling))
    flag("embed", "normalize", normalize)
    out = np.empty((len(texts), lm.config.width), np.float32)
    for row, text in zip(out, texts, strict=True):
        if not isinstance(text, str):
            raise ArgumentTypeError("embed", expected="text as one or several texts", got=f"{text!r:.100}")
        ids = lm.prompt_ids(text)
        if len(ids) > lm.config.context:
            raise Error("embed", expected=f"a text of at most {lm.config.context} tokens", got=len(ids))
        with autograd.no_grad():
            hidden = lm.model.hidden(np.asarray([ids])).numpy()[0].astype(np.float64)
        vector = hidden[-1] if pooling == "last" else hidden.mean(axis=0)
        row[:] = vector / max(np.linalg.norm(vector), 1e-30) if normalize else vector
    return out


def nearest(lm: TextModel, word: str, k: int) -> list[tuple[str, int, float]]:
    """See `LanguageModel.nearest`."""
    k = number("nearest", "k", k, lambda v: v >= 1, ">= 1", True)
    if not isinstance(word, str):
        raise ArgumentTypeError("nearest", expected="a word", got=f"{word!r:.100}")
    if not word.strip():
        raise Error("nearest", expected="a word", got="none")
    own = {tuple(lm.ids(form)) for form in (word, f" {word}")}
    # Inside a text, a word comes with the space before it, and most words are one token in that form.
    ids = min(own, key=lambda i: (len(i), i != tuple(lm.ids(f" {word}"))))
    with autograd.no_grad():
        target = _rows(lm, np.asarray(ids)).mean(axis=0)
        target /= max(np.linalg.norm(target), 1e-30)
        size = min(lm.config.vocab_size, lm.tokenizer.vocab_size)
        cosines = np.empty(size, np.float32)
        for start in range(0, size, _ROWS):
            rows = _rows(lm, np.arange(start, min(start + _ROWS, size)))
            cosines[start : start + _ROWS] = rows @ target / np.maximum(np.linalg.norm(rows, axis=1), 1e-30)
    excluded = {i for form in own if len(form) == 1 for i in form} | set(ids)
    cosines[list(excluded)] = -np.inf
    order = largest(cosines, min(k, size - len(excluded)))
    return [(lm.token_text(int(i)), int(i), float(cosines[i])) for i in order]


def _rows(lm: TextModel, ids: np.ndarray) -> np.ndarray:
    return lm.model.tokens(ids.astype(np.int32)).numpy()
