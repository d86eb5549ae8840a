"""How byte-level vocabularies spell their tokens in tokenizer.json and GGUF files, and how the former name patterns."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from llmcore import _core
from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.formats.steps import steps_of
from llmcore.tokenizer.patterns import GPT2, from_stages, stages_of
from llmcore.tokenizer.vocabulary import Pattern, Vocabulary

_META = frozenset(r"\.+*?()|[]{}^$#&-~/")  # what an expression escapes


@cache
def byte_alphabet() -> tuple[str, ...]:
    """Return the character that stands for each byte in a tokenizer.json: itself where it is printable in Latin-1,
    else the next unused one from U+0100 on (GPT-2's table)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


def spell(token: bytes) -> str:
    alphabet = byte_alphabet()
    return "".join(alphabet[byte] for byte in token)


def unspell(spellings: list[str]) -> list[bytes]:
    """Return the tokens that are spelled so; b"" for what is not in the alphabet."""
    return _core.unspell(spellings, "".join(byte_alphabet()))


def read_pattern(read: Reader, document: dict) -> Pattern:
    """Read the pre-tokenizer's stages: splits, and ByteLevel at the end."""
    steps, where = steps_of(document, "pre_tokenizer"), "pre_tokenizer"
    if document["pre_tokenizer"]["type"] == "Sequence":
        where += ".pretokenizers"
    last = f"{where}[{len(steps) - 1}]"
    stages = tuple(_read_stage(read, step, f"{where}[{number}]") for number, step in enumerate(steps[:-1]))
    if read.get(steps[-1], "use_regex", bool, last, True):
        stages += (GPT2,)
    return from_stages(stages or (r"[\s\S]+",))


def _read_stage(read: Reader, step: dict, where: str) -> str:
    """Read the expression of one stage before ByteLevel."""
    if step["type"] == "Digits":
        return r"\p{N}" if read.get(step, "individual_digits", bool, where, False) else r"\p{N}+"
    rule = read.get(step, "pattern", dict, where)
    regex = rule.get("Regex")
    if regex is None:
        literal = read.get(rule, "String", str, f"{where}.pattern")
        regex = f"(?:{''.join(f'{chr(92)}{c}' if c in _META else c for c in literal)})"
    elif not isinstance(regex, str):
        raise read.fail(f"{where}.pattern.Regex", "a string", regex)
    elif re.fullmatch(r"[\w.-]*", regex):  # not to be taken for a pattern's name
        regex = f"(?:{regex})"
    return regex


def pipeline(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the parts of a tokenizer.json around its model."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    splits = [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
        for regex in stages_of(vocabulary.pattern)
    ]
    return {
        "normalizer": {"type": vocabulary.normalizer} if vocabulary.normalizer else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, {**byte_level, "use_regex": False}]},
        "decoder": {**byte_level, "use_regex": True},
    }
