"""Forms over vocabularies that do not spell every text, or in which a token is spelled by where it stands."""

import json
import re

import pytest

import llmcore
from support.last_token_model import last_token_model

pytest.importorskip("llguidance")

LETTERS = [chr(c) for c in range(33, 127)]


def tokenizer(folder, model, decoder=None, pre_tokenizer=None):
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    value = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": pre_tokenizer,
        "post_processor": None, "decoder": decoder, "model": model,
        "added_tokens": [{"id": i, "content": text, **special} for i, text in enumerate(("[UNK]", "[SEP]"))],
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(value))
    return llmcore.Tokenizer.load(folder / "tokenizer.json")


def model_of(tokenizer):
    lm = last_token_model({}, tokenizer)
    lm.end_ids = (1,)
    return lm


def word_piece(folder):
    pieces = [
        "[UNK]",
        "[SEP]",
        *LETTERS,
        *(f"##{c}" for c in LETTERS),
        "yes",
        "##yes",
        "##es",
        "sir",
        "##no",
        "the",
        "cat",
    ]
    model = {
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": {p: i for i, p in enumerate(pieces)},
    }  # fmt: skip
    return tokenizer(
        folder, model, {"type": "WordPiece", "prefix": "##", "cleanup": True}, {"type": "BertPreTokenizer"}
    )


@pytest.mark.parametrize("cleanup", [True, False])
def test_word_pieces_spell_forms(tmp_path, cleanup):
    lm = model_of(word_piece(tmp_path))
    texts = set()
    for seed in range(12):
        options = {"temperature": 5.0, "seed": seed}
        texts.add(lm.generate("the cat", 30, choices=["yes", "no", " yes sir"], **options).text)
        c = lm.generate("the cat", 60, regex=r"[a-c]{3}-(the )?t", **options)
        assert re.fullmatch(r"[a-c]{3}-(the )?t", c.text)
        schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
        schema["additionalProperties"] = False
        c = lm.generate("the cat", 60, json_schema={**schema, "x-guidance": {"whitespace_flexible": False}}, **options)
        assert list(json.loads(c.text)) == ["a"]
    assert texts == {"yes", "no", " yes sir"}


def test_letters_that_are_missing(tmp_path):
    """What cannot be spelled is refused at the beginning, or where the text has got to."""
    pieces = [
        ["<unk>", 0.0],
        ["</s>", 0.0],
        ["▁", -2.0],
        ["t", -3.0],
        ["rue", -3.0],
        ["f", -3.0],
        ["a", -3.0],
        ["x", -3.0],
    ]
    model = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False}
    space = {"replacement": "▁", "prepend_scheme": "always", "split": True}
    lm = model_of(tokenizer(tmp_path, model, {"type": "Metaspace", **space}, {"type": "Metaspace", **space}))
    assert lm.generate("t", 9, regex="(true|false)\n?x", forced=[3]).text == "truex"
    with pytest.raises(RuntimeError, match=r"\[constrain\] expected a token of the model that goes on with the form"):
        lm.generate("t", 9, regex="(true|false)\n?x", forced=[5])
    with pytest.raises(ValueError, match=r"\[constrain\] regex: expected a form that the model's tokens spell"):
        lm.generate("t", 9, regex="no")


def test_whole_words(tmp_path):
    """Without a decoder every word has a space before it."""
    vocab = {w: i for i, w in enumerate(["[UNK]", "[SEP]", "yes", "no", "sir"])}
    lm = model_of(
        tokenizer(tmp_path, {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}, None, {"type": "Whitespace"})
    )
    assert {lm.generate("no", 9, choices=[" yes sir", " no"], seed=s, temperature=90.0).text for s in range(9)} == {
        " yes sir",
        " no",
    }
    with pytest.raises(ValueError, match=r"\[constrain\] choices: expected a form that the model's tokens spell"):
        lm.generate("no", 9, choices=["yes", "no"])


def test_tokens_that_their_neighbours_change_are_not_used(tmp_path):
    """A word's suffix is a space, but not at the end of a text: the forms have only tokens that are always the same."""
    vocab = {w: i for i, w in enumerate(["[UNK]", "[SEP]", "a", "b", "a</w>", "b</w>"])}
    model = {
        "type": "BPE", "dropout": None, "unk_token": "[UNK]", "continuing_subword_prefix": None, "fuse_unk": False,
        "end_of_word_suffix": "</w>", "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": [],
    }  # fmt: skip
    lm = model_of(tokenizer(tmp_path, model, {"type": "BPEDecoder", "suffix": "</w>"}, {"type": "BertPreTokenizer"}))
    for seed in range(6):
        c = lm.generate([2], 9, regex="[ab]{3}", seed=seed, temperature=9.0)
        assert re.fullmatch("[ab]{3}", c.text)
        assert {*c.tokens} <= {2, 3}
    with pytest.raises(RuntimeError, match=r"\[constrain\] expected a token of the model that goes on with the form"):
        lm.generate([2], 9, regex="a[ab] a")
