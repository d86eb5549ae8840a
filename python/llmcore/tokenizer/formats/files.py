"""What the formats share: checked access to a file's fields."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from llmcore.errors import Error
from llmcore.tokenizer.vocabulary import NORMALIZED

MAX_ID_GAP = 1 << 20  # how far ids may exceed their number, so that no file asks for gigabytes
_KINDS = {dict: "an object", list: "an array", str: "a string", int: "an integer", bool: "true or false"}


class AddedToken(NamedTuple):
    """An entry of a tokenizer.json's added_tokens. flags: as in `Vocabulary`."""

    id: int
    special: bool
    flags: int

    @property
    def normalized(self) -> bool:
        """Whether it is looked for in normalized text."""
        return bool(self.flags & NORMALIZED)


class Reader:
    """Checked access to the fields of one file."""

    def __init__(self, path: Path):
        self.path = path

    def fail(self, where: str, expected: str, got: Any) -> ValueError:
        shown = got if isinstance(got, str) else json.dumps(got, ensure_ascii=False, default=repr)
        return Error("load", f"{self.path}: {where}", expected=expected, got=shown[:200])

    def get(self, value: Any, name: str, kind: type, where: str = "", default: Any = ...) -> Any:
        """Return value[name], which must be of `kind` (bool is not an int); null or a missing field gives `default`."""
        where = f"{where}.{name}" if where else name
        found = value.get(name)
        if found is None and default is not ...:
            return default
        if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
            raise self.fail(where, _KINDS[kind], found)
        return found

    def ids(self, ids: dict[str, Any], others: dict[str, int], where: Callable[[str], str]) -> None:
        """Check that the values are ids, each of one token alone, and near each other, so that no file asks for
        gigabytes. `others`: the ids of other tokens. `where`: the name of a token's entry."""
        values, limit = ids.values(), len(ids) + len(others) + MAX_ID_GAP
        in_range = set(map(type, values)) <= {int} and min(values, default=0) >= 0 and max(values, default=0) < limit
        if in_range and len({*values, *others.values()}) == len(ids) + len(others):
            return
        taken = set(others.values())
        for spelling, value in ids.items():
            if self.id(value, where(spelling), limit) in taken:
                raise self.fail(where(spelling), "an id that no other token has", value)
            taken.add(value)

    def utf8(self, text: str, where: str) -> bytes:
        try:
            return text.encode()
        except UnicodeEncodeError:
            raise self.fail(where, "text that has a UTF-8 form", ascii(text)) from None

    def id(self, value: Any, where: str, limit: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limit:
            raise self.fail(where, f"an id from 0 to {limit - 1}", value)
        return value

    def merges(self, merges: list, ids: dict[str, int], where: str) -> list[tuple[int, int]]:
        """Return the ids of pairs of spellings, given as "a b" or as ["a", "b"]. That each pair makes a token is checked by
        the Tokenizer."""
        kinds = set(map(type, merges))
        try:
            if kinds == {list}:
                return [(ids[left], ids[right]) for left, right in merges]
            if kinds <= {str}:
                return [(ids[left], ids[right]) for left, right in (entry.split(" ") for entry in merges)]
        except (KeyError, TypeError, ValueError):
            pass
        for rank, entry in enumerate(merges):
            sides = entry.split(" ") if isinstance(entry, str) else entry
            if not isinstance(sides, list) or len(sides) != 2 or not all(isinstance(side, str) for side in sides):
                raise self.fail(f"{where}[{rank}]", 'two tokens, as "a b" or ["a", "b"]', entry)
            for side in sides:
                if side not in ids:
                    raise self.fail(f"{where}[{rank}]", "tokens of the vocabulary", side)
        raise self.fail(where, "all of them strings or all of them arrays", "both")


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause Python's collector, which would look for garbage among a vocabulary's million objects again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
