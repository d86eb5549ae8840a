"""How byte-level vocabularies spell their tokens in tokenizer.json and GGUF files, and how the former name patterns."""

from __future__ import annotations

from functools import cache
from typing import Any

from llmcore import _core
from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.patterns import GPT2, NAMES, REGEX, name_of_regex


@cache
def byte_alphabet() -> tuple[str, ...]:
    """The character that stands for each byte in a tokenizer.json: itself where it is printable in Latin-1,
    else the next unused one from U+0100 on (GPT-2's table)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


def spell(token: bytes) -> str:
    alphabet = byte_alphabet()
    return "".join(alphabet[byte] for byte in token)


def unspell(spellings: list[str]) -> list[bytes]:
    """The tokens that are spelled so; b"" for what is not in the alphabet."""
    return _core.unspell(spellings, "".join(byte_alphabet()))


def read_pattern(read: Reader, document: dict) -> str:
    """Which of our patterns the pre-tokenizer is."""
    whole = read.get(document, "pre_tokenizer", dict)
    steps = [whole]
    if whole.get("type") == "Sequence":
        steps = read.get(whole, "pretokenizers", list, "pre_tokenizer")
    if not all(isinstance(step, dict) for step in steps):
        raise read.fail("pre_tokenizer.pretokenizers", "objects", steps)
    kinds = [step.get("type") for step in steps]
    last = steps[-1] if steps else {}
    regex: str | None = None
    if kinds and kinds[-1] == "ByteLevel" and last.get("add_prefix_space") is False:
        if last.get("use_regex", True):
            if kinds[:-1] == []:
                regex = GPT2
            elif kinds[:-1] == ["Digits"] and steps[0].get("individual_digits") is True:
                return "smollm"
        elif kinds[:-1] == ["Split"]:
            rule = read.get(steps[0], "pattern", dict, "pre_tokenizer Split")
            # Either way of keeping the matches: the expressions leave nothing between them.
            if (steps[0].get("behavior"), steps[0].get("invert")) in (("Isolated", False), ("Removed", True)):
                regex = read.get(rule, "Regex", str, "pre_tokenizer Split.pattern")
    name = name_of_regex(regex) if regex is not None else None
    if name is None:
        raise read.fail("pre_tokenizer", f"byte-level splitting as {', '.join(NAMES)} do it", regex or whole)
    return name


def pipeline(pattern: str) -> dict[str, Any]:
    """The parts of a tokenizer.json around its model."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if pattern == "smollm":
        steps = [{"type": "Digits", "individual_digits": True}, {**byte_level, "use_regex": True}]
    else:
        regex = {"Regex": REGEX[pattern]}
        split = {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False}
        steps = [split, {**byte_level, "use_regex": False}]
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
    }
