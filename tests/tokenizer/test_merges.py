"""`explain_merges` and `digest`: what the encoder does, and what tells tokenizers apart."""

import pickle

import pytest
from hypothesis import given

from llmcore.tokenizer import Tokenizer, Vocabulary
from support.plain_tokenizer import DATA, TEXTS

BY_RANK = [*(bytes([b]) for b in range(256)), b"ab", b"bc", b"abc", b"cd", b" ab", b"abcd", b"  "]


def replayed(piece):
    """The tokens behind each step, by the definition: every occurrence from the left."""
    tokens = list(piece.start)
    for merge in piece.merges:
        after, i = [], 0
        while i < len(tokens):
            if tokens[i : i + 2] == [merge.left, merge.right]:
                after.append(merge.id)
                i += 2
            else:
                after.append(tokens[i])
                i += 1
        assert merge.tokens == after != tokens
        tokens = after
    return tokens


def check(tokenizer, data):
    pieces = tokenizer.explain_merges(data)
    assert b"".join(piece.piece for piece in pieces) == data
    assert [id for piece in pieces for id in piece.tokens] == tokenizer.encode_ordinary(data)
    ids = {token: id for id, token in enumerate(tokenizer.vocabulary.tokens)}
    for piece in pieces:
        assert [tokenizer.token_bytes(id) for id in piece.start] == [bytes([b]) for b in piece.piece]
        assert piece.tokens == ([ids[piece.piece]] if piece.whole else replayed(piece))
        for merge in piece.merges:
            assert tokenizer.token_bytes(merge.id) == tokenizer.token_bytes(merge.left) + tokenizer.token_bytes(
                merge.right
            )
    return pieces


@given(TEXTS)
def test_merge_lists(tokenizer, text):
    for piece in check(tokenizer, text.encode()):
        ranks = [merge.rank for merge in piece.merges]
        assert ranks == sorted(ranks)
        assert [tokenizer.merges[rank] for rank in ranks] == [(m.left, m.right) for m in piece.merges]
        assert not piece.whole


@given(DATA)
def test_any_bytes(tokenizer, data):
    check(tokenizer, data)


@given(TEXTS)
def test_by_rank(text):
    tokenizer = Tokenizer(Vocabulary(BY_RANK, None, "cl100k"))
    for data in (text.encode(), text.replace("ſ", "abcd").encode()):
        for piece in check(tokenizer, data):
            assert all(merge.rank == merge.id for merge in piece.merges)
            assert piece.whole == (piece.piece in BY_RANK)


def test_steps_of_a_word():
    tokenizer = Tokenizer.train(iter(["low low lower lowest new newer"] * 3), 300, special_tokens=[])
    (piece,) = tokenizer.explain_merges("lower")
    spelled = [[tokenizer.token_bytes(id).decode() for id in step.tokens] for step in piece.merges]
    assert [" ".join(step) for step in spelled] == ["lo w e r", "low e r", "low er"]
    assert tokenizer.explain_merges("") == []
    with pytest.raises(ValueError, match=r"\[explain_merges\] expected a text of up to 1000 bytes, got 1001"):
        tokenizer.explain_merges("x" * 1001)


def test_stages_and_normal_form():
    tokenizer = Tokenizer(Vocabulary(BY_RANK, None, (r"\p{N}", "a|[^a]+"), normalizer="NFC"))
    pieces = tokenizer.explain_merges("ab1e\u0301")
    assert [piece.piece for piece in pieces] == [b"a", b"b", b"1", "\xe9".encode()]
    assert [id for piece in pieces for id in piece.tokens] == tokenizer.encode_ordinary("ab1e\u0301")


def test_digest_survives_saving_and_pickling(tokenizer, tmp_path):
    others = [
        Vocabulary(BY_RANK, None, "gpt2", True, {"<s>": 300}),
        Vocabulary(BY_RANK, None, ["smollm", "[a-c]+"], True, normalizer="NFC"),
        Vocabulary(BY_RANK, None, r"\w+|\W", True),
    ]
    for number, each in enumerate((tokenizer, *map(Tokenizer, others))):
        each.save(tmp_path / f"{number}.json")
        assert each.digest == Tokenizer.load(tmp_path / f"{number}.json").digest
        assert each.digest == pickle.loads(pickle.dumps(each)).digest
        assert len(each.digest) == 32
    # Shards on disk are known by it: it must not change from version to version.
    assert Tokenizer(Vocabulary(BY_RANK, None, "gpt2", True, {"<s>": 300})).digest == "834bfb1124f10fdf9de461916fdd4be0"


def test_digest_tells_tokenizers_apart(tokenizer):
    v = tokenizer.vocabulary
    others = [
        v._replace(pattern="gpt2"),
        v._replace(pattern="a"),
        v._replace(pattern=("a", "gpt2")),
        v._replace(normalizer="NFC"),
        v._replace(whole_piece_first=True),
        v._replace(merges=v.merges[:-1]),
        v._replace(merges=[v.merges[1], v.merges[0], *v.merges[2:]]),
        Vocabulary(BY_RANK, None, "cl100k"),
        Vocabulary([*BY_RANK[:256], *reversed(BY_RANK[256:])], None, "cl100k"),
        v._replace(special_tokens={name + "x": id for name, id in v.special_tokens.items()}),
        v._replace(special_tokens={name: id + 1 for name, id in v.special_tokens.items()}),
    ]
    assert len({tokenizer.digest, *(Tokenizer(other).digest for other in others)}) == 1 + len(others)
