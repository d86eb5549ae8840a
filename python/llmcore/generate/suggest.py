"""Suggests the next words as one types, like a phone's keyboard: words, not tokens, with their probabilities.

The text before the word that is being typed is computed once and stays in the cache; a keystroke within a word recomputes
none of it. A word is a path of tokens that ends where the model continues with something other than a letter: its
probability is that of the path times that of all such continuations.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from llmcore import autograd
from llmcore._sequences import common_prefix
from llmcore.generate.text_model import TextModel
from llmcore.models import DecodeStep, KVCache
from llmcore.models.kv_cache import BLOCK, BlockPool, blocks_for

_PATHS = 5  # explored in parallel
_ROUNDS = 3  # of extending the paths by a token
_WINDOW = 512  # tokens before the word, at most; half as many right after the window moves
_NEGLIGIBLE = 0.01  # of the likeliest word's probability: paths below that are dropped
_KNOWN = 256  # distributions that are cached


class Suggestion(NamedTuple):
    """A word, and its probability given the part of it that was typed."""

    word: str
    probability: float


@dataclass(frozen=True)
class _Path:
    """Tokens of a word, the rest of the typed bytes that they do not cover yet, and their probability."""

    tokens: tuple[int, ...]
    rest: bytes
    probability: float


class Suggester:
    """Suggests words for one text at a time; `LanguageModel.suggest` keeps one."""

    def __init__(self, lm: TextModel):
        self._lm = lm
        size = min(lm.config.vocab_size, lm.tokenizer.vocab_size)
        spelled = [lm.tokenizer.token_bytes(i) for i in range(size)]
        specials = set(lm.tokenizer.special_tokens.values()) | set(lm.end_ids)
        self._spelled = spelled
        by_spelling = sorted((s, i) for i, s in enumerate(spelled) if s and i not in specials)
        self._keys, self._ids = [s for s, _ in by_spelling], np.array([i for _, i in by_spelling], np.int64)
        # Tokens that continue a word, and those that begin one after a space.
        self._continues = np.array([bool(s) and i not in specials and _is_letter(s, 0) for i, s in enumerate(spelled)])
        self._begins = np.array(
            [i not in specials and len(s) > 1 and s[:1] == b" " and _is_letter(s, 1) for i, s in enumerate(spelled)]
        )
        window = min(_WINDOW, lm.config.context - _ROUNDS - 1)
        self._window = max(window, 1)
        blocks = blocks_for(self._window + _ROUNDS + 1)
        self._pool: BlockPool = lm.model.new_pool(blocks * _PATHS)
        shift = lm.model.shift(self._window + _ROUNDS + 1)
        self._cache = KVCache.allocate_for(self._pool, _PATHS, blocks * BLOCK, shift)
        self._steps: dict[int, tuple[DecodeStep, KVCache]] = {}
        self._read: list[int] = []  # tokens whose keys and values are in all rows of the cache
        self._known: OrderedDict[tuple[int, ...], np.ndarray] = OrderedDict()
        self._version = lm.model.version

    def suggest(self, text: str, n: int) -> list[Suggestion]:
        """See `LanguageModel.suggest`."""
        if self._version != self._lm.model.version:
            self._version = self._lm.model.version
            self._known.clear()
            self._steps.clear()
            self._read = []
        before, typed = _split_typed(text.encode(errors="replace").decode())  # a lone surrogate is no letter
        context = tuple(self._context(before))
        # `matched` is the probability of everything that begins as typed; a word's probability is its share of it.
        paths, matched = self._grown([_Path((), typed, 1.0)], [self._after(context)], bool(typed.strip()))
        words: dict[str, float] = {}
        for _ in range(_ROUNDS):
            least = sorted(words.values(), reverse=True)[n - 1] if len(words) >= n else 0.0
            least = max(least, _NEGLIGIBLE * max(words.values(), default=0.0))
            paths = [p for p in paths if p.probability > least]
            paths = sorted(paths, key=lambda p: (-p.probability, p.tokens))[:_PATHS]
            if not paths:
                break
            distributions = self._after_paths(context, paths)
            for p, after in zip(paths, distributions, strict=True):
                if not p.rest:
                    ends = 1.0 - float(after[: len(self._continues)][self._continues].sum())
                    word = b"".join(self._spelled[t] for t in p.tokens).decode("utf-8", "replace").strip()
                    words[word] = words.get(word, 0.0) + p.probability * max(ends, 0.0)
            paths, more = self._grown(paths, distributions, True)
            matched += more
        ranked = sorted(words.items(), key=lambda w: (-w[1], w[0]))[:n]
        return [Suggestion(word, min(p / matched, 1.0)) for word, p in ranked] if matched > 0 else []

    def _context(self, before: str) -> list[int]:
        """Return the last tokens of the text, at most a window of them."""
        ids = self._lm.prompt_ids(before)
        if len(ids) > self._window:  # moves by half a window, so that most of the cache stays valid
            half = max(self._window // 2, 1)
            ids = ids[-(self._window - (self._window - len(ids)) % half) :]
        return ids

    # ---- paths ----

    def _grown(
        self, paths: Sequence[_Path], distributions: Sequence[np.ndarray], within: bool
    ) -> tuple[list[_Path], float]:
        """Return the likeliest paths that are one token longer, and the probability of all that now match what was typed.
        within: whether the paths are inside a word."""
        found, matched = [], 0.0
        for p, after in zip(paths, distributions, strict=True):
            if p.rest:
                whole, shorter = self._matching(p.rest)
                if p.rest == b" ":
                    whole = whole[self._begins[whole]]
                matched += p.probability * float(after[whole].sum())
                ids = np.concatenate([whole, shorter])
            else:
                ids = np.flatnonzero(self._continues if within else self._continues | self._begins)
                matched += 0.0 if within else p.probability * float(after[ids].sum())
            most = min(4 * _PATHS, len(ids))
            best = ids[np.argpartition(-after[ids], most - 1)[:most]] if most else ids
            for i in best.tolist():
                if after[i] > 0:
                    rest = p.rest[len(self._spelled[i]) :]
                    found.append(_Path((*p.tokens, i), rest, p.probability * float(after[i])))
        return found, matched

    def _matching(self, typed: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens that begin with what was typed, and the shorter ones that it begins with."""
        start = bisect.bisect_left(self._keys, typed)
        end = bisect.bisect_left(self._keys, typed + b"\xff\xff\xff\xff")
        shorter = [
            self._ids[at]
            for k in range(1, len(typed))
            if (at := bisect.bisect_left(self._keys, typed[:k])) < len(self._keys) and self._keys[at] == typed[:k]
        ]
        return self._ids[start:end], np.array(shorter, np.int64)

    # ---- the model ----

    def _after(self, context: tuple[int, ...]) -> np.ndarray:
        """Return the probabilities (V) of what follows a context, and leave its keys and values in all rows."""
        same = common_prefix(self._read, context)
        known = self._known.get(context)
        if same == len(context) and known is not None:
            self._read = list(context)
            return known
        same = min(same, len(context) - 1)
        cache = self._cache
        cache.lengths[0] = same
        ids = np.array([context[same:]], np.int32)
        with autograd.no_grad():
            if ids.shape[1] == 1:
                logits = self._step(1)(ids)
            else:
                logits = self._lm.model(ids, cache.row(0), last_only=True).array
        for row in range(1, _PATHS):
            for b in range(same // BLOCK, blocks_for(len(context))):
                start, stop = max(same - b * BLOCK, 0), min(len(context) - b * BLOCK, BLOCK)
                self._pool.copy(int(cache.tables[0, b]), int(cache.tables[row, b]), stop, start)
        self._read = list(context)
        return self._remember(context, _softmax(logits.reshape([1, -1]).numpy())[0])

    def _after_paths(self, context: tuple[int, ...], paths: Sequence[_Path]) -> list[np.ndarray]:
        """Return the probabilities (V) of what follows each path, with as many steps as the longest unknown path has tokens."""
        unknown = [p for p in paths if (*context, *p.tokens) not in self._known]
        if unknown:
            rows, longest = len(unknown), max(len(p.tokens) for p in unknown)
            step = self._step(rows)
            self._cache.lengths[:rows] = len(context)
            ids = np.zeros((rows, 1), np.int32)
            for t in range(longest):
                for row, p in enumerate(unknown):
                    ids[row, 0] = p.tokens[min(t, len(p.tokens) - 1)]
                logits = step(ids).reshape([rows, -1]).numpy()
                ended = [row for row, p in enumerate(unknown) if len(p.tokens) == t + 1]
                for row, after in zip(ended, _softmax(logits[ended]), strict=True):
                    self._remember((*context, *unknown[row].tokens), after)
        return [self._known[context + p.tokens] for p in paths]

    def _step(self, rows: int) -> DecodeStep:
        if rows not in self._steps:
            c = self._cache
            cache = KVCache(self._pool, c.tables[:rows], c.lengths[:rows], c.capacity, c.shift[:rows])
            self._steps[rows] = DecodeStep(self._lm.model, cache), cache
        return self._steps[rows][0]

    def _remember(self, tokens: tuple[int, ...], after: np.ndarray) -> np.ndarray:
        self._known[tokens] = after
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)
        return after


def _split_typed(text: str) -> tuple[str, bytes]:
    """Split a text into what comes before the word that is being typed, and what was typed of it, with the space before it
    (most tokens begin with one)."""
    at = len(text)
    while at and _is_letter(text[at - 1].encode(), 0):
        at -= 1
    if at and text[at - 1] == " ":
        at -= 1
    return text[:at], text[at:].encode()


def _is_letter(spelled: bytes, at: int) -> bool:
    """Return whether there is a letter, a digit, an apostrophe or a byte of a non-ASCII character."""
    c = spelled[at : at + 1]
    return c.isalnum() or c == b"'" or c >= b"\x80"


def _softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)
