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
import re
import struct
from collections.abc import Callable

from llmcore.tokenizer.pipeline import unicode_tables as tables
from llmcore.tokenizer.pipeline.characters import SameElsewhere, members
from llmcore.tokenizer.pipeline.steps import Step

_LONGEST = 5  # bytes of a key that can be found


def read_charsmap(step: Step) -> Callable[[str], str]:
    name = "precompiled_charsmap"
    text = step.get(name, str)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise step.fail(name, "base64", error) from None
    try:
        replacements = _keys(data)
    except ValueError as error:
        raise step.fail(name, "a table of SentencePiece's", str(error)) from None
    alone = SameElsewhere({ord(key): value for key, value in replacements.items() if len(key) == 1})

    def replace(cluster: re.Match[str]) -> str:
        found = cluster[0]
        if len(found.encode(errors="surrogatepass")) <= _LONGEST:
            for end in range(1, len(found) + 1):
                if (value := replacements.get(found[:end])) is not None:
                    return value
        return found.translate(alone)

    def apply(text: str) -> str:
        joins = _joins()
        if (text.isascii() and "\r" not in text) or not joins.search(text):
            return text.translate(alone)
        parts: list[str] = []
        at = 0
        for cluster in _clusters().finditer(text):
            parts += text[at : cluster.start()].translate(alone), replace(cluster)
            at = cluster.end()
        return "".join([*parts, text[at:].translate(alone)])

    return apply


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
    level: list[tuple[bytes, int]] = [(b"", _base(units[0], 0))]
    for _ in range(_LONGEST):
        below: list[tuple[bytes, int]] = []
        for prefix, base in level:
            for label, place in children.get(base, ()):
                key, inner = prefix + bytes([label]), _base(units[place], place)
                if inner >= size:
                    raise ValueError(f"a trie of {size} units that leads to unit {inner}")
                if units[place] >> 8 & 1:
                    found[key.decode()] = _text(texts, units[inner] & 0x7FFF_FFFF)
                else:
                    below.append((key, inner))
        if len(below) > size:
            raise ValueError("a trie whose branches meet")
        level = below
    return found


def _base(unit: int, place: int) -> int:
    return place ^ (unit >> 10) << ((unit & 0x200) >> 6)


def _text(texts: bytes, start: int) -> str:
    if start > len(texts):
        raise ValueError(f"a replacement at {start} of {len(texts)} bytes")
    end = texts.find(b"\0", start)
    return texts[start : end if end >= 0 else len(texts)].decode()


@functools.cache
def _joins() -> re.Pattern[str]:
    """Return an expression for the characters that make clusters of more than one."""
    marks = (tables.EXTEND, tables.SPACING, tables.PREPEND, tables.HANGUL_L, tables.HANGUL_V, tables.HANGUL_T)
    return re.compile(rf"[\r\u200d\U0001f1e6-\U0001f1ff{''.join(map(members, marks))}]")


@functools.cache
def _clusters() -> re.Pattern[str]:
    """Return an expression for the grapheme clusters of more than one character (Unicode Standard Annex 29)."""
    control = rf"\r\n{members(tables.CONTROL)}"
    prepend = f"[{members(tables.PREPEND)}]"
    after = rf"[\u200d{members(tables.EXTEND)}{members(tables.SPACING)}]"
    first, middle, last = (f"[{members(t)}]" for t in (tables.HANGUL_L, tables.HANGUL_V, tables.HANGUL_T))
    open_syllable = f"[{''.join(map(chr, range(0xAC00, 0xD7A4, 28)))}]"
    # In a closed syllable's place any will do: an open one has been tried before.
    syllable = f"(?:{middle}+|{open_syllable}{middle}*|[\uac00-\ud7a3]){last}*"
    hangul = f"{first}+(?:{syllable})?|{syllable}|{last}+"
    pictograph = f"[{members(tables.PICTOGRAPHIC)}]"
    emoji = rf"{pictograph}(?:[{members(tables.EXTEND)}]*\u200d{pictograph})+"
    consonant = f"[{members(tables.CONSONANT)}]"
    linker, extend = members(tables.LINKER), members(tables.CONJUNCT_EXTEND)
    conjunct = f"{consonant}(?:[{extend}]*[{linker}][{extend}{linker}]*{consonant})+"
    core = f"(?:{conjunct}|{emoji}|{hangul}|[\U0001f1e6-\U0001f1ff]{{2}})"
    any_core = f"(?:{core}|[^{control}])"
    return re.compile(f"\r\n|{prepend}+{any_core}?{after}*|{core}{after}*|[^{control}]{after}+")
