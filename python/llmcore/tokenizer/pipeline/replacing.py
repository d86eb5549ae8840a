"""Replace, which is a normalizer and a decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmcore.tokenizer.formats.files import Reader


def read_replace(read: Reader, value: dict[str, Any], where: str) -> Callable[[str], str]:
    pattern = read.get(value, "pattern", dict, where)
    content = read.get(value, "content", str, where)
    old = read.get(pattern, "String", str, f"{where}.pattern")
    if not old:
        raise read.fail(f"{where}.pattern.String", "a string that is not empty", old)
    return lambda text: text.replace(old, content)
