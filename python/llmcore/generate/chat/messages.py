"""Messages and what else a chat template is given, as it gets them: of plain types, in one form, whoever sent them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmcore.errors import ArgumentTypeError, Error

_DEEPEST = 64  # levels of lists and objects in a message
_TEXT_PARTS = ("text", "input_text", "output_text")
# Beginnings of the names of parts and their fields that only models with eyes or ears can use.
_MEDIA = ("image", "input_image", "audio", "input_audio", "video", "file", "input_file")
_TOOL_ROLES = ("tool", "function", "ipython", "observation")  # whose content may be an object
REASONING = ("reasoning_content", "thinking", "reasoning")  # names of the same thing

Clean = Callable[[str], str]


class Parts(list):
    """The parts of a message's content. To a template that takes texts they are one, joined."""

    where = ""

    def __str__(self) -> str:
        for i, part in enumerate(self):
            if not isinstance(part.get("text"), str):
                kind = part.get("type")
                raise Error("chat", f"{self.where}: content[{i}]", expected="a part that is text", got=f"{kind!r:.50}")
        return "".join(part["text"] for part in self)

    def __contains__(self, value: object) -> bool:
        return value in str(self) if isinstance(value, str) else super().__contains__(value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(str, name):
            raise AttributeError(name)
        return getattr(str(self), name)


class Arguments(dict):
    """The arguments of a tool call that came as JSON, or what a tool gave back. To a template that takes texts they are
    their `text`."""

    def __init__(self, values: Mapping[str, Any], *, text: str):
        super().__init__(values)
        self.text = text

    def __str__(self) -> str:
        return self.text


def conversation(messages: Any, clean: Clean = str, keep_null_content: bool = False) -> list[dict[str, Any]]:
    """Return messages as a template gets them, in copies of plain types.

    A key that is null is left out (content not, for a template that asks for it: keep_null_content). Content is a text, or
    `Parts`, or of a tool an object; a tool call is {"type", "function": {"name", "arguments"}} with the keys that it has, its arguments an object.
    Reasoning is under all of its names; weight, which is for training, under none. Other keys are passed on. clean: applied to every text.

    A message may be a mapping, a data class or a Pydantic model. TypeError or ValueError, in one line, names the message
    that is wrong.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise ArgumentTypeError("chat", expected="a list of messages", got=type(messages).__name__)
    if not messages:
        raise Error("chat", expected="at least one message", got="none")
    return [_message(m, f"messages[{i}]", clean, keep_null_content) for i, m in enumerate(messages)]


def _message(given: Any, where: str, clean: Clean, keep_null_content: bool) -> dict[str, Any]:
    given = _fields(given)
    if not isinstance(given, (dict, Mapping)) or not isinstance(given.get("role"), str):
        raise Error("chat", where, expected='{"role": ..., "content": ...}', got=f"{given!r:.200}")
    kinds = (str, list, tuple, type(None), *((dict,) if given["role"] in _TOOL_ROLES else ()))
    if not isinstance(given.get("content", ""), kinds):
        raise Error("chat", where, expected="content as a text", got=f"{given['content']!r:.200}")
    message = plain({k: v for k, v in given.items() if v is not None and k != "weight"}, where, clean)
    if isinstance(message.get("content"), dict):
        message["content"] = Arguments(message["content"], text=json.dumps(message["content"], ensure_ascii=False))
    elif isinstance(message.get("content"), list):
        message["content"] = _parts(message["content"], where)
    if "tool_calls" in message:
        message["tool_calls"] = _calls(message["tool_calls"], where)
    if keep_null_content:
        message.setdefault("content", None)
    reasoning = next((message[name] for name in REASONING if name in message), None)
    if reasoning is not None:
        message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
    return message


def plain(value: Any, where: str, clean: Clean = str, depth: int = 0) -> Any:
    """Return a copy of a JSON value. TypeError for anything else in it, ValueError for one that is too deep."""
    if isinstance(value, str):
        return clean(str(value))
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return float(value)
    if depth == _DEEPEST:
        raise Error("chat", where, expected=f"at most {_DEEPEST} levels of lists and objects", got="more")
    if isinstance(value, (dict, Mapping)):
        for key in value:
            if not isinstance(key, str):
                raise ArgumentTypeError("chat", where, expected="texts as keys", got=f"{key!r:.50}")
        return {clean(str(k)): plain(v, where, clean, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v, where, clean, depth + 1) for v in value]
    fields = _fields(value)
    if fields is not value:
        return plain(fields, where, clean, depth)
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    raise ArgumentTypeError("chat", where, expected="texts, numbers, lists and objects, as in JSON", got=f"{name:.100}")


def _fields(value: Any) -> Any:
    """Return the fields of a data class or of a Pydantic model, such as the answers of OpenAI's clients; all else as it is."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    dump = None if isinstance(value, (dict, type)) else getattr(value, "model_dump", None)
    found = dump() if callable(dump) else value
    return found if isinstance(found, Mapping) else value


def _parts(content: list[Any], where: str) -> Parts:
    found = Parts()
    found.where = where
    for i, part in enumerate(content):
        at = f"{where}: content[{i}]"
        part = {"type": "text", "text": part} if isinstance(part, str) else part
        if not isinstance(part, dict):
            raise Error("chat", at, expected='{"type": "text", "text": ...}', got=f"{part!r:.200}")
        part = {k: v for k, v in part.items() if v is not None}
        kind = part.get("type", "text" if "text" in part else None)
        media = next((m for m in (kind, *part) if isinstance(m, str) and m.startswith(_MEDIA)), None)
        if media is not None and kind not in _TEXT_PARTS:
            raise Error("chat", at, expected="text: this model reads nothing else", got=f"{media!r:.50}")
        if kind in _TEXT_PARTS:
            if not isinstance(part.get("text"), str):
                raise Error("chat", at, expected="text as a text", got=f"{part.get('text')!r:.50}")
            part["type"] = "text"
        found.append(part)
    return found


def _calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise Error("chat", where, expected="tool_calls as a list", got=f"{calls!r:.100}")
    return [_call(call, f"{where}: tool_calls[{i}]") for i, call in enumerate(calls)]


def _call(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise Error("chat", where, expected='{"function": {"name": ..., "arguments": ...}}', got=f"{given!r:.100}")
    call = {k: v for k, v in given.items() if v is not None}
    function = call.get("function", call)
    if not isinstance(function, dict):
        raise Error("chat", where, expected="function as an object", got=f"{function!r:.100}")
    function = {k: v for k, v in function.items() if v is not None}
    if not isinstance(function.get("name"), str):
        raise Error("chat", where, expected="the name of a function", got=f"{function.get('name')!r:.100}")
    text = function.get("arguments")
    if isinstance(text, str):
        value = _object(text)
        if value is not None:
            function["arguments"] = Arguments(value, text=text)
    return {**call, "function": function} if "function" in call else function


def _object(text: str) -> dict[str, Any] | None:
    """Return the object that a text is as JSON, or None if it is none."""
    try:
        value = json.loads(text)
        return plain(value, "", str) if isinstance(value, dict) else None
    except (ValueError, RecursionError):
        return None
