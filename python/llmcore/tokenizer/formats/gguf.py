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
from llmcore.tokenizer.formats.gguf_scores import with_scores
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
    model = read.get(fields, "model", str, "tokenizer.ggml", None)
    if model not in ("llama", "gpt2"):
        raise read.fail("tokenizer.ggml.model", "gpt2 (byte-level BPE) or llama (SentencePiece)", model)
    bos = eos = None  # their usual ids, and below whether they are put around a text, as llama.cpp has it
    vocabulary: Vocabulary | SentencePieceVocabulary
    if model == "gpt2":
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
    model, pre = (metadata.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if isinstance(model, str) and model == "gpt2" and (pre is None or pre == ""):
        return [
            "the file does not say how text is cut (tokenizer.ggml.pre): cut as llama.cpp does by default, "
            "which may differ from the model's own tokenizer"
        ]
    return []


def _pre(read: Reader, fields: dict[str, Any]) -> Pre:
    name = read.get(fields, "pre", str, "tokenizer.ggml", "")
    if name == "":
        return PRE["default"]
    if name not in PRE:
        got = f"{name} ({REFUSED[name]})" if name in REFUSED else name
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
    normalizer = read.get(fields, _NORMALIZER, str, "", None)
    if normalizer not in (None, "NFC"):
        raise read.fail(_NORMALIZER, "NFC or nothing", normalizer)
    found = special_tokens, added_tokens
    return Vocabulary(tokens, pairs, pre.pattern, pre.whole_piece_first, *found, normalizer=normalizer)


def _read_sentencepiece(read: Reader, fields: dict[str, Any]) -> SentencePieceVocabulary:
    """Tokens with scores."""
    if read.get(fields, "remove_extra_whitespaces", bool, "tokenizer.ggml", False):
        raise read.fail("tokenizer.ggml.remove_extra_whitespaces", "false (it is not supported)", "true")
    spellings = _strings(read, fields, "tokens")
    kinds = _kinds(read, fields, len(spellings))
    scores = array("f", _numbers(read, fields, "scores", len(spellings)))
    prefix = read.get(fields, "add_space_prefix", bool, "tokenizer.ggml", True)
    v = from_pieces(read, "tokenizer.ggml.tokens", spellings, kinds, scores, prefix)
    if not prefix:
        return v
    # llama.cpp looks for the user's tokens before it puts a space in front and spells spaces as U+2581: those spelled with
    # that are made by merging only.
    found = {text: id for text, id in v.symbols.items() if pieces.SPACE not in spellings[id]}
    return v._replace(added_tokens=found, symbols={})


def gguf_metadata(vocabulary: AnyVocabulary, begin: int | None, rows: int = 0) -> dict[str, Any]:
    """Return the fields `tokenizer.ggml.*` of a file, with the id that begins a text; those that end one are the model's.
    rows: how many ids the model has, which may be more than have tokens. ValueError for a vocabulary that GGUF's readers
    would take for another; what `gguf_differences` says is accepted."""
    v = vocabulary
    if isinstance(v, PipelineVocabulary):
        raise Error("save", expected="a byte-level or SentencePiece-style BPE tokenizer for GGUF", got="another kind")
    tokens = _Tokens(
        max(rows, len(v.tokens), *(id + 1 for id in (*v.special_tokens.values(), *v.added_tokens.values())))
    )
    fields = _byte_level_fields(v, tokens) if isinstance(v, Vocabulary) else _sentencepiece_fields(v, tokens)
    fields |= {"tokens": tokens.spelled(), "token_type": tokens.types, "bos_token_id": begin}
    fields |= {"add_bos_token": bool(v.begin), "add_eos_token": bool(v.end), "eos_token_id": (v.end or (None,))[0]}
    if len(v.begin) > 1 or len(v.end) > 1 or (v.begin and v.begin != (begin,)):
        raise Error("save", expected="at most one token before and after a text for GGUF", got=v.begin or v.end)
    written = {f"tokenizer.ggml.{name}": value for name, value in fields.items() if value is not None}
    if isinstance(v, Vocabulary) and v.normalizer:
        written[_NORMALIZER] = v.normalizer
    if flags := {text: kept for text, given in v.flags.items() if (kept := given & ~NORMALIZED)}:
        if not isinstance(v, SentencePieceVocabulary) or not _strips_as_phi3(v, flags):
            expected = "no lstrip, rstrip or single_word of added tokens, which GGUF has no fields for"
            raise Error("save", expected=expected, got=f"one of {min(flags)!r}")
        written["general.name"] = "phi-3"  # from which llama.cpp and we know
    return written


def gguf_differences(v: AnyVocabulary) -> list[str]:
    """Return in which texts a vocabulary's file gives others than the vocabulary, a sentence each."""
    found = []
    if isinstance(v, Vocabulary) and isinstance(v.pattern, str) and v.pattern in NEAREST:
        other, where = NEAREST[v.pattern]
        found.append(
            f"GGUF has no name for the tokenizer's pattern {v.pattern}: written as {other}, which differs {where}"
        )
    if isinstance(v, Vocabulary) and v.pattern == "o200k":
        found.append("llama.cpp cuts letters with combining marks in another way than o200k")
    if isinstance(v, Vocabulary) and v.normalizer:
        found.append(f"GGUF has no normal forms: only llmcore brings text to {v.normalizer} before it is encoded")
    if isinstance(v, SentencePieceVocabulary) and v.prefix == "first":
        found.append(
            "in GGUF a space comes before the text after each control token too, not before the first one alone"
        )
    if isinstance(v, SentencePieceVocabulary) and v.prefix != "never" and v.prefix_unless_space:
        found.append("in GGUF a space comes before a text that begins with one too")
    if isinstance(v, SentencePieceVocabulary) and any(flags & STRIPS_RIGHT for flags in v.flags.values()):
        found.append("of the blanks after a control token llama.cpp takes the ASCII ones only")
    return found


class _Tokens:
    """The spelling and the type of every id."""

    def __init__(self, count: int):
        self.texts, self.types = [""] * count, [UNUSED] * count

    def add(self, id: int, text: str, kind: int) -> None:
        if text:
            self.texts[id], self.types[id] = text, kind

    def spelled(self) -> list[str]:
        """Return the spellings, with names for ids without a token. ValueError for two alike, which no reader takes."""
        for id, text in enumerate(self.texts):
            self.texts[id] = text or f"[unused{id}]"
        if len(set(self.texts)) < len(self.texts):
            ids = {text: id for id, text in enumerate(self.texts)}
            twice = next(text for id, text in enumerate(self.texts) if ids[text] != id)
            raise Error(
                "save", expected="tokens of different spellings for GGUF", got=f"two that are spelled {twice!r}"
            )
        return self.texts


def _byte_level_fields(v: Vocabulary, tokens: _Tokens) -> dict[str, Any]:
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
    for id, token in enumerate(v.tokens):
        tokens.add(id, spell(token), NORMAL)
    for kind, named in ((CONTROL, v.special_tokens), (USER_DEFINED, v.added_tokens)):
        for text, id in named.items():
            tokens.add(id, text, kind)
    merges = [f"{spell(v.tokens[left])} {spell(v.tokens[right])}" for left, right in v.merges]
    return {"model": "gpt2", "pre": pre, "merges": merges}


def _spells_its_tokens(tokens: list[bytes], merges: list[tuple[int, int]], pattern: Pattern) -> bool:
    """Say whether every token is what its own bytes are encoded to, as in a learned vocabulary: then taking pieces whole
    changes nothing, and the vocabulary gets llama-bpe, the name that most readers know."""
    encoded = _core.BPE(tokens, merges, pattern, False, [], []).encode_batch(list(filter(None, tokens)), None, True)
    return all(len(ids) == 1 for ids in encoded)


def _sentencepiece_fields(v: SentencePieceVocabulary, tokens: _Tokens) -> dict[str, Any]:
    if not v.byte_tokens:
        raise Error("save", expected="tokens for all of the 256 bytes, without which GGUF's readers fail", got="none")
    if v.symbols and v.prefix != "never":
        expected = "no tokens of the user that are found after the space before a text, as GGUF has none"
        raise Error("save", expected=expected, got=repr(min(v.symbols)))
    inside = next((token for token in v.tokens if b" " in token[1:]), None) if v.split_at_spaces else None
    if inside is not None:
        expected = "tokens that hold spaces at their beginnings only, as GGUF does not cut at spaces"
        raise Error("save", expected=expected, got=repr(inside.decode(errors="replace")))
    scores = with_scores(v).scores
    for id, token in enumerate(v.tokens):
        tokens.add(id, pieces.spell(token.decode(errors="replace")), NORMAL)
    for spelling, id in zip(pieces.BYTE_TOKENS, v.byte_tokens, strict=True):
        tokens.add(id, spelling, pieces.BYTE)
    # Those of the user are looked for in the text, whose spaces are spaces then.
    for kind, named in ((USER_DEFINED, v.symbols), (USER_DEFINED, v.added_tokens), (CONTROL, v.special_tokens)):
        for text, id in named.items():
            tokens.add(id, text, pieces.UNKNOWN if id == v.unknown else kind)
    return {
        "model": "llama",
        "scores": [float(score) for score in scores] + [0.0] * (len(tokens.texts) - len(scores)),
        "unknown_token_id": v.unknown,
        "add_space_prefix": v.prefix != "never",
    }


def _strips_as_phi3(v: SentencePieceVocabulary, flags: Mapping[str, int]) -> bool:
    texts = v.special_tokens.keys() | v.added_tokens.keys()
    known = {token.decode(errors="replace") for token in v.tokens} | texts
    return known.issuperset({*_PHI3_PLAIN, "</s>"}) and flags == dict.fromkeys(
        texts.difference(_PHI3_PLAIN), STRIPS_RIGHT
    )
