"""All commands in one application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from llmcore._version import __version__
from llmcore.cli import (
    bench,
    chat,
    convert,
    demo,
    embed,
    eval,
    generate,
    info,
    plot,
    prefer,
    pull,
    score,
    tokenize,
    train_tokenizer,
    training,
)
from llmcore.cli import next as next_tokens
from llmcore.cli.flags import on_device, quietly
from llmcore.cli.help import PlainHelp

app = typer.Typer(
    name="llmcore",
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode=None,  # plain help, which pipes and narrow windows can show too
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback(invoke_without_command=True)
def llmcore(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """From raw text to a language model, with every step in view.

    Start with `llmcore demo`: in a few minutes it trains a tokenizer and a small model before your eyes.
    """
    if version:
        print(f"llmcore {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


COMMANDS: tuple[tuple[str, Callable[..., None], str], ...] = (
    ("demo", on_device(demo.demo), "The whole road in minutes: tokens, training, text."),
    ("pull", pull.pull, "Fetch a model by name."),
    ("train-tokenizer", train_tokenizer.train_tokenizer, "Learn a vocabulary from text."),
    ("tokenize", tokenize.tokenize, "Split a text into tokens and show their ids."),
    *training.commands("pretrain", "sft"),
    ("prefer", on_device(quietly(prefer.prefer)), "Choose the best of a model's answers."),
    *training.commands("dpo", "kto", "reward", "ppo", "grpo"),
    ("generate", on_device(quietly(generate.generate)), "Let a model continue a text."),
    ("chat", on_device(quietly(chat.chat)), "Talk with a model."),
    ("next", on_device(quietly(next_tokens.next_tokens)), "Show the most likely next tokens as bars."),
    ("score", on_device(quietly(score.score)), "Show how surprising a model finds a text."),
    ("embed", on_device(quietly(embed.embed)), "Compare texts by their vectors; find words near a word."),
    ("eval", on_device(quietly(eval.evaluate)), "Evaluate a model on texts and tasks."),
    ("plot", plot.plot, "Plot the curves of runs."),
    ("convert", convert.convert, "Write a model in another format."),
    ("info", info.info, "Show what a model consists of."),
)

for name, function, short_help in COMMANDS:
    app.command(name, short_help=short_help, cls=next_tokens.ManyTemperatures if name == "next" else PlainHelp)(
        function
    )
app.add_typer(bench.app, name="bench")
