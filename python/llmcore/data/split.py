"""Which rows are held out: by their group, else by what they ask, so that no question stands on both sides."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from llmcore.data.conversations import Message, answers, question, said
from llmcore.data.examples import is_held_out

_ASKS = ("user", "tool")


def held_out_rows(rows: Sequence[Mapping[str, Any]], fraction: float) -> list[bool]:
    """Return of each row whether it is held out, which a hash of its `group` decides, or else of what it asks.

    Rows that ask the same are held out together, or not at all where they alone are more than the fraction: then there would
    be nothing to learn, or to measure. What is asked counts as the same whatever its case and spacing.
    """
    keys = [_group(fields) for fields in rows]
    asked = [None if key is not None else asked_first(fields) for key, fields in zip(keys, rows, strict=True)]
    sizes = Counter(asked)
    most = max(1.0, fraction * len(rows))
    return [
        is_held_out(key, fraction) if key is not None else sizes[ask] <= most and is_held_out(str(ask), fraction)
        for key, ask in zip(keys, asked, strict=True)
    ]


def asked_first(fields: Mapping[str, Any]) -> str:
    """Return what a row asks first, in lower case and with single spaces; of a text all of it. Rows that are the turns of one
    conversation, each with those before it, ask the same."""
    messages = _messages(fields)
    if messages is None:
        return json.dumps(fields, sort_keys=True, default=str)
    if isinstance(messages, str):
        return _plain(messages)
    first = next((i for i, m in enumerate(messages) if m.get("role") in _ASKS), 0)
    end = next((i for i in range(first, len(messages)) if messages[i].get("role") == "assistant"), len(messages))
    contents = [m.get("content") for m in messages[first:end] if m.get("role") in _ASKS]
    return _plain("\n".join(map(_text, contents if contents else messages)))


def _group(fields: Mapping[str, Any]) -> str | None:
    group = fields.get("group")
    return None if group is None or group == "" else str(group)


def _messages(fields: Mapping[str, Any]) -> list[Message] | str | None:
    try:
        if "chosen" in fields or "preferred_output" in fields:
            return answers(fields).prompt
        found = said(fields)
        return found if isinstance(found, str) else found.messages
    except ValueError:
        pass
    try:
        return question(fields)[1]
    except ValueError:
        return None


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in content):
        return "".join(p["text"] for p in content)
    return json.dumps(content, sort_keys=True, default=str)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
