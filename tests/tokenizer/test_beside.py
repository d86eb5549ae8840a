"""Tokens that only the files beside a tokenizer.json name. The expected ids and kinds are what transformers 5.24 gives
(AutoTokenizer.from_pretrained), which `test_as_transformers` asks."""

import json

import pytest

from llmcore.tokenizer import Tokenizer

FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
TEXT = "a<|x|>b<end>hello <y>"


def token(content, special=True, **flags):
    return {"content": content, **FLAGS, "special": special, **flags}


def decoder(**tokens):
    return {"added_tokens_decoder": {name.strip("_"): value for name, value in tokens.items()}}


@pytest.fixture
def folder(tmp_path):
    """Bytes, the merges of hello (259), <end> (260)."""
    tokenizer = Tokenizer.train(iter(["ab"]), 257, pattern="gpt2", special_tokens=["<end>"])
    document = json.loads(tokenizer.save(tmp_path).read_text())
    merges = [["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"]]
    vocab = {spelling: id for spelling, id in document["model"]["vocab"].items() if id < 256}
    document["model"] |= {"vocab": vocab | {"".join(p): 256 + i for i, p in enumerate(merges)}, "merges": merges}
    document["added_tokens"][0]["id"] = 260
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    return tmp_path


def write(folder, files):
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


# The files, and the tokens that come to those of tokenizer.json: (text, id, special).
CASES = {
    "added_tokens_decoder": ({CONFIG: decoder(_261=token("<|x|>"))}, [("<|x|>", 261, True)]),
    "in order of ids": (
        {CONFIG: decoder(_262=token("<|x|>", special=False), _261=token("<y>"))},
        [("<y>", 261, True), ("<|x|>", 262, False)],
    ),
    "a word of the vocabulary": ({CONFIG: decoder(_259=token("hello"))}, [("hello", 259, True)]),
    "a role": ({CONFIG: {"eos_token": "<|x|>"}}, [("<|x|>", 261, True)]),
    "a role of a word": ({CONFIG: {"pad_token": "hello"}}, [("hello", 259, True)]),
    "in order of roles": (
        {CONFIG: {"pad_token": "<|x|>", "bos_token": "<y>", "image_token": "<i>"}},
        [("<y>", 261, True), ("<|x|>", 262, True), ("<i>", 263, True)],
    ),
    "a role makes it special": (
        {CONFIG: decoder(_261=token("<|x|>", special=False)) | {"eos_token": "<|x|>"}},
        [("<|x|>", 261, True)],
    ),
    "a map": (
        {MAP: {"eos_token": "<|x|>", "additional_special_tokens": ["<y>"]}},
        [("<|x|>", 261, True), ("<y>", 262, True)],
    ),
    "the map counts": ({CONFIG: {"eos_token": "<|x|>"}, MAP: {"eos_token": token("<y>")}}, [("<y>", 261, True)]),
    "but not beside added_tokens_decoder": (
        {CONFIG: decoder(_261=token("<y>", special=False)), MAP: {"eos_token": "<|x|>"}, ADDED: {"<|x|>": 262}},
        [("<y>", 261, False)],
    ),
    "added_tokens.json": (
        {ADDED: {"<|x|>": 262, "<y>": 261}, MAP: {"pad_token": "<y>"}},
        [("<y>", 261, True), ("<|x|>", 262, False)],
    ),
    "more": ({CONFIG: {"extra_special_tokens": {"image_token": "<|x|>"}}}, [("<|x|>", 261, True)]),
}


@pytest.mark.parametrize(("files", "tokens"), CASES.values(), ids=CASES)
def test_tokens_of_other_files(folder, files, tokens):
    write(folder, files)
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.special_tokens == {"<end>": 260} | {text: id for text, id, special in tokens if special}
    assert tokenizer.added_tokens == {text: id for text, id, special in tokens if not special}
    for text, id, special in tokens:
        assert tokenizer.encode(text, allowed_special="all") == [id]
        assert tokenizer.decode([97, id], skip_special_tokens=True) == ("a" if special else "a" + text)
    assert Tokenizer.load(folder / "tokenizer.json").special_tokens == {"<end>": 260}  # alone


def test_flags_of_other_files_count(folder):
    write(folder, {CONFIG: decoder(_260=token("<end>", special=False, lstrip=True, normalized=True))})
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.special_tokens == {}
    assert tokenizer.encode("a <end>") == [97, 260]


REFUSED = {
    "another token's id": ({CONFIG: decoder(_98=token("<|x|>"))}, CONFIG, r"'98'\]: expected what .*'<\|x\|>', 261, got 98"),
    "a gap": ({CONFIG: decoder(_264=token("<|x|>"))}, CONFIG, "expected what tokenizer.json gives .*261, got 264"),
    "another id": ({CONFIG: decoder(_261=token("<end>"))}, CONFIG, "expected the id that .* '<end>', 260, got 261"),
    "twice": ({CONFIG: decoder(_261=token("<a>"), _262=token("<a>"))}, CONFIG, "a text that no other id has, got <a>"),
    "another id of added_tokens": ({ADDED: {"<end>": 261}}, ADDED, "expected the id that .* '<end>', 260, got 261"),
    "no id": ({CONFIG: decoder(x=token("<a>"))}, CONFIG, "expected an id, got x"),
    "a number": ({CONFIG: decoder(_261=3)}, CONFIG, "added_tokens_decoder.261: expected an object, got 3"),
    "no content": ({CONFIG: decoder(_261={})}, CONFIG, r"\['261'\].content: expected a string, got null"),
    "a list of numbers": ({MAP: {"additional_special_tokens": [3]}}, MAP, r"additional_special_tokens\[0\]: expected an object"),
    "no list": ({MAP: {"additional_special_tokens": 3}}, MAP, "additional_special_tokens: expected a list of tokens, got 3"),
    "a text for an id": ({ADDED: {"<a>": "b"}}, ADDED, "'<a>': expected an id from 0"),
    "no UTF-8": ({CONFIG: decoder(_261=token("\ud800"))}, CONFIG, r"\['261'\].content: expected text that has a UTF-8 form"),
    "no object": ({CONFIG: []}, CONFIG, "expected an object, got list"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "name", "message"), REFUSED.values(), ids=REFUSED)
def test_what_contradicts_is_refused(folder, files, name, message):
    write(folder, files)
    with pytest.raises(ValueError, match=message) as error:
        Tokenizer.load(folder)
    assert str(error.value).startswith(f"[load] {folder / name}: ")


@pytest.mark.peers
@pytest.mark.parametrize(("files", "tokens"), CASES.values(), ids=CASES)
def test_as_transformers(folder, files, tokens):
    transformers = pytest.importorskip("transformers")
    write(folder, files)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    ours = Tokenizer.load(folder)
    text = TEXT + "".join(text for text, _, _ in tokens)
    ids = theirs(text, add_special_tokens=False).input_ids
    assert ours.encode(text, allowed_special="all") == ids
    assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    assert set(ours.special_tokens.values()) == {i for i, t in theirs.added_tokens_decoder.items() if t.special}
