"""The normalizer Precompiled: SentencePiece's table of replacements, a trie of UTF-8 in a double array (Darts).

The table is 4 bytes with the trie's size, its units of 4 bytes each, and the replacements, each ended by a zero byte. A
node's unit holds the distance to its children's base; a child's place is the base XOR its byte, and a node that ends a
key has its value, where its replacement begins, in the unit at its base.

`tokenizers` looks grapheme clusters up, those of fewer than 6 bytes, and the characters of the others. What it finds is
the *shortest* key that the cluster begins with, and it replaces all of the cluster.
"""

from __future__ import annotations

import base64
import binascii
import functools
import itertools
import re
import struct
from collections.abc import Iterator

from llmcore.tokenizer.pipeline import unicode_tables as tables
from llmcore.tokenizer.pipeline.characters import Kinds, SameElsewhere, members, ranges
from llmcore.tokenizer.pipeline.steps import Step
from llmcore.tokenizer.pipeline.words import by_words

_LONGEST = 5  # bytes of a key that can be found


def read_charsmap(step: Step) -> Charsmap:
    name = "precompiled_charsmap"
    text = step.get(name, str)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise step.fail(name, "base64", error) from None
    try:
        return Charsmap(_keys(data))
    except ValueError as error:
        raise step.fail(name, "a table of SentencePiece's", str(error)) from None


class Charsmap:
    """Replaces what is in a table."""

    def __init__(self, replacements: dict[str, str]):
        self._replacements = replacements
        self._alone = SameElsewhere({ord(key): value for key, value in replacements.items() if len(key) == 1})
        self._words = by_words(self._by_clusters)

    def __call__(self, text: str) -> str:
        if text.isascii() and "\r" not in text:
            return text.translate(self._alone)
        if self._alone[0x20] != 0x20 or _joined().search(text):
            return self._by_clusters(text)
        return self._words(text)

    def leading(self, text: str, first: int) -> int:
        """Return how many characters at the beginning of the result stand for the first ones of a text, as `tokenizers`
        counts: what is dropped at the beginning takes no place there, and all after it moves up."""
        count = at = 0
        last = None  # the newest character's change: added (1), in a place of its own (0), or in one with others (-n)
        for old, new in self._units(text):
            grown = len(new) - old
            if not new:
                last = None if last is None else last + grown
            for number in range(len(new)):
                if last is not None:
                    if at - (last > 0) >= first:
                        return count
                    at += 1 - last if last <= 0 else 0
                    count += 1
                last = grown if grown < 0 and number == len(new) - 1 else int(number >= old)
        return count + (last is not None and at - (last > 0) < first)

    def _units(self, text: str) -> Iterator[tuple[int, str]]:
        """Yield the size of what is looked up, and what stands there then."""
        at = 0
        for cluster in itertools.chain(_CLUSTERS.finditer(text.translate(_kinds())), [None]):
            start, end = cluster.span() if cluster else (len(text), len(text))
            yield from ((1, character.translate(self._alone)) for character in text[at:start])
            found = self._find(text[start:end])
            if found is None:
                yield from ((1, character.translate(self._alone)) for character in text[start:end])
            else:
                yield end - start, found
            at = end

    def _by_clusters(self, text: str) -> str:
        parts: list[str] = []
        at = 0
        for cluster in _CLUSTERS.finditer(text.translate(_kinds())):
            start, end = cluster.span()
            found = self._find(text[start:end])
            parts += (
                text[at:start].translate(self._alone),
                text[start:end].translate(self._alone) if found is None else found,
            )
            at = end
        return "".join([*parts, text[at:].translate(self._alone)])

    def _find(self, cluster: str) -> str | None:
        """Return the replacement of a whole cluster."""
        if len(cluster.encode()) <= _LONGEST:
            for end in range(1, len(cluster) + 1):
                if (value := self._replacements.get(cluster[:end])) is not None:
                    return value
        return None


def _keys(data: bytes) -> dict[str, str]:
    """Return the replacements by key, of the keys of up to 5 bytes that no other key begins. ValueError says what is
    wrong."""
    size = int.from_bytes(data[:4], "little") // 4
    if not 0 < size <= (len(data) - 4) // 4:
        raise ValueError(f"a trie of {size} units in {len(data)} bytes")
    units = struct.unpack_from(f"<{size}I", data, 4)
    texts = data[4 + 4 * size :]
    children: dict[int, list[tuple[int, int]]] = {}  # by the base: a child's byte and its place
    for place, unit in enumerate(units):
        label = unit & 0x8000_00FF
        if 0 < label < 256:
            children.setdefault(place ^ label, []).append((label, place))

    found: dict[str, str] = {}
    level = [(b"", _base(units[0], 0, size))]
    seen = 0
    for _ in range(_LONGEST):
        below: list[tuple[bytes, int]] = []
        for prefix, base in level:
            seen += len(children.get(base, ()))
            if seen > size:
                raise ValueError("a trie whose branches meet")
            for label, place in children.get(base, ()):
                key, inner = prefix + bytes([label]), _base(units[place], place, size)
                if units[place] >> 8 & 1:
                    found[key.decode()] = _text(texts, units[inner] & 0x7FFF_FFFF)
                else:
                    below.append((key, inner))
        level = below
    return found


def _base(unit: int, place: int, size: int) -> int:
    base = place ^ (unit >> 10) << ((unit & 0x200) >> 6)
    if base >= size:
        raise ValueError(f"a trie of {size} units that leads to unit {base}")
    return base


def _text(texts: bytes, start: int) -> str:
    if start > len(texts):
        raise ValueError(f"a replacement at {start} of {len(texts)} bytes")
    end = texts.find(b"\0", start)
    return texts[start : end if end >= 0 else len(texts)].decode()


@functools.cache
def _kinds() -> Kinds:
    """Return a map to what characters are in a grapheme cluster, a letter each: C control, P prepended, S spacing mark, E
    extending, N the one of these that keeps consonants apart, K linker of consonants, D consonant, O pictograph, I half a
    flag, L, V, T parts of a Korean syllable, A a syllable without a last part, B one with it; r, n, Z alone."""
    found = Kinds(
        {
            **{"C": tables.CONTROL, "P": tables.PREPEND, "S": tables.SPACING, "D": tables.CONSONANT},
            **{"O": tables.PICTOGRAPHIC, "L": tables.HANGUL_L, "V": tables.HANGUL_V, "T": tables.HANGUL_T},
            **{"E": _except(tables.EXTEND, tables.LINKER), "K": tables.LINKER, "I": "1F1E6-1F1FF", "B": "AC00-D7A3"},
        },
        elsewhere=".",
    )
    found.update(dict.fromkeys(range(0xAC00, 0xD7A4, 28), "A"))
    found.update({0x0D: "r", 0x0A: "n", 0x200C: "N", 0x200D: "Z"})
    return found


def _except(table: str, other: str) -> str:
    left = {code for first, last in ranges(table) for code in range(first, last + 1)}
    left.difference_update(code for first, last in ranges(other) for code in range(first, last + 1))
    return " ".join(f"{code:X}" for code in left)


@functools.cache
def _joined() -> re.Pattern[str]:
    """Return an expression for a space that is in one cluster with what is before or after it. The first sets, of few
    ranges, are there to be quick."""
    before = rf"(?<=[\u0600-\U0010ffff] )(?<=[{members(tables.PREPEND)}] )"
    after = rf"(?=[\u0300-\U0010ffff])(?=[\u200d{members(tables.EXTEND)}{members(tables.SPACING)}])"
    return re.compile(f" (?:{before}|{after})")


def _clusters() -> re.Pattern[str]:
    """Return an expression for the grapheme clusters of more than one character (Unicode Standard Annex 29)."""
    korean = "L+(?:(?:V+|AV*|B)T*)?|(?:V+|AV+)T*|[AB]T+|T+"
    emoji = "O(?:[EKN]*ZO)+"
    conjunct = "D(?:[EZ]*K[EZK]*D)+"
    core = f"(?:{conjunct}|{emoji}|{korean}|II)"
    return re.compile(f"rn|P+(?:{core}|[^Crn])?[EKNSZ]*|{core}[EKNSZ]*|[^Crn][EKNSZ]+")


_CLUSTERS = _clusters()
