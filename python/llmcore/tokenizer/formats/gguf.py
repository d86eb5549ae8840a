"""The vocabulary in a model's GGUF file, and what to write there (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)."""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmcore import _core
from llmcore.errors import Error
from llmcore.tokenizer.formats import pieces
from llmcore.tokenizer.formats.byte_level import spell, unspell
from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.formats.gguf_patterns import PRE, REFUSED, Pre
from llmcore.tokenizer.formats.pieces import CONTROL, NORMAL, UNUSED, USER_DEFINED, from_pieces
from llmcore.tokenizer.vocabulary import (
    NORMALIZED,
    STRIPS_RIGHT,
    AnyVocabulary,
    Pattern,
    PipelineVocabulary,
    SentencePieceVocabulary,
    Vocabulary,
)

# Patterns without a name there -> (the pattern that they are written as, where alone the two cut differently).
NEAREST = {"cl100k": ("llama3", "in blanks with a line break at the end of a text, which cl100k leaves in one piece")}


_NORMALIZER = "llmcore.tokenizer.normalizer"  # GGUF has no key for it
_PHI3_PLAIN = ("<unk>", "<s>", "<|endoftext|>")  # after which blanks stay


def read_gguf(path: Path) -> Vocabulary | SentencePieceVocabulary:
    from llmcore.formats.gguf import load_gguf

    prefix = "tokenizer.ggml."
    metadata = load_gguf(path).metadata
    fields = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    fields[_NORMALIZER] = metadata.get(_NORMALIZER)
    read = Reader(path)
    if fields.get("model") not in ("llama", "gpt2"):
        raise read.fail("tokenizer.ggml.model", "gpt2 (byte-level BPE) or llama (SentencePiece)", fields.get("model"))
    bos = eos = None  # their usual ids, and below whether they are put around a text, as llama.cpp has it
    vocabulary: Vocabulary | SentencePieceVocabulary
    if fields["model"] == "gpt2":
        pre = _pre(read, fields)
        vocabulary, begins = _read_byte_level(read, fields, pre), pre.begins
    else:
        vocabulary, begins, bos, eos = _read_sentencepiece(read, fields), True, 1, 2
        if re.search("phi-?3", str(metadata.get("general.name")).lower()):
            vocabulary = _strip_as_phi3(vocabulary)
    return vocabulary._replace(
        begin=_around(read, fields, "bos", begins, bos), end=_around(read, fields, "eos", False, eos)
    )


def gguf_notes(metadata: Mapping[str, Any]) -> list[str]:
    """Return what a user should know of how a file's vocabulary is read."""
    if metadata.get("tokenizer.ggml.model") == "gpt2" and metadata.get("tokenizer.ggml.pre") in (None, ""):
        return [
            "the file does not say how text is cut (tokenizer.ggml.pre): cut as llama.cpp does by default, "
            "which may differ from the model's own tokenizer"
        ]
    return []


def _pre(read: Reader, fields: dict[str, Any]) -> Pre:
    name = fields.get("pre")
    if name is None or name == "":
        return PRE["default"]
    if not isinstance(name, str) or name not in PRE:
        got = f"{name} ({REFUSED[name]})" if isinstance(name, str) and name in REFUSED else name
        raise read.fail("tokenizer.ggml.pre", "a name of llama.cpp whose rule is known here, or none", got)
    return PRE[name]


def _around(read: Reader, fields: dict[str, Any], name: str, default: bool, usual: int | None) -> tuple[int, ...]:
    """Return the id that is put before or after a text, if there is one. usual: the id where the file does not say."""
    if not read.get(fields, f"add_{name}_token", bool, "tokenizer.ggml", default):
        return ()
    where, count = f"{name}_token_id", len(fields["tokens"])
    id = read.get(fields, where, int, "tokenizer.ggml", usual if usual is not None and usual < count else None)
    return () if id is None else (read.id(id, f"tokenizer.ggml.{where}", count),)


def _strip_as_phi3(v: SentencePieceVocabulary) -> SentencePieceVocabulary:
    """Let blanks after control tokens belong to them, as llama.cpp does for models with such a name."""
    texts = v.special_tokens.keys() | v.added_tokens.keys()
    return v._replace(flags={text: STRIPS_RIGHT for text in texts if text not in _PHI3_PLAIN})


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


def _read_byte_level(read: Reader, fields: dict[str, Any], pre: Pre) -> Vocabulary:
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
    pairs = read.merges(merges, ids, "tokenizer.ggml.merges")
    normalizer = fields.get(_NORMALIZER)
    if normalizer not in (None, "NFC"):
        raise read.fail(_NORMALIZER, "NFC or nothing", normalizer)
    found = special_tokens, added_tokens
    return Vocabulary(tokens, pairs, pre.pattern, pre.whole_piece_first, *found, normalizer=normalizer)


def _read_sentencepiece(read: Reader, fields: dict[str, Any]) -> SentencePieceVocabulary:
    """Tokens with scores."""
    if fields.get("remove_extra_whitespaces"):
        raise read.fail("tokenizer.ggml.remove_extra_whitespaces", "false (it is not supported)", "true")
    spellings = _strings(read, fields, "tokens")
    kinds = _kinds(read, fields, len(spellings))
    scores = array("f", _numbers(read, fields, "scores", len(spellings)))
    prefix = read.get(fields, "add_space_prefix", bool, "tokenizer.ggml", True)
    v = from_pieces(read, "tokenizer.ggml.tokens", spellings, kinds, scores, prefix)
    # llama.cpp looks for the user's tokens before it puts a space in front.
    return v._replace(added_tokens=v.symbols, symbols={}) if prefix else v


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
    written = {f"tokenizer.ggml.{name}": value for name, value in fields.items() if value is not None}
    normalizer = v.normalizer if isinstance(v, Vocabulary) else None
    return written | ({_NORMALIZER: normalizer} if normalizer else {})


def _byte_level_fields(v: Vocabulary) -> dict[str, Any]:
    kinds = {(pre.pattern, pre.whole_piece_first): name for name, pre in reversed(PRE.items())}
    pre = kinds.get((v.pattern, v.whole_piece_first))
    if pre is None and v.merges is not None and not v.whole_piece_first and (v.pattern, True) in kinds:
        pre = kinds[v.pattern, True] if _spells_its_tokens(v.tokens, v.merges, v.pattern) else None
    if v.pattern in NEAREST and v.merges is not None:
        pre = kinds[NEAREST[v.pattern][0], v.whole_piece_first or _spells_its_tokens(v.tokens, v.merges, v.pattern)]
    if pre is None or v.merges is None:
        names = ", ".join(sorted({p.pattern for p in PRE.values() if isinstance(p.pattern, str)} | NEAREST.keys()))
        got = "no merges" if v.merges is None else f"{v.pattern!r:.100}"
        raise Error("save", expected=f"a pattern that GGUF has a name for ({names})", got=got)
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
