"""New tokens for a tokenizer that exists: they get the ids after all others."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from llmcore.errors import Error
from llmcore.tokenizer.vocabulary import AnyVocabulary, PipelineVocabulary


def extended(vocabulary: AnyVocabulary, first: int, names: Sequence[str], special: bool) -> AnyVocabulary:
    """Return the vocabulary with these tokens, whose ids begin with `first`. special: whether they are control tokens, which
    no plain text becomes. ValueError for names that can be no token, and for the bytes of a SentencePiece model."""
    for name in names:
        if not name.strip() or not name.isprintable() or len(name) > 256:
            raise Error("tokenizer", expected="a new token of printable letters", got=f"{name!r:.100}")
    ids = {name: first + i for i, name in enumerate(names)}
    if not isinstance(vocabulary, PipelineVocabulary):
        if special:
            return vocabulary._replace(special_tokens=vocabulary.special_tokens | ids)
        return vocabulary._replace(added_tokens=vocabulary.added_tokens | ids)
    if isinstance(vocabulary.document, bytes):
        raise Error("tokenizer", expected="a tokenizer.json, which tokens can be added to", got="a SentencePiece model")
    document = copy.deepcopy(vocabulary.document)
    just_so = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    document["added_tokens"] = [
        *(document.get("added_tokens") or []),
        *({"id": i, "content": name, **just_so} for name, i in ids.items()),
    ]
    return vocabulary._replace(document=document)
