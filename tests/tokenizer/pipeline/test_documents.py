"""Whole tokenizer.json files that go through the pipeline. Ids and texts are what `tokenizers` 0.23.3 gives for the same
file (Tokenizer.from_str(...).encode(text, add_special_tokens=False)); test_pipeline_peers.py compares at random."""

import json
import pickle

import pytest

from llmcore.tokenizer import Tokenizer

FLAGS = {"single_word": False, "lstrip": False, "rstrip": False}


def added(content, id, special=True, **flags):
    return {"id": id, "content": content, "special": special, "normalized": not special, **FLAGS, **flags}


def vocab(*tokens):
    return {token: id for id, token in enumerate(tokens)}


def sequence(name, *steps):
    return {"type": "Sequence", name: list(steps)}


def pair(cls, sep):
    return {"type": "BertProcessing", "cls": list(cls), "sep": list(sep)}


def byte_level(**options):
    return {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True, **options}


BERT = {
    "added_tokens": [added("[UNK]", 0), added("[CLS]", 1), added("[SEP]", 2), added("[MASK]", 3, lstrip=True)],
    "normalizer": {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": pair(("[CLS]", 1), ("[SEP]", 2)),
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": vocab("[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cafe", "##s", "\u4e2d", ".", "un", "##able", "'"),
    },
}
T5 = {
    "added_tokens": [added("<pad>", 0), added("</s>", 1), added("<unk>", 2), added("<extra_id_0>", 10)],
    "normalizer": sequence(
        "normalizers", {"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    ),
    "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
    },
    "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
    "model": {
        "type": "Unigram",
        "unk_id": 2,
        "byte_fallback": False,
        "vocab": [
            *[["<pad>", 0], ["</s>", 0], ["<unk>", 0], ["\u2581", -2.0], ["\u2581the", -3.0], ["s", -4.0]],
            *[["\u2581cat", -5.5], ["\u2581c", -4.5], ["at", -3.5], ["t", -6.0]],
        ],
    },
}
CLIP = {
    "added_tokens": [added("<|startoftext|>", 9), added("<|endoftext|>", 10)],
    "normalizer": sequence(
        "normalizers",
        {"type": "NFC"},
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Lowercase"},
    ),
    "pre_tokenizer": sequence(
        "pretokenizers",
        {
            "type": "Split",
            "pattern": {"Regex": r"'s|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"},
            "behavior": "Removed",
            "invert": True,
        },
        byte_level(add_prefix_space=False),
    ),
    "post_processor": {
        "type": "RobertaProcessing",
        "cls": ["<|startoftext|>", 9],
        "sep": ["<|endoftext|>", 10],
        "trim_offsets": False,
        "add_prefix_space": False,
    },
    "decoder": {"type": "BPEDecoder", "suffix": "</w>"},
    "model": {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<|endoftext|>",
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "</w>",
        "fuse_unk": False,
        "vocab": vocab("a", "c", "t", "a</w>", "t</w>", "at</w>", "cat</w>", "!</w>", "'s</w>")
        | {"<|startoftext|>": 9, "<|endoftext|>": 10},
        "merges": ["a t</w>", "c at</w>"],
    },
}
ROBERTA = {
    "added_tokens": [added("<s>", 0), added("<mask>", 9, lstrip=True)],
    "normalizer": None,
    "pre_tokenizer": byte_level(),
    "post_processor": {**CLIP["post_processor"], "cls": ["<s>", 0], "sep": ["<s>", 0]},
    "decoder": byte_level(),
    "model": {
        "type": "BPE",
        "vocab": vocab("<s>", "a", "\u0120", "\u0120a", "b", "\u0120ab", "\u00c3", "\u00a9", "ab"),
        "merges": ["\u0120 a", "\u0120a b", "a b"],
    },
}
WORDS = {
    "added_tokens": [added("[M]", 4, False, single_word=True), added("new york", 5, False)],
    "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {"type": "Whitespace"},
    "model": {"type": "WordLevel", "unk_token": "?", "vocab": vocab("?", "is", "big", ",")},
}
DOCUMENTS = {"bert": BERT, "t5": T5, "clip": CLIP, "roberta": ROBERTA, "words": WORDS}

# The document, a text, its ids, and how they are decoded with special tokens and without.
RECORDED = [
    ("bert", "The caf\u00e9s, unable.", [4, 5, 6, 0, 9, 10, 8], "the cafes [UNK] unable.", "the cafes unable."),
    ("bert", "x\u4e2dthe [MASK] THE'", [0, 7, 4, 3, 4, 11], "[UNK] \u4e2d the [MASK] the '", "\u4e2d the the '"),
    ("bert", "[SEP] [sep]", [2, 0, 0, 0], "[SEP] [UNK] [UNK] [UNK]", ""),
    ("t5", "the cat", [4, 6], "the cat", "the cat"),
    ("t5", "  the   cats<extra_id_0> at", [4, 6, 5, 10, 3, 8], "the cats<extra_id_0> at", "the cats at"),
    ("t5", "\uff34x\u4e2d cat </s>the", [3, 2, 6, 3, 1, 4], "<unk> cat </s> the", " cat  the"),
    ("clip", "Cat's  a CAT!", [6, 10, 10, 3, 6, 7], "cat <|endoftext|><|endoftext|>a cat !", "cat a cat !"),
    ("clip", "a<|endoftext|>cat cat", [3, 10, 6, 6], "a <|endoftext|>cat cat", "a cat cat"),
    ("clip", "b", [10], "<|endoftext|>", ""),
    ("roberta", "ab a", [5, 3], " ab a", " ab a"),
    ("roberta", "a <mask> ab", [3, 9, 5], " a<mask> ab", " a ab"),
    ("roberta", " \u00e9ab<s>ab", [2, 6, 7, 8, 0, 5], " \u00e9ab<s> ab", " \u00e9ab ab"),
    ("words", "New York is big, NEW YORK", [5, 1, 2, 3, 5], *["new york is big , new york"] * 2),
    ("words", "a[M]b [M] [m]", [0, 0, 0, 0, 0, 4, 4], "? ? ? ? ? [m] [m]", "? ? ? ? ? [m] [m]"),
    *((name, "", [], "", "") for name in DOCUMENTS),
]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")

    def load(document):
        path = folder / "tokenizer.json"
        path.write_text(json.dumps({"version": "1.0", **document}))
        return Tokenizer.load(path)

    return load


@pytest.mark.parametrize(("name", "text", "ids", "decoded", "skipped"), RECORDED)
def test_ids_and_text(load, name, text, ids, decoded, skipped):
    tokenizer = load(DOCUMENTS[name])
    assert tokenizer.pattern == "pipeline"
    assert tokenizer.encode(text, allowed_special="all") == ids
    assert tokenizer.encode(text.encode(), allowed_special="all") == ids
    assert tokenizer.encode_array(text, allowed_special="all").tolist() == ids
    assert tokenizer.encode_batch([text, text], allowed_special="all") == [ids, ids]
    assert tokenizer.count(text, allowed_special="all") == len(ids)
    assert tokenizer.decode(ids) == tokenizer.decode(tokenizer.encode_array(text, "all")) == decoded
    assert tokenizer.decode(ids, skip_special_tokens=True) == skipped
    for skip, whole in ((False, decoded), (True, skipped)):
        stream = tokenizer.stream_decoder(skip_special_tokens=skip)
        for _ in range(2):
            assert "".join([*map(stream.push, ids), stream.finish()]) == whole


@pytest.mark.parametrize("name", DOCUMENTS)
def test_saved_loaded_and_pickled(load, tmp_path, name):
    tokenizer = load(DOCUMENTS[name])
    saved = Tokenizer.load(tokenizer.save(tmp_path))
    for other in (saved, pickle.loads(pickle.dumps(tokenizer)), Tokenizer(tokenizer.vocabulary)):
        assert other == tokenizer
        assert other.digest == tokenizer.digest
        assert (other.begin, other.end) == (tokenizer.begin, tokenizer.end)
    changed = load({**DOCUMENTS[name], "pre_tokenizer": {"type": "WhitespaceSplit"}})
    assert changed != tokenizer
    assert changed.digest != tokenizer.digest


def test_what_stands_around_a_text(load):
    assert [(load(d).begin, load(d).end) for d in (BERT, T5, CLIP, WORDS)] == [
        ((1,), (2,)),
        ((), (1,)),
        ((9,), (10,)),
        ((), ()),
    ]


def test_special_tokens_are_refused_in_plain_text(load):
    tokenizer = load(BERT)
    assert tokenizer.special_tokens == {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[MASK]": 3}
    with pytest.raises(ValueError, match=r"the text holds the special token '\[MASK\]'.*use encode_ordinary"):
        tokenizer.encode("the [MASK]")
    assert tokenizer.encode("the [MASK]", allowed_special={"[MASK]"}) == [4, 3]
    assert tokenizer.encode_ordinary("the [MASK]") == [4, 0, 0, 0]
    words = load(WORDS)
    assert words.added_tokens == {"[M]": 4, "new york": 5}
    assert words.encode("New York") == words.encode_ordinary("New York") == [5]


def test_special_tokens_that_are_found_in_normalized_text(load):
    tokenizer = load({**BERT, "added_tokens": [added("[MASK]", 3, normalized=True)]})
    with pytest.raises(ValueError, match=r"special token '\[MASK\]'"):
        tokenizer.encode("[mask]")
    assert tokenizer.encode("the [mask]", allowed_special="all") == [4, 3]


def test_ids_without_tokens_and_wrong_ids(load):
    tokenizer = load(BERT)
    assert tokenizer.decode([4, 12, 5, 1 << 30]) == "the cafe"
    assert tokenizer.token_bytes(12) == b""
    assert [tokenizer.token_bytes(id) for id in (4, 6, 3)] == [b" the", b"s", b"[MASK]"]
    assert tokenizer.drops_first_space
    for wrong in (-1, 1 << 31):
        with pytest.raises(ValueError, match=r"^\[decode\] expected ids from 0 to 2147483647"):
            tokenizer.decode([wrong])
    with pytest.raises(TypeError, match="expected integer ids, got str"):
        tokenizer.decode(["a"])


def test_text_that_is_not_unicode(load):
    tokenizer = load(BERT)
    assert tokenizer.encode("the \ud800 the") == tokenizer.encode(b"the \xff the") == tokenizer.encode("the \ufffd the")
    with pytest.raises(TypeError, match="expected str or bytes, got int"):
        tokenizer.encode(3)


def test_what_a_pipeline_does_not_have(load, tmp_path):
    tokenizer = load(BERT)
    with pytest.raises(ValueError, match="expected a byte-level or SentencePiece-style BPE tokenizer"):
        tokenizer.encode_offsets("the")
    with pytest.raises(ValueError, match="expected a byte-level tokenizer, got one of another kind"):
        tokenizer.explain_merges("the")
    with pytest.raises(ValueError, match=r"expected a byte-level vocabulary for a \.tiktoken file"):
        tokenizer.save(tmp_path / "x.tiktoken")
    assert tokenizer.merges == []
    assert not tokenizer.ends_at_line_ends


def test_settings_of_a_call_are_left_out(load):
    settings = {"truncation": {"max_length": 1}, "padding": {"strategy": "BatchLongest"}}
    tokenizer = load(settings | BERT)
    assert tokenizer.encode("the the") == [4, 4]
    assert tokenizer == load(BERT)


def test_unknown_text_without_an_unknown_token(load):
    tokenizer = load({**ROBERTA, "added_tokens": []})
    with pytest.raises(
        ValueError, match="expected text that the vocabulary has tokens for, as it has no unknown token"
    ):
        tokenizer.encode("ax")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalizer": {"type": "Magic"}}, r"normalizer.type: expected .*Lowercase.* got Magic"),
        ({"pre_tokenizer": {"type": "Magic"}}, r"pre_tokenizer.type: expected .*Metaspace.* got Magic"),
        ({"decoder": {"type": "Magic"}}, r"decoder.type: expected .*WordPiece.* got Magic"),
        ({"post_processor": {"type": "Magic"}}, r"post_processor: expected TemplateProcessing, .* got Magic"),
        ({"model": {"type": "Magic", "vocab": {}}}, r"model.type: expected .*Unigram, got Magic"),
        ({"added_tokens": [7]}, r"added_tokens\[0\]: expected an object"),
        ({"added_tokens": [added(" ", 3, False)], "normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
         r"added_tokens: expected tokens of which the normalizer leaves something, got ' '"),
        ({"added_tokens": [added("A", 3, False), added("a", 4, False)]}, r"expected distinct special tokens, got 'a' twice"),
        ({"post_processor": pair(("[CLS]", 99), ("[SEP]", 2))}, "tokens before and after a text that exist, got id 99"),
    ],
)  # fmt: skip
def test_broken_documents_are_named(load, change, message):
    with pytest.raises(ValueError, match=r"^\[load\] .*tokenizer\.json: .*" + message) as error:
        load(BERT | change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"model": CLIP["model"] | {"continuing_subword_prefix": "\ud800"}},
        {"decoder": {"type": "Replace", "pattern": {"String": "a"}, "content": "\udfff"}},
        {"extra": "\ud800"},
    ],
)
def test_halves_of_characters_are_refused(load, change):
    with pytest.raises(ValueError, match=r"the file: expected text that has a UTF-8 form, got '.*\\ud"):
        load(CLIP | change)


def test_documents_nested_without_end(load):
    for make in (lambda inner: [inner], lambda inner: {"type": "Sequence", "pretokenizers": [inner]}):
        deep = None
        for _ in range(300):
            deep = make(deep)
        for change in ({"extra": deep}, {"pre_tokenizer": deep}, {"model": BERT["model"] | {"extra": deep}}):
            with pytest.raises(ValueError, match="the file: expected at most 100 levels, got more"):
                load(BERT | change)


def test_quick_paths_are_kept(load, tmp_path):
    """What the quick encoders do, they do; what they would not do alike goes through the pipeline."""
    trained = Tokenizer.train(iter(["ab abc"]), 258, pattern="gpt2")
    document = json.loads(trained.save(tmp_path).read_text())
    assert load(document).pattern == "gpt2"
    unknown = {**document["model"], "unk_token": "<|endoftext|>"}
    assert load(document | {"model": unknown}).pattern == "gpt2"  # every byte is a token
    vocab = {token: id for token, id in document["model"]["vocab"].items() if token != "z"}
    assert load(document | {"model": {**unknown, "vocab": vocab}}).encode("az") == [97, 257]
    for change in (
        {"normalizer": {"type": "NFKC"}},
        {"decoder": None},
        {"pre_tokenizer": byte_level()},
        {"pre_tokenizer": sequence("pretokenizers", {"type": "Whitespace"}, byte_level(add_prefix_space=False))},
        {"model": {**document["model"], "end_of_word_suffix": "</w>"}},
        {"model": {**document["model"], "vocab": document["model"]["vocab"] | {"\u4e2d": 258}}},
    ):
        assert load(document | change).pattern == "pipeline"
