"""The vocabulary in a model's GGUF file: the same tokenizer as its tokenizer.json makes, and broken ones."""

import numpy as np
import pytest

from llmcore import _core
from llmcore.tokenizer import Tokenizer
from llmcore.tokenizer.formats.gguf import gguf_metadata, gguf_notes
from llmcore.tokenizer.formats.gguf_patterns import PRE
from llmcore.tokenizer.patterns import stages_of
from llmcore.tokenizer.vocabulary import Vocabulary
from support.gguf_files import UNUSED, gguf, vocabulary_metadata


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return Tokenizer.train(iter(["ab abc abcd, and the cat sat on the mat"]), 280, pattern="gpt2")


def load(tmp_path, fields) -> Tokenizer:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(fields))
    return Tokenizer.load(path)


@pytest.mark.parametrize("pre", PRE)
def test_same_tokenizer(tmp_path, corpus, pre):
    pattern, whole_piece_first, _ = PRE[pre]
    trained = Tokenizer.train(iter([corpus[:20_000]]), 500, pattern=pattern)
    loaded = load(tmp_path, vocabulary_metadata(trained, pre))
    assert loaded.vocabulary == trained.vocabulary._replace(whole_piece_first=whole_piece_first)
    assert loaded.encode("The cat 123 <|endoftext|>", "all") == trained.encode("The cat 123 <|endoftext|>", "all")


def test_bytes_without_a_token(tmp_path, small):
    """SmolLM2's own vocabulary lacks 21 bytes: text with them is refused, never lost."""
    fields = vocabulary_metadata(small, "gpt-2")
    missing = (0x7A, 0xFF)  # z
    for byte in missing:
        fields["tokenizer.ggml.tokens"][byte] = f"[PAD{byte}]"
        fields["tokenizer.ggml.token_type"][byte] = UNUSED
    loaded = load(tmp_path, fields)
    assert loaded.encode("abcd the") == small.encode("abcd the")
    for text in ("z", b"\xff", "ab zab", "z" * 100, b"a\xffb"):
        with pytest.raises(ValueError, match=r"\[encode\] expected text that the vocabulary has tokens for, got '"):
            loaded.encode(text)
    assert Tokenizer.load(loaded.save(tmp_path)) == loaded


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "bert"}, "tokenizer.ggml.model: expected gpt2 .*, got bert"),
        ({"tokenizer.ggml.pre": "other"}, "tokenizer.ggml.pre: expected a name of llama.cpp .*, got other"),
        ({"tokenizer.ggml.pre": ["gpt-2"]}, "tokenizer.ggml.pre: expected a string"),
        ({"tokenizer.ggml.pre": np.arange(2)}, "tokenizer.ggml.pre: expected a string"),
        ({"tokenizer.ggml.model": np.arange(2)}, "tokenizer.ggml.model: expected a string"),
        ({"llmcore.tokenizer.normalizer": np.arange(2)}, "llmcore.tokenizer.normalizer: expected a string"),
        ({"tokenizer.ggml.pre": "tiny_aya"}, r"tokenizer.ggml.pre: .* got tiny_aya \(digits counted from their end\)"),
        ({"llmcore.tokenizer.normalizer": "NFKC"}, "llmcore.tokenizer.normalizer: expected NFC or nothing, got NFKC"),
        (
            {"tokenizer.ggml.tokens": np.arange(3, dtype=np.int32)},
            "tokenizer.ggml.tokens: expected an array of strings",
        ),
        ({"tokenizer.ggml.merges": ["a"]}, r"tokenizer.ggml.merges\[0\]: expected two tokens"),
        ({"tokenizer.ggml.merges": ["a nope"]}, r"tokenizer.ggml.merges\[0\]: expected tokens of the vocabulary"),
        ({"tokenizer.ggml.merges": "a b"}, "tokenizer.ggml.merges: expected an array of strings"),
        (
            {"tokenizer.ggml.token_type": np.zeros(3, np.int32)},
            r"tokenizer.ggml.token_type: expected \d+ numbers, got 3",
        ),
        ({"tokenizer.ggml.token_type": "none"}, r"tokenizer.ggml.token_type: expected \d+ numbers"),
    ],
)
def test_broken_vocabularies(tmp_path, small, change, message):
    with pytest.raises(ValueError, match=rf"\[load\] .*model.gguf: {message}"):
        load(tmp_path, vocabulary_metadata(small, "gpt-2") | change)


def test_two_tokens_of_one_spelling(tmp_path, small):
    fields = vocabulary_metadata(small, "gpt-2")
    fields["tokenizer.ggml.tokens"][3] = fields["tokenizer.ggml.tokens"][4]
    with pytest.raises(ValueError, match=r"tokenizer.ggml.tokens\[4\]: expected a string that no other token has"):
        load(tmp_path, fields)


def written(tokenizer: Tokenizer) -> dict:
    fields = gguf_metadata(tokenizer.vocabulary, None)
    return fields | {"tokenizer.ggml.token_type": np.array(fields["tokenizer.ggml.token_type"], np.int32)}


def test_cl100k_is_written_as_llama3(tmp_path, corpus):
    """GGUF has no name for it, and they cut alike but for line breaks in the blanks at the end."""
    trained = Tokenizer.train(iter([corpus[:50_000]]), 1000)
    assert trained.pattern == "cl100k"
    fields = written(trained)
    assert fields["tokenizer.ggml.pre"] == "llama-bpe"
    loaded = load(tmp_path, fields)
    assert loaded.vocabulary == trained.vocabulary._replace(pattern="llama3", whole_piece_first=True)
    for text in (corpus, "", "a  b\n\n  c", "it's 12345 \u4e2d\u6587 !?\r\n\r\n x ", "x" * 100):
        assert loaded.encode(text) == trained.encode(text)


def test_cl100k_with_tokens_that_merges_do_not_reach(tmp_path):
    """abc is made of a and bc only, but ab is merged first: llama-bpe would take it whole."""
    alphabet = [bytes([b]) for b in range(256)]
    merges = [(97, 98), (98, 99), (97, 257)]
    tokenizer = Tokenizer(Vocabulary([*alphabet, b"ab", b"bc", b"abc"], merges, "cl100k"))
    assert tokenizer.encode("abc") == [256, 99]
    loaded = load(tmp_path, written(tokenizer))
    assert loaded.pattern == "llama3"
    assert loaded.encode("abc") == [256, 99]
    whole = Tokenizer(tokenizer.vocabulary._replace(whole_piece_first=True))
    assert load(tmp_path, written(whole)).encode("abc") == whole.encode("abc") == [258]


def test_patterns_without_a_name_are_refused(small):
    other = Tokenizer(small.vocabulary._replace(pattern=r"\p{L}+|\s"))
    with pytest.raises(ValueError, match=r"\[save\] expected a pattern that GGUF has a name for \(cl100k, .*, got '"):
        gguf_metadata(other.vocabulary, None)


def pieces(pre: str, text: str) -> list[str]:
    return [piece.decode() for piece in _core.split(list(stages_of(PRE[pre].pattern)), text)]


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        # llama.cpp's default: signs, then GPT-2's rule, then digits, then three of them.
        ("default", "Hello, world! 12345 a+b", ["Hello", ",", " world", "!", " ", "123", "45", " a", "+", "b"]),
        ("falcon", "x_1 12345`", ["x", "_", "1", " ", "123", "45", "`"]),
        ("bloom", "It's a (test), ok", ["It's", " a", " (", "test", "),", " ok"]),
        ("viking", "a12", ["a", "1", "2"]),
        ("deepseek-coder", "don't 12\r\nx", ["don", "'", "t", " ", "1", "2", "\r", "\n", "x"]),
        ("deepseek-llm", "Don't!? 123 \u65e5\u672cx", ["Don", "'", "t", "!?", " ", "123", " ", "\u65e5\u672c", "x"]),
        ("tekken", "aBc ABCd'll 12", ["a", "Bc", " ABCd", "'ll", " ", "1", "2"]),
        ("kimi-k2", "x\u65e5\u672cY 1234", ["x", "\u65e5\u672c", "Y", " ", "123", "4"]),
        ("ufakzeka", "Ali'nin", ["Ali", "'nin"]),
        ("laguna", "a\n\n b", ["a", "\n\n", " b"]),
        ("seed-coder", "a!!\n\nb", ["a", "!!", "\n\n", "b"]),
    ],
)
def test_how_names_cut(pre, text, expected):
    """Worked out by hand from the expressions, and the same in llama.cpp (test_gguf_peers.py)."""
    assert pieces(pre, text) == expected


@pytest.mark.parametrize("pre", [None, "", "default"])
def test_without_a_name(tmp_path, small, pre):
    """llama.cpp cuts as its default says, and so does this, with a note where the file does not say."""
    fields = vocabulary_metadata(small, pre or "")
    if pre is None:
        del fields["tokenizer.ggml.pre"]
    assert Tokenizer(load(tmp_path, fields).vocabulary._replace(pattern="gpt2")) == small
    assert len(gguf_notes(fields)) == (pre != "default")
    assert stages_of(load(tmp_path, fields).pattern) == stages_of(PRE["default"].pattern)


def test_a_normal_form_is_kept(tmp_path, small):
    """What Qwen's tokenizers do first has no field in GGUF: in one of ours it comes back."""
    nfc = Tokenizer(small.vocabulary._replace(pattern="qwen2", normalizer="NFC"))
    fields = written(nfc)
    assert fields["tokenizer.ggml.pre"] == "qwen2"
    assert load(tmp_path, fields) == nfc
    del fields["llmcore.tokenizer.normalizer"]
    assert load(tmp_path, fields) == Tokenizer(nfc.vocabulary._replace(normalizer=None))
