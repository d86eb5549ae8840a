"""All commands in one application."""

from __future__ import annotations

from typing import Annotated

import typer

from llmcore import __version__
from llmcore.cli import bench, demo, generate, info, pretrain, score, tokenize, train_tokenizer
from llmcore.cli import next as next_tokens

app = typer.Typer(
    name="llmcore",
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode=None,  # plain help: it is read in pipes and narrow windows too
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback(invoke_without_command=True)
def llmcore(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """From raw text to a chat model, with every step in view.

    Begin with `llmcore demo`: in a few minutes it trains a tokenizer and a small model before your eyes.
    """
    if version:
        print(f"llmcore {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


app.command("demo")(demo.demo)
app.command("train-tokenizer")(train_tokenizer.train_tokenizer)
app.command("tokenize")(tokenize.tokenize)
app.command("pretrain")(pretrain.pretrain)
app.command("generate")(generate.generate)
app.command("next", cls=next_tokens.ManyTemperatures)(next_tokens.next_tokens)
app.command("score")(score.score)
app.command("info")(info.info)
app.add_typer(bench.app, name="bench")
