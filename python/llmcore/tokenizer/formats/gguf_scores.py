"""Scores in place of a list of merges, which GGUF has no room for beside SentencePiece's vocabularies."""

from __future__ import annotations

import random

from llmcore.errors import Error
from llmcore.tokenizer.arguments import sentencepiece_core
from llmcore.tokenizer.vocabulary import SentencePieceVocabulary

_SAMPLES = 5000


def with_scores(v: SentencePieceVocabulary) -> SentencePieceVocabulary:
    """Return a vocabulary with a list of merges as one with scores, that of a token the higher the earlier it is made.

    Scores let any two neighbours merge that spell a token, merges only those that are listed. In a vocabulary that was
    learned from text, or converted from scores, both come to the same: that is tried on every token and on many texts of
    several tokens. ValueError, with a text, where it does not, or where cutting at spaces makes a difference.
    """
    if v.merges is None:
        return v
    ids = {token: id for id, token in enumerate(v.tokens) if token}
    made = [ids[v.tokens[left] + v.tokens[right]] for left, right in v.merges]
    scores = [0.0] * len(v.tokens)
    for rank, id in enumerate(dict.fromkeys((*made, *range(len(scores))))):
        scores[id] = -float(rank)
    scored = v._replace(merges=None, scores=scores, split_at_spaces=False)
    theirs, ours = (sentencepiece_core(w._replace(symbols={}, prefix="never"), [], []) for w in (v, scored))
    tokens = list(ids)
    rng = random.Random(0)
    texts = [*tokens, *(b"".join(rng.choices(tokens, k=rng.randint(2, 8))) for _ in range(_SAMPLES))] if tokens else []
    pairs = zip(theirs.encode_batch(texts, None, False), ours.encode_batch(texts, None, False), strict=True)
    wrong = next((text for text, (one, other) in zip(texts, pairs, strict=True) if one != other), None)
    if wrong is not None:
        expected = "merges that come to the same as scores, which is what GGUF has for such a vocabulary"
        raise Error(
            "save", expected=expected, got=f"a list that cuts {wrong.decode(errors='replace')[:60]!r} otherwise"
        )
    return scored
