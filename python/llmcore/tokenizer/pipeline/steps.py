"""Reading one step of a tokenizer.json: an object with a type and that type's fields, no others."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from llmcore import _core
from llmcore._fields import either
from llmcore.tokenizer.formats.files import Reader

_MOST_NESTED = 20  # Sequences within Sequences

# Returns where matches begin and end in a text, in order.
Matches = Callable[[str], list[tuple[int, int]]]


class Step:
    """The fields of one step. What has been asked for is known; `finish` refuses the rest."""

    def __init__(self, read: Reader, value: dict, where: str):
        self._read, self._value, self._where = read, value, where
        self._known = {"type"}

    def fail(self, name: str, expected: str, got: Any) -> ValueError:
        return self._read.fail(f"{self._where}.{name}", expected, got)

    def get(self, name: str, kind: type, default: Any = ...) -> Any:
        """Return a field, which must be of `kind`; null or a missing field gives `default`."""
        self._known.add(name)
        found = self._read.get(self._value, name, kind, self._where, default)
        if isinstance(found, str):
            self._read.utf8(found, f"{self._where}.{name}")
        return found

    def choice(self, name: str, known: tuple[str, ...], default: Any = ...) -> str:
        found = self.get(name, str, default)
        if found not in known:
            raise self.fail(name, either(known), found)
        return found

    def character(self, name: str) -> str:
        found = self.get(name, str)
        if len(found) != 1:
            raise self.fail(name, "one character", found)
        return found

    def count(self, name: str) -> int:
        found = self.get(name, int)
        if not 0 <= found < 1 << 31:
            raise self.fail(name, "a number from 0 to 2147483647", found)
        return found

    def pattern(self, name: str) -> Matches:
        """Read {"String": ...} or {"Regex": ...}."""
        rule = self.get(name, dict)
        if len(rule) != 1 or not rule.keys() <= {"String", "Regex"}:
            raise self.fail(name, '{"String": ...} or {"Regex": ...}', rule)
        (kind,) = rule
        text = self._read.get(rule, kind, str, f"{self._where}.{name}")
        if not text:
            raise self.fail(f"{name}.{kind}", "something to look for", text)
        self._read.utf8(text, f"{self._where}.{name}.{kind}")
        if kind == "String":
            find = re.compile(re.escape(text)).finditer
            return lambda text: [match.span() for match in find(text)]
        try:
            return _core.Regex(text).matches
        except ValueError as error:
            raise self.fail(f"{name}.Regex", "an expression that is supported", error.args[0]) from None

    def sequence(self, name: str, read_step: Callable[[Reader, Any, str], Any]) -> list[Any]:
        """Read a list of steps."""
        where = f"{self._where}.{name}"
        if where.count(name) > _MOST_NESTED:
            raise self._read.fail(where, f"at most {_MOST_NESTED} sequences within each other", "more")
        return [read_step(self._read, step, f"{where}[{number}]") for number, step in enumerate(self.get(name, list))]

    def finish(self) -> None:
        """Refuse the fields that nobody asked for."""
        for name, found in self._value.items():
            if name not in self._known:
                raise self.fail(name, f"no other fields than {', '.join(sorted(self._known))}", found)


def read_step(read: Reader, value: Any, where: str, kinds: Mapping[str, Callable[[Step], Any]]) -> Any:
    """Read a step of one of the types in `kinds`."""
    if not isinstance(value, dict):
        raise read.fail(where, "an object", value)
    kind = read.get(value, "type", str, where)
    if kind not in kinds:
        raise read.fail(f"{where}.type", either(sorted(kinds)), kind)
    step = Step(read, value, where)
    result = kinds[kind](step)
    step.finish()
    return result


def read_replacement(step: Step) -> Callable[[str], str]:
    """Read the fields of Replace, which is a normalizer and a decoder."""
    matches, content = step.pattern("pattern"), step.get("content", str)

    def apply(text: str) -> str:
        found = matches(text) if text else []  # in an empty text, `tokenizers` does not look
        if not found:
            return text
        parts: list[str] = []
        at = 0
        for start, end in found:
            parts += text[at:start], content
            at = end
        return "".join([*parts, text[at:]])

    return apply
