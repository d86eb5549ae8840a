"""GBNF, the grammars of llama.cpp (grammars/README.md there), as Lark for llguidance.

GBNF has characters and no words: where a rule ends is found by trying. In Lark a word takes as much as it can and gives
nothing back. So every character becomes a word of its own, and both accept the same texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from llmcore.errors import Error

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_COUNTS = re.compile(r"\{\s*(\d{1,9})\s*(?:(,)\s*(\d{1,9})?\s*)?\}")
_TOKEN = re.compile(r"(!?)<(?:\[(\d{1,9})\]|([^>\r\n]+))>")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", **{c: c for c in '\\"[]-'}}
_HEX = {"x": 2, "u": 4, "U": 8}
_DEEPEST = 100


class _Item(NamedTuple):
    """What stands in a sequence, least to most times (None: any number): "text" in Lark, a "rule", or a "group" of
    alternatives."""

    kind: str
    value: Any
    line: int
    least: int = 1
    most: int | None = 1


_Alternatives = list[list[_Item]]


def to_lark(text: str, token_id: Callable[[str], int | None]) -> str:
    """Return a grammar as Lark, every rule on the line where it was. token_id: the id of a token by its text. ValueError
    names the line."""
    rules = _Reader(text, token_id).rules()
    for item in (i for _, alternatives in rules.values() for i in _items(alternatives)):
        if item.kind == "rule" and item.value not in rules:
            raise _error(item.line, "a rule that is defined", item.value)
    if "root" not in rules:
        raise _error(None, "a rule root", ", ".join(list(rules)[:10]) or "none")
    names = {name: f"r{i}_{name.replace('-', '_').lower()}" for i, name in enumerate(rules)} | {"root": "start"}
    found, at = "", 1
    for name, (line, alternatives) in rules.items():
        alternatives = _without_right_recursion(name, alternatives)
        found += "\n" * (line - at) + f"{names[name]}: {_lark(alternatives, names)}"
        at = line
    return found + "\n"


class _Reader:
    """A cursor over the text."""

    def __init__(self, text: str, token_id: Callable[[str], int | None]):
        self._text, self._at, self._token_id = text, 0, token_id

    def rules(self) -> dict[str, tuple[int, _Alternatives]]:
        """Return the rules by name, each with its line."""
        found: dict[str, tuple[int, _Alternatives]] = {}
        self._skip(_LINES)
        while self._at < len(self._text):
            line, name = self._line(), self._name()
            self._skip(_SPACE)
            if not self._taken("::="):
                raise self._wrong(f"::= after {name}")
            self._skip(_LINES)
            if name in found:
                raise _error(line, f"one rule {name} (the first is on line {found[name][0]})", "another")
            found[name] = line, self._alternatives(0)
            if self._at < len(self._text) and self._text[self._at] not in "\r\n":
                raise self._wrong("an item, | or the end of the line")
            self._skip(_LINES)
        return found

    def _alternatives(self, depth: int) -> _Alternatives:
        if depth > _DEEPEST:
            raise _error(self._line(), f"parentheses at most {_DEEPEST} deep", "more")
        found = [self._sequence(depth)]
        while True:
            before = self._at
            self._skip(_LINES)  # a rule may go on with | on the next line
            if not self._taken("|"):
                self._at = before
                return found
            self._skip(_LINES)
            found.append(self._sequence(depth))

    def _sequence(self, depth: int) -> list[_Item]:
        space, items = _LINES if depth else _SPACE, []
        while (found := self._item(depth)) is not None:
            self._skip(space)
            least, most = self._counts()
            self._skip(space)
            line = self._line()
            if (least, most) == (1, 1):
                items += found
            elif len(found) == 1 and (found[0].least, found[0].most) == (1, 1):
                items.append(found[0]._replace(least=least, most=most))
            else:
                items.append(_Item("group", [found], line, least, most))
        return items

    def _item(self, depth: int) -> list[_Item] | None:
        """Return the item at the cursor, or None: one, or those of a literal."""
        line, c = self._line(), self._text[self._at : self._at + 1]
        if c == '"':
            self._at += 1
            items = []
            while not self._taken('"'):
                items.append(_Item("text", f"/{_point(self._char())}/", line))
            return items
        if c == "[":
            return [_Item("text", self._set(), line)]
        if c == ".":
            self._at += 1
            return [_Item("text", "/(?s:.)/", line)]
        if c == "(":
            self._at += 1
            self._skip(_LINES)
            alternatives = self._alternatives(depth + 1)
            self._skip(_LINES)
            if not self._taken(")"):
                raise self._wrong(f") for the ( of line {line}")
            return [_Item("group", alternatives, line)]
        if c in ("<", "!"):
            return [_Item("text", self._token(), line)]
        return [_Item("rule", self._name(), line)] if c and _NAME.match(c) else None

    def _counts(self) -> tuple[int, int | None]:
        c = self._text[self._at : self._at + 1]
        plain: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if c in plain:
            self._at += 1
            return plain[c]
        if c != "{":
            return 1, 1
        counts = _COUNTS.match(self._text, self._at)
        if counts is None:
            raise self._wrong("{m}, {m,} or {m,n}")
        self._at = counts.end()
        least = int(counts[1])
        most = None if counts[2] and not counts[3] else int(counts[3] or least)
        if most is not None and most < least:
            raise _error(self._line(), "{m,n} with m <= n", counts[0])
        return least, most

    def _set(self) -> str:
        line, parts = self._line(), ""
        self._at += 1
        negated = self._taken("^")
        while not self._taken("]"):
            first = last = self._char()
            if self._text[self._at : self._at + 1] == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                last = self._char()
            if last < first:
                raise _error(line, "a range that ascends", f"{first!r} to {last!r}")
            parts += _point(first) + (f"-{_point(last)}" if last != first else "")
        if not parts:
            raise _error(line, "a set of characters that is not empty", "[^]" if negated else "[]")
        return f"/[{'^' if negated else ''}{parts}]/"

    def _char(self) -> str:
        """Return the character at the cursor, of a literal or a set."""
        c = self._text[self._at : self._at + 1]
        if c in ("", "\n", "\r"):
            raise self._wrong("the end of a literal or a set in its line")
        self._at += 1
        if c != "\\":
            return c
        kind = self._text[self._at : self._at + 1]
        if kind in _ESCAPES:
            self._at += 1
            return _ESCAPES[kind]
        digits = self._text[self._at + 1 : self._at + 1 + _HEX.get(kind, 0)]
        if kind in _HEX and re.fullmatch(rf"[0-9A-Fa-f]{{{_HEX[kind]}}}", digits):
            point = int(digits, 16)
            if point < 0x110000 and not 0xD800 <= point < 0xE000:
                self._at += 1 + len(digits)
                return chr(point)
        self._at -= 1
        raise self._wrong(r"an escape \n \r \t \\ \" \[ \] \xHH \uHHHH \UHHHHHHHH of a character")

    def _token(self) -> str:
        token = _TOKEN.match(self._text, self._at)
        if token is None:
            raise self._wrong("a token, <[ID]> or <TEXT>")
        id = int(token[2]) if token[2] else self._token_id(token[0].lstrip("!"))
        if id is None:
            raise self._wrong("a token of the model")
        self._at = token.end()
        return f"<[{'^' if token[1] else ''}{id}]>"

    def _name(self) -> str:
        name = _NAME.match(self._text, self._at)
        if name is None:
            raise self._wrong("the name of a rule")
        self._at = name.end()
        return name[0]

    def _skip(self, what: re.Pattern[str]) -> None:
        found = what.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _taken(self, text: str) -> bool:
        if not self._text.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def _wrong(self, expected: str) -> Error:
        rest = self._text[self._at :].split("\n", 1)[0].strip()
        return _error(self._line(), expected, repr(rest[:40]) if rest else "the end of the line")


def _error(line: int | None, expected: str, got: str) -> Error:
    return Error("constrain", "grammar" if line is None else f"grammar, line {line}", expected=expected, got=got)


def _items(alternatives: _Alternatives) -> list[_Item]:
    """Return all items, those of groups too."""
    found = []
    for item in (item for sequence in alternatives for item in sequence):
        found += [item, *_items(item.value)] if item.kind == "group" else [item]
    return found


def _without_right_recursion(name: str, alternatives: _Alternatives) -> _Alternatives:
    """Write `a ::= x a | y` as `a ::= x* y`: llguidance's parser keeps every level of a recursion to the right."""
    if len(alternatives) == 1 and len(alternatives[0]) == 1:  # (x a)? is x a or nothing
        item = alternatives[0][0]
        if item.kind == "group" and (item.least, item.most) in ((0, 1), (1, 1)):
            alternatives = [*item.value, *([[]] if item.least == 0 else [])]
    again = [s for s in alternatives if len(s) > 1 and s[-1][:2] == ("rule", name) and s[-1][3:] == (1, 1)]
    before = [s[:-1] for s in again]
    if (
        not again
        or len(again) == len(alternatives)
        or any(i.kind == "rule" and i.value == name for i in _items(before))
    ):
        return alternatives
    repeated = _Item("group", before, 0, 0, None)
    return [[repeated, *s] for s in alternatives if s not in again]


def _lark(alternatives: _Alternatives, names: dict[str, str]) -> str:
    return " | ".join(" ".join(_item_in_lark(i, names) for i in sequence) or '""' for sequence in alternatives) or '""'


def _item_in_lark(item: _Item, names: dict[str, str]) -> str:
    if item.kind == "group":
        text = f"({_lark(item.value, names)})"
    else:
        text = names[item.value] if item.kind == "rule" else item.value
    if (item.least, item.most) == (1, 1):
        return text
    if item.most == 0:
        return '""'
    return f"({text}){{{item.least},{'' if item.most is None else item.most}}}"


def _point(c: str) -> str:
    return f"\\x{{{ord(c):x}}}"
