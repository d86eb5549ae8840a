"""Unicode's normal form NFC, as Hugging Face's tokenizers have it: by the rules of Unicode 9.

Python's `unicodedata` knows later versions, a different one for each version of Python. The normal form of old
characters never changes, so it is enough to leave the newer ones alone that take part in composition or reordering:
nothing crosses them. (tests/tokenizer/test_peers.py compares every code point.)
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

# Characters that came after Unicode 9 and have a combining class or a decomposition, and those among them that others decompose into.
_NEWER = re.compile(
    "(["
    "\u07fd\u0897-\u089f\u08ca-\u08d3\u09fe\u0c3c\u0d3b\u0d3c\u0eba\u1715\u1abf-\u1ace"
    "\u1df6-\u1dfa\ua82c\U000105c9\U000105d2\U000105da\U000105e4\U00010d24-\U00010d27"
    "\U00010d69-\U00010d6d\U00010eab\U00010eac\U00010efd-\U00010eff\U00010f46-\U00010f50"
    "\U00010f82-\U00010f85\U00011070\U0001133b\U00011382-\U00011385\U0001138b\U0001138e\U00011390"
    "\U00011391\U000113b8\U000113bb\U000113c2\U000113c5\U000113c7-\U000113c9\U000113ce-\U000113d0"
    "\U0001145e\U00011839\U0001183a\U00011930\U00011935\U00011938\U0001193d\U0001193e\U00011943"
    "\U000119e0\U00011a34\U00011a47\U00011a99\U00011d42\U00011d44\U00011d45\U00011d97\U00011f41"
    "\U00011f42\U0001611e-\U00016129\U0001612f\U00016d63\U00016d67-\U00016d6a\U00016ff0\U00016ff1"
    "\U0001e08f\U0001e130-\U0001e136\U0001e2ae\U0001e2ec-\U0001e2ef\U0001e4ec-\U0001e4ef\U0001e5ee"
    "\U0001e5ef"
    "]+)"
)


def nfc(text: str) -> str:
    """Return the normal form; surrogates, which stand for bytes that are not UTF-8, stay as they are."""
    if text.isascii() or (unicodedata.is_normalized("NFC", text) and not _NEWER.search(text)):
        return text
    parts = _NEWER.split(text)
    parts[::2] = [unicodedata.normalize("NFC", part) for part in parts[::2]]
    return "".join(parts)


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
