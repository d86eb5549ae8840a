"""Scores: how likely a model finds a text, token by token."""

from __future__ import annotations

import math
from typing import NamedTuple


class TokenScore(NamedTuple):
    """A token of a text and its log-probability in nats, given the tokens before it."""

    text: str
    id: int
    logprob: float


class Score(list[TokenScore]):
    """The scored tokens of a text and their totals. `bytes`: how many bytes these tokens spell."""

    def __init__(self, tokens: list[TokenScore], bytes: int):
        super().__init__(tokens)
        self.bytes = bytes

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
