"""How a word becomes tokens, one merge after another: the rule made visible, in plain Python."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from llmcore import _core
from llmcore.errors import Error
from llmcore.tokenizer.normalize import nfc
from llmcore.tokenizer.training import replace_surrogates
from llmcore.tokenizer.vocabulary import AnyVocabulary, Vocabulary

_LONGEST = 1000  # bytes: every step looks at all of them


class Merge(NamedTuple):
    """One step: the neighbours `left` and `right`, wherever they stand, become `id`."""

    rank: int  # merges of lower rank go first; with tiktoken's rule it is the id
    left: int
    right: int
    id: int
    tokens: list[int]  # of the piece, after this step


class PieceMerges(NamedTuple):
    """A piece of the text, as the split pattern cuts it, and how it becomes its tokens."""

    piece: bytes
    start: list[int]  # the tokens of its bytes
    merges: list[Merge]
    tokens: list[int]  # what it is encoded to
    whole: bool  # whether it is a token as it is, which takes precedence over all merges; those would make it otherwise


def explain_merges(
    vocabulary: AnyVocabulary,
    merges: list[tuple[int, int]],
    encode: Callable[[bytes], list[int]],
    text: str | bytes,
) -> list[PieceMerges]:
    """Do what `Tokenizer.explain_merges` says. merges: in order of rank, also where the vocabulary has no list of them.
    encode: gives the ids of a piece in which special tokens are plain text."""
    text = replace_surrogates(text)
    data = text.encode() if isinstance(text, str) else text
    if len(data) > _LONGEST:
        raise Error("explain_merges", expected=f"a text of up to {_LONGEST} bytes", got=len(data))
    if not isinstance(vocabulary, Vocabulary):
        raise Error("explain_merges", expected="a byte-level tokenizer", got="one of another kind")
    if vocabulary.normalizer:
        data = nfc(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
    ids = {token: id for id, token in enumerate(vocabulary.tokens) if token}

    def joined(left: int, right: int) -> int:
        return ids[vocabulary.tokens[left] + vocabulary.tokens[right]]

    if vocabulary.merges is None:
        ranks = {pair: joined(*pair) for pair in merges}
    else:
        ranks = {pair: rank for rank, pair in enumerate(vocabulary.merges)}
    pieces = []
    for piece in _core.split(vocabulary.pattern, data):
        encoded = encode(piece)
        tokens = start = [ids[piece[i : i + 1]] for i in range(len(piece))]
        steps = []
        while found := [pair for pair in pairwise(tokens) if pair in ranks]:
            best = min(found, key=ranks.__getitem__)
            id = joined(*best)
            tokens = _replaced(tokens, best, id)
            steps.append(Merge(ranks[best], *best, id, tokens))
        whole = piece in ids and (vocabulary.whole_piece_first or vocabulary.merges is None)
        pieces.append(PieceMerges(piece, start, steps, encoded, whole))
    return pieces


def _replaced(tokens: list[int], pair: tuple[int, int], id: int) -> list[int]:
    result: list[int] = []
    for token in tokens:
        if result and (result[-1], token) == pair:
            result[-1] = id
        else:
            result.append(token)
    return result
