"""Unicode's normal forms as Hugging Face's tokenizers have them: by the rules of Unicode 9.

Python's `unicodedata` knows later versions, a different one for each version of Python. The normal forms of old
characters never change, so it is enough to leave the newer ones alone: to Unicode 9 they are characters that nothing
composes with or moves across. (tests/tokenizer/test_peers.py compares every code point.)
"""

from __future__ import annotations

import functools
import re
import unicodedata
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


def nfc_bytes(data: bytes) -> bytes:
    """Return the normal form of UTF-8; bytes that are not UTF-8 stay as they are."""
    return data if data.isascii() else nfc(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
