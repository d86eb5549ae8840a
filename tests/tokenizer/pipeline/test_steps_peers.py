"""Every normalizer and pre-tokenizer against Hugging Face's tokenizers, on every code point and on random texts."""

import base64
import json
import random
from pathlib import Path

import pytest

from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.pipeline.first import Leading
from llmcore.tokenizer.pipeline.normalizers import read_normalizer
from llmcore.tokenizer.pipeline.pre_tokenizers import read_pre_tokenizer
from support.pipeline_steps import BEHAVIORS, CHAINS, NORMALIZERS, PRE_TOKENIZERS, precompiled, random_text, step

pytestmark = pytest.mark.peers

# Of the planes that no version of Unicode uses, and of those for private use, the ends.
UNUSED = {code for code in range(0x40000, 0x110000) if code & 0xF0000 != 0xE0000 and 0x80 <= code & 0xFFFF < 0xFF80}
CHARACTERS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000 and code not in UNUSED]
CHUNK = 1 << 14
READER = Reader(Path("tokenizer.json"))


def theirs(part, value):
    tokenizers = pytest.importorskip("tokenizers")
    document = json.loads(tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a")).to_str())
    return getattr(tokenizers.Tokenizer.from_str(json.dumps({**document, part: value})), part)


def both_normalizers(value):
    return theirs("normalizer", value).normalize_str, read_normalizer(READER, value)


def both_pre_tokenizers(value):
    cut, ours = theirs("pre_tokenizer", value).pre_tokenize_str, read_pre_tokenizer(READER, value).cut
    return lambda text: [part for part, _ in cut(text)], lambda text: ours(text, 1)


def assert_same(both, separator):
    """Between separators that nothing joins with, every character is alone."""
    expected, got = both
    for start in range(0, len(CHARACTERS), CHUNK):
        chunk = CHARACTERS[start : start + CHUNK]
        if expected(text := separator.join(chunk)) != got(text):
            different = [c for c in chunk if expected(separator + c + separator) != got(separator + c + separator)]
            raise AssertionError(f"{[hex(ord(c)) for c in different[:20]]} of {len(different)}")


EVERY_CHARACTER = [v for v in NORMALIZERS if v["type"] not in ("Strip", "Prepend", "ByteLevel", "Replace")]
EVERY_CUT = [
    *(v for v in PRE_TOKENIZERS if v.keys() == {"type"} and v["type"] != "FixedLength"),
    step("Digits", individual_digits=True),
]


@pytest.mark.parametrize("value", EVERY_CHARACTER, ids=lambda v: v["type"])
def test_normalizers_of_every_code_point(value):
    assert_same(both_normalizers(value), "\u2603")


@pytest.mark.parametrize("value", EVERY_CUT, ids=lambda v: v["type"])
def test_pre_tokenizers_of_every_code_point(value):
    assert_same(both_pre_tokenizers(value), "a")


def test_grapheme_clusters_of_every_code_point():
    """Where a cluster goes on is seen by what is lost of it: the shortest key replaces it all."""
    letters = [*range(0xA0, 0x1200), *range(0x1A00, 0x3200), *range(0xA600, 0xAC00), *range(0x10000, 0x12000)]
    letters += range(0x1F000, 0x1FB00)
    expected, got = both_normalizers(precompiled({chr(code): "X" for code in (*letters, 0x61)}))
    marks = ["a{}", "{}a", "{}\u0301", "\u00a9\u200d{}\u0301", "{}\u200d\u00a9\u0301", "\u1100{}\u0301"]
    indic = ["\u0915\u094d{}\u0301", "{}\u094d\u0915\u0301", "\u0915{}\u0915\u0301", "\u0915\u094d{}\u0915\u0301"]
    for pattern in marks + indic:
        for start in range(0, len(letters), 1 << 10):
            text = "\u2603".join(map(pattern.format, map(chr, letters[start : start + (1 << 10)])))
            assert expected(text) == got(text), (pattern, hex(letters[start]))


def by_kind(values):
    found = {}
    for value in values:
        found.setdefault(value["type"], []).append(value)
    return found


@pytest.mark.parametrize(("kind", "values"), by_kind(NORMALIZERS).items())
def test_random_texts_normalized(kind, values):
    rng = random.Random(kind)
    pairs = [(value, *both_normalizers(value)) for value in values]
    for _ in range(100):
        text, (value, expected, got) = random_text(rng), rng.choice(pairs)
        assert got(text) == expected(text), (value, ascii(text))


@pytest.mark.parametrize(("kind", "values"), by_kind(PRE_TOKENIZERS).items())
def test_random_texts_cut(kind, values):
    rng = random.Random(kind)
    pairs = [(value, *both_pre_tokenizers(value)) for value in values]
    for _ in range(100):
        text, (value, expected, got) = random_text(rng), rng.choice(pairs)
        assert got(text) == expected(text), (value, ascii(text))


@pytest.mark.parametrize("seed", range(40))
def test_random_sequences(seed):
    rng = random.Random(seed)
    normalizer = step("Sequence", normalizers=rng.choices(NORMALIZERS, k=rng.randrange(5)))
    pre_tokenizer = step("Sequence", pretokenizers=rng.choices(PRE_TOKENIZERS, k=rng.randrange(5)))
    pairs = [(normalizer, *both_normalizers(normalizer)), (pre_tokenizer, *both_pre_tokenizers(pre_tokenizer))]
    for _ in range(20):
        text = random_text(rng)
        for value, expected, got in pairs:
            assert got(text) == expected(text), (value, ascii(text))


@pytest.mark.parametrize("seed", range(20))
def test_where_normalized_texts_begin(seed):
    """A model of characters shows the pieces that it was given."""
    tokenizers = pytest.importorskip("tokenizers")
    rng = random.Random(seed)
    normalizer = step("Sequence", normalizers=rng.choices(NORMALIZERS, k=rng.randrange(1, 4)))
    mark = step("Metaspace", replacement="\u2581", prepend_scheme="first", split=rng.random() < 0.5)
    pre_tokenizer = step("Sequence", pretokenizers=[*rng.choices(PRE_TOKENIZERS, k=rng.randrange(2)), mark])
    normalize, cut = read_normalizer(READER, normalizer), read_pre_tokenizer(READER, pre_tokenizer).cut
    leading = Leading(READER, {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer})
    texts = list(filter(normalize, (random_text(rng) for _ in range(20))))
    ours = [cut(normalize(text), leading.count(text)) for text in texts]
    vocabulary = {c: id for id, c in enumerate(sorted(set("".join(part for parts in ours for part in parts))))}
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    model.normalizer, model.pre_tokenizer = theirs("normalizer", normalizer), theirs("pre_tokenizer", pre_tokenizer)
    for text, parts in zip(texts, ours, strict=True):
        encoding = model.encode(text)
        expected = ["" for _ in range(max(encoding.word_ids, default=-1) + 1)]
        for character, number in zip(encoding.tokens, encoding.word_ids, strict=True):
            expected[number] += character
        assert parts == expected, (normalizer, pre_tokenizer, ascii(text))


@pytest.mark.parametrize("name", CHAINS)
def test_chains_of_models(name):
    normalizer, pre_tokenizer = CHAINS[name]
    rng = random.Random(name)
    normalize = both_normalizers(normalizer) if normalizer else (str, str)
    cut = both_pre_tokenizers(pre_tokenizer)
    for _ in range(60):
        text = random_text(rng)
        assert (normal := normalize[1](text)) == normalize[0](text), ascii(text)
        assert cut[1](normal) == cut[0](normal), ascii(text)


def test_sentencepieces_own_tables(tmp_path):
    """The rules of T5, XLM-RoBERTa and others."""
    sentencepiece = pytest.importorskip("sentencepiece")
    from sentencepiece import sentencepiece_model_pb2

    rng = random.Random(0)
    for rule in ("nmt_nfkc", "nmt_nfkc_cf"):
        model = tmp_path / rule
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["hello world"] * 5),
            model_prefix=str(model),
            vocab_size=20,
            hard_vocab_limit=False,
            normalization_rule_name=rule,
            minloglevel=2,
        )
        proto = sentencepiece_model_pb2.ModelProto.FromString(Path(f"{model}.model").read_bytes())
        table = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
        both = both_normalizers(step("Precompiled", precompiled_charsmap=table))
        assert_same(both, "\u2603")
        for _ in range(200):
            text = random_text(rng)
            assert both[1](text) == both[0](text), ascii(text)


def test_what_is_refused_by_both():
    for value in (
        step("Split", pattern={"String": "a"}, behavior=BEHAVIORS[0].lower(), invert=False),
        step("Metaspace", replacement="__"),
        step("Digits"),
        step("Delimiter", delimiter="a"),
    ):
        with pytest.raises(Exception, match=r"."):
            theirs("pre_tokenizer", value)
        with pytest.raises(ValueError, match="pre_tokenizer"):
            read_pre_tokenizer(READER, value)
