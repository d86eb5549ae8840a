"""Encoding with a SentencePiece-style vocabulary, as Llama 2 has it, on the built-in corpus: the same ids, then the
time."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import llmcore
from benchmarks.harness.compare import main
from benchmarks.harness.peers import installed, missing
from benchmarks.harness.workload import Sides, Unavailable, Workload
from llmcore import data

VOCAB, SMALL_VOCAB = 8000, 600
LIBRARIES = ("llmcore", "sentencepiece", "tokenizers")


def workloads() -> Iterator[Workload]:
    for what, begin, end in (("one text", 0, 3_000_000), ("100 characters", 1000, 1100)):
        name, build = f"encode {what}, SentencePiece, V={VOCAB}", partial(encode, begin)
        yield Workload(name, "text", LIBRARIES, build, (end, VOCAB), (2000, SMALL_VOCAB))


def test_sentencepiece(entry):
    entry.measure()


@cache
def encoders(vocab: int) -> dict[str, Callable[[str], list[int]]]:
    """Return each library's encoder, all with the vocabulary that sentencepiece trains."""
    if why := missing("sentencepiece"):
        raise Unavailable(f"{why}, which trains the vocabulary")
    sentencepiece, model = installed("sentencepiece"), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()[: 250 * vocab].split("\n")),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokenizer.model")
        path.write_bytes(model.getvalue())
        ours = llmcore.Tokenizer.load(path)
        saved = ours.save(folder)
        fast = tokenizers.Tokenizer.from_file(str(saved)) if (tokenizers := installed("tokenizers")) else None
    found = {
        "llmcore": ours.encode_ordinary,
        "sentencepiece": sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).encode,
    }
    if fast is not None:
        found["tokenizers"] = lambda text: fast.encode(text, add_special_tokens=False).ids
    return found


@cache
def corpus() -> str:
    return "".join(d.decode("utf-8", "replace") for d in data.read_corpus("python-docs").train)


def encode(begin: int, end: int, vocab: int) -> Sides:
    libraries, text = encoders(vocab), corpus()[begin:end]
    expected = libraries["sentencepiece"](text)

    def check(library: str, got: list[int]) -> None:
        assert got == expected, f"{library} encodes otherwise"

    return Sides({name: partial(run, text) for name, run in libraries.items()}, check=check)


if __name__ == "__main__":
    main(workloads)
