"""From a vocabulary to what encodes and decodes with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcore import _core
from llmcore.errors import Error
from llmcore.tokenizer.arguments import Found, check_specials, checked_ids, sentencepiece_core
from llmcore.tokenizer.normalize import nfc
from llmcore.tokenizer.patterns import checked_stages, from_stages, stages_of
from llmcore.tokenizer.vocabulary import (
    NORMALIZED,
    AnyVocabulary,
    PipelineVocabulary,
    SentencePieceVocabulary,
    Vocabulary,
)

if TYPE_CHECKING:
    from llmcore.tokenizer.pipeline.general import General

    Encoder = _core.BPE | General


def make_encoder(vocabulary: AnyVocabulary) -> Encoder:
    """ValueError if the vocabulary contradicts itself."""
    v = vocabulary
    if isinstance(v, PipelineVocabulary):
        from llmcore.tokenizer.pipeline.pipeline import Pipeline  # here, so that importing llmcore stays quick
        from llmcore.tokenizer.pipeline.sentencepiece import SentencePiece

        return SentencePiece(v.document) if isinstance(v.document, bytes) else Pipeline(v.document)
    check_specials(v.special_tokens, "tokenizer")
    check_specials(v.added_tokens, "tokenizer")
    if both := v.special_tokens.keys() & v.added_tokens.keys():
        raise Error("tokenizer", expected="special tokens other than the added tokens", got=repr(min(both)))
    found = checked_ids(v.special_tokens, v.flags), checked_ids(v.added_tokens, v.flags)
    return sentencepiece_core(v, *found) if isinstance(v, SentencePieceVocabulary) else _byte_level(v, *found)


def _byte_level(v: Vocabulary, specials: Found, added: Found) -> _core.BPE:
    if v.normalizer not in (None, "NFC"):
        raise Error("tokenizer", expected="normalizer to be None or 'NFC'", got=repr(v.normalizer))
    if v.normalizer:
        for text, flags in v.flags.items():
            if flags & NORMALIZED and nfc(text) != text:
                raise Error("tokenizer", expected="normalized tokens in normal form NFC", got=ascii(text))
    pattern = from_stages(stages_of(checked_stages(v.pattern, "tokenizer")))
    if v.parts is not None:
        return _core.BPE(v.parts, pattern, v.whole_piece_first, specials, added)
    if v.merges is None:
        return _core.BPE.from_ranks(v.tokens, pattern, specials, added)
    return _core.BPE(v.tokens, v.merges, pattern, v.whole_piece_first, specials, added)
