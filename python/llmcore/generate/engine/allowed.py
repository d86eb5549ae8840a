"""Which tokens a request may draw next: those of its form, without what is banned. A ban that would leave none gives way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from llmcore._sequences import continuations
from llmcore.errors import Error
from llmcore.generate.engine.constrain import Constraint
from llmcore.generate.engine.params import SamplingParams


class Unfinished(Protocol):
    """A text that is being written: a request, or a beam."""

    tokens: list[int]  # the prompt's too
    params: SamplingParams
    constraint: Constraint | None
    notes: list[str]

    @property
    def end_ids(self) -> Sequence[int]: ...
    @property
    def generated(self) -> int: ...


def allow(request: Unfinished, vocab_size: int, mask: np.ndarray) -> None:
    """Set the bits of the tokens that a request may draw next, at least one: mask (ceil(V/32)) uint32.

    forced tokens come before everything. A form comes before every ban; then `banned` and biases of −inf, which leave a
    token or raise ValueError, before min_tokens, before no_repeat_ngram. What gives way is noted once."""
    p = request.params
    if request.generated < len(p.forced):
        mask[:] = 0
        _set(mask, [p.forced[request.generated]], True)
        return
    if request.constraint is None:
        mask[:] = ~np.uint32(0)
        if vocab_size % 32:
            mask[-1] = (1 << vocab_size % 32) - 1
    else:
        request.constraint.fill(mask)
    for name, ids in _bans(request):
        left = mask.copy()
        _set(left, [i for i in ids if i < vocab_size], False)
        if left.any():
            mask[:] = left
        elif name in ("banned", "logit_bias") and request.constraint is None:
            raise Error("generate", expected="banned and logit_bias to leave a token", got="every token banned")
        else:
            _note(request, name)


def note_end(request: Unfinished, reason: str, of_itself: bool) -> None:
    """Note a form that was cut, or that ended before min_tokens. reason: as in `Completion`. of_itself: nothing but the form
    ended it."""
    if request.constraint is None:
        return
    if reason in ("length", "timeout") and not request.constraint.may_end:
        why = "the timeout" if reason == "timeout" else "max_tokens or the context"
        request.notes.append(f"the form is not complete: {why} ended it")
    if reason == "stop" and of_itself and request.generated < request.params.min_tokens:
        _note(request, "min_tokens")


def _bans(request: Unfinished) -> Iterator[tuple[str, Sequence[int]]]:
    p = request.params
    if p.banned:
        yield "banned", p.banned
    if p.biased_out:
        yield "logit_bias", p.biased_out
    if request.generated < p.min_tokens:
        yield "min_tokens", request.end_ids
    if p.no_repeat_ngram:
        # Tokens that would complete a sequence of n tokens that occurred before.
        found = continuations(request.tokens, p.no_repeat_ngram - 1)
        yield "no_repeat_ngram", [request.tokens[i] for i in found]


def _note(request: Unfinished, name: str) -> None:
    why = "the form leaves no other way" if request.constraint is not None else "no other token is left"
    note = f"{name} gave way where {why}"
    if note not in request.notes:
        request.notes.append(note)


def _set(mask: np.ndarray, ids: Sequence[int], value: bool) -> None:
    at = np.asarray(ids, np.int64)
    bits = np.zeros_like(mask)
    np.bitwise_or.at(bits, at // 32, (1 << (at % 32)).astype(np.uint32))
    np.copyto(mask, mask | bits if value else mask & ~bits)
