"""Saving and loading, and what broken files say."""

import base64
import json
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcore import _core
from llmcore.tokenizer import Tokenizer, Vocabulary
from llmcore.tokenizer.patterns import NAMES
from support.changes import put


@pytest.fixture
def document(tmp_path):
    """A small tokenizer.json, parsed, to be broken."""
    return json.loads(Tokenizer.train(iter(["ab abc abcd"]), 262).save(tmp_path).read_text())


def load(document, path):
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return Tokenizer.load(path)


@pytest.mark.parametrize("pattern", NAMES)
def test_save_and_load(tmp_path, corpus, pattern):
    tokenizer = Tokenizer.train(iter([corpus[:50_000]]), 600, pattern=pattern, special_tokens=["<é>", "<|endoftext|>"])
    path = tokenizer.save(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "tokenizer.json"
    loaded = Tokenizer.load(path.parent)
    assert loaded == tokenizer == Tokenizer.load(str(path))
    text = corpus[50_000:60_000] + "<é>"
    assert loaded.encode(text, allowed_special="all") == tokenizer.encode(text, allowed_special="all")
    again = loaded.save(tmp_path / "other.json")
    assert again.read_bytes() == path.read_bytes()


def test_save_replaces_as_a_whole(tmp_path, tokenizer, monkeypatch):
    path = Tokenizer.train(iter(["ab"]), 258).save(tmp_path)
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        tokenizer.save(tmp_path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["tokenizer.json"]


def test_merges_as_strings(document, tmp_path):
    expected = load(document, tmp_path / "a.json")
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    assert load(document, tmp_path / "b.json") == expected


def test_gpt2_spelled_as_hugging_face_does(tmp_path):
    tokenizer = Tokenizer.train(iter(["ab abc abcd"]), 262, pattern="gpt2")
    document = json.loads(tokenizer.save(tmp_path).read_text())
    document["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    assert load(document, tmp_path / "b.json") == tokenizer


def test_ids_may_have_gaps(document, tmp_path):
    document["added_tokens"][0]["id"] = document["model"]["vocab"]["<|endoftext|>"] = 300
    tokenizer = load(document, tmp_path / "a.json")
    assert tokenizer.vocab_size == 301
    assert tokenizer.end_of_text == 300
    assert tokenizer.decode([97, 299, 98]) == "ab"
    assert Tokenizer.load(tokenizer.save(tmp_path / "b.json")) == tokenizer


def drop(name):
    return lambda document: document["model"]["vocab"].pop(name)


SPLIT = ("pre_tokenizer", "pretokenizers", 0)
BROKEN = [
    (put("model", []), r"model: expected an object, got \[\]"),
    (put("model", "type", "Unigram"), "model.vocab: expected an array"),
    (put("model", "type", 3), "model.type: expected one of BPE, WordPiece, WordLevel, Unigram, got 3"),
    (put("model", "vocab", None), "model.vocab: expected an object, got null"),
    (put("model", "merges", {}), "model.merges: expected an array"),
    (put("model", "vocab", "a", "97"), r'model.vocab\["a"\]: expected an id from 0 to \d+, got 97'),
    (put("model", "vocab", "a", True), r'model.vocab\["a"\]: expected an id .* got true'),
    (put("model", "vocab", "a", 97.0), r'model.vocab\["a"\]: expected an id .* got 97.0'),
    (put("model", "vocab", "a", -1), r'model.vocab\["a"\]: expected an id .* got -1'),
    (put("model", "vocab", "a", 10**10), r'model.vocab\["a"\]: expected an id .* got 10000000000'),
    (put("model", "vocab", "a", 98), r'model.vocab\["b"\]: expected an id that no other token has, got 98'),
    (
        put("model", "vocab", "zz", 260),
        r'model.vocab\["zz"\]: expected an id that no other token has, got 260',
    ),
    (drop("a"), r"expected tokens of the vocabulary, got a"),
    (put("model", "merges", 0, ["a"]), r"model.merges\[0\]: expected two tokens"),
    (put("model", "merges", 0, "a b c"), r"model.merges\[0\]: expected two tokens"),
    (put("model", "merges", 0, [97, 98]), r"model.merges\[0\]: expected two tokens"),
    (
        put("model", "merges", 0, ["a", "nope"]),
        r"model.merges\[0\]: expected tokens of the vocabulary, got nope",
    ),
    (put("model", "merges", 0, ["x", "y"]), r"expected merges\[0\] to make a token, got 'xy', which is not a token"),
    (put("model", "merges", 1, ["a", "b"]), r"expected distinct merges, got merges\[1\] \('a', 'b'\) twice"),
    (put("model", "dropout", 0.1), "model.dropout: expected none"),
    (put("model", "ignore_merges", "yes"), "model.ignore_merges: expected true or false, got yes"),
    (put("normalizer", {"type": "NFX"}), "normalizer.type: expected Bert, .* got NFX"),
    (put("pre_tokenizer", "pretokenizers", 3), "pre_tokenizer.pretokenizers: expected an array"),
    (put("pre_tokenizer", "pretokenizers", [3]), r"pre_tokenizer.pretokenizers\[0\]: expected an object"),
    (put(*SPLIT, "pattern", {"Regex": r"(?~a)b"}), r"supported constructs, got the group '\(\?~a' at character 0"),
    (put(*SPLIT, "pattern", {"Regex": "a\ud800"}), "expected pattern to have a UTF-8 form"),
    (put(*SPLIT, "pattern", {"Regex": 3}), r"pretokenizers\[0\].pattern.Regex: expected a string, got 3"),
    (put(*SPLIT, "pattern", {}), r"pretokenizers\[0\].pattern.String: expected a string, got null"),
    (put(*SPLIT, "behavior", "Merged"), r"pretokenizers\[0\].behavior: expected Removed, .* got Merged"),
    (put(*SPLIT, {"type": "Punch"}), r"pretokenizers\[0\].type: expected BertPreTokenizer, .* got Punch"),
    (put("added_tokens", {}), "added_tokens: expected an array"),
    (put("added_tokens", 0, 7), r"added_tokens\[0\]: expected an object, got 7"),
    (put("added_tokens", 0, "content", 7), r"added_tokens\[0\].content: expected a string, got 7"),
    (put("added_tokens", 0, "content", "\ud800"), "expected text that has a UTF-8 form"),
    (put("added_tokens", 0, {"id": 400, "content": "\ud800"}), "byte-level alphabet|UTF-8 form"),
    (put("added_tokens", 0, "id", None), r"added_tokens\[0\].id: expected an id"),
    (put("added_tokens", 0, "lstrip", 1), r"added_tokens\[0\].lstrip: expected true or false"),
    (put("post_processor", {"type": "Template"}), "post_processor: expected TemplateProcessing, RobertaProcessing"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN, ids=[message[:40] for _, message in BROKEN])
def test_broken_json_names_the_file_and_the_field(document, tmp_path, change, message):
    change(document)
    with pytest.raises(ValueError, match=message) as error:
        load(document, tmp_path / "broken.json")
    assert str(error.value).startswith(f"[load] {tmp_path / 'broken.json'}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "[" * 100_000, "\ud800", '{"model": 1e400}'])
def test_not_a_tokenizer_at_all(tmp_path, text):
    path = tmp_path / "broken.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"\[load\] .*broken.json: "):
        Tokenizer.load(path)


@given(seed=st.integers(0, 2**32))
def test_any_spelling_of_the_same_document_is_the_same_tokenizer(tmp_path_factory, seed):
    """Whitespace, escapes, the order of names and the form of merges: what C++ reads at once is what json.loads reads."""
    path = tmp_path_factory.mktemp("spelled") / "tokenizer.json"
    expected = Tokenizer.train(iter(['é ab abc 日本 🎉🎉 "quoted" \\\\ ab']), 280, special_tokens=["<é>", "<|end|>"])
    document = json.loads(expected.save(path).read_text())
    rng = random.Random(seed)

    def string(text):
        units = [text.encode("utf-16-be")[i : i + 2].hex() for i in range(0, len(text.encode("utf-16-be")), 2)]
        escaped = "".join(f"\\u{unit.upper() if rng.random() < 0.5 else unit}" for unit in units)
        return f'"{escaped}"' if rng.random() < 0.1 else json.dumps(text, ensure_ascii=rng.random() < 0.5)

    def written(value):
        space = rng.choice(["", "", " ", "\n\t", "\r "])
        if isinstance(value, dict):
            items = rng.sample(list(value.items()), len(value))
            inner = f"{space},".join(f"{space}{string(k)}{space}:{written(v)}" for k, v in items)
            return f"{space}{{{inner}{space}}}{space}"
        if isinstance(value, list):
            return f"{space}[{','.join(map(written, value))}{space}]{space}"
        return space + (string(value) if isinstance(value, str) else json.dumps(value)) + space

    if rng.random() < 0.5:
        document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    text = written(document)
    assert json.loads(text) == document
    quick = _core.JsonVocabulary.read(text.encode())
    assert json.loads(quick.rest)["model"]["vocab"] is None
    assert load(text, path) == expected


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"a":', '"b":', 'expected JSON, got "b" twice in one object'),
        ('"version":', '"model":{},"version":', 'expected JSON, got "model" twice in one object'),
        ('"a":97', '"a":097', "expected JSON"),
        ('"a":97', '"a":97.0', r"model.vocab\[\"a\"\]: expected an id from 0 to"),
        ('"a":97', '"a":-97', r"model.vocab\[\"a\"\]: expected an id from 0 to"),
        ('"a":97', '"a":98765432109876543210', r"model.vocab\[\"a\"\]: expected an id from 0 to"),
        ('"a":97', '"\\ud800":97', "expected text that has a UTF-8 form"),
        ('"a":97', '"a\x01":97', "expected JSON"),
        ('"a":97', '"a":97,', "expected JSON"),
        ('["a","b"]', '["a","b"],', "expected JSON"),
        ('["a","b"]', '["a","b","c"]', r'model.merges\[\d+\]: expected two tokens'),
        ('["a","b"]', '"a b"', "expected all of them strings or all of them arrays"),
        ('["a","b"]', '["a","<é"]', "expected tokens of the vocabulary"),
        ('["a","b"]', '["a","<|endoftext|>"]', r"expected merges\[0\] to make a token"),
    ],
)  # fmt: skip
def test_what_the_quick_reader_does_not_take_is_named(document, tmp_path, old, new, message):
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    assert old in text
    with pytest.raises(ValueError, match=message):
        load(text.replace(old, new, 1), tmp_path / "broken.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data())
def test_any_other_value_is_refused_or_understood(tmp_path_factory, data):
    """Replaces one field of a good file by anything: a Tokenizer or a ValueError comes back, nothing else."""
    path = tmp_path_factory.mktemp("fuzz") / "tokenizer.json"
    document = json.loads(Tokenizer.train(iter(["ab abc"]), 260).save(path).read_text())
    where = document
    while True:
        keys = list(where) if isinstance(where, dict) else range(len(where))
        key = data.draw(st.sampled_from(keys))
        if isinstance(where[key], (dict, list)) and where[key] and data.draw(st.booleans()):
            where = where[key]
            continue
        where[key] = data.draw(JSON)
        break
    try:
        tokenizer = load(document, path)
    except ValueError as error:
        assert str(error).startswith(f"[load] {path}: ")  # noqa: PT017
        return
    if tokenizer.pattern != "pipeline":
        assert tokenizer.decode(tokenizer.encode_ordinary("ab abc")) == "ab abc"
        return
    try:
        tokenizer.decode(tokenizer.encode_ordinary("ab abc"))
    except ValueError as error:
        assert str(error).startswith("[encode] ")  # noqa: PT017


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="which is not there"):
        Tokenizer.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no\.json, which is not there"):
        Tokenizer.load(tmp_path / "no.json")


def test_tiktoken_files(tmp_path):
    tokens = [bytes([byte]) for byte in range(256)] + [b"ab", b"cab", b"\xff\xfe"]
    path = tmp_path / "small.tiktoken"
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % id for id, token in enumerate(tokens)))
    tokenizer = Tokenizer.load(path, pattern="cl100k", special_tokens=["<|endoftext|>"])
    assert tokenizer.encode("cab dab<|endoftext|>", allowed_special="all") == [257, 32, 100, 256, 259]
    assert tokenizer.vocabulary.tokens[:259] == tokens
    assert Tokenizer.load(path, pattern="gpt2", special_tokens={"<s>": 300}).special_tokens == {"<s>": 300}
    saved = Tokenizer.load(tokenizer.save(tmp_path / "as.json"))
    assert saved.encode("cab dab") == [257, 32, 100, 256]
    with pytest.raises(ValueError, match="expected pattern="):
        Tokenizer.load(path)
    with pytest.raises(ValueError, match="the file has its own"):
        Tokenizer.load(tmp_path / "as.json", pattern="gpt2")


def test_bad_special_tokens_for_a_tiktoken_file(tmp_path):
    path = tmp_path / "bytes.tiktoken"
    path.write_bytes(b"".join(base64.b64encode(bytes([byte])) + b" %d\n" % byte for byte in range(256)))
    with pytest.raises(TypeError, match="special_tokens to be a list of str, got '<s>'"):
        Tokenizer.load(path, pattern="gpt2", special_tokens="<s>")
    for bad in ("x", -1, None, 97, 2**40):
        with pytest.raises(ValueError, match=r"\[load\] .*bytes.tiktoken: expected .*special token"):
            Tokenizer.load(path, pattern="gpt2", special_tokens={"<s>": bad})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"YQ==", "line 257: expected a token in base64 and its id"),
        (b"Y?== 256", "line 257: expected a token in base64"),
        (b"YWI= x", "line 257: expected a token in base64"),
        (b"YWI= 5", "line 257: expected an id of its own near the others"),
        (b"YWI= -1", "line 257: expected a token in base64 and its id"),
        (b" YWI= 256", "line 257: expected a token in base64 and its id"),
        (b"YWI 256", "line 257: expected a token in base64 and its id"),
        (b"YWI=\n256 YWI= 256", "line 257: expected a token in base64 and its id"),
        (b"YWI= 2000000000", "line 257: expected an id of its own near"),
        (b"YWI= 99999999999999999999999", "line 257: expected a token in base64 and its id"),
        (b"YW=I 256", "line 257: expected a token in base64 and its id"),
        (b"A=== 256", "line 257: expected a token in base64 and its id"),
        (b"==== 256", "line 257: expected a token in base64 and its id"),
        (base64.b64encode(b"x" * 1025) + b" 256", "expected tokens of at most 1024 bytes"),
        (b"YQ== 256", "expected distinct tokens, got 'a' as ids 97 and 256"),
    ],
)
def test_broken_tiktoken_files(tmp_path, line, message):
    path = tmp_path / "broken.tiktoken"
    lines = [base64.b64encode(bytes([byte])) + b" %d" % byte for byte in range(256)]
    path.write_bytes(b"\n".join([*lines, line]))
    with pytest.raises(ValueError, match=message):
        Tokenizer.load(path, pattern="cl100k")


def test_saved_as_tiktoken(tmp_path, corpus):
    """Where every token comes out of the merges in order of rank, the ranks say it all."""
    trained = Tokenizer.train(iter([corpus[:100_000]]), 900, special_tokens=["<s>"])
    path = trained.save(tmp_path / "v.tiktoken")
    loaded = Tokenizer.load(path, pattern=trained.pattern, special_tokens={"<s>": 899})
    assert loaded.encode(corpus + "<s>", allowed_special="all") == trained.encode(corpus + "<s>", allowed_special="all")
    again = loaded.save(tmp_path / "again.tiktoken")
    assert again.read_bytes() == path.read_bytes()
    lines = path.read_bytes().splitlines()
    assert lines[97] == base64.b64encode(b"a") + b" 97"
    assert len(lines) == 899


@given(words=st.lists(st.text("abc", min_size=2, max_size=5), min_size=1, max_size=8, unique=True), data=st.data())
def test_saved_as_tiktoken_only_if_the_ids_stay(tmp_path_factory, words, data):
    """Any merges, in order of ids or not."""
    tokens = [*(bytes([byte]) for byte in range(256)), *map(str.encode, words)]
    cuts = [
        (tokens.index(t[:i]), tokens.index(t[i:]))
        for t in tokens[256:]
        for i in range(1, len(t))
        if t[:i] in tokens and t[i:] in tokens
    ]
    merges = data.draw(st.lists(st.sampled_from(cuts), unique=True)) if cuts else []
    if data.draw(st.booleans()):
        merges.sort(key=lambda pair: tokens.index(tokens[pair[0]] + tokens[pair[1]]))
    tokenizer = Tokenizer(Vocabulary(tokens, merges, "gpt2"))
    path = tmp_path_factory.getbasetemp() / "any.tiktoken"
    try:
        tokenizer.save(path)
    except ValueError as error:
        assert "merges that make one token each, in order of their ids" in str(error)  # noqa: PT017
        return
    loaded = Tokenizer.load(path, pattern="gpt2")
    for text in data.draw(st.lists(st.text("abc ", max_size=40), max_size=5)):
        assert loaded.encode(text) == tokenizer.encode(text)


def test_a_vocabulary_that_lacks_bytes_is_not_saved_as_tiktoken(tmp_path):
    tokenizer = Tokenizer(Vocabulary([b"a", b"b", b"ab"], [(0, 1)], "gpt2"))
    with pytest.raises(ValueError, match=r"\[save\] .*x.tiktoken: expected a token for each byte"):
        tokenizer.save(tmp_path / "x.tiktoken")
