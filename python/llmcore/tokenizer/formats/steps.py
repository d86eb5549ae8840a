"""The parts of a tokenizer.json, each of which is a step, a sequence of steps, or null."""

from __future__ import annotations

from typing import Any

_INNER = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}


def steps_of(document: dict[str, Any], part: str) -> list[Any]:
    whole = document.get(part)
    if isinstance(whole, dict) and whole.get("type") == "Sequence" and isinstance(whole.get(_INNER[part]), list):
        return whole[_INNER[part]]
    return [] if whole is None else [whole]
