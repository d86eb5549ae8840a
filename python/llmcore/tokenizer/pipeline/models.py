"""Models: BPE, WordPiece, WordLevel and Unigram, read from a tokenizer.json. The work is done in C++
(csrc/tokenizer/models)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from llmcore import _core
from llmcore.tokenizer.formats.files import Reader

# What tells a model without a type, in the order in which they are tried: the first whose fields are all there.
_FIELDS = {
    "BPE": ("vocab", "merges"),
    "WordPiece": ("vocab", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word"),
    "WordLevel": ("vocab", "unk_token"),
    "Unigram": ("vocab",),
}


class Model(NamedTuple):
    """encoder: turns pieces into ids; tokens: what each id is in the file, or None; ids: the reverse, for which the last
    of two alike counts; size: how many tokens `tokenizers` counts, from which it numbers added ones."""

    encoder: _core.Model
    tokens: list[str | None]
    ids: dict[str, int]
    size: int


def kind_of(model: dict[str, Any]) -> str | None:
    """Return the type of a model, which old files leave out; None if its fields fit no model."""
    kind = model.get("type")
    if kind is not None:
        return kind if isinstance(kind, str) else None
    for name, fields in _FIELDS.items():
        if all(field in model for field in fields) and isinstance(model["vocab"], list) == (name == "Unigram"):
            return name
    return None


def read_model(read: Reader, document: dict[str, Any]) -> Model:
    model = read.get(document, "model", dict)
    kind = kind_of(model)
    if kind not in _FIELDS:
        raise read.fail("model.type", f"one of {', '.join(_FIELDS)}", model.get("type"))
    if kind == "Unigram":
        return _read_unigram(read, model)
    ids = read.get(model, "vocab", dict, "model")
    read.ids(ids, {}, _entry)
    _check_utf8(read, ids)
    tokens: list[str | None] = [None] * (max(ids.values(), default=-1) + 1)
    for spelling, id in ids.items():
        tokens[id] = spelling
    spellings = [token or "" for token in tokens]
    encoder = {"BPE": _bpe, "WordPiece": _wordpiece, "WordLevel": _wordlevel}[kind](read, model, spellings, ids)
    return Model(encoder, tokens, ids, len(ids))


def _entry(spelling: str) -> str:
    return f"model.vocab[{spelling[:60]!r}]"


def _check_utf8(read: Reader, ids: dict[str, int]) -> None:
    try:
        "".join(ids).encode()
    except UnicodeEncodeError:
        for spelling in ids:
            read.utf8(spelling, "model.vocab")


def _bpe(read: Reader, model: dict[str, Any], spellings: list[str], ids: dict[str, int]) -> _core.Model:
    dropout = model.get("dropout")
    if dropout not in (None, 0) or isinstance(dropout, bool):
        raise read.fail("model.dropout", "none (text is not encoded at random here)", dropout)
    merges = read.get(model, "merges", list, "model")
    if merges and all(isinstance(merge, str) for merge in merges):
        merges = [merge for merge in merges if not merge.startswith("#version")]
    unknown = read.get(model, "unk_token", str, "model", None)

    def flag(name: str) -> bool:
        return read.get(model, name, bool, "model", False)

    def text(name: str) -> str:
        found = read.get(model, name, str, "model", "")
        read.utf8(found, f"model.{name}")
        return found

    return _core.GeneralBPE(
        spellings,
        read.merges(merges, ids, "model.merges"),
        None if unknown is None else ids.get(unknown),
        text("continuing_subword_prefix"),
        text("end_of_word_suffix"),
        flag("fuse_unk"),
        flag("byte_fallback"),
        flag("ignore_merges"),
    )


def _wordpiece(read: Reader, model: dict[str, Any], spellings: list[str], ids: dict[str, int]) -> _core.Model:
    most = read.id(model.get("max_input_chars_per_word"), "model.max_input_chars_per_word", 1 << 63)
    unknown = ids.get(read.get(model, "unk_token", str, "model"))
    return _core.WordPiece(spellings, unknown, read.get(model, "continuing_subword_prefix", str, "model"), most)


def _wordlevel(read: Reader, model: dict[str, Any], spellings: list[str], ids: dict[str, int]) -> _core.Model:
    return _core.WordLevel(spellings, ids.get(read.get(model, "unk_token", str, "model")))


_POWERS = [float(f"1e{n}") for n in range(309)]


def _as_serde_reads(number: float) -> float:
    """Return what serde_json makes of a number as it is written: its digits as a number, divided by a power of ten. That is
    the next one now and then, which decides between ways to cut a text whose scores add up to the same."""
    digits, _, power = repr(abs(number)).partition("e")
    whole, _, fraction = digits.partition(".")
    value, exponent = float(int(whole + fraction)), int(power or 0) - len(fraction)
    while exponent < -308:
        value, exponent = value / 1e308, exponent + 308
    value = value * _POWERS[exponent] if exponent >= 0 else value / _POWERS[-exponent]
    return math.copysign(value, number)


def _read_unigram(read: Reader, model: dict[str, Any]) -> Model:
    vocab = read.get(model, "vocab", list, "model")
    tokens: list[str | None] = []
    scores: list[float] = []
    for number, entry in enumerate(vocab):
        where = f"model.vocab[{number}]"
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise read.fail(where, "a token and its score", entry)
        token, score = entry
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not abs(score) < math.inf:
            raise read.fail(where, "a score that is a number", score)
        tokens.append(token)
        scores.append(_as_serde_reads(float(score)))
    unknown = model.get("unk_id")
    if unknown is not None:
        read.id(unknown, "model.unk_id", len(tokens))
    ids = {token: id for id, token in enumerate(tokens) if token is not None}
    _check_utf8(read, ids)
    fallback = read.get(model, "byte_fallback", bool, "model", False)
    spellings = [token or "" for token in tokens]
    return Model(_core.Unigram(spellings, scores, unknown, fallback), tokens, ids, len(tokens))
