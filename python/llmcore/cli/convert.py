"""`llmcore convert`: a model from one format to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcore.cli.errors import UsageError


def convert(
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="Model directory, .gguf file or pulled name.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A directory, or a file that ends in .gguf.")],
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", metavar="TYPE", help="float32, bfloat16; for .gguf F32, F16, BF16, Q8_0, Q4_0, Q4_1."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT where it exists.")] = False,
) -> None:
    """Write a model in another format: a directory as Hugging Face has it, or one GGUF file.

    Tokenizer and chat template go with it. Without --dtype nothing is lost: a directory gets float32, and GGUF what the
    model is stored in. An adapter (LoRA) is merged into its base. The pattern cl100k of a tokenizer, which GGUF has no
    name for, is written as llama3: they differ only in blanks with a line break at the end of a text.

    \b
    Example: llmcore convert run run.gguf --dtype Q8_0
    """
    from llmcore import _device
    from llmcore.generate import load
    from llmcore.tokenizer.formats.gguf import NEAREST

    if target.exists() and not overwrite and (target.is_file() or any(target.iterdir())):
        raise UsageError(f"expected a new OUT, got {target}, which exists (--overwrite replaces it)")
    with _device.on("cpu"):  # wherever LLMCORE_DEVICE points: nothing is computed that a GPU would help with
        lm = load(source, quantize="none").merged()
        written = lm.save(target, dtype)
    if written.suffix == ".gguf" and lm.tokenizer.pattern in NEAREST:
        other, where = NEAREST[lm.tokenizer.pattern]
        note = f"note: GGUF has no name for the tokenizer's pattern {lm.tokenizer.pattern}: written as {other}, which differs"
        typer.echo(f"{note} {where}", err=True)
    size = sum(f.stat().st_size for f in ([written] if written.is_file() else written.iterdir()))
    typer.echo(f"{written}: {size / 1e6:,.1f} MB", err=True)
