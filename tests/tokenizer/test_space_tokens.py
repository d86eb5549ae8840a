"""Runs of whitespace that are tokens of their own, as GPT-NeoX and Pythia have them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcore.tokenizer import Tokenizer
from llmcore.tokenizer.formats.gguf import gguf_metadata
from support.gguf_files import gguf

TEXTS = st.lists(
    st.sampled_from([" ", "  ", "\t", "\n", "a", "é", "e\u0301", " \u0308", "b ", "<|endoftext|>"]), max_size=14
)


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    """NFC, and runs of 2, 3 and 5 spaces and of two tabs behind the vocabulary."""
    tokenizer = Tokenizer.train(iter(["a b  c   é d  e"]), 262, pattern="gpt2")
    document = json.loads(tokenizer.save(tmp_path_factory.mktemp("plain")).read_text())
    document["normalizer"] = {"type": "NFC"}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    for i, spaces in enumerate(["  ", "   ", "     ", "\t\t"]):
        document["added_tokens"].append({"id": tokenizer.vocab_size + i, "content": spaces, **flags})
    return document


@pytest.fixture(scope="module")
def tokenizer(document, tmp_path_factory):
    path = tmp_path_factory.mktemp("spaces") / "tokenizer.json"
    path.write_text(json.dumps(document))
    return Tokenizer.load(path)


def test_found_in_every_text(tokenizer):
    two = tokenizer.vocab_size - 4
    assert tokenizer.encode("a  a") == [97, two, 97]
    assert tokenizer.encode_ordinary("        ") == [two + 2, two + 1]
    assert tokenizer.decode(tokenizer.encode("a\t\t\tb")) == "a\t\t\tb"
    assert list(tokenizer.special_tokens) == ["<|endoftext|>"]
    assert list(tokenizer.added_tokens) == ["  ", "   ", "     ", "\t\t"]


def test_saved_and_loaded(tokenizer, tmp_path):
    assert Tokenizer.load(tokenizer.save(tmp_path)) == tokenizer
    assert Tokenizer(tokenizer.vocabulary) == tokenizer
    # GGUF has no flags of added tokens, but a key of ours for the normalizer.
    plain = Tokenizer(tokenizer.vocabulary._replace(flags={}))
    fields = gguf_metadata(plain.vocabulary, None)
    fields["tokenizer.ggml.token_type"] = np.array(fields["tokenizer.ggml.token_type"], np.int32)
    (tmp_path / "a.gguf").write_bytes(gguf(fields))
    assert Tokenizer.load(tmp_path / "a.gguf") == plain


@pytest.mark.peers
@given(texts=st.lists(TEXTS.map("".join), max_size=10))
def test_as_hugging_face(document, tokenizer, tmp_path_factory, texts):
    tokenizers = pytest.importorskip("tokenizers")
    path = tmp_path_factory.getbasetemp() / "theirs.json"
    path.write_text(json.dumps(document))
    theirs = tokenizers.Tokenizer.from_file(str(path))
    for text in texts:
        assert tokenizer.encode(text, allowed_special="all") == theirs.encode(text, add_special_tokens=False).ids
