"""Reading and writing vocabularies: Hugging Face's tokenizer.json and tiktoken's files.

A file is hostile until checked: every error is one ValueError that names the file and the field. Encoding and
decoding are the Tokenizer's; here is only what stands in files.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from llmcore.tokenizer.patterns import GPT2, REGEX, from_stages, stages_of
from llmcore.tokenizer.vocabulary import Pattern, Vocabulary

MAX_ID_GAP = 1 << 20  # how far ids may exceed their number, so that no file asks for gigabytes


@cache
def byte_alphabet() -> tuple[str, ...]:
    """The character that stands for each byte in a tokenizer.json: itself where it is printable in Latin-1,
    else the next unused one from U+0100 on (GPT-2's table)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


@cache
def _byte_of_char() -> dict[str, int]:
    return {char: byte for byte, char in enumerate(byte_alphabet())}


def write_tokenizer_json(path: Path, vocabulary: Vocabulary) -> None:
    """Writes `path` beside itself and renames, so that a reader finds the old file or the new one, never a
    part."""
    alphabet = byte_alphabet()
    text = {id: "".join(alphabet[b] for b in token) for id, token in enumerate(vocabulary.tokens) if token}
    vocab = {token: id for id, token in text.items()}
    for special, id in vocabulary.special_tokens.items():
        if special in vocab:
            raise ValueError(f"[save] expected special tokens unlike ordinary ones, got {special!r}, which is both")
        vocab[special] = id
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": id,
                "content": special,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for special, id in sorted(vocabulary.special_tokens.items(), key=lambda item: item[1])
        ],
        "normalizer": {"type": vocabulary.normalizer} if vocabulary.normalizer else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                *(
                    {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
                    for regex in stages_of(vocabulary.pattern)
                ),
                {**byte_level, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": vocabulary.whole_piece_first,
            "vocab": vocab,
            "merges": [[text[left], text[right]] for left, right in vocabulary.merges or []],
        },
    }
    write_atomically(path, json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces a file whole or not at all. OSError names it, also where the system does not (a full disk)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk
            error.filename = str(path)
        raise


class _Reader:
    """Checked access to the fields of one JSON file."""

    def __init__(self, path: Path):
        self.path = path

    def fail(self, where: str, expected: str, got: Any) -> ValueError:
        shown = got if isinstance(got, str) else json.dumps(got, ensure_ascii=False, default=repr)
        return ValueError(f"[load] {self.path}: {where}: expected {expected}, got {shown[:200]}")

    def get(self, value: Any, name: str, kind: type, where: str = "", default: Any = ...) -> Any:
        """value[name], which must be of `kind` (bool is no int); null or a missing field gives `default`."""
        where = f"{where}.{name}" if where else name
        found = value.get(name)
        if found is None and default is not ...:
            return default
        if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
            names = {
                dict: "an object",
                list: "an array",
                str: "a string",
                int: "an integer",
                bool: "true or false",
            }
            raise self.fail(where, names[kind], found)
        return found

    def id(self, value: Any, where: str, limit: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limit:
            raise self.fail(where, f"an id from 0 to {limit - 1}", value)
        return value


def read_tokenizer_json(path: Path) -> Vocabulary:
    read = _Reader(path)
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ValueError(f"[load] {path}: expected JSON, got {error}") from None
    if not isinstance(document, dict):
        raise read.fail("the file", "an object", document)
    model = read.get(document, "model", dict)
    if read.get(model, "type", str, "model", "BPE") != "BPE":
        raise read.fail("model.type", "BPE", model["type"])
    normalizer = None
    if document.get("normalizer") is not None:
        if document["normalizer"] != {"type": "NFC"}:
            raise read.fail("normalizer", "null or NFC (others are not supported)", document["normalizer"])
        normalizer = "NFC"
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(name):
            raise read.fail(f"model.{name}", "none (it is not supported)", model[name])

    special_tokens = _read_added_tokens(read, document)
    tokens, ids = _read_vocab(read, read.get(model, "vocab", dict, "model"), special_tokens)
    return Vocabulary(
        tokens=tokens,
        merges=_read_merges(read, read.get(model, "merges", list, "model"), ids),
        pattern=_read_pattern(read, document),
        whole_piece_first=read.get(model, "ignore_merges", bool, "model", False),
        special_tokens=special_tokens,
        normalizer=normalizer,
    )


def _read_added_tokens(read: _Reader, document: dict) -> dict[str, int]:
    special_tokens: dict[str, int] = {}
    added = read.get(document, "added_tokens", list, default=[])
    for number, entry in enumerate(added):
        where = f"added_tokens[{number}]"
        if not isinstance(entry, dict):
            raise read.fail(where, "an object", entry)
        content = read.get(entry, "content", str, where)
        flags = ["single_word", "lstrip", "rstrip"]
        if document.get("normalizer") is not None:
            flags.append("normalized")  # which says nothing without a normalizer
        for flag in flags:
            if entry.get(flag):
                raise read.fail(f"{where}.{flag}", "false (it is not supported)", entry[flag])
        if not content or content in special_tokens:
            raise read.fail(f"{where}.content", "a string that no other added token has", content)
        special_tokens[content] = read.id(entry.get("id"), f"{where}.id", 1 << 31)
    return special_tokens


def _read_vocab(read: _Reader, vocab: dict, special_tokens: dict[str, int]) -> tuple[list[bytes], dict[str, int]]:
    """The tokens by id, and the ids by their spelling in the file."""
    byte_of_char = _byte_of_char()
    limit = len(vocab) + len(special_tokens) + MAX_ID_GAP
    special_ids = {id: content for content, id in special_tokens.items()}
    ids: dict[str, int] = {}
    by_id: dict[int, bytes] = {}
    for spelling, value in vocab.items():
        where = f"model.vocab[{json.dumps(spelling[:60], ensure_ascii=False)}]"
        id = read.id(value, where, limit)
        if spelling in special_tokens:
            if id != special_tokens[spelling]:
                raise read.fail(where, f"the id in added_tokens, {special_tokens[spelling]}", id)
            continue
        if id in by_id or id in special_ids:
            raise read.fail(where, "an id that no other token has", id)
        try:
            by_id[id] = bytes(byte_of_char[char] for char in spelling)
        except KeyError:
            raise read.fail(where, "the byte-level alphabet", spelling) from None
        if not spelling:
            raise read.fail(where, "a token that is not empty", spelling)
        ids[spelling] = id
    tokens = [b""] * (max(by_id, default=-1) + 1)
    for id, token in by_id.items():
        tokens[id] = token
    return tokens, ids


def _read_merges(
    read: _Reader, merges: list, ids: dict[str, int], where: str = "model.merges"
) -> list[tuple[int, int]]:
    pairs = []
    for rank, entry in enumerate(merges):
        sides = entry.split(" ") if isinstance(entry, str) else entry
        if not isinstance(sides, list) or len(sides) != 2 or not all(isinstance(side, str) for side in sides):
            raise read.fail(f"{where}[{rank}]", 'two tokens, as "a b" or ["a", "b"]', entry)
        left, right = ids.get(sides[0]), ids.get(sides[1])
        if left is None or right is None:
            unknown = sides[0] if left is None else sides[1]
            raise read.fail(f"{where}[{rank}]", "tokens of the vocabulary", unknown)
        if sides[0] + sides[1] not in ids:
            raise read.fail(f"{where}[{rank}]", "a pair that makes a token of the vocabulary", entry)
        pairs.append((left, right))
    return pairs


def _read_pattern(read: _Reader, document: dict) -> Pattern:
    """The pre-tokenizer's stages."""
    whole = read.get(document, "pre_tokenizer", dict)
    steps, where = [whole], "pre_tokenizer"
    if whole.get("type") == "Sequence":
        steps = read.get(whole, "pretokenizers", list, "pre_tokenizer")
        where = "pre_tokenizer.pretokenizers"
    if not all(isinstance(step, dict) for step in steps):
        raise read.fail(where, "objects", steps)
    if not steps or steps[-1].get("type") != "ByteLevel":
        raise read.fail(where, "ByteLevel at the end (a byte-level vocabulary)", whole)
    last = f"{where}[{len(steps) - 1}]"
    if read.get(steps[-1], "add_prefix_space", bool, last, True):
        raise read.fail(f"{last}.add_prefix_space", "false (it is not supported)", True)
    stages = tuple(_read_stage(read, step, f"{where}[{number}]") for number, step in enumerate(steps[:-1]))
    if read.get(steps[-1], "use_regex", bool, last, True):
        stages += (GPT2,)
    return from_stages(stages or (r"[\s\S]+",))


def _read_stage(read: _Reader, step: dict, where: str) -> str:
    """The expression of one stage before ByteLevel."""
    kind = read.get(step, "type", str, where)
    if kind == "Digits":
        return r"\p{N}" if read.get(step, "individual_digits", bool, where, False) else r"\p{N}+"
    if kind != "Split":
        raise read.fail(where, "Split or Digits before ByteLevel", kind)
    rule = read.get(step, "pattern", dict, where)
    regex = rule.get("Regex")
    if regex is None:
        literal = read.get(rule, "String", str, f"{where}.pattern")
        regex = f"(?:{''.join(f'{chr(92)}{c}' if c in _META else c for c in literal)})"
    elif not isinstance(regex, str):
        raise read.fail(f"{where}.pattern.Regex", "a string", regex)
    behavior, invert = read.get(step, "behavior", str, where), read.get(step, "invert", bool, where, False)
    # Removing all but the matches comes to the same for our own expressions, which leave nothing between them.
    removes_nothing = (behavior, invert) == ("Removed", True) and regex in REGEX.values()
    if (behavior, invert) != ("Isolated", False) and not removes_nothing:
        raise read.fail(where, "the behavior Isolated without invert", f"{behavior}, invert {invert}")
    return regex


_META = frozenset(r"\.+*?()|[]{}^$#&-~/")


# tokenizer.ggml.pre -> (our pattern, whether a piece that is a token is that token), as llama.cpp takes them.
_GGUF_PATTERNS = {
    "gpt-2": ("gpt2", False),
    "phi-2": ("gpt2", False),
    "smollm": ("smollm", False),
    "starcoder": ("smollm", False),
    "command-r": ("smollm", False),
    "llama-bpe": ("llama3", True),
    "llama3": ("llama3", True),
    "llama-v3": ("llama3", True),
    "falcon3": ("llama3", True),
    "smaug-bpe": ("llama3", False),
    "dbrx": ("llama3", False),
    "qwen2": ("qwen2", False),
    "deepseek-r1-qwen": ("qwen2", False),
    "stablelm2": ("qwen2", False),
    "qwen35": ("qwen35", False),
    "deepseek-v3": ("deepseek", False),
    "gpt-4o": ("o200k", False),
    "llama4": ("o200k", False),
}
_GGUF_CONTROL, _GGUF_USER_DEFINED, _GGUF_UNUSED = 3, 4, 5


def read_gguf(path: Path) -> Vocabulary:
    """The vocabulary in a model's GGUF file."""
    from llmcore.formats.gguf import load_gguf

    read, metadata = _Reader(path), load_gguf(path).metadata

    def field(name: str) -> Any:
        return metadata.get(f"tokenizer.ggml.{name}")

    if field("model") != "gpt2":
        raise read.fail("tokenizer.ggml.model", "gpt2 (byte-level BPE)", field("model"))
    if not isinstance(field("pre"), str) or field("pre") not in _GGUF_PATTERNS:
        raise read.fail("tokenizer.ggml.pre", f"one of {', '.join(_GGUF_PATTERNS)}", field("pre"))
    spellings, merges = field("tokens"), field("merges")
    for name, strings in (("tokens", spellings), ("merges", merges)):
        if not isinstance(strings, list) or not all(isinstance(s, str) for s in strings):
            raise read.fail(f"tokenizer.ggml.{name}", "an array of strings", strings)
    kinds = field("token_type")
    if kinds is None:
        kinds = [1] * len(spellings)
    elif not hasattr(kinds, "dtype") or len(kinds) != len(spellings):
        raise read.fail(
            "tokenizer.ggml.token_type",
            f"{len(spellings)} numbers",
            str(len(kinds)) if hasattr(kinds, "__len__") else kinds,
        )
    byte_of_char = _byte_of_char()
    tokens, ids, special_tokens = [b""] * len(spellings), {}, {}
    for id, (spelling, kind) in enumerate(zip(spellings, kinds, strict=True)):
        if kind == _GGUF_UNUSED:
            continue
        where = f"tokenizer.ggml.tokens[{id}]"
        if not spelling or spelling in ids or spelling in special_tokens:
            raise read.fail(where, "a string that no other token has", spelling)
        if kind in (_GGUF_CONTROL, _GGUF_USER_DEFINED):
            special_tokens[spelling] = id
            continue
        try:
            tokens[id] = bytes(byte_of_char[char] for char in spelling)
        except KeyError:
            raise read.fail(where, "the byte-level alphabet", spelling) from None
        ids[spelling] = id
    pattern, whole_piece_first = _GGUF_PATTERNS[field("pre")]
    pairs = _read_merges(read, merges, ids, "tokenizer.ggml.merges")
    return Vocabulary(tokens, pairs, pattern, whole_piece_first, special_tokens)


def read_tiktoken(path: Path, pattern: Pattern, special_tokens: dict[str, int] | Iterable[str]) -> Vocabulary:
    """Reads lines of `base64-of-the-bytes id`."""

    def fail(number: int, line: bytes, expected: str) -> ValueError:
        return ValueError(f"[load] {path}: line {number}: expected {expected}, got {line[:80]!r}")

    by_id: dict[int, bytes] = {}
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            encoded, rank = line.split()
            token, id = base64.b64decode(encoded, validate=True), int(rank)
        except (ValueError, binascii.Error):
            raise fail(number, line, "a token in base64 and its id") from None
        if not token or id in by_id or not 0 <= id < len(lines) + MAX_ID_GAP:
            raise fail(number, line, "a token that is not empty and an id of its own near the others")
        by_id[id] = token
    tokens = [by_id.get(id, b"") for id in range(max(by_id, default=-1) + 1)]
    if not isinstance(special_tokens, dict):
        special_tokens = {special: len(tokens) + number for number, special in enumerate(special_tokens)}
    return Vocabulary(tokens, None, pattern, whole_piece_first=True, special_tokens=special_tokens)
