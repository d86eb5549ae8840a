"""The vocabulary of the engine, the sampler and the proposers: a request, a sampled token, and the protocols of what takes
tokens and what guesses them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from llmcore.errors import StateError
from llmcore.generate.engine.constrain import Constraint
from llmcore.generate.engine.dry import Breakers
from llmcore.generate.engine.params import SamplingParams


class QueueFull(StateError):
    """More requests wait than the engine takes."""


class SampledToken(NamedTuple):
    """A token, its log-probability under the model's own distribution, and the likeliest tokens with theirs."""

    token: int
    logprob: float
    top: list[tuple[int, float]] | None


class TokenSink(Protocol):
    """Takes a request's tokens as they are sampled."""

    def prompt(self, logprobs: list[float]) -> None:
        """Take the log-probabilities of the prompt's tokens from the second on, where they were asked for."""

    def write(self, sampled: SampledToken, last: str | None) -> bool:
        """Take one token; `last` says why no other will come ("length" or "stop"), or is None. Returns True to end the
        request."""


class Proposer(Protocol):
    """Guesses the next tokens of one request."""

    def propose(self, request: Request, limit: int) -> Sequence[int]:
        """Return up to `limit` tokens that may come next."""
        ...

    def record(self, right: int, proposed: int) -> None:
        """Learn how many of the last guesses were right."""


class Request:
    """The state of one sequence. Only the engine writes to it, except for `priority` and `deadline`."""

    def __init__(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        sink: TokenSink,
        end_ids: Sequence[int] = (),
        constraint: Constraint | None = None,
        proposer: Proposer | None = None,
        priority: int = 0,
        timeout: float | None = None,
        breakers: Breakers | None = None,
    ):
        """end_ids: tokens that end the sequence; they are not drawn before params.min_tokens. priority: higher ones are
        served first. timeout: seconds from now. breakers: what ends a repetition, for params.dry_multiplier."""
        self.tokens = [int(i) for i in prompt]
        self.prompt_length = len(self.tokens)
        self.params, self.sink, self.end_ids = params, sink, tuple(end_ids)
        self.constraint, self.proposer = constraint, proposer
        self.breakers = breakers or Breakers(lambda _: b"", ())
        self.priority = priority
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self.done = False
        self.error: BaseException | None = None
        self.timed_out = False
        self.cancelled = False
        self.cached_tokens = 0  # positions of the prompt that were in the cache already
        self.blocks: list[int] = []
        self.computed = 0  # positions in the cache
        self.shift = 0  # see CausalLM.shift
        self.prompt_logprobs: list[float] = []
        self.notes: list[str] = []  # on options that gave way to others

    @property
    def generated(self) -> int:
        """How many tokens were sampled so far."""
        return len(self.tokens) - self.prompt_length
