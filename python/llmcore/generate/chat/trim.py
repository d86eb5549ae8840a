"""Makes a conversation, or a text, fit into a context: what is oldest goes first."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmcore._fields import either
from llmcore.errors import Error

Messages = Sequence[Mapping[str, Any]]
_OVERFLOW = ("error", "trim")  # what can be done about a prompt that is too long


def trims(overflow: str) -> bool:
    """Return whether a prompt that is too long is trimmed. ValueError for a choice that is none."""
    if not isinstance(overflow, str) or overflow not in _OVERFLOW:
        raise Error("generate", expected=f"overflow {either(_OVERFLOW)}", got=f"{overflow!r:.100}")
    return overflow == "trim"


def room(context: int, max_tokens: int) -> int:
    """Return the number of tokens of the context that a trimmed prompt leaves for the answer."""
    return min(max_tokens, context // 4)


def turns_of(messages: Messages) -> tuple[list[Mapping[str, Any]], list[list[Mapping[str, Any]]]]:
    """Return the system messages at the beginning, and the turns after them: a message of the user with all that follows up
    to the next one, so that calls of tools stay with their results. What stands before the first user is a turn too."""
    first = next((i for i, m in enumerate(messages) if m.get("role") not in ("system", "developer")), len(messages))
    turns: list[list[Mapping[str, Any]]] = []
    for message in messages[first:]:
        if message.get("role") == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return list(messages[:first]), turns


def trim(messages: Messages, fits: Callable[[Messages], bool]) -> tuple[list[Mapping[str, Any]], int]:
    """Return the messages without as many of their oldest turns as it takes until `fits` says so, and how many turns were
    dropped. The system messages at the beginning and the last turn stay, whether they fit or not."""
    system, turns = turns_of(messages)

    def after(dropped: int) -> list[Mapping[str, Any]]:
        return [*system, *(m for turn in turns[dropped:] for m in turn)]

    dropped = bisect.bisect_left(range(max(len(turns) - 1, 0)), True, key=lambda i: fits(after(i)))
    return after(dropped), dropped


def said(count: int, what: str) -> str:
    """Say what was left out. what: turn or token."""
    which = f"oldest {what} is" if count == 1 else f"oldest {count} {what}s are"
    return f"the context is full: the {which} left out of what the model sees"
