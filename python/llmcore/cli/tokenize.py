"""`llmcore tokenize`: a text cut into tokens, or files of any size turned into shards of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcore import terminal
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
            help="A text, or - for standard input; with --out, text files, JSONL, parquet, folders, globs.",
        ),
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", metavar="FILE", help="Take the text of a file.")] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer",
            "-t",
            metavar="PATH",
            help="A tokenizer.json, .tiktoken, .gguf or .model, or a directory with one; by default that of the model made "
            "last; without one, to show a text, a small one trained at once.",
        ),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            "--pattern", metavar="NAME", help="How a .tiktoken file, which does not say, splits text: cl100k."
        ),
    ] = None,
    count: Annotated[bool, typer.Option("--count", help="Print only how many tokens it is.")] = False,
    merges: Annotated[bool, typer.Option("--merges", help="Show how its words were built, merge by merge.")] = False,
    json: options.Json = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write the tokens of files to shards there.")
    ] = None,
    field: options.Field = "text",
    shard_tokens: Annotated[
        int, typer.Option("--shard-tokens", metavar="N", help="A shard ends with the document that gives it so many.")
    ] = 1 << 27,
    end_of_text: Annotated[
        bool, typer.Option("--end-of-text/--no-end-of-text", help="Put the end-of-text token behind each document.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in --out.")] = False,
    threads: options.Threads = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="With --out, print errors only.")] = False,
) -> None:
    """Cut a text into tokens and show their ids, or write those of files to shards.

    Spaces are shown as ␣, line ends as ⏎. With --out, files of any size (also .gz and .zst) become memory-mapped
    arrays for `llmcore pretrain --data DIR`; the same command goes on where a run was stopped.

    \b
    Example: llmcore tokenize "I love pizza!"
    Merges:  llmcore tokenize "pizza" --merges
    Shards:  llmcore tokenize --out shards/ corpus/*.jsonl.zst -t run
    """
    from llmcore import runtime
    from llmcore.tokenizer import Tokenizer

    if threads is not None:
        runtime.set_num_threads(threads)
    if out is not None:
        if file is not None or count or merges:
            raise UsageError("expected --out DIR with files alone, got --file, --count or --merges too")
        if not text:
            raise UsageError("expected files, folders or globs to write to --out, got none")
        path = tokenizer or options.last_model()
        if path is None:
            raise UsageError("expected a tokenizer: name one with -t PATH, or make one with `llmcore train-tokenizer`")
        tok = Tokenizer.load(path, pattern)
        return _write_shards(text, tok, out, field, shard_tokens, end_of_text, overwrite, quiet, json)
    data = _content(text or [], file)
    tok = _known_tokenizer(tokenizer, pattern)
    if merges:
        return _show_merges(tok, data, json)
    ids = tok.encode_ordinary(data)
    if json:
        known = {i: tok.token_bytes(i).decode("utf-8", "backslashreplace") for i in set(ids)}
        result: dict[str, object] = {"count": len(ids), "bytes": len(data)}
        if not count:
            result |= {"ids": ids, "tokens": [known[i] for i in ids]}
        options.print_json(result)
    elif count:
        print(len(ids))
    else:
        console = terminal.console()
        terminal.print_tokens(console, [terminal.token_text(tok.token_bytes(i)) for i in ids], [str(i) for i in ids])
        each = f", {len(data) / len(ids):.2f} bytes a token" if ids else ""
        console.print(
            f"{terminal.counted(len(ids), 'token')} for {terminal.counted(len(data), 'byte')}{each}", style="dim"
        )


def _known_tokenizer(given: Path | None, pattern: str | None) -> Tokenizer:
    """The one named, else the last model's, else one that is trained now, so that a first look needs nothing else."""
    from llmcore import data
    from llmcore.tokenizer import Tokenizer

    path = given or options.last_model()
    if path is not None:
        return Tokenizer.load(path, pattern)
    if pattern is not None:
        raise UsageError("expected --pattern NAME with -t FILE.tiktoken, got no -t")
    corpus = data.read_corpus("python-docs")
    size = sum(map(len, corpus.train)) / 1e6
    note = f"no tokenizer named and no model made yet: {_SAMPLE_VOCAB} tokens learned now from {size:.1f} MB of python-docs"
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
            out.print(f"a token as it is ({p.tokens[0]}), which goes before all merges", style="dim")


def _write_shards(
    sources: list[str],
    tok: Tokenizer,
    out: Path,
    field: str,
    shard_tokens: int,
    end_of_text: bool,
    overwrite: bool,
    quiet: bool,
    json: bool,
) -> None:
    from llmcore.data import tokenize_files

    with terminal.progress("tokenizing", quiet or json) as update:

        def progress(done: int, total: int, tokens: int) -> None:
            update(done, total, f"{tokens / 1e6:,.1f}M tokens")

        index = tokenize_files(sources, tok, out, field, shard_tokens, end_of_text, overwrite, progress)
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
        console.print(f"next: llmcore pretrain --data {out}", markup=False)
