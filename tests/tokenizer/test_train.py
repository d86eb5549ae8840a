"""Training, against the naive trainer of the twin."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcore import num_threads, set_num_threads
from llmcore.tokenizer import Tokenizer
from llmcore.tokenizer.patterns import NAMES
from support import plain_tokenizer

SMALL = st.lists(st.text(st.sampled_from("aabbc \n1'"), max_size=60), min_size=1, max_size=4).filter(any)


@given(SMALL, st.integers(256, 320), st.sampled_from(NAMES))
def test_training_agrees_with_the_naive_one(texts, vocab_size, pattern):
    tokenizer = Tokenizer.train(iter(texts), vocab_size, pattern=pattern, special_tokens=[])
    tokens, merges = plain_tokenizer.train([text.encode() for text in texts], vocab_size, pattern)
    assert tokenizer.vocabulary.tokens == tokens
    assert tokenizer.merges == merges


WORDS = st.lists(
    st.tuples(st.text("abc", min_size=1, max_size=9), st.integers(1, 60)),
    min_size=12,
    max_size=60,
    unique_by=lambda w: w[0],
)


@given(WORDS, st.integers(257, 290))
def test_training_agrees_where_most_pairs_are_rare(words, vocab_size):
    """More words than merges: the trainer leaves rare pairs out, and has to count them after all."""
    text = " ".join(f"{word} " * count for word, count in words)
    tokenizer = Tokenizer.train(iter([text]), vocab_size, special_tokens=[])
    tokens, merges = plain_tokenizer.train([text.encode()], vocab_size, "cl100k")
    assert (tokenizer.vocabulary.tokens, tokenizer.merges) == (tokens, merges)


def test_training_agrees_on_real_text(corpus):
    text = corpus[:20_000]
    tokenizer = Tokenizer.train(iter([text]), 256 + 300, special_tokens=[])
    tokens, merges = plain_tokenizer.train([text.encode()], 256 + 300, "cl100k")
    assert tokenizer.vocabulary.tokens == tokens
    assert tokenizer.merges == merges


def test_runs_may_spell_a_token_twice():
    """In runs of one letter two different pairs can spell the same token: it keeps one id, and both merge to
    it."""
    runs = [("a" * length + " ") * count for length, count in zip(range(2, 40), range(60, 20, -1), strict=False)]
    tokenizer = Tokenizer.train(iter(runs), 300, special_tokens=[])
    tokens, merges = plain_tokenizer.train([run.encode() for run in runs], 300, "cl100k")
    assert (tokenizer.vocabulary.tokens, tokenizer.merges) == (tokens, merges)
    assert len(set(tokens)) == len(tokens)


def test_vocab_size_counts_bytes_merges_and_specials(corpus):
    tokenizer = Tokenizer.train(iter([corpus]), 500, special_tokens=["<a>", "<b>"])
    assert tokenizer.vocab_size == 500
    assert tokenizer.special_tokens == {"<a>": 498, "<b>": 499}
    assert len(tokenizer.merges) == 500 - 256 - 2
    assert [tokenizer.token_bytes(byte) for byte in range(256)] == [bytes([byte]) for byte in range(256)]
    assert tokenizer.end_of_text is None
    assert Tokenizer.train(iter([corpus]), 257).end_of_text == 256


def test_stops_early_when_nothing_is_left_to_merge():
    tokenizer = Tokenizer.train(iter(["abab"]), 1000)
    assert tokenizer.vocab_size == 256 + 2 + 1
    assert tokenizer.encode("abab") == [257]


def test_files_and_iterators_give_the_same(tmp_path, corpus):
    parts = [corpus[:30_000], corpus[30_000:70_000], ""]
    paths = [tmp_path / f"{number}.txt" for number in range(3)]
    for path, part in zip(paths, parts, strict=True):
        path.write_bytes(part.encode())
    trained = Tokenizer.train(paths, 400)
    assert trained == Tokenizer.train(iter(parts), 400)
    assert trained == Tokenizer.train((part.encode() for part in reversed(parts)), 400)
    assert Tokenizer.train(str(paths[0]), 400) == Tokenizer.train([paths[0]], 400)


def test_documents_in_jsonl_folders_and_compressed_files(tmp_path, corpus):
    parts = [corpus[i : i + 3000] for i in range(0, 60_000, 3000)]
    lines = "\n".join(json.dumps({"body": part, "text": 3}) for part in parts[:15])
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for number, part in enumerate(parts[15:]):
        (tmp_path / f"{number}.txt").write_bytes(part.encode())
    expected = Tokenizer.train(iter(parts), 500)
    assert Tokenizer.train(tmp_path, 500, field="body") == expected
    assert Tokenizer.train([tmp_path / "a.jsonl.gz", f"{tmp_path}/*.txt"], 500, field="body") == expected
    with pytest.raises(ValueError, match=r'a\.jsonl\.gz:1: "text" is int, expected a string'):
        Tokenizer.train(tmp_path, 500)


def test_long_files_and_any_number_of_threads(tmp_path, corpus):
    """The same pieces, wherever a file is cut and whoever counts them."""
    text = (corpus + " 😀<|endoftext|>").encode() * 80  # beyond what is counted at a time
    (tmp_path / "a.txt").write_bytes(text)
    before, trained = num_threads(), []
    try:
        for threads in (1, 2, 5):
            set_num_threads(threads)
            trained.append(Tokenizer.train(tmp_path / "a.txt", 400))
            trained.append(Tokenizer.train(iter([text]), 400))
    finally:
        set_num_threads(before)
    assert all(each == trained[0] for each in trained)
    once = Tokenizer.train(iter([corpus + " 😀"]), 400)
    assert trained[0].merges == once.merges  # all counts are 80 times as high


def test_no_token_spans_two_texts_or_a_special_token():
    apart = Tokenizer.train(iter(["ab", "cd"] * 9), 300)
    assert apart == Tokenizer.train(iter(["ab<|endoftext|>cd"] * 9), 300)
    assert {apart.token_bytes(id) for id in range(256, apart.vocab_size - 1)} == {b"ab", b"cd"}


def test_progress_reports_and_may_stop(corpus):
    calls = []
    Tokenizer.train(iter([corpus]), 600, progress=lambda done, total: calls.append((done, total)))
    assert calls[0] == (256, 599)
    assert calls[-1] == (599, 599)
    assert calls == sorted(calls)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Tokenizer.train(iter([corpus]), 600, progress=stop)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (iter(["x"]), 255),
            ValueError,
            r"vocab_size of at least 257 \(256 bytes and 1 special tokens\), got 255",
        ),
        ((iter(["x"]), 256.5), TypeError, "vocab_size to be an integer, got 256.5"),
        ((iter(["x"]), 2**40), ValueError, "vocab_size of at most"),
        ((iter([]), 300), ValueError, "expected text to learn from, got none"),
        ((iter(["", b""]), 300), ValueError, "expected text to learn from, got none"),
        ((iter([3]), 300), TypeError, "expected str or bytes, got int"),
        (("no/such/file", 300), FileNotFoundError, "expected a file, got 'no/such/file'"),
        ((["some text"], 300), FileNotFoundError, r"pass texts as iter\(texts\)"),
        ((b"text", 300), TypeError, "got bytes"),
        ((3, 300), TypeError, "expected files or an iterator of texts, got int"),
        (([3], 300), TypeError, "expected paths in a list, got int"),
        ((iter(["x"]), 300, "cl100k", "<a>"), TypeError, "special_tokens to be a list"),
        ((iter(["x"]), 300, "cl100k", [b"<a>"]), TypeError, "special_tokens to be a list of str, got b'<a>' in it"),
        ((iter(["x"]), 300, "cl100k", ["a\ud800"]), ValueError, "that have a UTF-8 form"),
        ((iter(["x"]), 300, 3), TypeError, "pattern to be a name, a regular expression or a list of these, got 3"),
        (
            (iter(["x"]), 300, "cl100k", ["<a>", "<a>"]),
            ValueError,
            "distinct special tokens, got '<a>' twice",
        ),
        ((iter(["x"]), 300, "cl100k", [""]), ValueError, "not empty"),
        ((iter(["x"]), 300, "cl100k", ["x"]), ValueError, "at least two bytes, got 'x'"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Tokenizer.train(*arguments)
