"""Added tokens: control tokens, which no plain text becomes, and others, which are found in every text. The expected ids are
those of `tokenizers` 0.23.3 (Tokenizer.from_file of the same file; test_added_tokens_peers.py compares at random)."""

import json

import numpy as np
import pytest

from llmcore.tokenizer import Tokenizer

FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)


@pytest.fixture
def document(tmp_path):
    """Bytes, "he" (256), "ll", "hell", "hello", and <|end|> (260)."""
    tokenizer = Tokenizer.train(iter(["ab"]), 257, pattern="gpt2", special_tokens=["<|end|>"])
    document = json.loads(tokenizer.save(tmp_path / "plain.json").read_text())
    merges = [["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"]]
    vocab = {spelling: id for spelling, id in document["model"]["vocab"].items() if id < 256}
    vocab |= {"".join(pair): 256 + i for i, pair in enumerate(merges)} | {"<|end|>": 260}
    document["model"] |= {"vocab": vocab, "merges": merges}
    document["added_tokens"][0]["id"] = 260
    return document


def add(document, content, id, **flags):
    document["added_tokens"].append({"id": id, "content": content, **FLAGS, **flags})


def load(document, tmp_path):
    """The tokenizer, which is the same when it was saved and loaded."""
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document))
    tokenizer = Tokenizer.load(path)
    again = Tokenizer.load(tokenizer.save(tmp_path / "again.json"))
    assert again == tokenizer
    assert again.digest == tokenizer.digest
    return tokenizer


def test_tokens_that_are_not_special_are_found_in_every_text(document, tmp_path):
    add(document, "<think>", 261, normalized=True)
    tokenizer = load(document, tmp_path)
    assert tokenizer.special_tokens == {"<|end|>": 260}
    assert tokenizer.added_tokens == {"<think>": 261}
    text, ids = "a<think>b", [97, 261, 98]
    assert tokenizer.encode(text) == tokenizer.encode_ordinary(text) == tokenizer.encode_array(text).tolist() == ids
    assert tokenizer.encode_batch([text]) == [ids]
    assert [a.tolist() for a in tokenizer.encode_ordinary_batch([text])] == [ids]
    assert tokenizer.count(text) == 3
    assert [a.tolist() for a in tokenizer.encode_offsets(text)] == [ids, [0, 1, 8]]
    assert tokenizer.decode(ids) == tokenizer.decode(ids, skip_special_tokens=True) == text
    with pytest.raises(ValueError, match=r"special token '<\|end\|>' at byte 7"):
        tokenizer.encode("<think><|end|>")
    assert tokenizer.encode_ordinary("<think><|end|>") == [261, *b"<|end|>"]
    with pytest.raises(ValueError, match="special tokens in allowed_special, got '<think>'"):
        tokenizer.encode(text, allowed_special={"<think>"})


def test_a_word_of_the_vocabulary_keeps_its_id_and_its_merges(document, tmp_path):
    """huggingface/tokenizers#597"""
    document["model"]["merges"].append(["hello", "o"])
    document["model"]["vocab"]["helloo"] = 261
    add(document, "hello", 259, normalized=True, single_word=True)
    tokenizer = load(document, tmp_path)
    assert tokenizer.encode_ordinary("hello") == [259]
    assert tokenizer.encode_ordinary(" hello,") == [32, 259, 44]
    assert tokenizer.encode_ordinary("helloo") == [261]  # not a word of its own, but merges go through it
    assert tokenizer.decode([261, 259]) == "helloohello"


def test_a_control_token_that_merges_make(document, tmp_path):
    """As pad tokens that are a word of the vocabulary, or "!"."""
    add(document, "hello", 259, special=True)
    add(document, "!", 33, special=True)
    tokenizer = load(document, tmp_path)
    assert tokenizer.special_tokens == {"<|end|>": 260, "hello": 259, "!": 33}
    assert tokenizer.encode_ordinary("hello!") == [259, 33]
    with pytest.raises(ValueError, match="special token 'hello' at byte 0"):
        tokenizer.encode("hello!")


def test_raw_text_comes_first(document, tmp_path):
    """A token that is not normalized is looked for before one that is, wherever they begin."""
    add(document, "a<t", 261, normalized=True)
    add(document, "<t>", 262)
    add(document, "xy", 263, normalized=True, special=True)
    tokenizer = load(document, tmp_path)
    assert tokenizer.encode_ordinary("a<t>") == [97, 262]
    assert tokenizer.encode_ordinary("a<txy") == [261, 120, 121]
    assert tokenizer.encode("a<txy", allowed_special="all") == [261, 263]
    with pytest.raises(ValueError, match="special token 'xy' at byte 3"):
        tokenizer.encode("a<txy")


def test_a_token_in_whitespace_that_another_takes(document, tmp_path):
    add(document, "<t>", 261, rstrip=True)
    add(document, "\n\n", 262)
    tokenizer = load(document, tmp_path)
    assert tokenizer.encode_ordinary("<t> \n\n x") == [261, 262, 32, 120]


def test_beside_a_normal_form(document, tmp_path):
    """Raw text is searched as it is; the rest in its normal form, each stretch alone."""
    document["normalizer"] = {"type": "NFC"}
    add(document, "éé", 261, normalized=True)
    add(document, "e\u0301x", 262)
    add(document, "<t>", 263, lstrip=True)
    tokenizer = load(document, tmp_path)
    twice = "e\u0301" * 2
    for method in (tokenizer.encode, tokenizer.encode_ordinary, tokenizer.encode_array):
        assert list(method(twice)) == [261]
        assert list(method(f"e\u0301x{twice}")) == [262, 261]
        assert list(method("e <t>\u0301")) == [101, 263, *"\u0301".encode()]
    assert tokenizer.count(f"e\u0301x{twice} <t>") == 3
    assert tokenizer.encode_batch([twice, "a"]) == [[261], [97]]
    document["added_tokens"][1]["content"] = twice
    with pytest.raises(ValueError, match="expected normalized tokens in normal form NFC, got"):
        load(document, tmp_path)


def test_a_token_that_the_alphabet_spells_otherwise(document, tmp_path):
    """The letter é stands for the byte E9 in the vocabulary, and `tokenizers` looks there for an added token's id."""
    id = document["model"]["vocab"]["é"]
    add(document, "é", id, normalized=True)
    tokenizer = load(document, tmp_path)
    assert tokenizer.encode_ordinary("é") == [id]
    assert tokenizer.decode_bytes([id]) == b"\xe9"


@pytest.mark.parametrize("gap", [0, 3])
def test_ids_survive_a_save(document, tmp_path, gap):
    vocabulary = load(document, tmp_path).vocabulary
    tokenizer = Tokenizer(vocabulary._replace(added_tokens={"<a>": 261 + gap, "<b>": 262 + gap}))
    assert Tokenizer.load(tokenizer.save(tmp_path / "again.json")) == tokenizer
    saved = json.loads((tmp_path / "again.json").read_text())
    assert ("<a>" in saved["model"]["vocab"]) == (gap > 0)  # else `tokenizers` would give it the next id
    assert tokenizer.encode("<a><b>") == [261 + gap, 262 + gap]
    assert tokenizer.decode(np.array([261 + gap, 262 + gap])) == "<a><b>"


def test_ids_are_those_that_tokenizers_gives(document, tmp_path):
    """It numbers tokens that are not in the vocabulary from its end on, whatever the file says."""
    add(document, "<a>", 264)
    add(document, "<b>", 3)
    tokenizer = load(document, tmp_path)
    assert tokenizer.added_tokens == {"<a>": 261, "<b>": 262}
    assert tokenizer.encode("<a>hello<b>") == [261, 259, 262]


def test_a_text_is_one_kind_of_token(document, tmp_path):
    add(document, "<t>", 261)
    vocabulary = load(document, tmp_path).vocabulary
    with pytest.raises(ValueError, match="expected special tokens other than the added tokens, got '<t>'"):
        Tokenizer(vocabulary._replace(special_tokens={"<t>": 262}))
