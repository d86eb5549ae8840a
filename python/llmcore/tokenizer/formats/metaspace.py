"""The SentencePiece-style kind of tokenizer.json: what stands there for the space before a text, for spaces in tokens,
and for bytes that are no character's token."""

from __future__ import annotations

from typing import Any

from llmcore.errors import Error
from llmcore.tokenizer.formats.files import AddedToken, Reader
from llmcore.tokenizer.formats.pieces import BYTE_TOKENS, SPACE, byte_tokens, spell, unspell
from llmcore.tokenizer.vocabulary import NORMALIZED, SentencePieceVocabulary

_PREPEND: dict[str, Any] = {"type": "Prepend", "prepend": SPACE}
_REPLACE: dict[str, Any] = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_RESTORE = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
_BYTE_FALLBACK, _FUSE = {"type": "ByteFallback"}, {"type": "Fuse"}
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
_SEQUENCES = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}


def is_metaspace(document: dict) -> bool:
    """Whether a tokenizer.json spells spaces as U+2581."""
    steps: list[Any] = []
    for name in ("normalizer", "pre_tokenizer"):
        part = document.get(name)
        inner = part.get(_SEQUENCES[name]) if isinstance(part, dict) else None
        steps += inner if isinstance(inner, list) else [part]
    names = ("prepend", "content", "replacement")
    return any(SPACE in [step.get(name) for name in names] for step in steps if isinstance(step, dict))


def read_metaspace(read: Reader, document: dict, added: dict[str, AddedToken]) -> SentencePieceVocabulary:
    model = read.get(document, "model", dict)
    if model.get("ignore_merges"):
        raise read.fail("model.ignore_merges", f"false (it is not supported with {SPACE} for spaces)", True)
    ids = _read_vocab(read, read.get(model, "vocab", dict, "model"), added)
    unknown = read.get(model, "unk_token", str, "model", None)
    if unknown is not None and unknown not in ids:
        raise read.fail("model.unk_token", "a token of the vocabulary", unknown)
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
    drop_first_space = _read_decoder(read, document, fallback or ids.keys().isdisjoint(BYTE_TOKENS), bool(bytes_known))
    plain = {content: token for content, token in added.items() if content not in special_tokens}
    raw = {c: token.id for c, token in plain.items() if not (token.normalized and document.get("normalizer"))}
    symbols = {c: token.id for c, token in plain.items() if c not in raw}
    flagged = {content: token.flags for content, token in added.items() if token.flags and content not in symbols}
    if both := [content for content in symbols if added[content].flags != NORMALIZED]:
        raise read.fail(
            "added_tokens", "no lstrip, rstrip, single_word of a token that is found after the normalizer", min(both)
        )
    if symbols and document.get("pre_tokenizer"):
        raise read.fail("added_tokens", "normalized: false beside a normalizer and a pre_tokenizer", min(symbols))
    prefix = " " if rules["prefix"] == "always" else ""  # the normalizer puts it before these tokens, too
    if prefix and (both := symbols.keys() & model["vocab"].keys()):
        raise read.fail("added_tokens", "normalized: false for a token of model.vocab beside Prepend", min(both))
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
        drop_first_space=drop_first_space,
        symbols=symbols,
        added_tokens=raw,
        special_tokens=special_tokens,
        flags=flagged,
        **rules,
    )


def _read_vocab(read: Reader, vocab: dict, added: dict[str, AddedToken]) -> dict[str, int]:
    """The ids of all tokens by their spelling."""
    for content, token in added.items():
        if vocab.get(content, token.id) != token.id:
            raise read.fail(_entry(content), f"the id in added_tokens, {token.id}", vocab[content])
    ids = vocab | {content: token.id for content, token in added.items()}
    read.ids(ids, {}, _entry)
    if "" in ids or " " in "".join(ids):
        wrong = next(
            (spelling for spelling in ids if not spelling or (" " in spelling and spelling not in added)), None
        )
        if wrong is not None:
            raise read.fail("model.vocab", f"tokens that are not empty, with spaces spelled {SPACE}", repr(wrong))
    return ids


def _entry(spelling: str) -> str:
    return f"model.vocab[{spelling[:60]!r}]"


def _steps(read: Reader, document: dict, name: str) -> list[dict]:
    """The steps of a part of the file, whether it is a sequence, one step or none."""
    whole = read.get(document, name, dict, default={})
    steps = [whole] if whole else []
    if whole.get("type") == "Sequence":
        steps = read.get(whole, _SEQUENCES[name], list, name)
    if not all(isinstance(step, dict) for step in steps):
        raise read.fail(f"{name}.{_SEQUENCES[name]}", "objects", steps)
    return steps


def _read_rules(read: Reader, document: dict) -> dict[str, Any]:
    """The fields of a SentencePieceVocabulary about spaces."""
    normalizer = _steps(read, document, "normalizer")
    replaced, prepended = _REPLACE in normalizer, _PREPEND in normalizer
    for step in normalizer:
        if step not in (_REPLACE, _PREPEND):
            raise read.fail("normalizer", f"spaces replaced by {SPACE} and one prepended, nothing else", step)
    metaspace = None
    for step in _steps(read, document, "pre_tokenizer"):
        if step.get("type") == "Metaspace" and step.get("replacement") == SPACE and metaspace is None:
            metaspace = step
        elif not (step.get("type") == "Split" and step.get("pattern") == {"String": " "} and replaced):
            raise read.fail("pre_tokenizer", f"Metaspace with {SPACE}, or none", step)
    if not (replaced or metaspace):
        raise read.fail("normalizer", f"spaces replaced by {SPACE}", normalizer)
    rules = {"prefix": "always" if prepended else "never", "prefix_unless_space": False, "split_at_spaces": False}
    if metaspace is not None:
        scheme = read.get(metaspace, "prepend_scheme", str, "pre_tokenizer", "always")
        if scheme not in ("always", "first", "never"):
            raise read.fail("pre_tokenizer.prepend_scheme", "always, first or never", scheme)
        if metaspace.get("add_prefix_space") not in (None, scheme != "never"):
            raise read.fail("pre_tokenizer.add_prefix_space", "what prepend_scheme says", metaspace)
        rules["split_at_spaces"] = read.get(metaspace, "split", bool, "pre_tokenizer", True)
        if not prepended and scheme != "never":
            rules["prefix"], rules["prefix_unless_space"] = scheme, True
    return rules


def _read_decoder(read: Reader, document: dict, may_fall_back: bool, must_fall_back: bool) -> bool:
    """Whether decoding drops the first space."""
    steps = _steps(read, document, "decoder")
    for fallback in ([_BYTE_FALLBACK], []):
        if may_fall_back if fallback else not must_fall_back:
            for end, drops in (([_FUSE, _STRIP], True), ([_FUSE], False), ([], False)):
                if steps == [_RESTORE, *fallback, *end]:
                    return drops
    raise read.fail("decoder", f"{SPACE} replaced by spaces, ByteFallback, Fuse, Strip of one space", steps)


def pipeline(vocabulary: SentencePieceVocabulary) -> dict[str, Any]:
    """The parts of a tokenizer.json around its model. ValueError for rules that it cannot express."""
    v = vocabulary
    normalizer, pre_tokenizer = [_REPLACE], None
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
        normalizer.insert(0, _PREPEND)
    if v.symbols and normalizer != [_REPLACE]:
        raise Error(
            "save",
            expected="no symbols where a space comes before the text",
            got=f"{min(v.symbols)!r} (tokenizer.json cannot express both)",
        )
    decoder = [_RESTORE, _BYTE_FALLBACK, _FUSE] + ([_STRIP] if v.drop_first_space else [])
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
