"""The vocabulary in a model's GGUF file, and what to write there (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

from llmcore import _core
from llmcore.errors import Error
from llmcore.tokenizer.formats import pieces
from llmcore.tokenizer.formats.byte_level import spell, unspell
from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.formats.pieces import CONTROL, NORMAL, UNUSED, USER_DEFINED, from_pieces
from llmcore.tokenizer.vocabulary import (
    NORMALIZED,
    AnyVocabulary,
    Pattern,
    PipelineVocabulary,
    SentencePieceVocabulary,
    Vocabulary,
)

# tokenizer.ggml.pre -> (our pattern, whether a piece that is a token is that token), as llama.cpp takes them.
PATTERNS = {
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
# Patterns without a name there -> (the pattern that they are written as, where alone the two cut differently).
NEAREST = {"cl100k": ("llama3", "in blanks with a line break at the end of a text, which cl100k leaves in one piece")}


def read_gguf(path: Path) -> Vocabulary | SentencePieceVocabulary:
    from llmcore.formats.gguf import load_gguf

    prefix = "tokenizer.ggml."
    metadata = load_gguf(path).metadata
    fields = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    read = Reader(path)
    if fields.get("model") not in ("llama", "gpt2"):
        raise read.fail("tokenizer.ggml.model", "gpt2 (byte-level BPE) or llama (SentencePiece)", fields.get("model"))
    sentencepiece = fields["model"] == "llama"
    vocabulary = _read_sentencepiece(read, fields) if sentencepiece else _read_byte_level(read, fields)
    # As llama.cpp has it where the file does not say.
    begins = sentencepiece or fields.get("pre") in ("llama-bpe", "llama3", "llama-v3", "falcon3")
    return vocabulary._replace(begin=_around(read, fields, "bos", begins), end=_around(read, fields, "eos", False))


def _around(read: Reader, fields: dict[str, Any], name: str, default: bool) -> tuple[int, ...]:
    """Return the id that is put before or after a text, if there is one."""
    if not read.get(fields, f"add_{name}_token", bool, "tokenizer.ggml", default):
        return ()
    where = f"{name}_token_id"
    id = read.get(fields, where, int, "tokenizer.ggml", None)
    return () if id is None else (read.id(id, f"tokenizer.ggml.{where}", 1 << 31),)


def _strings(read: Reader, fields: dict[str, Any], name: str) -> list[str]:
    strings = fields.get(name)
    if not isinstance(strings, list) or not all(isinstance(s, str) for s in strings):
        raise read.fail(f"tokenizer.ggml.{name}", "an array of strings", strings)
    return strings


def _numbers(read: Reader, fields: dict[str, Any], name: str, count: int) -> list:
    numbers: Any = fields.get(name)
    if not hasattr(numbers, "dtype") or len(numbers) != count:
        got = str(len(numbers)) if hasattr(numbers, "__len__") else numbers
        raise read.fail(f"tokenizer.ggml.{name}", f"{count} numbers", got)
    return numbers.tolist()


def _kinds(read: Reader, fields: dict[str, Any], count: int) -> list[int]:
    return [NORMAL] * count if fields.get("token_type") is None else _numbers(read, fields, "token_type", count)


def _read_byte_level(read: Reader, fields: dict[str, Any]) -> Vocabulary:
    pre = fields.get("pre")
    if not isinstance(pre, str) or pre not in PATTERNS:
        raise read.fail("tokenizer.ggml.pre", f"one of {', '.join(PATTERNS)}", pre)
    spellings, merges = _strings(read, fields, "tokens"), _strings(read, fields, "merges")
    tokens = [b""] * len(spellings)
    special_tokens: dict[str, int] = {}
    added_tokens: dict[str, int] = {}
    ids: dict[str, int] = {}
    unspelled = unspell(spellings)
    for id, (spelling, kind) in enumerate(zip(spellings, _kinds(read, fields, len(spellings)), strict=True)):
        if kind == UNUSED:
            continue
        where = f"tokenizer.ggml.tokens[{id}]"
        if not spelling or spelling in ids or spelling in special_tokens or spelling in added_tokens:
            raise read.fail(where, "a string that no other token has", spelling)
        if kind in (CONTROL, USER_DEFINED):
            (special_tokens if kind == CONTROL else added_tokens)[spelling] = id
            continue
        if not unspelled[id]:
            raise read.fail(where, "the byte-level alphabet", spelling)
        tokens[id], ids[spelling] = unspelled[id], id
    pattern, whole_piece_first = PATTERNS[pre]
    pairs = read.merges(merges, ids, "tokenizer.ggml.merges")
    return Vocabulary(tokens, pairs, pattern, whole_piece_first, special_tokens, added_tokens)


def _read_sentencepiece(read: Reader, fields: dict[str, Any]) -> SentencePieceVocabulary:
    """Tokens with scores. Those of the user are found in the text as SentencePiece does it."""
    if fields.get("remove_extra_whitespaces"):
        raise read.fail("tokenizer.ggml.remove_extra_whitespaces", "false (it is not supported)", "true")
    spellings = _strings(read, fields, "tokens")
    kinds = _kinds(read, fields, len(spellings))
    scores = array("f", _numbers(read, fields, "scores", len(spellings)))
    prefix = read.get(fields, "add_space_prefix", bool, "tokenizer.ggml", True)
    return from_pieces(read, "tokenizer.ggml.tokens", spellings, kinds, scores, prefix)


def gguf_metadata(vocabulary: AnyVocabulary, begin: int | None) -> dict[str, Any]:
    """Return the fields `tokenizer.ggml.*` of a file, with the id that begins a text. ValueError for a vocabulary
    that GGUF's readers would take for another; the differences of the patterns in `NEAREST` are accepted."""
    v = vocabulary
    if isinstance(v, PipelineVocabulary):
        raise Error("save", expected="a byte-level or SentencePiece-style BPE tokenizer for GGUF", got="another kind")
    fields = _byte_level_fields(v) if isinstance(v, Vocabulary) else _sentencepiece_fields(v)
    if any(flags & ~NORMALIZED for flags in v.flags.values()) or v.end:
        raise Error("save", expected="no flags of added tokens and nothing after a text for GGUF", got="some")
    fields |= {"bos_token_id": begin, "add_bos_token": bool(v.begin), "add_eos_token": False}
    if v.begin and v.begin != (begin,):
        raise Error("save", expected="at most one token before a text for GGUF", got=v.begin)
    return {f"tokenizer.ggml.{name}": value for name, value in fields.items() if value is not None}


def _byte_level_fields(v: Vocabulary) -> dict[str, Any]:
    kinds = {pattern: pre for pre, pattern in reversed(PATTERNS.items())}
    pre = kinds.get((v.pattern, v.whole_piece_first)) if isinstance(v.pattern, str) else None
    if v.pattern in NEAREST and v.merges is not None:
        pre = kinds[NEAREST[v.pattern][0], v.whole_piece_first or _spells_its_tokens(v.tokens, v.merges, v.pattern)]
    if pre is None or v.normalizer or v.merges is None:
        what = v.normalizer or ("no merges" if v.merges is None else f"{v.pattern!r:.100}")
        names = ", ".join(sorted({pattern for pattern, _ in PATTERNS.values()} | NEAREST.keys()))
        raise Error("save", expected=f"a pattern that GGUF has a name for ({names})", got=what)
    text = [spell(token) for token in v.tokens] + [""] * (
        max([*v.special_tokens.values(), *v.added_tokens.values()], default=-1) + 1 - len(v.tokens)
    )
    types = [NORMAL if spelled else UNUSED for spelled in text]
    for special, id in v.special_tokens.items():
        text[id], types[id] = special, CONTROL
    for added, id in v.added_tokens.items():
        text[id], types[id] = added, USER_DEFINED
    for id, spelled in enumerate(text):
        if not spelled:
            text[id] = f"[unused{id}]"
    merges = [f"{text[left]} {text[right]}" for left, right in v.merges]
    return {"model": "gpt2", "pre": pre, "tokens": text, "token_type": types, "merges": merges}


def _spells_its_tokens(tokens: list[bytes], merges: list[tuple[int, int]], pattern: Pattern) -> bool:
    """Say whether every token is what its own bytes are encoded to, as in a learned vocabulary: then taking pieces whole
    changes nothing, and the vocabulary gets llama-bpe, the name that most readers know."""
    encoded = _core.BPE(tokens, merges, pattern, False, [], []).encode_batch(list(filter(None, tokens)), None, True)
    return all(len(ids) == 1 for ids in encoded)


def _sentencepiece_fields(v: SentencePieceVocabulary) -> dict[str, Any]:
    if v.merges is not None or v.prefix == "first" or v.prefix_unless_space or v.added_tokens or v.split_at_spaces:
        raise Error("save", expected="SentencePiece's own rules for GGUF (scores, a space before every text or none)")
    text = [pieces.spell(token.decode(errors="replace")) for token in v.tokens]
    types = [NORMAL if spelled else UNUSED for spelled in text]
    for byte, id in enumerate(v.byte_tokens):
        text[id], types[id] = pieces.BYTE_TOKENS[byte], pieces.BYTE
    for symbol, id in v.symbols.items():
        text[id], types[id] = pieces.spell(symbol), USER_DEFINED
    for special, id in v.special_tokens.items():
        text[id], types[id] = special, CONTROL
    if v.unknown is not None:
        types[v.unknown] = pieces.UNKNOWN
    for id, spelled in enumerate(text):
        if not spelled:
            text[id] = f"[unused{id}]"
    scores = [float(s) for s in v.scores] + [0.0] * (len(text) - len(v.scores))
    return {
        "model": "llama",
        "tokens": text,
        "scores": scores,
        "token_type": types,
        "unknown_token_id": v.unknown,
        "add_space_prefix": v.prefix == "always",
    }
