"""`llmcore train-tokenizer`: learn a vocabulary from text."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcore import terminal
from llmcore._fields import text_column
from llmcore.cli import options
from llmcore.errors import ExistingFileError

if TYPE_CHECKING:
    from llmcore.data import Corpus
    from llmcore.tokenizer import Tokenizer


def train_tokenizer(
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="Training text: python-docs; a text, JSONL or parquet file; a folder or glob (repeatable). [default: python-docs]",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="PATH", help="A .json file, or a directory for tokenizer.json.")] = Path(
        "tokenizer.json"
    ),
    vocab_size: Annotated[int, typer.Option(metavar="N", help="Vocabulary size, including the 256 bytes.")] = 4096,
    pattern: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Pattern that splits text into pieces first: cl100k, gpt2, o200k, llama3, qwen2, smollm.",
        ),
    ] = "cl100k",
    special_token: Annotated[
        list[str] | None,
        typer.Option(metavar="TOKEN", help="Special token (repeatable). [default: <|endoftext|>]"),
    ] = None,
    validation_fraction: Annotated[
        float,
        typer.Option(
            metavar="F",
            help="Fraction of the text to leave out, the same as in pretrain; 0 uses all text, and files of any size.",
        ),
    ] = 0.1,
    columns: options.TextColumn = None,
    separators: options.Separators = None,
    threads: options.Threads = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a tokenizer by byte-pair encoding, which merges the most frequent pair of tokens again and again.

    Text that pretraining holds out is left out, so that held-out figures stay honest.

    \b
    Example: llmcore train-tokenizer --data book.txt --vocab-size 2000
    """
    from llmcore import runtime
    from llmcore.data import read_corpus, stream_documents

    path = out if out.suffix == ".json" else out / "tokenizer.json"
    if path.exists() and not overwrite:
        raise ExistingFileError("train-tokenizer", f"{path} is already there: give another --out, or --overwrite")
    if threads is not None:
        runtime.set_num_threads(threads)
    sources, specials = data or ["python-docs"], special_token or ["<|endoftext|>"]
    field = text_column(columns)
    notes: list[str] = []
    how = (field, separators or (), notes.append)
    corpus = read_corpus(sources, validation_fraction, *how) if validation_fraction else None
    documents = stream_documents(sources, *how) if corpus is None else corpus.train
    tok, learned, seconds = _train(documents, vocab_size, pattern, specials, quiet)
    options.say_notes(notes)
    path.parent.mkdir(parents=True, exist_ok=True)
    tok.save(path)
    if not quiet:
        saved = f"{tok.vocab_size} tokens from {learned / 1e6:.2f} MB in {seconds:.2f} s, saved as {path}"
        _report(tok, path, saved, vocab_size, len(specials), corpus)


def _train(
    documents: Iterable[bytes], vocab_size: int, pattern: str, specials: list[str], quiet: bool
) -> tuple[Tokenizer, int, float]:
    """Return the tokenizer, the number of bytes that it was trained on, and the seconds that it took."""
    from llmcore.tokenizer import Tokenizer

    learned = 0

    def counted() -> Iterator[bytes]:
        nonlocal learned
        for document in documents:
            learned += len(document)
            yield document

    began = time.perf_counter()
    with terminal.progress("learning tokens", quiet) as progress:
        tok = Tokenizer.train(counted(), vocab_size, pattern, specials, progress)
    return tok, learned, time.perf_counter() - began


def _report(tok: Tokenizer, path: Path, saved: str, vocab_size: int, specials: int, corpus: Corpus | None) -> None:
    """Print what was learned, how well it compresses held-out text, and what to do next."""
    out = terminal.console()
    out.print(saved, markup=False)
    if tok.vocab_size < vocab_size:
        out.print(f"(fewer than the {vocab_size} requested: the text has no more pairs to merge)", style="dim")
    if corpus is not None:
        tokens = sum(map(len, tok.encode_ordinary_batch(corpus.validation)))
        out.print(f"held-out text takes {corpus.validation_bytes / tokens:.2f} bytes per token", style="dim")
    longest = sorted((t for i in range(256, tok.vocab_size - specials) if (t := tok.token_bytes(i))), key=len)[-5:]
    if longest:
        shown = "  ".join(map(terminal.token_text, reversed(longest)))
        out.print(f"the longest tokens: {shown}", style="dim", markup=False)
    out.print(f'next: llmcore tokenize "I love pizza!" --tokenizer {path}', markup=False)
