"""JSON of rows: objects, read strictly, so that nothing is lost in silence."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from llmcore.errors import CorpusError

_DEEPEST = 100  # levels of lists and objects
_WRAPPERS = ("data", "rows", "train", "examples", "instances")  # an object with one of these is a list of rows
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SPACE = re.compile(r"[ \t\n\r]*")


def parsed_object(line: bytes, where: str, op: str) -> dict[str, Any]:
    """Parse one object. CorpusError for anything else, and for what has no meaning in JSON (RFC 8259) or two of them: NaN,
    numbers beyond float64, half a surrogate pair, a key that comes twice."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(op, f"{where}: not UTF-8 text at byte {error.start} of the line") from None
    try:
        return _checked(_decoder.decode(text), text, where, op)
    except (ValueError, RecursionError) as error:
        raise _invalid(error, where, op) from None


def objects(data: bytes, name: str, op: str) -> Iterator[tuple[int, dict[str, Any] | CorpusError]]:
    """Read a list of objects, or objects one after another, each with the number of the line on which it begins. An object
    with a list of objects in "data", "rows", "train", "examples" or "instances" is that list. Of what is no JSON, the rest
    cannot be read."""
    text = data.decode("utf-8", "surrogateescape")
    at, counted, line = _skip(text, 0), 0, 1
    listed = text.startswith("[", at)
    at += listed
    while True:
        at = _skip(text, at)
        line += text.count("\n", counted, at)
        counted = at
        if at == len(text) and not listed:
            return
        if listed and text.startswith("]", at):
            return
        where = f"{name}:{line}"
        try:
            value, end = _decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            yield line, _invalid(error, where, op)
            return
        inner = _wrapped(value) if not listed else None
        if inner is not None:
            listed, at = True, text.index("[", text.index(f'"{inner}"', at))
            at += 1
            continue
        try:
            part = text[at:end]
            if _SURROGATE.search(part):
                raise CorpusError(op, f"{where}: not UTF-8 text")
            yield line, _checked(value, part, where, op)
        except CorpusError as error:
            yield line, error
        at = _skip(text, end)
        if listed and text.startswith(",", at):
            at += 1
        elif listed and not text.startswith("]", at):
            line += text.count("\n", counted, at)
            yield line, CorpusError(op, f"{name}:{line}: not valid JSON (expected a comma or the end of the list)")
            return


def _wrapped(value: Any) -> str | None:
    """Return the key of a list of rows that is all there is in a file but for facts about it."""
    if not isinstance(value, dict):
        return None
    for name in _WRAPPERS:
        rows = value.get(name)
        if isinstance(rows, list) and rows and all(isinstance(row, dict) and "role" not in row for row in rows):
            return name
    return None


def _checked(value: Any, text: str, where: str, op: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CorpusError(op, where, expected="a JSON object", got=type(value).__name__)
    if text.count("[") + text.count("{") > _DEEPEST and _depth(value) > _DEEPEST:
        raise CorpusError(op, where, expected=f"at most {_DEEPEST} levels of lists and objects", got="more")
    if _ESCAPED_SURROGATE.search(text) and _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise CorpusError(op, f"{where}: half a surrogate pair in a text")
    return value


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        inner = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, (dict, list))]
        level = [v for values in inner for v in values]
        depth += bool(inner)
    return depth


def _invalid(error: BaseException, where: str, op: str) -> CorpusError:
    # A line nested thousands deep and an integer of thousands of digits are bad JSON too.
    return (
        error
        if isinstance(error, CorpusError)
        else CorpusError(op, f"{where}: not valid JSON ({getattr(error, 'msg', None) or error})")
    )


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r:.50} comes twice")
    return found


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text:.30} is beyond any number")
    return value


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON; what is not there is null")


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_float=_number, parse_constant=_constant)
