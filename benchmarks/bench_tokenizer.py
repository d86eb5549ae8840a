"""Training and encoding of byte-level BPE on the built-in corpus: the same merges and the same ids, then the time."""

import json

import pytest

import llmcore
from llmcore import data
from llmcore.tokenizer.formats import byte_alphabet
from llmcore.tokenizer.patterns import REGEX
from peers import peer

VOCAB = 4096
# As tiktoken publishes it: possessive, and so faster there than our spelling.
TIKTOKEN_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return [d.decode("utf-8", "replace") for d in data.read_corpus("python-docs").train]


@pytest.fixture(scope="module")
def tokenizer(documents) -> llmcore.Tokenizer:
    return llmcore.Tokenizer.train(iter(documents), VOCAB, pattern="cl100k", special_tokens=[])


@pytest.mark.parametrize("library", ["llmcore", "tiktoken", "tokenizers"])
def test_encode(benchmark, documents, tokenizer, tmp_path, library):
    text = "".join(documents)
    if library == "llmcore":

        def encode():
            return tokenizer.encode_ordinary(text)

    elif library == "tiktoken":
        ranks = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size)}
        encoding = peer("tiktoken").Encoding("bench", pat_str=TIKTOKEN_CL100K, mergeable_ranks=ranks, special_tokens={})

        def encode():
            return encoding.encode_ordinary(text)

    else:
        tokenizer.save(tmp_path)
        theirs = peer("tokenizers").Tokenizer.from_file(str(tmp_path / "tokenizer.json"))

        def encode():
            return theirs.encode(text, add_special_tokens=False).ids

    assert encode() == tokenizer.encode_ordinary(text)
    describe(benchmark, f"encode {len(text) / 1e6:.1f} MB, V={VOCAB}", library, len(text.encode()))
    benchmark(encode)


@pytest.mark.parametrize("library", ["llmcore", "tokenizers", "rustbpe"])
def test_train(benchmark, documents, tokenizer, library):
    if library == "llmcore":

        def train():
            return llmcore.Tokenizer.train(iter(documents), VOCAB, pattern="cl100k", special_tokens=[])

        def vocabulary(trained):
            return {trained.token_bytes(i) for i in range(VOCAB)}

    elif library == "tokenizers":
        peer("tokenizers")
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

        def train():
            theirs = Tokenizer(models.BPE())
            theirs.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex(REGEX["cl100k"]), "isolated"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
            alphabet = pre_tokenizers.ByteLevel.alphabet()
            trainer = trainers.BpeTrainer(vocab_size=VOCAB, initial_alphabet=alphabet, show_progress=False)
            theirs.train_from_iterator(documents, trainer)
            return theirs

        def vocabulary(trained):
            to_byte = {c: b for b, c in enumerate(byte_alphabet())}
            return {bytes(to_byte[c] for c in token) for token in json.loads(trained.to_str())["model"]["vocab"]}

    else:
        rustbpe = peer("rustbpe")

        def train():
            theirs = rustbpe.Tokenizer()
            theirs.train_from_iterator(iter(documents), VOCAB, pattern=REGEX["cl100k"])
            return theirs

        def vocabulary(trained):
            return {bytes(token) for token, _ in trained.get_mergeable_ranks()}

    ours = {tokenizer.token_bytes(i) for i in range(VOCAB)}
    shared = len(ours & vocabulary(train())) / VOCAB
    assert shared > 0.99, f"only {shared:.1%} of the vocabulary is shared"  # equal counts may merge in any order
    size = sum(len(d.encode()) for d in documents)
    describe(benchmark, f"train a tokenizer on {size / 1e6:.1f} MB, V={VOCAB}", library, size)
    benchmark.pedantic(train, rounds=3)


def describe(benchmark, group: str, library: str, size: int) -> None:
    benchmark.group = group
    benchmark.extra_info.update(library=library, dtype="text", shape={"bytes": size}, correct=True)
