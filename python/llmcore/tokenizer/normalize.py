"""Unicode's normal forms as Hugging Face's tokenizers have them: by the rules of Unicode 9.

Python's `unicodedata` knows later versions, a different one for each version of Python. The normal forms of old
characters never change, so it is enough to leave the newer ones alone: to Unicode 9 they are characters that nothing
composes with or moves across. (tests/tokenizer/test_peers.py compares every code point.)
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Collection
from typing import Literal

from llmcore.tokenizer.pipeline import unicode_tables
from llmcore.tokenizer.pipeline.characters import members


@functools.cache
def _newer() -> re.Pattern[str]:
    return re.compile(f"([{members(unicode_tables.NEWER)}]+)")


def normal_form(form: Literal["NFC", "NFD", "NFKC", "NFKD"], text: str) -> str:
    """Return the normal form "NFC", "NFD", "NFKC" or "NFKD"; surrogates, which stand for bytes that are not UTF-8, stay
    as they are."""
    if text.isascii():
        return text
    parts = _newer().split(text)
    parts[::2] = [unicodedata.normalize(form, part) for part in parts[::2]]
    return "".join(parts)


def nfc(text: str) -> str:
    if text.isascii() or (unicodedata.is_normalized("NFC", text) and not _newer().search(text)):
        return text
    return normal_form("NFC", text)


def nfc_parts(text: str | bytes, special_tokens: Collection[str]) -> list[tuple[str | bytes, bool]] | None:
    """Return the text in normal form, cut into ordinary text and special tokens (True), which are found in it as it was;
    None if all of it is in normal form already."""
    if text.isascii():
        return None
    whole = text if isinstance(text, str) else text.decode("utf-8", "surrogateescape")
    if nfc(whole) == whole:
        return None
    longest_first = sorted(special_tokens, key=len, reverse=True)
    found = re.split(f"({'|'.join(map(re.escape, longest_first))})", whole) if special_tokens else [whole]
    parts = [(part if number % 2 else nfc(part), number % 2 == 1) for number, part in enumerate(found)]
    if isinstance(text, str):
        return [part for part in parts if part[0]]
    return [(part.encode("utf-8", "surrogateescape"), special) for part, special in parts if part]
