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

_BEYOND = re.compile("[\U00010000-\U0010ffff]")


@functools.cache
def _newer() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return expressions for the newer characters of the first 65536 code points, and for all of them in a row. The former
    is quick, the latter goes through its ranges one by one."""
    first = " ".join(entry for entry in unicode_tables.NEWER.split() if len(entry.partition("-")[0]) < 5)
    return re.compile(f"[{members(first)}]"), re.compile(f"([{members(unicode_tables.NEWER)}]+)")


def normal_form(form: Literal["NFC", "NFD", "NFKC", "NFKD"], text: str) -> str:
    """Return a normal form; surrogates, which stand for bytes that are not UTF-8, stay as they are."""
    if text.isascii():
        return text
    quick, whole = _newer()
    if not (quick.search(text) or (_BEYOND.search(text) and whole.search(text))):
        return unicodedata.normalize(form, text)
    parts = whole.split(text)
    parts[::2] = [unicodedata.normalize(form, part) for part in parts[::2]]
    return "".join(parts)


def nfc(text: str) -> str:
    return normal_form("NFC", text)


def nfc_bytes(data: bytes) -> bytes:
    """Return the normal form of UTF-8; bytes that are not UTF-8 stay as they are."""
    return data if data.isascii() else nfc(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
