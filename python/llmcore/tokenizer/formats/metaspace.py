"""The SentencePiece-style kind of tokenizer.json: what stands there for the space before a text, for spaces in tokens,
and for bytes that are no character's token."""

from __future__ import annotations

from typing import Any

from llmcore.errors import Error
from llmcore.tokenizer.formats.files import AddedToken, Reader
from llmcore.tokenizer.formats.kinds import BYTE_FALLBACK, FUSE, PREPEND, REPLACE, RESTORE, STRIP
from llmcore.tokenizer.formats.pieces import BYTE_TOKENS, SPACE, byte_tokens, spell, unspell
from llmcore.tokenizer.formats.steps import steps_of
from llmcore.tokenizer.vocabulary import NORMALIZED, SentencePieceVocabulary


def read_metaspace(read: Reader, document: dict, added: dict[str, AddedToken]) -> SentencePieceVocabulary:
    model = read.get(document, "model", dict)
    ids = _read_vocab(read, read.get(model, "vocab", dict, "model"), added)
    unknown = read.get(model, "unk_token", str, "model", None)
    fallback = read.get(model, "byte_fallback", bool, "model", False)
    bytes_known = byte_tokens(read, "model.vocab", ids) if fallback and not ids.keys().isdisjoint(BYTE_TOKENS) else []

    special_tokens = {content: token.id for content, token in added.items() if token.special or content == unknown}
    if unknown is not None:
        special_tokens.setdefault(unknown, ids[unknown])
    tokens = [b""] * (max(ids.values(), default=-1) + 1)
    for spelling, id in ids.items():
        if spelling not in special_tokens:
            tokens[id] = read.utf8(unspell(spelling), "model.vocab")
    for byte, id in enumerate(bytes_known):
        tokens[id] = bytes([byte])

    rules = _read_rules(read, document)
    plain = {content: token for content, token in added.items() if content not in special_tokens}
    raw = {c: token.id for c, token in plain.items() if not (token.normalized and document.get("normalizer"))}
    symbols = {c: token.id for c, token in plain.items() if c not in raw}
    flagged = {content: token.flags for content, token in added.items() if token.flags and content not in symbols}
    prefix = " " if rules["prefix"] == "always" else ""  # the normalizer puts it before these tokens, too
    symbols = {prefix + unspell(content): id for content, id in symbols.items()}
    for symbol, id in symbols.items():
        tokens[id] = read.utf8(symbol, "added_tokens")
    unmergeable = special_tokens.keys() | (BYTE_TOKENS if bytes_known else ())
    mergeable = {spelling: id for spelling, id in ids.items() if spelling not in unmergeable}
    return SentencePieceVocabulary(
        tokens,
        merges=read.merges(read.get(model, "merges", list, "model"), mergeable, "model.merges"),
        byte_tokens=bytes_known,
        unknown=None if unknown is None else ids[unknown],
        fuse_unknown=read.get(model, "fuse_unk", bool, "model", False),
        drop_first_space=STRIP in steps_of(document, "decoder"),
        symbols=symbols,
        added_tokens=raw,
        special_tokens=special_tokens,
        flags=flagged,
        **rules,
    )


def _read_vocab(read: Reader, vocab: dict, added: dict[str, AddedToken]) -> dict[str, int]:
    """The ids of all tokens by their spelling."""
    ids = vocab | {content: token.id for content, token in added.items()}
    read.ids(ids, {}, _entry)
    return ids


def _entry(spelling: str) -> str:
    return f"model.vocab[{spelling[:60]!r}]"


def _read_rules(read: Reader, document: dict) -> dict[str, Any]:
    """The fields of a SentencePieceVocabulary about spaces."""
    prepended = PREPEND in steps_of(document, "normalizer")
    rules = {"prefix": "always" if prepended else "never", "prefix_unless_space": False, "split_at_spaces": False}
    for step in steps_of(document, "pre_tokenizer"):
        if step["type"] == "Metaspace":
            rules["split_at_spaces"] = read.get(step, "split", bool, "pre_tokenizer", True)
            scheme = step.get("prepend_scheme", "always")
            if not prepended and scheme != "never":
                rules["prefix"], rules["prefix_unless_space"] = scheme, True
    return rules


def pipeline(vocabulary: SentencePieceVocabulary) -> dict[str, Any]:
    """The parts of a tokenizer.json around its model. ValueError for rules that it cannot express."""
    v = vocabulary
    normalizer, pre_tokenizer = [REPLACE], None
    # A normalizer would change when normalized added tokens are looked for.
    after_raw = v.prefix == "never" and any(flags & NORMALIZED for flags in v.flags.values())
    if v.prefix_unless_space or v.split_at_spaces or after_raw:
        scheme = v.prefix if v.prefix_unless_space else "never"
        pre_tokenizer = {
            "type": "Metaspace",
            "replacement": SPACE,
            "prepend_scheme": scheme,
            "split": v.split_at_spaces,
        }
        normalizer = []
    if v.prefix != "never" and not v.prefix_unless_space:
        if v.prefix == "first":
            raise Error("save", expected="prefix 'first' with prefix_unless_space (tokenizer.json has no other)")
        normalizer.insert(0, PREPEND)
    if v.symbols and normalizer != [REPLACE]:
        raise Error(
            "save",
            expected="no symbols where a space comes before the text",
            got=f"{min(v.symbols)!r} (tokenizer.json cannot express both)",
        )
    decoder = [RESTORE, BYTE_FALLBACK, FUSE] + ([STRIP] if v.drop_first_space else [])
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizer} if normalizer else None,
        "pre_tokenizer": pre_tokenizer,
        "decoder": {"type": "Sequence", "decoders": decoder},
    }


def spellings(vocabulary: SentencePieceVocabulary) -> dict[int, str]:
    """How a tokenizer.json spells the ordinary tokens."""
    v = vocabulary
    bytes_known = dict(zip(v.byte_tokens, BYTE_TOKENS, strict=False))
    spelled = {id: bytes_known.get(id) or spell(token.decode()) for id, token in enumerate(v.tokens) if token}
    return spelled | {id: content for content, id in v.added_tokens.items()}
