"""Mistral's tekken.json (https://github.com/mistralai/mistral-common): tiktoken's ranks after a number of special tokens."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

from llmcore._files import read_json
from llmcore.errors import Error
from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.patterns import from_argument
from llmcore.tokenizer.vocabulary import Vocabulary

# Of files that name none (versions v3 and before), by id.
_SPECIAL = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)
_MOST = 1 << 22  # tokens


def read_tekken(path: Path) -> Vocabulary:
    read, document = Reader(path), read_json(path, "load")
    config = read.get(document, "config", dict)
    size = read.id(config.get("default_vocab_size"), "config.default_vocab_size", _MOST)
    specials = read.id(config.get("default_num_special_tokens"), "config.default_num_special_tokens", size + 1)
    vocab = read.get(document, "vocab", list)
    if len(vocab) < size - specials:
        raise read.fail("vocab", f"at least {size - specials} tokens (config.default_vocab_size)", len(vocab))
    tokens = [b""] * specials + [_token(read, entry, rank) for rank, entry in enumerate(vocab[: size - specials])]
    special_tokens = _special_tokens(read, document, specials)
    try:
        pattern = from_argument(read.get(config, "pattern", str, "config"), "load")
    except ValueError as error:
        raise read.fail("config.pattern", "an expression that is supported", Error.of(error).message) from None
    begin = (special_tokens["<s>"],) if "<s>" in special_tokens else ()
    return Vocabulary(tokens, None, pattern, whole_piece_first=True, special_tokens=special_tokens, begin=begin)


def _token(read: Reader, entry: Any, rank: int) -> bytes:
    where = f"vocab[{rank}]"
    if not isinstance(entry, dict) or entry.get("rank") != rank:
        raise read.fail(where, f"the token of rank {rank}", entry)
    text = read.get(entry, "token_bytes", str, where)
    try:
        token = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        token = b""
    if not token:
        raise read.fail(f"{where}.token_bytes", "bytes in base64", text)
    return token


def _special_tokens(read: Reader, document: dict[str, Any], count: int) -> dict[str, int]:
    """The ids of special tokens: those without a name get mistral-common's."""
    given = read.get(document, "special_tokens", list, default=None)
    names = dict(enumerate(_SPECIAL)) if given is None else {}
    for number, entry in enumerate(given or []):
        where = f"special_tokens[{number}]"
        if not isinstance(entry, dict):
            raise read.fail(where, "an object", entry)
        rank = read.id(entry.get("rank"), f"{where}.rank", count)
        if rank in names:
            raise read.fail(f"{where}.rank", "a rank that no other special token has", rank)
        names[rank] = read.get(entry, "token_str", str, where)
    if len(set(names.values())) < len(names):
        raise read.fail("special_tokens", "distinct texts", sorted(names.values())[:20])
    return {names.get(id, f"<SPECIAL_{id}>"): id for id in range(count)}
