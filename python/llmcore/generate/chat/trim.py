"""Makes a conversation fit into a context: its oldest turns go first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Messages = Sequence[Mapping[str, Any]]


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
    dropped = 0
    while dropped < len(turns) - 1 and not fits([*system, *(m for turn in turns[dropped:] for m in turn)]):
        dropped += 1
    return [*system, *(m for turn in turns[dropped:] for m in turn)], dropped
