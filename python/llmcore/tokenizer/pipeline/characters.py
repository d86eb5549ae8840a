"""What characters are to `tokenizers` (unicode_tables.py), as sets for expressions of `re` and maps for `str.translate`."""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections.abc import Iterator

from llmcore.tokenizer.pipeline import unicode_tables

# \w of Unicode 16, without its table: with letters in circles, and the two characters that join and keep apart.
WORD = (
    r"\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}"
    "\u200c\u200d\u24b6-\u24e9\U0001f130-\U0001f149\U0001f150-\U0001f169\U0001f170-\U0001f189"
)
# Unicode's White_Space, the same in all versions.
SPACES = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
IDEOGRAPHS = (
    r"\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
    r"\U0002b920-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f"
)


def ranges(table: str) -> Iterator[tuple[int, int]]:
    """Yield the first and the last code point of every range of a table."""
    for entry in table.split():
        first, _, last = entry.partition("-")
        yield int(first, 16), int(last or first, 16)


def members(table: str) -> str:
    """Return a table's characters as they stand between the brackets of an expression."""
    return "".join(rf"\U{first:08x}-\U{last:08x}" for first, last in ranges(table))


def literals(table: str) -> str:
    """Return a table's characters as they stand between the brackets of an expression of `_core.Regex`."""
    return "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in ranges(table))


class SameElsewhere(dict):
    """A map for `str.translate` that keeps the characters it does not name."""

    def __missing__(self, code: int) -> int:
        self[code] = code
        return code


class Kinds(dict):
    """A map for `str.translate` to what tables say of characters: {value: table}, and another value elsewhere, None for the
    character itself."""

    def __init__(self, tables: dict[str, str], elsewhere: str | None = None):
        runs = sorted((first, last, value) for value, table in tables.items() for first, last in ranges(table))
        self._starts, self._values = [0], [elsewhere]
        for first, last, value in runs:
            self._starts += first, last + 1
            self._values += value, elsewhere

    def __missing__(self, code: int) -> str:
        value = self._values[bisect_right(self._starts, code) - 1]
        self[code] = found = chr(code) if value is None else value
        return found


@functools.cache
def without(*tables: str) -> Kinds:
    """Return a map that drops the characters of tables."""
    return Kinds({"": " ".join(tables)})


@functools.cache
def lower_case() -> SameElsewhere:
    """Return the lower case of every character alone: a sigma at a word's end is like any other."""
    found = SameElsewhere({0x130: "i\u0307"})
    for entry in unicode_tables.LOWER_CASE.split():
        codes, step, distance = entry.split(":")
        for first, last in ranges(codes):
            found.update((code, code + int(distance)) for code in range(first, last + 1, int(step)))
    return found


@functools.cache
def scripts() -> Kinds:
    """Return a map to the names of the scripts, and to nothing for what any script takes."""
    return Kinds(unicode_tables.SCRIPTS, "")


def script(character: str) -> str:
    return scripts()[ord(character)]
