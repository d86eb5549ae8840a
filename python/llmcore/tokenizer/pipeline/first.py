"""How much of a normalized text stands where the original begins, which is where Metaspace's prepend_scheme "first" puts a
space. `tokenizers` knows the origin of every character; here a text's first ones are followed through the normalizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.pipeline.charsmap import Charsmap
from llmcore.tokenizer.pipeline.normalizers import read_normalizer
from llmcore.tokenizer.pipeline.steps import Matches, Step

Normalize = Callable[[str], str]


class Leading:
    """Counts these characters. Where no pre-tokenizer asks for them, it does not look."""

    def __init__(self, read: Reader, document: dict[str, Any]):
        self._steps: list[tuple[Normalize, Matches | None, str]] = []
        self._wanted = document.get("normalizer") is not None and _asks(document.get("pre_tokenizer"))
        if self._wanted:
            self._add(read, document["normalizer"], "normalizer")

    def count(self, text: str) -> int:
        first = 1
        if self._wanted:
            for normalize, matches, content in self._steps:
                found = normalize(text)
                if isinstance(normalize, Charsmap):
                    first = first if found == text else normalize.leading(text, first)
                elif matches is None:
                    # What becomes of them on their own, unless the text was cut off at the end alone.
                    alone = first if text.startswith(found) else len(normalize(text[:first]))
                    first = min(alone, len(found))
                else:
                    first = _replaced(first, matches(text), len(content))
                text = found
        return first

    def _add(self, read: Reader, value: dict, where: str) -> None:
        if value["type"] == "Sequence":
            for number, inner in enumerate(value["normalizers"]):
                self._add(read, inner, f"{where}.normalizers[{number}]")
            return
        matches = Step(read, value, where).pattern("pattern") if value["type"] == "Replace" else None
        self._steps.append((read_normalizer(read, value, where), matches, value.get("content", "")))


def _asks(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_asks, value))
    if not isinstance(value, dict):
        return False
    return value.get("prepend_scheme") == "first" or _asks(value.get("pretokenizers"))


def _replaced(first: int, found: list[tuple[int, int]], size: int) -> int:
    """What is put in the place of a match has the origin of its last character."""
    left = first
    for start, end in found:
        if start >= first:
            break
        left -= min(end, first) - start
        if end <= first:
            left += size
    return left
