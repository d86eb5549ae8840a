"""Training and encoding of byte-level BPE on the built-in corpus: the same merges and the same ids, then the time."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator

import llmcore
from compare import Workload, main
from llmcore import data
from llmcore.tokenizer.formats.byte_level import byte_alphabet
from llmcore.tokenizer.patterns import REGEX
from peers import installed

VOCAB = 4096
# As tiktoken publishes it: possessive, and so faster there than our spelling.
TIKTOKEN_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


def workloads() -> Iterator[Workload]:
    documents = [d.decode("utf-8", "replace") for d in data.read_corpus("python-docs").train]
    yield encode("".join(documents), train(documents))
    yield train_workload(documents)


def train(documents: list[str]) -> llmcore.Tokenizer:
    return llmcore.Tokenizer.train(iter(documents), VOCAB, pattern="cl100k", special_tokens=[])


def encode(text: str, tokenizer: llmcore.Tokenizer) -> Workload:
    sides: dict[str, Callable] = {"llmcore": lambda: tokenizer.encode_ordinary(text)}
    if tiktoken := installed("tiktoken"):
        ranks = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size)}
        encoding = tiktoken.Encoding("bench", pat_str=TIKTOKEN_CL100K, mergeable_ranks=ranks, special_tokens={})
        sides["tiktoken"] = lambda: encoding.encode_ordinary(text)
    if tokenizers := installed("tokenizers"):
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save(folder)
            theirs = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
        sides["tokenizers"] = lambda: theirs.encode(text, add_special_tokens=False).ids
    expected = tokenizer.encode_ordinary(text)

    def check(library: str, got: list[int]) -> None:
        assert got == expected, f"{library} encodes otherwise"

    return Workload(f"encode {len(text) / 1e6:.1f} MB, V={VOCAB}", "text", sides, check=check)


def train_workload(documents: list[str]) -> Workload:
    sides: dict[str, Callable] = {"llmcore": lambda: train(documents)}
    if tokenizers := installed("tokenizers"):
        sides["tokenizers"] = lambda: train_tokenizers(tokenizers, documents)
    if rustbpe := installed("rustbpe"):

        def train_rustbpe():
            theirs = rustbpe.Tokenizer()
            theirs.train_from_iterator(iter(documents), VOCAB, pattern=REGEX["cl100k"])
            return theirs

        sides["rustbpe"] = train_rustbpe
    ours = vocabulary("llmcore", train(documents))

    def check(library: str, trained) -> None:
        shared = len(ours & vocabulary(library, trained)) / VOCAB
        assert shared > 0.99, f"{library}: only {shared:.1%} of the vocabulary is shared"  # equal counts: any order

    size = sum(len(d.encode()) for d in documents)
    return Workload(f"train a tokenizer on {size / 1e6:.1f} MB, V={VOCAB}", "text", sides, check=check)


def train_tokenizers(tokenizers, documents: list[str]):
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(REGEX["cl100k"]), "isolated")
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_level])
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=VOCAB, initial_alphabet=alphabet, show_progress=False)
    theirs.train_from_iterator(documents, trainer)
    return theirs


def vocabulary(library: str, trained) -> set[bytes]:
    if library == "llmcore":
        return {trained.token_bytes(i) for i in range(VOCAB)}
    if library == "rustbpe":
        return {bytes(token) for token, _ in trained.get_mergeable_ranks()}
    to_byte = {c: b for b, c in enumerate(byte_alphabet())}
    return {bytes(to_byte[c] for c in token) for token in json.loads(trained.to_str())["model"]["vocab"]}


if __name__ == "__main__":
    main(workloads)
