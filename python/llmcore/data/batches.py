"""Documents to one stream of tokens, and the stream to shuffled batches, any of which can be had directly."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from llmcore.errors import ArgumentTypeError, Error


class DocumentTokenizer(Protocol):
    """What encoding documents needs of a tokenizer. Special tokens spelled out in a text are text."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def end_of_text(self) -> int | None: ...

    @property
    def begin(self) -> tuple[int, ...]: ...

    def encode_ordinary_batch(self, texts: Iterable[bytes]) -> list[np.ndarray]: ...


def begin_of(tokenizer: DocumentTokenizer, end: int | None) -> tuple[int, ...]:
    """What stands before every document: what the tokenizer puts before a text, unless that is the end of the one before."""
    return () if tokenizer.begin == (end,) else tokenizer.begin


def encode_documents(
    documents: Iterable[bytes], tokenizer: DocumentTokenizer, end_of_text: int | None = None
) -> np.ndarray:
    """One stream (N,) of token ids: each document's, after what the tokenizer puts before a text, and followed by
    `end_of_text`, by default the tokenizer's, if it has one.

    uint16 where the vocabulary fits (up to 65536 ids), else uint32: half the memory, and nanoGPT's format.
    """
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    last = tokenizer.end_of_text if end_of_text is None else end_of_text
    end = [] if last is None else [last]
    if any(not 0 <= token < tokenizer.vocab_size for token in end):
        raise Error("encode_documents", expected=f"end_of_text below vocab_size {tokenizer.vocab_size}", got=end[0])
    head, tail = np.array(begin_of(tokenizer, last), dtype), np.array(end, dtype)
    pieces = []
    for ids in tokenizer.encode_ordinary_batch(documents):
        if ids.size and int(ids.max()) >= tokenizer.vocab_size:
            raise Error("encode_documents", expected=f"ids below vocab_size {tokenizer.vocab_size}", got=ids.max())
        pieces += [head, ids.astype(dtype), tail]
    return np.concatenate(pieces) if pieces else np.empty(0, dtype)


class Tokens(Protocol):
    """What batches are taken from: an integer array (N,), or what reads like one (`shards.TokenStream`)."""

    @property
    def ndim(self) -> int: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __len__(self) -> int: ...

    def take(self, indices: Any, *, mode: Any) -> np.ndarray: ...


class TokenBatches:
    """Batches of windows of `context` tokens, with the next token of each as its target.

    The step alone decides a batch, so a run resumes by knowing its step, at no cost. An epoch takes each of
    the N // context windows once, in an order drawn for that epoch. The stream is a circle that every epoch
    cuts at another place: windows begin elsewhere each time, all tokens serve equally often, and the fewer
    than `context` left over are different ones each epoch. The order comes from integer arithmetic written
    here, not from a generator of a library, so it stays the same over versions and machines.
    """

    def __init__(self, tokens: Tokens, batch_size: int, context: int, seed: int = 0) -> None:
        """`tokens` is (N,), any integer type, a memory map too. Raises `ValueError` if N < context + 1."""
        if batch_size < 1 or context < 1:
            raise Error("batches", expected="batch_size and context of at least 1", got=f"{batch_size} and {context}")
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise ArgumentTypeError(
                "batches", expected="integer tokens of shape (N,)", got=f"{tokens.dtype} in {tokens.ndim} dimensions"
            )
        if len(tokens) < context + 1:
            raise Error(
                "batches",
                f"the text has {len(tokens)} tokens, expected at least {context + 1} for a context of "
                f"{context}: give more text or a shorter context",
            )
        self.tokens = tokens
        self.batch_size = batch_size
        self.context = context
        self.seed = seed
        self.windows_per_epoch = len(tokens) // context

    def epoch(self, step: int) -> float:
        """How many times the text has been seen when `step` batches have been taken."""
        return step * self.batch_size / self.windows_per_epoch

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """`(inputs, targets)` of step 0, 1, 2, …: int32 (B, T) each; a target is the token after it."""
        return self.rows(step * self.batch_size, self.batch_size)

    def rows(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The same of any rows: a step has `batch_size` that follow one another."""
        return split_targets(self.windows(np.arange(first, first + count)))

    def windows(self, numbers: np.ndarray) -> np.ndarray:
        """The tokens of rows with these numbers and the one after each: int32 (B, T + 1)."""
        positions = self.window_starts(numbers)[:, None] + np.arange(self.context + 1)
        return self.tokens.take(positions, mode="wrap").astype(np.int32)

    def window_starts(self, numbers: np.ndarray) -> np.ndarray:
        """Where in the text the windows of rows begin: int64 (B,)."""
        if len(numbers) and numbers.min() < 0:
            raise Error("batches", expected="rows of at least 0", got=numbers.min())
        epochs, places = np.divmod(numbers, self.windows_per_epoch)
        starts = np.empty(len(numbers), np.int64)
        for epoch in np.unique(epochs).tolist():
            rows = np.flatnonzero(epochs == epoch)
            key = mix(mix(mix(0, self.seed), epoch), 1)
            order = permute(places[rows].astype(np.uint64), self.windows_per_epoch, key)
            cut = mix(key, 2) % len(self.tokens)
            starts[rows] = (order.astype(np.int64) * self.context + cut) % len(self.tokens)
        return starts


class MixedBatches:
    """Batches whose rows come from several texts, each as often as its weight says, to one row in 4096.

    In every 4096 rows each text has its share, in an order drawn for them; the rows of a text are those that
    `TokenBatches` gives, one after another. So any row can be had directly.
    """

    PERIOD = 4096

    def __init__(self, texts: Sequence[TokenBatches], weights: Sequence[float], seed: int = 0) -> None:
        """Weights are in any unit. Raises ValueError for one that is so small that its text would never come."""
        self.texts, self.seed = list(texts), seed
        shares = np.array(weights, np.float64) / np.max(weights)  # before they are summed: they may be large
        exact = shares / shares.sum() * self.PERIOD
        counts = np.floor(exact).astype(np.int64)
        largest = np.argsort(counts - exact, kind="stable")[: self.PERIOD - counts.sum()]
        counts[largest] += 1
        if len(weights) != len(self.texts) or not counts.all():
            raise Error("batches", expected=f"{len(self.texts)} weights of at least 1 in {self.PERIOD}", got=weights)
        self._counts = counts
        self._kept: tuple[int, np.ndarray, np.ndarray] | None = None  # of the last period

    def rows(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """As `TokenBatches.rows`."""
        which, numbers = self.sources(np.arange(first, first + count))
        windows = np.empty((count, self.texts[0].context + 1), np.int32)
        for text in np.unique(which).tolist():
            here = which == text
            windows[here] = self.texts[text].windows(numbers[here])
        return split_targets(windows)

    def sources(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of rows: which text each comes from, and its number there; int64 (B,) each."""
        which, inner = np.empty(len(numbers), np.int64), np.empty(len(numbers), np.int64)
        periods, places = np.divmod(numbers, self.PERIOD)
        for period in np.unique(periods).tolist():
            here = periods == period
            texts, ranks = self._period(period)
            which[here] = texts[places[here]]
            inner[here] = period * self._counts[which[here]] + ranks[places[here]]
        return which, inner

    def _period(self, period: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each row of a period: its text, and how many rows of that text stand before it."""
        kept = self._kept
        if kept is None or kept[0] != period:
            key = mix(mix(mix(0, self.seed), period), 4)
            order = permute(np.arange(self.PERIOD, dtype=np.uint64), self.PERIOD, key).astype(np.int64)
            texts = np.searchsorted(np.cumsum(self._counts), order, side="right")
            ranks = np.empty(self.PERIOD, np.int64)
            for text, count in enumerate(self._counts.tolist()):
                ranks[texts == text] = np.arange(count)
            kept = self._kept = period, texts, ranks
        return kept[1], kept[2]


def split_targets(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B, T + 1) tokens -> inputs and targets (B, T)."""
    return np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:])


def document_starts(inputs: np.ndarray, mark: int) -> np.ndarray:
    """Where in its row the document of each token begins, int32 (B, T): at the mark before its text, after which a model
    is asked for the first token of a text. The mark is the token that begins a text, or else the end-of-text of the one
    before. The start of the row is one too."""
    at = np.where(inputs == mark, np.arange(inputs.shape[1], dtype=np.int32), np.int32(0))
    return np.maximum.accumulate(at, axis=1)


_MASK = (1 << 64) - 1
_ROUNDS = 10


def mix(state: int, value: int) -> int:
    """A 64-bit hash of two integers: SplitMix64's output function (Steele, Lea, Flood 2014)."""
    z = (state * 0x9E3779B97F4A7C15 + value + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def permute(indices: np.ndarray, size: int, key: int) -> np.ndarray:
    """Where a permutation of range(size), chosen by `key`, sends each of `indices` (uint64).

    A Feistel network over the smallest square power of two that holds `size`; results beyond it walk on along
    their cycle until they fall inside (Black and Rogaway 2002), which keeps it a permutation.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    keys = [np.uint64(mix(key, 16 + number)) for number in range(_ROUNDS)]
    result = indices.astype(np.uint64)
    outside = np.arange(result.size)
    while outside.size:
        left, right = result[outside] >> shift, result[outside] & mask
        for round_key in keys:
            left, right = right, left ^ (_scramble(right ^ round_key) & mask)
        result[outside] = (left << shift) | right
        outside = outside[result[outside] >= size]
    return result


def _scramble(z: np.ndarray) -> np.ndarray:
    # uint64 arithmetic on arrays wraps silently, as it should here
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
