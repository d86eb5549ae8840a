"""The models of a general tokenizer.json. Expected ids follow from the models' definitions; test_models_peers.py compares
with Hugging Face's own."""

import itertools
import math
import random
from pathlib import Path

import pytest

from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.pipeline.models import read_model


def encode(model, *pieces):
    return read_model(Reader(Path("file")), {"model": model}).encoder.encode(list(pieces))


def refused(model, *pieces):
    with pytest.raises(ValueError, match=r"^\[") as error:
        encode(model, *pieces)
    assert "\n" not in str(error.value)
    return str(error.value)


def vocab(*tokens):
    return {token: id for id, token in enumerate(tokens)}


WORDPIECE = {
    "type": "WordPiece",
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 8,
    "vocab": vocab("[UNK]", "un", "##aff", "##able", "##a", "a", "##b", "é", "##é"),
}


def test_wordpiece_takes_the_longest_token_at_each_place():
    assert encode(WORDPIECE, "unaff", "aab", "éé") == [1, 2, 5, 4, 6, 7, 8]
    assert encode(WORDPIECE, "unafx", "b", "a" * 8, "a" * 9, "é" * 8) == [0, 0, 5, *[4] * 7, 0, 7, *[8] * 7]
    assert encode(WORDPIECE | {"continuing_subword_prefix": ""}, "aun") == [5, 1]


def test_wordpiece_without_an_unknown_token():
    model = WORDPIECE | {"unk_token": "nope"}
    assert encode(model, "un") == [1]
    assert refused(model, "x").startswith("[encode] expected text that the vocabulary has tokens for")


def test_wordlevel():
    model = {"type": "WordLevel", "unk_token": "?", "vocab": vocab("?", "a b", "\u4e2d")}
    assert encode(model, "a b", "\u4e2d", "a", 7) == [1, 2, 0, 7]


def best(pieces, text):
    """The split with the greatest sum of scores, by trying all of them."""
    scores = dict(pieces)
    splits = []
    for cuts in itertools.product((False, True), repeat=len(text) - 1):
        tokens = [""]
        for c, cut in zip(text, (False, *cuts), strict=True):
            tokens = [*tokens, c] if cut else [*tokens[:-1], tokens[-1] + c]
        splits.append((sum(scores.get(token, -math.inf) for token in tokens), tokens))
    return max(splits)[1]


def test_unigram_finds_the_best_split():
    generator = random.Random(1)
    pieces = [["?", 0.0], *([c, -generator.uniform(5, 9)] for c in "abc")]
    spelled = {"".join(generator.choices("abc", k=generator.randint(2, 5))) for _ in range(40)}
    pieces += [[token, -generator.uniform(5, 25)] for token in sorted(spelled)]
    model = {"type": "Unigram", "unk_id": 0, "vocab": pieces}
    ids = {token: id for id, (token, _) in enumerate(pieces)}
    for _ in range(50):
        text = "".join(generator.choices("abc", k=generator.randint(1, 10)))
        assert encode(model, text) == [ids[token] for token in best(pieces[1:], text)]


def test_unigram_unknown_text():
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["?", 0.0], ["a", -1.0], ["<0x78>", -2.0], ["<0xC3>", -2.0]]}
    assert encode(model, "axxa") == [1, 0, 1]  # a run is one
    assert encode(model | {"byte_fallback": True}, "axxa\u00e9") == [1, 2, 2, 1, 0]  # \u00e9 has a byte without a token
    assert "no unknown token" in refused(model | {"unk_id": None}, "x")
    assert encode({**model, "vocab": [*model["vocab"], ["a", -3.0]]}, "a") == [4]  # of two alike, the last


def test_unigram_scores_are_read_as_tokenizers_reads_them():
    """Of two ways that add up to the same, the last bit of a score decides; serde_json rounds twice. The number is
    -0.9523431573363882 there."""
    pieces = [["?", -4.1], ["b", -0.9523431573363883], ["\u00e9c", -2.0], ["c\u00e9", -2.0], ["x", -9.979982623019701]]
    assert encode({"type": "Unigram", "unk_id": 0, "vocab": pieces}, "b\u00e9c\u00e9", "\u00e9c\u00e9") == [
        1,
        2,
        0,
        0,
        3,
    ]


BPE = {
    "type": "BPE",
    "dropout": None,
    "unk_token": "<unk>",
    "continuing_subword_prefix": "",
    "end_of_word_suffix": "</w>",
    "fuse_unk": False,
    "vocab": vocab("<unk>", "a", "b", "a</w>", "b</w>", "ab</w>", "aab</w>"),
    "merges": ["#version: 0.2", "a b</w>", "a ab</w>"],
}


def test_bpe_with_a_suffix():
    assert encode(BPE, "aab", "ba", "ab", "b") == [6, 2, 3, 5, 4]
    assert encode(BPE, "axxb") == [1, 0, 0, 4]
    assert encode(BPE | {"fuse_unk": True}, "axxb") == [1, 0, 4]
    assert encode(BPE | {"merges": [["a", "b</w>"], ["a", "ab</w>"]]}, "aab") == [6]


def test_bpe_with_a_prefix():
    model = BPE | {"continuing_subword_prefix": "##", "end_of_word_suffix": None}
    model |= {"vocab": vocab("<unk>", "a", "##a", "##b", "ab", "##ab"), "merges": [["a", "##b"], ["##a", "##b"]]}
    assert encode(model, "abab") == [4, 5]


def test_bpe_whole_pieces_and_bytes():
    model = BPE | {"end_of_word_suffix": None, "byte_fallback": True, "merges": []}
    model["vocab"] = vocab("<unk>", "a", "b", "ab", "<0xC3>", "<0xA9>")
    assert encode(model, "ab\u00e9") == [1, 2, 4, 5]
    assert encode(model | {"ignore_merges": True}, "ab") == [3]
    assert encode(model, "\u4e2d") == [0]
    assert "no unknown token" in refused(model | {"unk_token": None}, "\u4e2d")


def test_bpe_merges_the_lowest_rank_first_and_of_a_pair_twice_the_last():
    names = vocab("a", "b", "c", "ab", "bc", "abc")
    model = BPE | {"end_of_word_suffix": None, "vocab": names}
    assert encode(model | {"merges": ["b c", "a b", "a bc"]}, "abcab") == [5, 3]
    assert encode(model | {"merges": ["a b", "b c", "a bc"]}, "abcab") == [3, 2, 3]
    assert encode(model | {"merges": ["a b", "b c", "a bc", "a b"]}, "abcab") == [5, 3]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (BPE | {"dropout": 0.1}, "model.dropout: expected none"),
        (BPE | {"merges": ["a x"]}, "model.merges[0]: expected tokens of the vocabulary, got x"),
        (BPE | {"merges": ["a a"]}, "merges[0] to make a token, got 'aa'"),
        (BPE | {"vocab": {"a": -1}}, "model.vocab['a']: expected an id"),
        (BPE | {"vocab": {"a": 1 << 40}}, "model.vocab['a']: expected an id"),
        (BPE | {"vocab": {"a": 0, "b": 0}}, "expected an id that no other token has"),
        (BPE | {"vocab": {"\ud800": 0}}, "UTF-8"),
        (BPE | {"type": "Morfessor"}, "model.type: expected one of BPE, WordPiece, WordLevel, Unigram, got Morfessor"),
        ({"vocab": {}}, "model.type"),
        (WORDPIECE | {"max_input_chars_per_word": -1}, "model.max_input_chars_per_word: expected an id"),
        (WORDPIECE | {"vocab": {"x" * 65537: 0}}, "tokens of at most 65536 bytes"),
        ({"type": "Unigram", "vocab": [["a"]]}, "model.vocab[0]: expected a token and its score"),
        ({"type": "Unigram", "vocab": [["a", True]]}, "model.vocab[0]: expected a score"),
        ({"type": "Unigram", "vocab": [["a", 1e999]]}, "model.vocab[0]: expected a score"),
        ({"type": "Unigram", "unk_id": 1, "vocab": [["a", 1]]}, "model.unk_id: expected an id from 0 to 0"),
    ],
)
def test_broken_models_are_refused(model, message):
    assert message in refused(model, "a")


def test_a_model_without_a_type():
    for model in (BPE, WORDPIECE, {"type": "WordLevel", "unk_token": "?", "vocab": vocab("?", "ab")}):
        untyped = {name: value for name, value in model.items() if name != "type"}
        assert encode(untyped, "ab") == encode(model, "ab")
    assert encode({"unk_id": 0, "vocab": [["?", 0], ["ab", 1]]}, "ab") == [1]


def test_long_pieces():
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["?", 0.0], ["ab", -1.0]]}
    assert encode(model, "ab" * 100_000) == [1] * 100_000
    bpe = BPE | {"end_of_word_suffix": None, "vocab": vocab("<unk>", "a", "b", "ab", "abab")}
    assert encode(bpe | {"merges": ["a b", "ab ab"]}, "ab" * 100_000) == [4] * 50_000
