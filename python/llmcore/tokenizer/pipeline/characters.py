"""What characters are to `tokenizers` (unicode_tables.py), as sets for expressions of `re` and maps for `str.translate`."""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections.abc import Iterator

from llmcore.tokenizer.pipeline import unicode_tables

# Unicode's White_Space, the same in all versions.
SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
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


@functools.cache
def one_of(*tables: str) -> re.Pattern[str]:
    """Return an expression for one character of any of these tables."""
    return re.compile(f"[{''.join(map(members, tables))}]")


class SameElsewhere(dict):
    """A map for `str.translate` that keeps the characters it does not name."""

    def __missing__(self, code: int) -> int:
        self[code] = code
        return code


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
def _script_starts() -> tuple[list[int], list[str]]:
    runs = sorted(
        (first, last, name) for name, table in unicode_tables.SCRIPTS.items() for first, last in ranges(table)
    )
    starts, names = [0], [""]
    for first, last, name in runs:
        starts += first, last + 1
        names += name, ""
    return starts, names


@functools.lru_cache(1 << 16)
def script(character: str) -> str:
    """Return a character's script, and nothing for one that any script takes."""
    starts, names = _script_starts()
    return names[bisect_right(starts, ord(character)) - 1]
