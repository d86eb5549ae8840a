"""`llmcore eval`: how good a model is on texts and tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcore import terminal
from llmcore._fields import checked
from llmcore.cli import options
from llmcore.cli.errors import UsageError


def evaluate(
    model: options.Model = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="TEXT", help="Files of text or rows, or folders, to read in full (repeatable)."),
    ] = None,
    tasks: Annotated[
        list[Path] | None,
        typer.Option(
            "--task",
            metavar="FILE",
            help="File of rows (JSONL, JSON, CSV, parquet): multiple-choice or cloze questions (repeatable).",
        ),
    ] = None,
    separators: options.Separators = None,
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            metavar="OURS=THEIRS",
            help="Names of columns: text=NAME of texts; prompt=NAME,completion=NAME and the like of tasks.",
        ),
    ] = None,
    context: Annotated[
        int, typer.Option("--context", metavar="N", min=0, help="Context length in tokens; 0: the model's.")
    ] = 0,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=0, help="Maximum number of rows per task; 0 reads all.")
    ] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", min=1, help="Rows per batch.")] = 16,
    json: options.Json = False,
) -> None:
    """Evaluate a model: loss, perplexity and bits per byte on texts, accuracy on tasks.

    The rows of a task have question, choices and answer (multiple choice), or a text whose last word is to be predicted,
    or prompt and completion (cloze; the completion starts with the space before it).

    \b
    Example: llmcore eval --model run --data held-out.txt --task quiz.jsonl
    """
    if not data and not tasks:
        raise UsageError("expected --data with texts, or --task with a file of rows")
    from llmcore.data import is_shard_set, is_token_file, stream_documents
    from llmcore.data.rows import read_rows
    from llmcore.evaluate import evaluate_task, evaluate_texts

    lm = options.load_model(model)
    names = checked("columns", columns, "dict[str, str] | None") or {}
    found: dict[str, dict[str, float]] = {}
    for source in data or ():
        if is_shard_set(source) or is_token_file(source):
            raise UsageError(f"expected text, got tokens in {source}: give the text that they were made from")
        documents = list(stream_documents([source], names.get("text", "text"), separators or ()))
        if not documents:
            raise UsageError(f"expected some text in {source}, got none")
        with terminal.progress(source) as progress:
            found[source] = evaluate_texts(lm, documents, context or None, batch_size, progress)
    for path in tasks or ():
        rows = read_rows(path, names)
        with terminal.progress(path.name) as progress:
            found[str(path)] = evaluate_task(lm, rows[:limit] if limit else rows, batch_size, progress)
    if json:
        options.print_json(found)
        return
    out = terminal.console()
    for name, figures in found.items():
        out.print(name, style="bold", markup=False)
        terminal.print_pairs(out, [(key, _shown(key, figures)) for key in figures if not key.endswith("_stderr")])


def _shown(key: str, figures: dict[str, float]) -> str:
    value = figures[key]
    if f"{key}_stderr" in figures:
        return f"{value:.1%} ± {figures[f'{key}_stderr']:.1%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
