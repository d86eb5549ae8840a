"""The columns of rows: null ones, others' names for the same things, renaming, and errors that say which there are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Names of the same thing, the first of which is ours.
CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog")
QUESTIONS = ("prompt", "question", "query", "instruction", "input", "problem")
ANSWERS = ("completion", "response", "answer", "output", "solution")
SYSTEM = ("system", "system_prompt")
CONTEXTS = ("input", "context")  # what an instruction is about
LABELS = ("label", "kto_tag")
TOOLS = ("tools", "functions")
_MAIN = (*CONVERSATIONS, *QUESTIONS, *ANSWERS, "text", "chosen", "rejected")
_KNOWN = frozenset((*_MAIN, *SYSTEM, *CONTEXTS, *LABELS, *TOOLS, "history", "documents", "chat_template_kwargs"))
_OPENAI_PAIR = ("preferred_output", "non_preferred_output")
_DEEPEST = 100  # levels of lists and objects in a row


def without_nulls(value: Any, depth: int = 0) -> Any:
    """Return a copy in which no object has a key that is null.

    Arrow gives each object of a column the keys of all, null where it had none; so null means absent, as for TRL
    (huggingface/datasets#7617). What is a real null in the arguments of a tool call must come as JSON text, as OpenAI has
    them. Raises ValueError for what is nested too deeply.
    """
    if depth > _DEEPEST:
        raise ValueError(f"expected at most {_DEEPEST} levels of lists and objects, got more")
    if isinstance(value, Mapping):
        return {k: without_nulls(v, depth + 1) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [without_nulls(v, depth + 1) for v in value]
    return value


def known_columns(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that are not null, those that we know under their names in small letters ("Question")."""
    found = {name: value for name, value in fields.items() if value is not None}
    for name in list(found):
        plain = name.strip().lower() if isinstance(name, str) else name
        if plain != name and plain in _KNOWN and plain not in found:
            found[plain] = found.pop(name)
    return found


def renamed(fields: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Return the columns under other names. columns: our name and theirs. What is so named is meant: others that could
    serve for the same are left out. A dot in a name goes into an object. Raises ValueError for a column that is not there."""
    found = dict(fields)
    values = {}
    for ours, theirs in columns.items():
        values[ours] = _column(fields, theirs)
        found.pop(theirs, None)
    for ours in values:
        for names in (CONVERSATIONS, QUESTIONS, ANSWERS, SYSTEM, LABELS, TOOLS):
            if ours in names:
                found = {n: v for n, v in found.items() if n.strip().lower() not in names or n in values}
    if not {"prompt", "completion", "text"}.isdisjoint(values):
        found = {n: v for n, v in found.items() if n.strip().lower() not in (*CONVERSATIONS, "text")}
    if not {"messages", "text"}.isdisjoint(values):
        found = {n: v for n, v in found.items() if n.strip().lower() not in QUESTIONS}
    return found | values


def _column(fields: Mapping[str, Any], name: str) -> Any:
    if name in fields:
        return fields[name]
    value: Any = fields
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ValueError(f"expected a column {name!r:.50}, as --columns says; the columns are: {listed(fields)}")
        value = value[part]
    return value


def listed(names: Iterable[Any]) -> str:
    """Return the names of columns in a line."""
    text = ", ".join(map(str, names)) or "none"
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 160 else text[:157] + "..."


def missing_columns(expected: str, fields: Iterable[str], example: str) -> ValueError:
    """Return the error for a row without the columns that were expected; it names those that the row has. example: of what
    --columns may say, "prompt=NAME"."""
    return ValueError(
        f"expected {expected}; the columns are: {listed(fields)} (--columns {example} says which is which)"
    )


def only(fields: Mapping[str, Any], names: Sequence[str], what: str, ours: str) -> str | None:
    """Return which of these columns there is, or None. Raises ValueError where there are several that differ."""
    found = [name for name in names if name in fields]
    if len({json.dumps(fields[name], sort_keys=True, default=str) for name in found}) > 1:
        raise ValueError(
            f"expected one column with the {what}, got {', '.join(found)}: --columns {ours}={found[0]} says which; "
            f"the columns are: {listed(fields)}"
        )
    return found[0] if found else None


def is_openai_pair(fields: Mapping[str, Any]) -> bool:
    """Whether a row is one of OpenAI's preferences: {"input": {"messages"}, "preferred_output", "non_preferred_output"}."""
    return isinstance(fields.get("input"), Mapping) and all(name in fields for name in _OPENAI_PAIR)


def chat_columns(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's tools, documents and chat_template_kwargs without nulls; an empty list is none."""
    found = known_columns(fields)
    if is_openai_pair(found):
        found = found["input"] | {name: v for name, v in found.items() if name != "input"}
    name = only(found, TOOLS, "tools", "tools")
    return {
        "tools": _filled(found[name]) if name else None,
        "documents": _filled(found.get("documents")),
        "chat_template_kwargs": _filled(found.get("chat_template_kwargs")),
    }


def _filled(value: Any) -> Any:
    if isinstance(value, str) and "".join(value.split()) in ("", "[]", "{}", "null"):
        return None
    value = without_nulls(value)
    return None if value in ([], {}) else value
