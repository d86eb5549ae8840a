"""Added tokens that take whitespace with them or stand alone only, and what comes before and behind a text, as Hugging
Face's tokenizers have them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcore.tokenizer import Tokenizer

pytestmark = pytest.mark.peers

TOKENS = ["<a>", "<ab>", "abc", "<b>x", "日本"]
WORDS = [*TOKENS, " ", "\n", "\u00a0", "\u3000", "a", "_", "1", "é", "\u0301", "<", ".", "  ", "日本", "🎉", "\u200d"]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=12).map("".join)
FLAGS = st.fixed_dictionaries(dict.fromkeys(("lstrip", "rstrip", "single_word"), st.booleans()))


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    tokenizer = Tokenizer.train(iter(["ab abc. <a>"]), 262, pattern="gpt2", special_tokens=TOKENS)
    return json.loads(tokenizer.save(tmp_path_factory.mktemp("plain")).read_text())


def both(document, path):
    tokenizers = pytest.importorskip("tokenizers")
    path.write_text(json.dumps(document))
    return Tokenizer.load(path), tokenizers.Tokenizer.from_file(str(path))


@given(flags=st.lists(FLAGS, min_size=len(TOKENS), max_size=len(TOKENS)), texts=st.lists(TEXTS, max_size=8))
def test_flags(document, tmp_path_factory, flags, texts):
    path = tmp_path_factory.mktemp("flags") / "tokenizer.json"
    for token, chosen in zip(document["added_tokens"], flags, strict=True):
        token |= chosen
    ours, theirs = both(document, path)
    again = Tokenizer.load(ours.save(path.parent / "again.json"))
    assert again == ours
    for text in texts:
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, allowed_special="all") == expected
        assert ours.encode(text.encode(), allowed_special="all") == expected
        assert ours.count(text, allowed_special="all") == len(expected)


@pytest.mark.parametrize("flag", ["single_word", "rstrip", "lstrip"])
def test_every_code_point_beside_a_token(document, tmp_path, flag):
    document = json.loads(json.dumps(document))
    document["added_tokens"][2][flag] = True
    ours, theirs = both(document, tmp_path / "tokenizer.json")
    beside = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and (c < 0x3400 or c % 11 == 0)]
    texts = [f"{c}abc" if flag == "lstrip" else f"abc{c}" for c in beside]
    expected = [e.ids for e in theirs.encode_batch(texts, add_special_tokens=False)]
    assert ours.encode_batch(texts, allowed_special="all") == expected


def test_what_a_token_takes_is_not_there_for_the_text_around_it(document, tmp_path):
    document["added_tokens"][0] |= {"lstrip": True, "rstrip": True, "single_word": False}
    ours, _ = both(document, tmp_path / "tokenizer.json")
    [id] = ours.encode(" \n<a>\u3000 ", allowed_special="all")
    assert ours.decode([id]) == "<a>"
    with pytest.raises(ValueError, match="special token '<a>' at byte 0"):
        ours.encode(" <a>")
    assert ours.decode(ours.encode_ordinary(" <a> ")) == " <a> "


# Some are words of the vocabulary, some begin within others, some are only there in or out of a normal form.
ANY = ["ab", "<a>", "<ab>", "abc", "<b>x", "日本", "a<", "日x", "x\u0300日", "!", "  ", "\n", "b 日"]
PIECES = [*ANY, " ", "\u00a0", "a", "_", "1", "é", "\u0301", "<", ".", "🎉", "b", "c", "x"]
ONE = st.fixed_dictionaries(dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized", "special"), st.booleans()))


@given(
    tokens=st.dictionaries(st.sampled_from(ANY), ONE, min_size=1, max_size=5),
    nfc=st.booleans(),
    texts=st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), max_size=6),
)
def test_any_added_tokens(document, tmp_path_factory, tokens, nfc, texts):
    path = tmp_path_factory.mktemp("any") / "tokenizer.json"
    vocab = {text: id for text, id in document["model"]["vocab"].items() if text not in TOKENS}
    added = [text for text in tokens if text not in vocab]
    ids = {text: vocab.get(text) or max(vocab.values()) + 1 + added.index(text) for text in tokens}
    entries = [{"id": ids[text], "content": text, **tokens[text]} for text in sorted(tokens, key=ids.__getitem__)]
    model = document["model"] | {"vocab": vocab}
    changed = document | {"model": model, "added_tokens": entries, "normalizer": {"type": "NFC"} if nfc else None}
    ours, theirs = both(changed, path)
    for text in texts:
        try:
            expected = theirs.encode(text, add_special_tokens=False).ids
        except BaseException as error:
            assert "bad split" in str(error)  # noqa: PT017
            continue
        assert ours.encode(text, allowed_special="all") == expected
        assert ours.count(text.encode(), allowed_special="all") == len(expected)
        assert Tokenizer.load(ours.save(path.parent / "again.json")) == ours


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<a>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
}


def special(name, ids):
    return {name: {"id": name, "ids": ids, "tokens": ["<a>"] * len(ids)}}


@pytest.mark.parametrize(
    "processor",
    [
        None,
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        TEMPLATE | {"special_tokens": special("<a>", [257])},
        {"type": "Sequence", "processors": [{"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False,
                                            "use_regex": True}, TEMPLATE | {"special_tokens": special("<a>", [258, 257])}]},
        TEMPLATE | {"single": [*TEMPLATE["single"], {"SpecialToken": {"id": "z", "type_id": 0}}],
                    "special_tokens": special("<a>", [257]) | special("z", [259])},
        {"type": "RobertaProcessing", "sep": ["<ab>", 258], "cls": ["<a>", 257], "trim_offsets": True,
         "add_prefix_space": False},
        {"type": "BertProcessing", "sep": ["<ab>", 258], "cls": ["<a>", 257]},
    ],
)  # fmt: skip
def test_what_comes_around_a_text(document, tmp_path, processor):
    ids = {token["content"]: token["id"] for token in document["added_tokens"]}
    shift = ids["<a>"] - 257
    changed = json.loads(json.dumps(document | {"post_processor": processor}), object_hook=None)

    def moved(value):
        if isinstance(value, dict):
            return {k: moved(v) for k, v in value.items()}
        if isinstance(value, list):
            return [moved(v) for v in value]
        return value + shift if isinstance(value, int) and not isinstance(value, bool) and value > 200 else value

    changed["post_processor"] = moved(processor)
    ours, theirs = both(changed, tmp_path / "tokenizer.json")
    for tok in (ours, Tokenizer.load(ours.save(tmp_path / "again.json"))):
        assert [*tok.begin, *tok.encode("ab. ab"), *tok.end] == theirs.encode("ab. ab").ids
        assert tok == ours


def test_bad_processors_are_named(document, tmp_path):
    for processor, message in [
        ({"type": "Magic"}, "post_processor: expected TemplateProcessing, .* got Magic"),
        (TEMPLATE | {"special_tokens": {}}, r"post_processor.special_tokens.<a>: expected an object"),
        (TEMPLATE | {"special_tokens": special("<a>", ["x"])}, "expected an id from 0"),
        (TEMPLATE | {"special_tokens": special("<a>", [9999])}, "9999"),
        (TEMPLATE | {"single": [], "special_tokens": {}}, "post_processor.single: expected one text"),
        (
            TEMPLATE | {"single": [3], "special_tokens": {}},
            r"post_processor.single\[0\].SpecialToken: expected an object",
        ),
        ({"type": "BertProcessing", "sep": ["<a>"], "cls": ["<a>", 257]}, "post_processor.sep|post_processor.cls"),
    ]:
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(document | {"post_processor": processor}))
        with pytest.raises(ValueError, match=message):
            Tokenizer.load(path)
