"""Turns tokens into text as they come: whole characters only, with stop texts found across token boundaries."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llmcore.generate.engine.params import SamplingParams
from llmcore.generate.engine.request import SampledToken
from llmcore.tokenizer import Tokenizer


@dataclass
class Completion:
    """A generated text. `str(completion)` is its text.

    finish_reason: "stop" (end of text, a stop text, or a complete form), "length", or "timeout". stop_reason: the stop text
    that was written, or the id of the token that ended it, which is not among its tokens; None for a form that is complete
    and for other reasons. logprobs: one for each token under the unmodified distribution, or None if not requested;
    top_logprobs: for each token the likeliest ones as (id, log-probability); prompt_logprobs: for the prompt's tokens from
    the second on. cached_tokens: how many of the prompt's tokens were in the cache already. seed: reproduces this
    completion. notes: a sentence for each option that gave way to the form, and for a form that was cut.
    """

    text: str
    tokens: list[int]
    finish_reason: str
    prompt_tokens: int
    logprobs: list[float] | None = field(default=None, repr=False)
    top_logprobs: list[list[tuple[int, float]]] | None = field(default=None, repr=False)
    prompt_logprobs: list[float] | None = field(default=None, repr=False)
    cached_tokens: int = 0
    seed: int | None = None
    stop_reason: str | int | None = None
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return self.text


class TextStream:
    """Turns tokens into text that is safe to show: characters come out whole, and text that may begin a stop text is held
    back until that is decided."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]):
        self._decoder = tokenizer.stream_decoder(continues=True)
        self._stop = stop
        self._held = ""
        self.stopped_by: str | None = None

    def push(self, token: int) -> str:
        """Return the text that this token settles, possibly empty. Sets `stopped_by` when a stop text is complete."""
        return self._settle(self._decoder.push(token), final=False)

    def finish(self) -> str:
        """Return the text that is left at the end."""
        return "" if self.stopped_by else self._settle(self._decoder.finish(), final=True)

    def _settle(self, text: str, final: bool) -> str:
        self._held += text
        found = [(at + len(s), at, s) for s in self._stop if (at := self._held.find(s)) >= 0]
        if found:  # the first to be complete, the longest of several, wherever tokens end
            _, at, self.stopped_by = min(found)
            settled, self._held = self._held[:at], ""
            return settled
        keep = 0 if final else self._longest_beginning()
        cut = len(self._held) - keep
        settled, self._held = self._held[:cut], self._held[cut:]
        return settled

    def _longest_beginning(self) -> int:
        """Return the length of the longest suffix of the held text that begins a stop text."""
        for n in range(min(len(self._held), max(map(len, self._stop), default=0)), 0, -1):
            if any(s.startswith(self._held[-n:]) for s in self._stop):
                return n
        return 0


class CompletionSink:
    """Builds a Completion from the sampled tokens (a `request.TokenSink`). on_token: called with the Completion and the text
    that each token settles; an exception from it ends the request."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        params: SamplingParams,
        end_ids: Sequence[int],
        prompt_tokens: int,
        on_token: Callable[[Completion, str], object] | None = None,
    ):
        self._tokenizer, self._end_ids, self._on_token = tokenizer, end_ids, on_token
        self._stream = TextStream(tokenizer, params.stop)
        self.settled: list[str] = []  # texts that a stream has not taken yet
        self._drawn: list[float] = []  # log-probabilities of the tokens and of the end
        self.completion = Completion(
            "",
            [],
            "length",
            prompt_tokens,
            [] if params.logprobs or params.top_logprobs else None,
            [] if params.top_logprobs else None,
            seed=params.seed,
        )

    def prompt(self, logprobs: list[float]) -> None:
        self.completion.prompt_logprobs = logprobs

    @property
    def mean_logprob(self) -> float:
        """The mean log-probability of all that was drawn, the end too: what `best_of` ranks by."""
        return statistics.fmean(self._drawn or [0.0])

    def write(self, drawn: SampledToken, last: str | None) -> bool:
        c, stream = self.completion, self._stream
        is_end = drawn.token in self._end_ids
        self._drawn.append(drawn.logprob)
        if is_end:
            c.stop_reason = drawn.token
            text = stream.finish()
        else:
            c.tokens.append(drawn.token)
            if c.logprobs is not None:
                c.logprobs.append(drawn.logprob)
            if c.top_logprobs is not None:
                c.top_logprobs.append(drawn.top or [])
            text = stream.push(drawn.token) if drawn.token < self._tokenizer.vocab_size else ""
            if last:
                text += stream.finish()
        c.text += text
        if text:
            self.settled.append(text)
        c.finish_reason = "stop" if is_end or stream.stopped_by else last or c.finish_reason
        c.stop_reason = stream.stopped_by or c.stop_reason
        if self._on_token is not None:
            self._on_token(c, text)
        return is_end or stream.stopped_by is not None

    def end(self, reason: str) -> None:
        """Finish a completion that ended without a last token, such as by a timeout."""
        text = self._stream.finish()
        self.completion.text += text
        if text:
            self.settled.append(text)
        self.completion.finish_reason = reason
