"""Tokens to text as they come: whole characters only, stop texts found across token boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmcore.tokenizer import Tokenizer


@dataclass
class Completion:
    """What a model wrote. `str(completion)` is its text.

    finish_reason: "stop" (end of text or a stop text) or "length". logprobs: one for each token under the unmodified
    distribution, or None when not asked for.
    """

    text: str
    tokens: list[int]
    finish_reason: str
    prompt_tokens: int
    logprobs: list[float] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.text


class TextStream:
    """Turns tokens into text that is safe to show: a character is given out whole, and text that may be the beginning
    of a stop text is held back until it is decided."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]):
        self._decoder = tokenizer.stream_decoder(continues=True)
        self._stop = stop
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that this token settles, possibly empty. Sets `stopped` when a stop text is complete."""
        return self._settle(self._decoder.push(token), final=False)

    def finish(self) -> str:
        """What is left at the end."""
        return "" if self.stopped else self._settle(self._decoder.finish(), final=True)

    def _settle(self, text: str, final: bool) -> str:
        self._held += text
        found = [at for at in (self._held.find(s) for s in self._stop) if at >= 0]
        if found:
            self.stopped = True
            settled, self._held = self._held[: min(found)], ""
            return settled
        keep = 0 if final else self._longest_beginning()
        cut = len(self._held) - keep
        settled, self._held = self._held[:cut], self._held[cut:]
        return settled

    def _longest_beginning(self) -> int:
        """Length of the longest end of the held text that begins a stop text."""
        for n in range(min(len(self._held), max(map(len, self._stop), default=0)), 0, -1):
            if any(s.startswith(self._held[-n:]) for s in self._stop):
                return n
        return 0
