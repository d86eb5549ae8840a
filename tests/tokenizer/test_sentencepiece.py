"""SentencePiece-style vocabularies: encoding against the twin, decoding, and what files may hold."""

import copy
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmcore
from llmcore.tokenizer import SentencePieceVocabulary, Tokenizer
from support import plain_tokenizer
from support import sentencepiece_files as files
from support.changes import put
from support.gguf_files import gguf

MERGES = [
    "\u2581t",
    "he",
    "\u2581the",
    "in",
    "\u2581a",
    "er",
    "on",
    "\u2581\u2581",
    "an",
    "\u2581cat",
    "at",
    "\u2581c",
    "th",
]


@pytest.fixture(scope="module")
def pieces():
    return files.llama_pieces(MERGES)


@pytest.fixture(scope="module")
def llama(pieces, tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("spm") / "tokenizer.model"
    path.write_bytes(files.model(pieces))
    return Tokenizer.load(path)


TEXT = st.lists(
    st.one_of(
        st.sampled_from([*"ab é.\n\x00", "the ", "  ", "cat", "<s>", "<0x41>", "\u4e2d", "\U0001f600"]),
        plain_tokenizer.KNOWN,
    ),
    max_size=30,
).map("".join)
DATA = st.one_of(TEXT.map(str.encode), st.binary(max_size=30))
WORD = st.text("ab é", min_size=1, max_size=5)


@st.composite
def vocabularies(draw):
    """Tokens over a few characters, not all of which need be tokens; scores with ties, or merges in any order."""
    words = draw(st.lists(WORD, min_size=1, max_size=14, unique=True))
    with_bytes = draw(st.booleans())
    tokens = [b"", *([bytes([byte]) for byte in range(256)] if with_bytes else []), *(word.encode() for word in words)]
    first = len(tokens) - len(words)
    id_of = {word: first + i for i, word in enumerate(words)}
    merges = scores = None
    if draw(st.booleans()):
        scores = draw(st.lists(st.integers(-4, 0).map(float), min_size=len(tokens), max_size=len(tokens)))
    else:
        cuts = [(w[:i], w[i:]) for w in words for i in range(1, len(w)) if w[:i] in id_of and w[i:] in id_of]
        merges = [(id_of[a], id_of[b]) for a, b in draw(st.permutations(cuts))]
    prefix = draw(st.sampled_from(["never", "first", "always"]))
    split = draw(st.booleans())
    symbols = {} if split else draw(st.lists(st.sampled_from(words), max_size=2, unique=True))
    return SentencePieceVocabulary(
        tokens,
        merges,
        scores or (),
        byte_tokens=list(range(1, 257)) if with_bytes else [],
        unknown=0,
        fuse_unknown=draw(st.booleans()),
        prefix=prefix,
        prefix_unless_space=draw(st.booleans()),
        split_at_spaces=split,
        drop_first_space=prefix != "never",
        symbols={s: id_of[s] for s in symbols},
        special_tokens={"<unk>": 0},
    )


@given(vocabulary=vocabularies(), text=st.one_of(st.text("ab é\u2581x", max_size=150), DATA))
def test_any_vocabulary_as_the_twin(vocabulary, text):
    data = text if isinstance(text, bytes) else text.encode()
    tokenizer = Tokenizer(vocabulary)
    ids = tokenizer.encode_ordinary(data)
    assert ids == plain_tokenizer.SentencePieceEncoder(vocabulary).encode(data)
    assert ids == tokenizer.encode_ordinary(data)  # from the cache
    plain = data.replace("\u2581".encode(), b" ")
    loses_space = vocabulary.prefix_unless_space and plain[:1] == b" "
    if vocabulary.byte_tokens and b" " in vocabulary.tokens[257:] and not loses_space:
        assert tokenizer.decode_bytes(ids) == plain


@given(data=DATA)
def test_nothing_is_lost(llama, data):
    if "\u2581".encode() not in data:
        assert llama.decode_bytes(llama.encode_ordinary(data)) == data


def test_a_space_that_becomes_three_bytes_is_remembered_as_such(tmp_path):
    """Then a piece of six spaces, which the cache keeps by its bytes, has more ids than bytes."""
    tokenizer = load_gguf(tmp_path, gguf_fields(files.llama_pieces([], characters="abc")))
    mark = [3 + byte for byte in "\u2581".encode()]
    for _ in range(3):
        assert tokenizer.encode_ordinary("     ") == mark * 6
        assert tokenizer.encode_ordinary("    a") == mark * 5 + [tokenizer.encode_ordinary("a")[-1]]


def test_known_ids(llama, pieces):
    spell = {text: id for id, (text, _, _) in enumerate(pieces)}

    def ids(*texts):
        return [spell[text] for text in texts]

    assert llama.encode("the cat tat") == ids("\u2581the", "\u2581cat", "\u2581t", "at")
    assert llama.encode(" a") == ids("\u2581", "\u2581a")
    assert llama.encode("") == []
    assert llama.encode("A\u00e9") == ids("\u2581", "<0x41>", "\u00e9")
    assert llama.encode(b"\xff\xe4\xb8") == ids("\u2581", "<0xFF>", "<0xE4>", "<0xB8>")
    assert llama.decode(ids("\u2581the", "\u2581", "<0xC3>", "<0xA9>")) == "the \u00e9"
    assert llama.token_bytes(spell["\u2581the"]) == b" the"
    assert llama.token_bytes(spell["<0x0A>"]) == b"\n"
    assert llama.decode(ids("<s>", "\u2581the")) == "<s> the"
    assert llama.pattern == "sentencepiece"
    assert llama.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2}


def test_offsets_only_where_no_space_was_added(llama):
    with pytest.raises(ValueError, match=r"\[encode_offsets\] expected text that its tokens spell unchanged"):
        llama.encode_offsets("the cat")
    tokenizer = Tokenizer(llama.vocabulary._replace(prefix="never", drop_first_space=False))
    ids, starts = tokenizer.encode_offsets("th\xe9 the")
    assert ids.tolist() == tokenizer.encode("th\xe9 the")
    assert starts.tolist() == [0, *(len(tokenizer.decode(ids[:n])) for n in range(1, len(ids)))]


def test_special_tokens_part_the_text(llama):
    with pytest.raises(ValueError, match="the text holds the special token '<s>' at byte 3"):
        llama.encode("the<s>")
    the = llama.encode("the")
    assert llama.encode("the<s>the</s>", allowed_special="all") == [*the, 1, *the, 2]
    assert llama.encode("<s>", allowed_special="all") == [1]
    assert 1 not in llama.encode_ordinary("<s>")


def test_any_number_of_threads_gives_the_same_ids(llama, pieces):
    sentence = "the cat on a tin  roof."
    text = " ".join([sentence] * 20_000)
    texts = [text, "<s>" + text, "\u4e2d" * 100_000, "a" * 300_000, *["the cat"] * 50]
    before = llmcore.num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            llmcore.set_num_threads(threads)
            batch = llama.encode_batch_arrays(texts, allowed_special="all")
            assert [llama.count(t, allowed_special="all") for t in texts] == [len(ids) for ids in batch]
            results.append([*batch, llama.encode_array(texts[1], allowed_special="all")])
    finally:
        llmcore.set_num_threads(before)
    for other in results[1:]:
        assert all(map(np.array_equal, results[0], other))
    assert (
        results[0][0].tolist()
        == plain_tokenizer.SentencePieceEncoder(llama.vocabulary).encode(sentence.encode()) * 20_000
    )


@pytest.mark.parametrize("unit", ["a", " ", "an", "\u00e9", "\U0001f600", "\u2581", "\xff"])
def test_a_megabyte_of_one_thing(llama, unit):
    text = unit * (1_000_000 // len(unit.encode()))
    assert llama.decode(llama.encode_array(text)) == text.replace("\u2581", " ")


@given(data=DATA, continues=st.booleans())
def test_stream_decoder(llama, data, continues):
    ids = llama.encode_ordinary(data)
    stream = llama.stream_decoder(continues=continues)
    for _ in range(2):
        text = "".join(map(stream.push, ids)) + stream.finish()
        assert text == (" " if continues and data else "") + llama.decode(ids)


def test_pickle_copy_and_equality(llama, pieces, tmp_path):
    for twin in (pickle.loads(pickle.dumps(llama)), copy.deepcopy(llama)):
        assert twin == llama
        assert hash(twin) == hash(llama)
        assert twin.encode("the cat\n") == llama.encode("the cat\n")
    path = tmp_path / "other.model"
    path.write_bytes(files.model(pieces, normalizer=files.field(4, 0) + files.field(3, 0)))
    other = Tokenizer.load(path)
    assert other != llama
    assert other.encode(" the cat") == llama.encode("the cat")


def test_without_bytes_unknown_characters_are_one_token(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(files.model([*files.SPECIALS, ("ab", 0.0), ("a", -1.0), ("b", -2.0), ("\u2581", -3.0)]))
    tokenizer = Tokenizer.load(tmp_path)  # the folder
    assert tokenizer.encode("abxyza") == [6, 3, 0, 4]
    assert tokenizer.decode([6, 3, 0, 4]) == "ab<unk>a"


# ---- files ---------------------------------------------------------------------------------------------


def gguf_fields(pieces, **more) -> dict:
    texts, scores, kinds = zip(*pieces, strict=True)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": list(texts),
        "tokenizer.ggml.scores": np.array(scores, np.float32),
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
    } | {f"tokenizer.ggml.{key}": value for key, value in more.items()}


def load_gguf(tmp_path, fields) -> Tokenizer:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(fields))
    return Tokenizer.load(path)


def test_gguf(tmp_path, llama, pieces):
    assert load_gguf(tmp_path, gguf_fields(pieces, add_bos_token=False)) == llama
    assert load_gguf(tmp_path, gguf_fields(pieces)).begin == (1,)  # as llama.cpp has it where the file does not say
    plain = load_gguf(tmp_path, gguf_fields(pieces, add_space_prefix=False))
    assert plain.decode(plain.encode(" the")) == " the"
    assert plain.encode(" the") == llama.encode("the")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.zeros(3, np.float32)}, r"scores: expected \d+ numbers, got 3"),
        ({"scores": None}, r"scores: expected \d+ numbers"),
        ({"add_space_prefix": 3}, "add_space_prefix: expected true or false, got 3"),
        ({"remove_extra_whitespaces": True}, "remove_extra_whitespaces: expected false"),
        ({"remove_extra_whitespaces": np.arange(2)}, "remove_extra_whitespaces: expected true or false"),
        ({"tokens": ["a"]}, "token_type: expected 1 numbers"),
    ],
)
def test_broken_gguf(tmp_path, pieces, change, message):
    fields = {key: value for key, value in gguf_fields(pieces, **change).items() if value is not None}
    with pytest.raises(ValueError, match=rf"\[load\] .*model.gguf: tokenizer.ggml.{message}"):
        load_gguf(tmp_path, fields)


def replaced(pieces, index, piece):
    return [*pieces[:index], piece, *pieces[index + 1 :]]


LAST = ("zz", -99.0, files.NORMAL)
BROKEN_MODELS = [
    (lambda p: files.model(p, trainer=files.field(3, 77)), "trainer_spec.model_type: expected 1 to 4, got 77"),
    (lambda p: files.model(p, trainer=files.field(3, 2) + files.field(24, 1)), "treat_whitespace_as_suffix"),
    (
        lambda p: files.model(p, normalizer=files.field(1, "nmt_nfkc") + files.field(2, b"xx") + files.field(4, 0)),
        "expected precompiled_charsmap to be the size of a double array",
    ),
    (lambda p: files.model(p, normalizer=files.field(4, 0) + files.field(5, 0)), "escape_whitespaces"),
    (lambda p: files.model(p) + files.field(5, files.field(2, b"x")), "denormalizer_spec: expected none"),
    (lambda p: files.model([*p, LAST, LAST]), r"pieces\[\d+\]: expected a string that no other token has, got zz"),
    (lambda p: files.model([*p, ("", 0.0)]), r"pieces\[\d+\]: expected a string that no other"),
    (lambda p: files.model([*p, (b"\xff", 0.0)]), r"pieces\[\d+\]: expected UTF-8"),
    (lambda p: files.model([*p, ("a b", 0.0)]), r"pieces\[\d+\]: expected spaces spelled"),
    (lambda p: files.model([*p, ("zz", math.nan)]), "expected finite scores, got another for 'zz'"),
    (lambda p: files.model([*p, ("zz", math.inf)]), "expected finite scores"),
    (lambda p: files.model([*p, ("z" * 2000, 0.0)]), "expected tokens of at most 1024 bytes"),
    (lambda p: files.model([*p, ("zz", 0.0, files.UNUSED)]), "no piece of type UNUSED"),
    (lambda p: files.model([*p, ("zz", 0.0, 9)]), r"pieces\[\d+\]: expected a type from 1 to 6, got 9"),
    (lambda p: files.model([*p, ("zz", 0.0, files.UNKNOWN)]), r"pieces\[\d+\]: expected one unknown token, got zz"),
    (lambda p: files.model([*p, ("zz", 0.0, files.BYTE)]), r"pieces\[\d+\]: expected a byte such as <0x0A>, got zz"),
    (lambda p: files.model(p[:20] + p[21:]), "pieces: expected tokens for all of the 256 bytes, got none for <0x11>"),
    (lambda p: files.model(p)[:-3], "expected 12 more bytes in field 3, got 9"),
    (lambda p: b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", r"the file: expected \d+ more bytes in field 1, got 0"),
    (lambda p: b"\x0a" + b"\xff" * 20, "the file: expected a protobuf message, got a number that does not end"),
    (lambda p: b"\x0b", "the file: expected a protobuf message, got a field of wire type 3"),
    (lambda p: b"", "pieces: expected at least one, got none"),
    (lambda p: b"not a model", r"tokenizer.model: "),
]


@pytest.mark.parametrize(("make", "message"), BROKEN_MODELS, ids=[message[:40] for _, message in BROKEN_MODELS])
def test_broken_models(tmp_path, pieces, make, message):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(make(pieces))
    with pytest.raises(ValueError, match=message) as error:
        Tokenizer.load(path)
    assert str(error.value).startswith(f"[load] {path}: ")
    assert "\n" not in str(error.value)


@given(data=st.data())
def test_damaged_models_are_refused_or_understood(tmp_path_factory, pieces, data):
    content = bytearray(files.model(pieces))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "tokenizer.model"
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))])
    try:
        tokenizer = Tokenizer.load(path)
    except ValueError as error:
        assert str(error).startswith(f"[load] {path}: ")  # noqa: PT017
    else:
        tokenizer.decode(tokenizer.encode_ordinary("the cat"))


# ---- tokenizer.json ------------------------------------------------------------------------------------


@pytest.fixture
def document(llama, tmp_path):
    return json.loads(llama.save(tmp_path / "saved").read_text())


def load_json(document, tmp_path) -> Tokenizer:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document))
    return Tokenizer.load(path)


@given(text=TEXT)
def test_saved_and_loaded(llama, tmp_path_factory, text):
    path = llama.save(tmp_path_factory.mktemp("json"))
    loaded = Tokenizer.load(path)
    assert loaded.encode_ordinary(text) == llama.encode_ordinary(text)
    assert Tokenizer.load(loaded.save(path.parent / "again")) == loaded


METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
BROKEN_DOCUMENTS = [
    (put("normalizer", "normalizers", 0, 3), r"normalizer.normalizers\[0\]: expected an object"),
    (put("pre_tokenizer", {**METASPACE, "prepend_scheme": "last"}), "prepend_scheme: expected always, first or never"),
    (put("pre_tokenizer", {**METASPACE, "split": 3}), "pre_tokenizer.split: expected true or false"),
    (put("pre_tokenizer", {**METASPACE, "add_prefix_space": False}), "pre_tokenizer.add_prefix_space"),
    (put("decoder", "decoders", 3, []), r"decoder.decoders\[3\]: expected an object"),
    (put("model", "byte_fallback", 1), "model.byte_fallback: expected true or false"),
    (put("model", "fuse_unk", "yes"), "model.fuse_unk: expected true or false"),
    (put("model", "vocab", "<0x41>", 3), r"model.vocab\['<0x41>'\]: expected an id that no other token has, got 3"),
    (put("model", "vocab", "\ud800", 999), "model.vocab: expected text that has a UTF-8 form"),
    (put("model", "vocab", "x", 1 << 40), r"model.vocab\['x'\]: expected an id from 0 to"),
    (put("model", "merges", 0, ["<s>", "a"]), r"model.merges\[0\]: expected tokens of the vocabulary, got <s>"),
    (put("model", "merges", 0, ["<0x41>", "a"]), r"model.merges\[0\]: expected tokens of the vocabulary, got <0x41>"),
    (put("added_tokens", 0, "special", "yes"), r"added_tokens\[0\].special: expected true or false"),
    (put("added_tokens", 0, "lstrip", 1), r"added_tokens\[0\].lstrip: expected true or false"),
]


def test_a_normalized_token_that_overlaps_another(document, tmp_path):
    """Tokens that are not normalized are looked for first, in the whole text: `tokenizers` 0.23.3 gives these."""
    document |= {"normalizer": None, "pre_tokenizer": METASPACE}
    size = max(document["model"]["vocab"].values()) + 1
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    document["added_tokens"] += [
        {"id": size, "content": "b <", "normalized": True, "special": False, **flags},
        {"id": size + 1, "content": "<x>", "normalized": False, "special": True, **flags},
    ]
    tokenizer = load_json(document, tmp_path)
    [*first, last] = tokenizer.encode("b <x>", allowed_special="all")
    assert last == size + 1
    assert size not in first
    assert tokenizer.encode_ordinary("b <x>")[:1] == [size]
    assert Tokenizer.load(tokenizer.save(tmp_path / "again.json")) == tokenizer


@pytest.mark.parametrize(("change", "message"), BROKEN_DOCUMENTS, ids=[m[:40] for _, m in BROKEN_DOCUMENTS])
def test_broken_documents(document, tmp_path, change, message):
    change(document)
    with pytest.raises(ValueError, match=message) as error:
        load_json(document, tmp_path)
    assert str(error.value).startswith(f"[load] {tmp_path / 'tokenizer.json'}: ")
    assert "\n" not in str(error.value)


def test_missing_byte_tokens(document, tmp_path):
    """A character one of whose bytes has no token is unknown. `tokenizers` puts it after bytes that follow."""
    del document["model"]["vocab"]["<0x80>"]
    vocab = document["model"]["vocab"]
    spelled = [vocab[f"<0x{byte:02X}>"] for byte in "\u4e2d".encode()]
    assert load_json(document, tmp_path).encode_ordinary("\u4e00\u4e2d")[1:] == [*spelled, vocab["<unk>"]]


def test_what_tokenizer_json_cannot_express(tmp_path):
    tokens = [b"", b"a", b"ab", b"b"]
    base = SentencePieceVocabulary(tokens, None, [0.0, -1.0, -2.0, -3.0], unknown=0, special_tokens={"<unk>": 0})
    assert Tokenizer(base).save(tmp_path).is_file()
    for changed, message in (
        (base._replace(scores=[0.0, -1.0, -1.0, -2.0]), "got tokens of equal score"),
        (base._replace(tokens=[b"", b"a", b"ab"], scores=[0.0, -1.0, -2.0]), "got characters in tokens"),
        (base._replace(symbols={"ab": 2}), "expected no symbols where a space comes before the text"),
        (base._replace(prefix="first"), "expected prefix 'first' with prefix_unless_space"),
    ):
        with pytest.raises(ValueError, match=message):
            Tokenizer(changed).save(tmp_path)
    with pytest.raises(ValueError, match=r"expected a byte-level vocabulary for a \.tiktoken file"):
        Tokenizer(base).save(tmp_path / "x.tiktoken")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"byte_tokens": [1]}, "expected a token for each of the 256 bytes, got 1"),
        ({"byte_tokens": [1 << 20] * 256}, "the token of byte 0 to have an id of its own, got 1048576"),
        ({"byte_tokens": [1] * 256}, "expected the token of byte 0 to spell that byte"),
        ({"unknown": 1}, "expected the unknown token to have an id of its own"),
        ({"unknown": 99}, "expected the id of the unknown token to exist, got 99"),
        ({"scores": [0.0]}, "expected a score for each token"),
        ({"prefix": "sometimes"}, "expected prefix to be one of never, first, always, got 'sometimes'"),
        ({"symbols": {"zz": 9}}, "expected symbol 'zz' to have an id of its own"),
        ({"symbols": {"": 1}}, "not empty"),
        ({"merges": [(1, 0)], "scores": ()}, r"expected merges\[0\] to join two tokens, got id 0"),
        ({"merges": [(1, 99)], "scores": ()}, r"expected merges\[0\] to join two tokens, got id 99"),
        ({"merges": [(3, 1)], "scores": ()}, r"expected merges\[0\] to make a token, got 'ba'"),
        ({"merges": [(1, 3), (1, 3)], "scores": ()}, "expected distinct merges"),
        ({"split_at_spaces": True, "symbols": {"ab": 2}}, "no symbols where text is split"),
    ],
)
def test_contradictions(change, message):
    base = SentencePieceVocabulary([b"", b"a", b"ab", b"b"], None, [0.0, -1.0, -2.0, -3.0], unknown=0)
    with pytest.raises(ValueError, match=message):
        Tokenizer(base._replace(**change))


def test_the_tokens_of_bytes_do_not_merge():
    tokens = [*(bytes([byte]) for byte in range(256)), b"ab"]
    with pytest.raises(ValueError, match="expected merges of tokens other than byte tokens"):
        Tokenizer(SentencePieceVocabulary(tokens, [(97, 98)], byte_tokens=range(256)))
