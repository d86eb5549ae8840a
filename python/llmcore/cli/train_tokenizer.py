"""`llmcore train-tokenizer`: learns a vocabulary from text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcore import terminal
from llmcore.cli import options


def train_tokenizer(
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="python-docs, or a text file, JSONL, parquet, folder or glob (repeatable). [default: python-docs]",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="PATH", help="A .json file, or a directory for tokenizer.json.")] = Path(
        "tokenizer.json"
    ),
    vocab_size: Annotated[int, typer.Option(metavar="N", help="Tokens in all, the 256 bytes among them.")] = 4096,
    pattern: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="How text is cut into pieces first: cl100k, gpt2, o200k, llama3, qwen2, smollm."
        ),
    ] = "cl100k",
    special_token: Annotated[
        list[str] | None,
        typer.Option(metavar="TOKEN", help="A special token (repeatable). [default: <|endoftext|>]"),
    ] = None,
    validation_fraction: Annotated[
        float,
        typer.Option(
            metavar="F",
            help="Part of the text that is left out, the same as in pretrain; 0 takes all, and files of any size.",
        ),
    ] = 0.1,
    field: options.Field = "text",
    threads: options.Threads = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Train a tokenizer: byte-pair encoding, which merges the most frequent pair of tokens again and again.

    The text that pretraining holds out is not learned from, so that held-out figures stay honest.

    \b
    Example: llmcore train-tokenizer --data book.txt --vocab-size 2000
    """
    import time

    from llmcore import runtime
    from llmcore.data import read_corpus, stream_documents
    from llmcore.tokenizer import Tokenizer

    path = out if out.suffix == ".json" else out / "tokenizer.json"
    if path.exists() and not overwrite:
        raise FileExistsError(f"[train-tokenizer] {path} is already there: give another --out, or --overwrite")
    if threads is not None:
        runtime.set_num_threads(threads)
    sources = data or ["python-docs"]
    corpus = read_corpus(sources, validation_fraction, field) if validation_fraction else None
    specials = special_token or ["<|endoftext|>"]
    learned = 0

    def texts():
        nonlocal learned
        for document in stream_documents(sources, field) if corpus is None else corpus.train:
            learned += len(document)
            yield document

    began = time.perf_counter()
    with terminal.progress("learning tokens", quiet) as progress:
        tok = Tokenizer.train(texts(), vocab_size, pattern, specials, progress)
    seconds = time.perf_counter() - began
    path.parent.mkdir(parents=True, exist_ok=True)
    tok.save(path)
    if quiet:
        return
    out_ = terminal.console()
    out_.print(
        f"{tok.vocab_size} tokens from {learned / 1e6:.2f} MB in {seconds:.2f} s, saved as {path}",
        markup=False,
    )
    if tok.vocab_size < vocab_size:
        out_.print(
            f"(the text has no more pairs to merge: fewer than the {vocab_size} that were asked for)", style="dim"
        )
    longest = sorted((t for i in range(256, tok.vocab_size - len(specials)) if (t := tok.token_bytes(i))), key=len)[-5:]
    if corpus is not None:
        tokens = sum(map(len, tok.encode_ordinary_batch(corpus.validation)))
        out_.print(f"held-out text takes {corpus.validation_bytes / tokens:.2f} bytes a token", style="dim")
    if longest:
        out_.print(
            "the longest tokens: " + "  ".join(map(terminal.token_text, reversed(longest))), style="dim", markup=False
        )
    out_.print(f'next: llmcore tokenize "I love pizza!" --tokenizer {path}', markup=False)
