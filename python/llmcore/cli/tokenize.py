"""`llmcore tokenize`: a text split into tokens, or files of any size turned into shards of them."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmcore import terminal
from llmcore._fields import text_column
from llmcore.cli import options
from llmcore.cli.errors import UsageError

if TYPE_CHECKING:
    from llmcore.tokenizer import Tokenizer

_SAMPLE_VOCAB = 4096


def tokenize(
    text: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT",
            help="Text, or - for standard input; with --out, text, JSONL and parquet files, folders and globs.",
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the text from a file.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer",
            "-t",
            metavar="PATH",
            help="A tokenizer.json, .tiktoken, .gguf or .model file, or a directory with one; by default that of the last "
            "model, else, to show a text, a small one trained on the spot.",
        ),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            "--pattern", metavar="NAME", help="Split pattern of a .tiktoken file, which does not name its own: cl100k."
        ),
    ] = None,
    count: Annotated[bool, typer.Option("--count", help="Print only the number of tokens.")] = False,
    merges: Annotated[bool, typer.Option("--merges", help="Show how the words are built, merge by merge.")] = False,
    json: options.Json = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write the tokens of files to shards in DIR.")
    ] = None,
    columns: options.TextColumn = None,
    separators: options.Separators = None,
    shard_tokens: Annotated[
        int,
        typer.Option("--shard-tokens", metavar="N", help="Start a new shard after the document that reaches N tokens."),
    ] = 1 << 27,
    end_of_text: Annotated[
        bool, typer.Option("--end-of-text/--no-end-of-text", help="Put the end-of-text token after each document.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in --out.")] = False,
    threads: options.Threads = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="With --out, print errors only.")] = False,
) -> None:
    """Split a text into tokens and show their ids, or write the tokens of files to shards.

    Spaces are shown as ␣, line ends as ⏎. With --out, files of any size (also .gz and .zst) become memory-mapped
    arrays for `llmcore pretrain --data DIR`; the same command continues where a run was stopped.

    \b
    Example: llmcore tokenize "I love pizza!"
    Merges:  llmcore tokenize "pizza" --merges
    Shards:  llmcore tokenize --out shards/ corpus/*.jsonl.zst -t run
    """
    from llmcore import runtime

    if threads is not None:
        runtime.set_num_threads(threads)
    if out is None:
        return _show(_content(text or [], file), _known_tokenizer(tokenizer, pattern), count, merges, json)
    if file is not None or count or merges:
        raise UsageError("expected --out DIR with files alone, got --file, --count or --merges too")
    if not text:
        raise UsageError("expected files, folders or globs to write to --out, got none")
    settings = {"field": text_column(columns), "separators": separators or (), "shard_tokens": shard_tokens}
    settings |= {"end_of_text": end_of_text, "overwrite": overwrite}
    return _write_shards(text, _given_tokenizer(tokenizer, pattern), out, settings, quiet, json)


def _show(data: bytes, tok: Tokenizer, count: bool, merges: bool, json: bool) -> None:
    """Print the tokens of a text, their number alone, or the merges that built them."""
    if merges:
        return _show_merges(tok, data, json)
    ids = tok.encode_ordinary(data)
    if json:
        known = {i: tok.token_bytes(i).decode("utf-8", "backslashreplace") for i in set(ids)}
        result: dict[str, object] = {"count": len(ids), "bytes": len(data)}
        if not count:
            result |= {"ids": ids, "tokens": [known[i] for i in ids]}
        return options.print_json(result)
    if count:
        return print(len(ids))
    console = terminal.console()
    terminal.print_tokens(console, [terminal.token_text(tok.token_bytes(i)) for i in ids], [str(i) for i in ids])
    each = f", {len(data) / len(ids):.2f} bytes per token" if ids else ""
    console.print(f"{terminal.counted(len(ids), 'token')} for {terminal.counted(len(data), 'byte')}{each}", style="dim")


def _given_tokenizer(given: Path | None, pattern: str | None) -> Tokenizer:
    """Return the tokenizer named, else the last model's."""
    from llmcore.tokenizer import Tokenizer

    found = (given, "") if given is not None else options.last_model()
    if found is None:
        raise UsageError("expected a tokenizer: name one with -t PATH, or make one with `llmcore train-tokenizer`")
    tok = Tokenizer.load(found[0], pattern)
    if given is None:
        options.say_taken(*found, f"{tok.vocab_size} tokens")
    return tok


def _known_tokenizer(given: Path | None, pattern: str | None) -> Tokenizer:
    """Return the tokenizer named, else the last model's, else one trained now, so that a first look needs nothing else."""
    from llmcore import data
    from llmcore.tokenizer import Tokenizer

    if given or options.last_model():
        return _given_tokenizer(given, pattern)
    if pattern is not None:
        raise UsageError("expected --pattern NAME with -t FILE.tiktoken, got no -t")
    corpus = data.read_corpus("python-docs")
    size = sum(map(len, corpus.train)) / 1e6
    note = f"no tokenizer named and no model yet: {_SAMPLE_VOCAB} tokens learned now from {size:.1f} MB of python-docs"
    print(note, file=sys.stderr)
    return Tokenizer.train(iter(corpus.train), _SAMPLE_VOCAB)


def _content(texts: list[str], file: Path | None) -> bytes:
    if texts and file is not None:
        raise UsageError("expected a TEXT or --file FILE, got both")
    if file is not None:
        return file.read_bytes()
    if not texts:
        raise UsageError("expected a TEXT or --file FILE, got neither")
    if len(texts) > 1:
        raise UsageError(f"expected one TEXT, got {len(texts)}: put it in quotes, or give --out DIR for files")
    return options.read_text(texts[0]).encode("utf-8", "surrogatepass")


def _show_merges(tok: Tokenizer, data: bytes, json: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    def spelled(id: int) -> str:
        return terminal.token_text(tok.token_bytes(id))

    pieces = tok.explain_merges(data)
    if json:
        names = {i: spelled(i) for p in pieces for i in [*p.start, *(m.id for m in p.merges), *p.tokens]}
        rows = [
            {
                "piece": p.piece.decode("utf-8", "backslashreplace"),
                "start": p.start,
                "merges": [m._asdict() for m in p.merges],
                "tokens": p.tokens,
                "whole": p.whole,
            }
            for p in pieces
        ]
        return options.print_json({"pieces": rows, "tokens": {str(i): name for i, name in sorted(names.items())}})
    out = terminal.console()
    for number, p in enumerate(pieces):
        table = Table.grid(padding=(0, 2))
        for justify in ("right", "left", "right", "left"):
            table.add_column(justify=justify)  # type: ignore[arg-type]
        table.add_row(*(Text(head, "dim") for head in ("rank", "merge", "id", "")))

        def parts(ids: list[int]) -> Text:
            text = Text()
            for i, id in enumerate(ids):
                text.append(spelled(id), terminal.TOKEN_STYLES[i % len(terminal.TOKEN_STYLES)]).append(" ")
            return text

        table.add_row("", Text("bytes", "dim"), "", parts(p.start))
        for m in p.merges:
            pair = Text.assemble(spelled(m.left), (" + ", "dim"), spelled(m.right))
            table.add_row(str(m.rank), pair, str(m.id), parts(m.tokens))
        if number:
            out.print()
        out.print(Text(terminal.token_text(p.piece), "bold"))
        out.print(table)
        if p.whole:
            out.print(f"a token as a whole ({p.tokens[0]}), which takes precedence over merges", style="dim")


def _write_shards(
    sources: list[str],
    tok: Tokenizer,
    out: Path,
    settings: dict[str, Any],
    quiet: bool,
    json: bool,
) -> None:
    from llmcore.data import tokenize_files
    from llmcore.documents.separators import told

    with terminal.progress("tokenizing", quiet or json) as update:

        def progress(done: int, total: int, tokens: int) -> None:
            update(done, total, f"{tokens / 1e6:,.1f}M tokens")

        notes: list[str] = []
        index = tokenize_files(sources, tok, out, progress=progress, note=notes.append, **settings)
    options.say_notes(notes)
    figures = {name: index[name] for name in ("tokens", "documents", "bytes", "dtype", "tokenizer")}
    if json:
        options.print_json({**figures, "shards": len(index["shards"])})
    elif not quiet:
        console = terminal.console()
        console.print(
            f"{terminal.counted(index['tokens'], 'token')} of {terminal.counted(index['documents'], 'document')} "
            f"({index['bytes'] / 1e6:.2f} MB) in {terminal.counted(len(index['shards']), 'shard')} of {index['dtype']} in {out}",
            markup=False,
        )
        if index["marks"]:
            console.print(told(Counter(index["marks"])), style="dim", markup=False)
        console.print(f"next: llmcore pretrain --data {out}", markup=False)
