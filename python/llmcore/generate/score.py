"""How surprised a model is by a text."""

from __future__ import annotations

import math
from typing import NamedTuple


class TokenScore(NamedTuple):
    """A token of a text, given those before it; logprob in nats."""

    text: str
    id: int
    logprob: float


class Score(list[TokenScore]):
    """The tokens of a text, and what they come to. `bytes`: of all tokens that have a score."""

    def __init__(self, tokens: list[TokenScore], bytes: int):
        super().__init__(tokens)
        self.bytes = bytes

    @property
    def bits(self) -> float:
        """What a perfect compressor with this model would write."""
        return -sum(t.logprob for t in self) / math.log(2)

    @property
    def perplexity(self) -> float | None:
        """exp of the mean of −logprob: how many tokens seem equally likely at each place. None for no tokens."""
        nats = -sum(t.logprob for t in self) / len(self) if self else math.inf
        return math.exp(nats) if nats < 700 else None

    @property
    def bits_per_byte(self) -> float | None:
        """Comparable between tokenizers. None for no bytes."""
        return self.bits / self.bytes if self.bytes else None
