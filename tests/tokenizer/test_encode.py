"""Encoding and decoding, against the twin."""

import codecs
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmcore
from llmcore.tokenizer import Tokenizer, Vocabulary
from llmcore.tokenizer.patterns import NAMES
from support import plain_tokenizer


@pytest.fixture(scope="session")
def twin(tokenizer):
    return plain_tokenizer.Encoder(tokenizer.vocabulary.tokens, tokenizer.merges, tokenizer.pattern)


@given(data=plain_tokenizer.DATA)
def test_agrees_with_the_twin_and_loses_nothing(tokenizer, twin, data):
    ids = tokenizer.encode_ordinary(data)
    assert ids == twin.encode(data)
    assert tokenizer.decode_bytes(ids) == data


def test_agrees_on_real_text(tokenizer, twin, corpus):
    text = corpus[50_000:80_000]
    assert tokenizer.encode(text) == twin.encode(text.encode())
    assert tokenizer.decode(tokenizer.encode(corpus)) == corpus


# Merge lists that no training would give: any tokens over {a, b}, in any order.
WORDS = st.lists(st.text("ab", min_size=2, max_size=6).map(str.encode), min_size=1, max_size=12, unique=True)


@st.composite
def vocabularies(draw):
    tokens = [bytes([byte]) for byte in range(256)]
    for word in draw(WORDS):
        tokens.append(word)
    cuts = [
        (tokens.index(token[:i]), tokens.index(token[i:]))
        for token in tokens[256:]
        for i in range(1, len(token))
        if token[:i] in tokens and token[i:] in tokens
    ]
    return Vocabulary(tokens, draw(st.permutations(cuts)), "gpt2")


@given(vocabularies(), st.text("ab", max_size=200))
def test_any_merge_list_short_and_long_pieces(vocabulary, text):
    encoder = plain_tokenizer.Encoder(vocabulary.tokens, vocabulary.merges, "gpt2")
    assert Tokenizer(vocabulary).encode(text) == encoder.encode(text.encode())
    by_rank = Vocabulary(vocabulary.tokens, None, "gpt2")
    encoder = plain_tokenizer.Encoder(vocabulary.tokens, None, "gpt2")
    assert Tokenizer(by_rank).encode(text) == encoder.encode(text.encode())


@given(data=st.data(), n=st.integers(60, 700))
def test_any_merge_list_of_one_letter(data, n):
    """Runs are merged by counting where the ranks allow it: the same as merge by merge."""
    sizes = sorted(data.draw(st.sets(st.integers(2, 40), max_size=10)))
    tokens = [bytes([byte]) for byte in range(256)] + [b"a" * size for size in sizes]
    ids = {1: 97} | {size: 256 + i for i, size in enumerate(sizes)}
    cuts = [(ids[a], ids[size - a]) for size in sizes for a in range(1, size) if a in ids and size - a in ids]
    in_order = data.draw(st.booleans())
    merges = cuts if in_order else data.draw(st.permutations(cuts))
    merges = [m for m in merges if data.draw(st.integers(0, 3))] if data.draw(st.booleans()) else merges
    text = "a" * n
    expected = plain_tokenizer.Encoder(tokens, merges, "gpt2").encode(text.encode())
    assert Tokenizer(Vocabulary(tokens, merges, "gpt2")).encode(text) == expected
    expected = plain_tokenizer.Encoder(tokens, None, "gpt2").encode(text.encode())
    assert Tokenizer(Vocabulary(tokens, None, "gpt2")).encode(text) == expected


def test_whole_piece_first_is_a_choice():
    tokens = [bytes([byte]) for byte in range(256)] + [b"ab", b"cab"]
    merges = [(97, 98)]  # nothing merges to "cab"
    assert Tokenizer(Vocabulary(tokens, merges, "gpt2")).encode("cab") == [99, 256]
    assert Tokenizer(Vocabulary(tokens, merges, "gpt2", whole_piece_first=True)).encode("cab") == [257]


@pytest.mark.parametrize("unit", ["a", " ", "\n", "ab", "!", "é", "\U0001f600"])
def test_a_megabyte_of_one_thing(tokenizer, unit):
    text = unit * (1_000_000 // len(unit.encode()))
    assert tokenizer.decode(tokenizer.encode_array(text)) == text


def test_all_ways_to_encode_agree(tokenizer, corpus):
    text = corpus[:5_000]
    ids = tokenizer.encode(text)
    array = tokenizer.encode_array(text)
    assert array.dtype == np.uint32
    assert array.tolist() == ids
    assert tokenizer.count(text) == len(ids)
    assert tokenizer.encode_ordinary(text) == ids
    assert tokenizer.encode(text.encode()) == ids
    assert tokenizer.encode_batch([text, "", text.encode()]) == [ids, [], ids]
    arrays = tokenizer.encode_batch_arrays([text, "", text.encode()])
    assert [a.tolist() for a in arrays] == [ids, [], ids]
    assert all(a.dtype == np.uint32 for a in arrays)
    assert tokenizer.encode("") == []
    assert tokenizer.encode_array("").shape == (0,)


# Lines of every kind of end and beginning, between which a long text may be cut for the threads, and where it may not.
LINES = st.lists(
    st.sampled_from(
        ["x\n", "1\n", "!\n", " \n", "\n", "\r\n", "é\n", "/", "//", "a", "7", " ", "'s", "中", "<|user|>"]
    ),
    max_size=40,
).map("".join)


@pytest.mark.parametrize("pattern", NAMES)
def test_any_number_of_threads_gives_the_same_ids(pattern, corpus):
    tokenizer = Tokenizer.train(iter([corpus[:50_000]]), 400, pattern=pattern, special_tokens=["<|user|>"])

    @settings(max_examples=8)
    @given(lines=LINES, filler=st.sampled_from(["a b\n", "word\n7 ", "x !\n/y\n\n z\nq", "  \n"]))
    def check(lines, filler):
        lines = (lines or "x") + filler
        text = lines * (200_000 // len(lines))
        texts = [text, lines, "", text[:100_000], *[lines] * 50]
        results = []
        for threads in (1, 2, 3, 8):
            llmcore.set_num_threads(threads)
            batch = tokenizer.encode_batch_arrays(texts, allowed_special="all")
            assert tokenizer.count(text, allowed_special="all") == len(batch[0])
            results.append([tokenizer.encode_array(text, allowed_special="all"), *batch])
        for other in results[1:]:
            assert all(map(np.array_equal, results[0], other))

    before = llmcore.num_threads()
    try:
        check()
    finally:
        llmcore.set_num_threads(before)


def test_a_batch_names_its_first_forbidden_special_token(tokenizer):
    texts = ["fine " * 20_000, "<|user|>", "fine " * 20_000, "<|endoftext|>"]
    for _ in range(5):
        with pytest.raises(ValueError, match=r"special token '<\|user\|>' at byte 0"):
            tokenizer.encode_batch(texts)


def test_line_ends_are_kept(tokenizer):
    text = "one\r\ntwo\r\n\r\nthree\rfour\n\n  five \r\n  "
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_lone_surrogates_are_replaced_and_pairs_joined(tokenizer):
    assert tokenizer.encode("a\ud800b") == tokenizer.encode("a\ufffdb")
    assert tokenizer.encode("\ud83d\ude00") == tokenizer.encode("😀")
    assert tokenizer.encode_batch(["\udc00", "x"]) == tokenizer.encode_batch(["\ufffd", "x"])


def test_special_tokens_are_refused_by_default(tokenizer):
    text = "hi <|user|> there"
    with pytest.raises(ValueError, match=r"special token '<\|user\|>' at byte 3; .*allowed_special=.*encode_ordinary"):
        tokenizer.encode(text)
    with pytest.raises(ValueError, match="special token"):
        tokenizer.encode_batch(["fine", text])
    with pytest.raises(ValueError, match="special token"):
        tokenizer.encode(text, allowed_special={"<|endoftext|>"})
    user = tokenizer.special_tokens["<|user|>"]
    expected = [*tokenizer.encode("hi "), user, *tokenizer.encode(" there")]
    assert tokenizer.encode(text, allowed_special="all") == expected
    assert tokenizer.encode(text, allowed_special={"<|user|>"}) == expected
    assert tokenizer.encode_batch([text], allowed_special="all") == [expected]
    assert tokenizer.encode_array(text, allowed_special="all").tolist() == expected
    assert tokenizer.count(text, allowed_special="all") == len(expected)
    ordinary = tokenizer.encode_ordinary(text)
    assert user not in ordinary
    assert tokenizer.decode(ordinary) == tokenizer.decode(expected) == text


@given(
    st.lists(st.text("ab<", min_size=2, max_size=6), min_size=1, max_size=8, unique=True), st.text("ab<", max_size=60)
)
def test_special_tokens_leftmost_and_longest(specials, text):
    tokens = [bytes([byte]) for byte in range(256)]
    special_ids = {special: 256 + number for number, special in enumerate(specials)}
    expected, at = [], 0
    while at < len(text):
        found = max((s for s in specials if text.startswith(s, at)), key=len, default=text[at])
        expected.append(special_ids.get(found, ord(found[0])))
        at += len(found)
    tokenizer = Tokenizer(Vocabulary(tokens, [], "gpt2", special_tokens=special_ids))
    assert tokenizer.encode(text, allowed_special="all") == expected


def test_many_special_tokens_are_found_in_linear_time():
    tokens = [bytes([byte]) for byte in range(256)]
    special_ids = {f"<|{number}|>": 256 + number for number in range(10_000)}
    special_ids["<" * 200 + "!"] = 20_000
    tokenizer = Tokenizer(Vocabulary(tokens, [], "gpt2", special_tokens=special_ids))
    assert tokenizer.encode("<" * 300_000, allowed_special=list(special_ids)) == [60] * 300_000
    text = "".join(special_ids)
    assert tokenizer.encode(text * 3, allowed_special=list(special_ids)) == [*special_ids.values()] * 3


@given(data=plain_tokenizer.DATA, text=plain_tokenizer.TEXTS)
def test_offsets_are_where_tokens_begin(tokenizer, data, text):
    ids, starts = tokenizer.encode_offsets(data, allowed_special="all")
    assert ids.tolist() == tokenizer.encode(data, allowed_special="all")
    assert (ids.dtype, starts.dtype) == (np.uint32, np.int64)
    sizes = [len(tokenizer.token_bytes(id)) for id in ids.tolist()]
    assert starts.tolist() == [sum(sizes[:i]) for i in range(len(sizes))]
    ids, starts = tokenizer.encode_offsets(text)
    _, begins = tokenizer.encode_offsets(text.encode())
    character_of = [number for number, c in enumerate(text) for _ in c.encode()]
    assert starts.tolist() == [character_of[begin] for begin in begins.tolist()]


def test_normal_form():
    tokens = [bytes([byte]) for byte in range(256)]
    tokenizer = Tokenizer(Vocabulary(tokens, [], "qwen2", special_tokens={"<s>": 256}, normalizer="NFC"))
    composed = list("é".encode())
    assert tokenizer.encode("e\u0301") == tokenizer.encode("é") == composed
    assert tokenizer.encode(b"\xffe\xcc\x81") == [255, *composed]
    # The mark behind a special token does not reach into it.
    assert tokenizer.encode("e\u0301<s>\u0338", allowed_special="all") == [*composed, 256, *"\u0338".encode()]
    assert tokenizer.encode_ordinary("<s>\u0338") == list("<s\u226f".encode())
    with pytest.raises(ValueError, match="holds the special token '<s>'"):
        tokenizer.encode("e\u0301<s>")
    with pytest.raises(ValueError, match="expected text in normal form NFC"):
        tokenizer.encode_offsets("e\u0301")
    assert pickle.loads(pickle.dumps(tokenizer)) == tokenizer
    # A Kelvin sign becomes a K, and does not make a special token.
    kelvin = Tokenizer(Vocabulary(tokens, [], "qwen2", special_tokens={"<K>": 256}, normalizer="NFC"))
    assert kelvin.encode("<\u212a>") == list(b"<K>")


def test_the_longest_special_token_counts(tokenizer):
    long, short = tokenizer.special_tokens["<|user|>!"], tokenizer.special_tokens["<|user|>"]
    assert tokenizer.encode("<|user|>!<|user|>", allowed_special="all") == [long, short]


def test_bad_arguments_to_encode(tokenizer):
    with pytest.raises(ValueError, match="special tokens in allowed_special, got '<nope>'"):
        tokenizer.encode("x", allowed_special={"<nope>"})
    for bad in (3, "\ud800"):
        with pytest.raises(ValueError, match="special tokens in allowed_special, got"):
            tokenizer.encode("x", allowed_special=[bad])
    with pytest.raises(ValueError, match='allowed_special="all" or a set'):
        tokenizer.encode("x", allowed_special="<|user|>")
    with pytest.raises(TypeError, match=r"\[encode\] expected str or bytes, got int"):
        tokenizer.encode(3)
    with pytest.raises(TypeError, match="got one text"):
        tokenizer.encode_batch("text")


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda ids: np.array(ids, np.uint16), iter])
def test_decode_takes_lists_and_arrays(tokenizer, kind):
    text = "def f(x): return 'é😀'"
    assert tokenizer.decode(kind(tokenizer.encode(text))) == text
    assert tokenizer.decode(kind([])) == ""


def test_decode_of_broken_text(tokenizer):
    ids = tokenizer.encode(b"a\xff\xe2\x82")
    assert tokenizer.decode_bytes(ids) == b"a\xff\xe2\x82"
    assert tokenizer.decode(ids) == "a\ufffd\ufffd"
    assert tokenizer.decode(ids, errors="ignore") == "a"
    with pytest.raises(UnicodeDecodeError):
        tokenizer.decode(ids, errors="strict")


@pytest.mark.parametrize("bad", [-1, 2**31, 2**63, 2**70, -(2**70)])
def test_ids_out_of_range(tokenizer, bad):
    with pytest.raises(ValueError, match=r"expected ids from 0 to 2147483647, got"):
        tokenizer.decode([97, bad])
    with pytest.raises(ValueError, match=r"expected ids from 0 to 2147483647, got"):
        tokenizer.token_bytes(bad)
    if bad < 2**63 and bad > -(2**63):
        with pytest.raises(ValueError, match=r"expected ids from 0 to 2147483647, got"):
            tokenizer.decode(np.array([97, bad]))


def test_ids_without_a_token_decode_to_nothing(tokenizer):
    """Models have rows beyond their tokens, and may draw them; transformers writes nothing for these either."""
    for beyond in (2000, 2**31 - 1):
        ids = [97, beyond, 98]
        assert tokenizer.token_bytes(beyond) == b""
        assert tokenizer.decode(ids) == tokenizer.decode(np.array(ids)) == "ab"
        stream = tokenizer.stream_decoder()
        assert [stream.push(id) for id in ids] == ["a", "", "b"]


def test_special_tokens_can_be_left_out(tokenizer):
    user = tokenizer.special_tokens["<|user|>"]
    ids = [user, 97, user, 0xC3, 5000, 0xA9]
    assert tokenizer.decode(ids) == "<|user|>a<|user|>é"
    for kind in (list, tuple, np.array, iter):
        assert tokenizer.decode(kind(ids), skip_special_tokens=True) == "aé"
    stream = tokenizer.stream_decoder(skip_special_tokens=True)
    assert "".join(map(stream.push, ids)) == "aé"
    with pytest.raises(TypeError, match="integer ids"):
        tokenizer.decode([float(user)], skip_special_tokens=True)


@pytest.mark.parametrize("bad", [["a"], [1.5], [None], 7, "text", b"text", np.ones(2), np.ones((2, 2), int)])
def test_ids_of_the_wrong_type(tokenizer, bad):
    with pytest.raises(TypeError, match=r"\[decode\] expected"):
        tokenizer.decode(bad)


@given(data=st.lists(st.one_of(plain_tokenizer.DATA, st.just("\ufffd😀".encode()))).map(b"".join), whole=st.booleans())
def test_stream_decoder(tokenizer, data, whole):
    """Against Python's own incremental decoder, byte by byte, and its decoder of the whole."""
    ids = tokenizer.encode_ordinary(data) if whole else list(data)
    stream, python = tokenizer.stream_decoder(), codecs.getincrementaldecoder("utf-8")("replace")
    given_out = seen = ""
    for id in ids:
        given_out += stream.push(id)
        for byte in tokenizer.token_bytes(id):
            seen += python.decode(bytes([byte]))
        assert given_out == seen  # nothing is held back that Python would give
    assert given_out + stream.finish() == data.decode("utf-8", "replace")
    assert stream.finish() == ""


def test_stream_decoder_refuses_what_is_no_id(tokenizer):
    with pytest.raises(ValueError, match="expected ids from 0 to 2147483647, got -1"):
        tokenizer.stream_decoder().push(-1)


def test_threads_share_a_tokenizer(tokenizer, corpus):
    texts = [corpus[i : i + 20_000] for i in range(0, 200_000, 10_000)]
    expected = [tokenizer.encode(text) for text in texts]
    fresh = copy.deepcopy(tokenizer)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fresh.encode, texts * 3)) == expected * 3


def test_pickle_and_copy(tokenizer):
    by_rank = Tokenizer(Vocabulary(tokenizer.vocabulary.tokens, None, "gpt2", True, {"<s>": 2100}))
    for original in (tokenizer, by_rank):
        for twin in (pickle.loads(pickle.dumps(original)), copy.copy(original), copy.deepcopy(original)):
            assert twin == original
            assert hash(twin) == hash(original)
            assert twin.encode("Hello, world") == original.encode("Hello, world")
            assert twin.special_tokens == original.special_tokens
    assert tokenizer != by_rank
    assert tokenizer != "tokenizer"


def test_repr(tokenizer):
    assert repr(tokenizer).startswith("Tokenizer(vocab_size=2000, pattern='cl100k', special_tokens={'<|endoftext|>'")
