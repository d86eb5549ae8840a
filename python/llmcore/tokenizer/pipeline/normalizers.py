"""The normalizers of a tokenizer.json: what is done to a text before it is cut."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from llmcore.tokenizer.formats import byte_level
from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.normalize import normal_form
from llmcore.tokenizer.pipeline import unicode_tables
from llmcore.tokenizer.pipeline.characters import IDEOGRAPHS, SPACES, Kinds, lower_case, without
from llmcore.tokenizer.pipeline.charsmap import read_charsmap
from llmcore.tokenizer.pipeline.steps import Step, read_replacement, read_step
from llmcore.tokenizer.pipeline.words import by_words

Normalizer = Callable[[str], str]


def read_normalizer(read: Reader, value: dict | None, where: str = "normalizer") -> Normalizer:
    """Read the object in a tokenizer.json; null changes nothing."""
    return (lambda text: text) if value is None else read_step(read, value, where, _KINDS)


def _lower(text: str) -> str:
    return text.lower() if text.isascii() else text.translate(lower_case())


def _strip_accents(text: str) -> str:
    return text if text.isascii() else text.translate(without(unicode_tables.MARKS))


def _bert(step: Step) -> Normalizer:
    clean, spread = step.get("clean_text", bool), step.get("handle_chinese_chars", bool)
    lower = step.get("lowercase", bool)
    strip = step.get("strip_accents", bool, lower)
    ideograph = re.compile(f"([{IDEOGRAPHS}])")
    accents = without(unicode_tables.NONSPACING)

    def apply(text: str) -> str:
        if clean:
            text = text.translate(_clean())
        if not text.isascii():
            if spread:
                text = ideograph.sub(r" \1 ", text)
            if strip:
                text = normal_form("NFD", text).translate(accents)
        return _lower(text) if lower else text

    return by_words(apply)


@functools.cache
def _clean() -> Kinds:
    """Return a map that drops control characters and makes spaces of spaces."""
    found = Kinds({"": unicode_tables.OTHER})
    found.update({ord(space): " " for space in SPACES if found[ord(space)] or space in "\t\n\r"})
    found[0xFFFD] = ""
    return found


def _byte_level(step: Step) -> Normalizer:
    alphabet = dict(enumerate(byte_level.byte_alphabet()))
    return lambda text: text.encode().decode("latin-1").translate(alphabet)


def _nmt(step: Step) -> Normalizer:
    removed = re.compile(r"[\x01-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]+")
    spaces = re.compile(r"[\t\n\f\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]")
    return lambda text: spaces.sub(" ", removed.sub("", text))


def _prepend(step: Step) -> Normalizer:
    prefix = step.get("prepend", str)
    if not prefix:  # `tokenizers` loses count of the characters then, and fails in the next step
        raise step.fail("prepend", "a text that is not empty", prefix)
    return lambda text: prefix + text if text else text


def _sequence(step: Step) -> Normalizer:
    steps = step.sequence("normalizers", read_normalizer)

    def apply(text: str) -> str:
        for normalize in steps:
            text = normalize(text)
        return text

    return apply


def _strip(step: Step) -> Normalizer:
    left, right = step.get("strip_left", bool), step.get("strip_right", bool)

    def apply(text: str) -> str:
        if left:
            text = text.lstrip(SPACES)
        return text.rstrip(SPACES) if right else text

    return apply


_KINDS: dict[str, Callable[[Step], Normalizer]] = {
    "Bert": _bert,  # both spellings are read
    "BertNormalizer": _bert,
    "ByteLevel": _byte_level,
    "Lowercase": lambda step: _lower,
    "NFC": lambda step: by_words(lambda text: normal_form("NFC", text)),
    "NFD": lambda step: by_words(lambda text: normal_form("NFD", text)),
    "NFKC": lambda step: by_words(lambda text: normal_form("NFKC", text)),
    "NFKD": lambda step: by_words(lambda text: normal_form("NFKD", text)),
    "Nmt": _nmt,
    "Precompiled": read_charsmap,
    "Prepend": _prepend,
    "Replace": read_replacement,
    "Sequence": _sequence,
    "Strip": _strip,
    "StripAccents": lambda step: _strip_accents,
}
