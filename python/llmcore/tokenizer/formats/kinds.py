"""Which encoder a tokenizer.json gets: one of the two quick ones, where they do all that it says, or the general pipeline.

Decided by looking at the document. What is broken goes to the pipeline too, which names it.
"""

from __future__ import annotations

from typing import Any, Literal

from llmcore.tokenizer.formats.byte_level import byte_alphabet
from llmcore.tokenizer.formats.pieces import BYTE_TOKENS, SPACE
from llmcore.tokenizer.formats.steps import steps_of
from llmcore.tokenizer.patterns import REGEX

Kind = Literal["byte-level", "metaspace", "pipeline"]

PREPEND: dict[str, Any] = {"type": "Prepend", "prepend": SPACE}
REPLACE: dict[str, Any] = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
RESTORE: dict[str, Any] = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
BYTE_FALLBACK, FUSE = {"type": "ByteFallback"}, {"type": "Fuse"}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def kind_of(document: dict[str, Any]) -> Kind:
    """The vocabulary and the merges may be null, and are not looked at then."""
    model = document.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or "merges" not in model:
        return "pipeline"
    if any(model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")):
        return "pipeline"
    added = document.get("added_tokens") or []
    if not isinstance(added, list) or not all(map(_is_token, added)) or not _has_own_ids(model, added):
        return "pipeline"
    if _is_byte_level(document, model, added):
        return "byte-level"
    return "metaspace" if _is_metaspace(document, model, added) else "pipeline"


def _is_token(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("content"), str) and entry["content"] != ""


def _has_own_ids(model: dict[str, Any], added: list[dict[str, Any]]) -> bool:
    """Say whether added tokens have the ids that `tokenizers` gives them, whatever the file says: the vocabulary's, or else
    the next."""
    contents = [token["content"] for token in added]
    if len(set(contents)) < len(contents):
        return False
    vocab = model.get("vocab")
    if not isinstance(vocab, dict):
        return vocab is None
    fresh = len(vocab)
    for token in added:
        id = vocab.get(token["content"])
        if id is None:
            id, fresh = fresh, fresh + 1
        if token.get("id") != id:
            return False
    return True


# ---- byte-level ------------------------------------------------------------------------------------------


def _is_byte_level(document: dict[str, Any], model: dict[str, Any], added: list[dict[str, Any]]) -> bool:
    *splits, last = steps_of(document, "pre_tokenizer") or [None]
    if not isinstance(last, dict) or last.get("type") != "ByteLevel" or last.get("add_prefix_space") is not False:
        return False
    if not all(map(_is_split, splits)) or model.get("byte_fallback"):
        return False
    if document.get("normalizer") not in (None, {"type": "NFC"}):
        return False
    decoders = steps_of(document, "decoder")
    if len(decoders) != 1 or not isinstance(decoders[0], dict) or decoders[0].get("type") != "ByteLevel":
        return False
    vocab = model.get("vocab")
    if not isinstance(vocab, dict):
        return model.get("unk_token") is None
    alphabet = set(byte_alphabet())
    if model.get("unk_token") is not None and not alphabet <= vocab.keys():
        return False  # bytes become the unknown token
    others = {token["content"] for token in added}
    return all(token in others or (token and alphabet.issuperset(token)) for token in vocab)


def _is_split(step: Any) -> bool:
    if not isinstance(step, dict):
        return False
    if step.get("type") == "Digits":
        return True
    if step.get("type") != "Split" or not isinstance(step.get("pattern"), dict):
        return False
    rule = step.get("behavior"), step.get("invert", False)
    # Removing all but the matches comes to the same for our own expressions, which leave nothing between them.
    return rule == ("Isolated", False) or (rule == ("Removed", True) and step["pattern"].get("Regex") in REGEX.values())


# ---- Metaspace -------------------------------------------------------------------------------------------


def _is_metaspace(document: dict[str, Any], model: dict[str, Any], added: list[dict[str, Any]]) -> bool:
    normalizers, cuts = steps_of(document, "normalizer"), steps_of(document, "pre_tokenizer")
    replaced, prepended = REPLACE in normalizers, PREPEND in normalizers
    if len(normalizers) != replaced + prepended or model.get("ignore_merges"):
        return False
    metaspaces = [step for step in cuts if isinstance(step, dict) and step.get("type") == "Metaspace"]
    if len(metaspaces) > 1 or not (replaced or metaspaces) or not all(map(_is_scheme, metaspaces)):
        return False
    if not all(step in metaspaces or (replaced and _splits_at_spaces(step)) for step in cuts):
        return False
    vocab = model.get("vocab")
    if not isinstance(vocab, dict):
        return False
    others = {token["content"] for token in added}
    if "" in vocab or any(" " in token and token not in others for token in vocab):
        return False
    known = vocab.keys() | others
    if model.get("unk_token") is not None and model["unk_token"] not in known:
        return False
    fallback = bool(model.get("byte_fallback"))
    bytes_known = sum(token in known for token in BYTE_TOKENS) if fallback else 0
    if 0 < bytes_known < len(BYTE_TOKENS):
        return False
    unspells = fallback or known.isdisjoint(BYTE_TOKENS)
    return _is_decoder(steps_of(document, "decoder"), unspells, bytes_known > 0) and _are_found_alike(
        document, vocab, model.get("unk_token"), added, prepended
    )


def _is_scheme(step: dict[str, Any]) -> bool:
    scheme = step.get("prepend_scheme", "always")
    return (
        step.get("replacement") == SPACE
        and scheme in ("always", "first", "never")
        and step.get("add_prefix_space") in (None, scheme != "never")
    )


def _splits_at_spaces(step: Any) -> bool:
    return isinstance(step, dict) and step.get("type") == "Split" and step.get("pattern") == {"String": " "}


def _is_decoder(steps: list[Any], may_fall_back: bool, must_fall_back: bool) -> bool:
    if steps[:1] != [RESTORE]:
        return False
    falls_back = steps[1:2] == [BYTE_FALLBACK]
    if steps[1 + falls_back :] not in ([FUSE, STRIP], [FUSE], []):
        return False
    return may_fall_back if falls_back else not must_fall_back


def _are_found_alike(
    document: dict[str, Any], vocab: dict[str, Any], unknown: Any, added: list[dict[str, Any]], prepended: bool
) -> bool:
    """Say whether added tokens that are found in normalized text are found as SentencePiece finds symbols."""
    if document.get("normalizer") is None:
        return True
    for token in added:
        special = token.get("special", False)
        if special or token["content"] == unknown or not token.get("normalized", not special):
            continue
        if any(token.get(flag) for flag in ("single_word", "lstrip", "rstrip")):
            return False
        if document.get("pre_tokenizer") is not None or (prepended and token["content"] in vocab):
            return False
    return True
