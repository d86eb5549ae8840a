"""`llmcore convert`: write a model in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcore.cli import options
from llmcore.cli.errors import UsageError


def convert(
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="Model directory, .gguf file or pulled name.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Directory, or file that ends in .gguf.")],
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype", metavar="TYPE", help="float32 or bfloat16; for .gguf F32, F16, BF16, Q8_0, Q4_0 or Q4_1."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
) -> None:
    """Write a model in another format: a directory in the Hugging Face format, or one GGUF file.

    The tokenizer and the chat template are included. Without --dtype nothing is lost: a directory gets float32, and GGUF
    the types in which the model is stored. An adapter (LoRA) is merged into its base. GGUF has no name for the tokenizer
    pattern cl100k, so it is written as llama3: they differ only in blanks with a line break at the end of a text.

    \b
    Example: llmcore convert run run.gguf --dtype Q8_0
    """
    from llmcore import _device
    from llmcore.generate.ends import GGUF_ALL, gguf_end_metadata
    from llmcore.tokenizer.formats.gguf import gguf_differences
    from llmcore.train.runs import load

    if target.exists() and not overwrite and (target.is_file() or any(target.iterdir())):
        raise UsageError(f"expected a new OUT, got {target}, which exists (--overwrite replaces it)")
    with _device.on("cpu"):  # even if LLMCORE_DEVICE names a GPU: nothing here would be faster on it
        lm = load(source, quantize="none").merged()
        options.say_notes(lm.notes)
        written = lm.save(target, dtype)
    for difference in gguf_differences(lm.tokenizer.vocabulary) if written.suffix == ".gguf" else ():
        typer.echo(f"note: {difference}", err=True)
    if written.suffix == ".gguf" and GGUF_ALL in gguf_end_metadata(lm.end_ids, lm.tokenizer, None):
        texts = ", ".join(map(repr, map(lm.token_text, lm.end_ids)))
        typer.echo(
            f"note: GGUF has no fields for so many ends of a text ({texts}): only llmcore reads them all", err=True
        )
    size = sum(f.stat().st_size for f in ([written] if written.is_file() else written.iterdir()))
    typer.echo(f"{written}: {size / 1e6:,.1f} MB", err=True)
