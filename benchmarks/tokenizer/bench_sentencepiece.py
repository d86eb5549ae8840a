"""Encoding with a SentencePiece-style vocabulary, as Llama 2 has it, on the built-in corpus: the same ids, then the
time."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import llmcore
from benchmarks.harness.compare import Workload, main
from benchmarks.harness.peers import installed
from llmcore import data

VOCAB = 8000


def workloads() -> Iterator[Workload]:
    sentencepiece = installed("sentencepiece")
    if sentencepiece is None:
        return  # it trains the vocabulary
    text = "".join(d.decode("utf-8", "replace") for d in data.read_corpus("python-docs").train)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text[:2_000_000].split("\n")),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokenizer.model")
        path.write_bytes(model.getvalue())
        ours = llmcore.Tokenizer.load(path)
        saved = ours.save(folder)
        fast = tokenizers.Tokenizer.from_file(str(saved)) if (tokenizers := installed("tokenizers")) else None
    yield encode("one text", text[:3_000_000], ours, theirs, fast)
    yield encode("100 characters", text[1000:1100], ours, theirs, fast)


def encode(what: str, text: str, ours, theirs, fast) -> Workload:
    sides: dict[str, Callable] = {
        "llmcore": lambda: ours.encode_ordinary(text),
        "sentencepiece": lambda: theirs.encode(text),
    }
    if fast is not None:
        sides["tokenizers"] = lambda: fast.encode(text, add_special_tokens=False).ids
    expected = theirs.encode(text)

    def check(library: str, got: list[int]) -> None:
        assert got == expected, f"{library} encodes otherwise"

    return Workload(f"encode {what}, SentencePiece, V={VOCAB}", "text", sides, check=check)


if __name__ == "__main__":
    main(workloads)
