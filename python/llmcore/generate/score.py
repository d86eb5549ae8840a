"""Scores: how likely a model finds a text, token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class TokenScore(NamedTuple):
    """A token of a text and its log-probability in nats, given the tokens before it."""

    text: str
    id: int
    logprob: float


class WordScore(NamedTuple):
    """A word of a text, with the blanks around it, how many tokens it is, and its log-probability in nats, given all before
    it: the sum of its tokens'."""

    text: str
    tokens: int
    logprob: float


class Score(list[TokenScore]):
    """The scored tokens of a text and their totals. `pieces`: what they spell; `bytes`: how many bytes that are."""

    def __init__(self, tokens: Sequence[TokenScore], pieces: Sequence[bytes]):
        super().__init__(tokens)
        self.pieces = list(pieces)
        self.bytes = sum(map(len, pieces))

    def words(self) -> list[WordScore]:
        """Return the score of each word: of the tokens from one blank to the next. A token that holds several words keeps them
        together."""
        found: list[tuple[bytearray, list[float]]] = []
        for piece, token in zip(self.pieces, self, strict=True):
            before = found[-1][0] if found else b""
            ended = piece[:1].isspace() or before[-1:].isspace()
            if not found or (ended and before.strip()):
                found.append((bytearray(), []))
            found[-1][0].extend(piece)
            found[-1][1].append(token.logprob)
        return [WordScore(text.decode(errors="replace"), len(each), sum(each)) for text, each in found]

    def __repr__(self) -> str:
        per_byte = "" if self.bits_per_byte is None else f", {self.bits_per_byte:.3f} bits per byte"
        return f"<Score: {len(self)} tokens, {self.bytes} bytes, {self.bits:.1f} bits{per_byte}>"

    @property
    def bits(self) -> float:
        """The size in bits to which an ideal compressor with this model would compress the text."""
        return -sum(t.logprob for t in self) / math.log(2)

    @property
    def perplexity(self) -> float | None:
        """exp of the mean of −logprob: the number of tokens that seem equally likely at each position. None without tokens."""
        nats = -sum(t.logprob for t in self) / len(self) if self else math.inf
        return math.exp(nats) if nats < 700 else None

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte, which is comparable between tokenizers. None without bytes."""
        return self.bits / self.bytes if self.bytes else None
