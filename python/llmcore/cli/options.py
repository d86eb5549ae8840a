"""What several commands share: the flags for model, text and JSON, and what they mean."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcore import terminal
from llmcore._user_cache import cache_folder, write_cache
from llmcore.cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmcore.generate import LanguageModel

Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Model directory, .gguf file or pulled name; by default the last one trained or pulled, else ./run.",
    ),
]
ModelArgument = Annotated[
    Path | None, typer.Argument(metavar="MODEL", help="Model directory, .gguf file or pulled name.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
TextColumn = Annotated[
    str | None,
    typer.Option("--columns", metavar="text=NAME", help="Name of the JSONL field or column that holds the text."),
]
Separators = Annotated[
    list[str] | None,
    typer.Option(
        "--separators",
        metavar="TEXT",
        help="Text that ends documents within files, such as <|endoftext|> (repeatable).",
    ),
]
Threads = Annotated[int | None, typer.Option("--threads", metavar="N", help="Number of threads; by default all.")]
Quantize = Annotated[
    str | None,
    typer.Option("--quantize", metavar="TYPE", help="Quantize matrices in memory to int8 or int4; none keeps float32."),
]
Text = Annotated[str, typer.Argument(metavar="TEXT", help="Text, or - for standard input.")]

_POINTER = "last_model"
_MODEL = ("config.json", "adapter_config.json", "checkpoints/step-*")  # what a folder with a model has, or a run


def remember_model(directory: Path) -> None:
    """Make this the default model of the commands."""
    write_cache(cache_folder() / _POINTER, str(directory.resolve()).encode("utf-8", "surrogateescape"))


def model_directory(given: Path | None) -> Path:
    """Return the model to use: the one named, else the last one made, else ./run. Raises UsageError if there is none."""
    directory = given or last_model()
    if directory is None:
        raise UsageError("expected a model: name one with --model MODEL, or make one with `llmcore demo`")
    return directory


def named(argument: Path | None, option: Path | None) -> Path | None:
    """Return the model of a command that takes it as an argument or as --model. Raises UsageError if both are given."""
    if argument is not None and option is not None:
        raise UsageError("expected one model, got two")
    return argument or option


def last_model() -> Path | None:
    """Return the last model made, else ./run, else None."""
    try:
        last = Path((cache_folder() / _POINTER).read_bytes().decode("utf-8", "surrogateescape"))
    except OSError:
        last = None
    for directory in (last, Path("run")):
        if directory is not None and (directory.is_file() or any(any(directory.glob(name)) for name in _MODEL)):
            return directory
    return None


def load_model(
    given: Path | None, device: str | None = None, quantize: str | None = None, threads: int | None = None
) -> LanguageModel:
    """Load the model to use, say its notes on stderr, and set the number of threads."""
    from llmcore.runtime import set_num_threads
    from llmcore.train.runs import load

    if threads is not None:
        set_num_threads(threads)
    lm = load(model_directory(given), quantize=quantize, device=device)
    say_notes(lm.notes)
    return lm


def say_notes(notes: Iterable[str]) -> None:
    """Write what is to be known of a model or a text to stderr, a line each."""
    for note in notes:
        typer.echo(f"note: {terminal.harmless(note)}", err=True)


def read_text(text: str) -> str:
    """Return the text itself, or standard input for `-`, in which bytes that are not UTF-8 become U+FFFD."""
    if text != "-":
        return text
    return sys.stdin.buffer.read().decode("utf-8", "replace")


def print_json(data: object) -> None:
    print(json.dumps(data, ensure_ascii=False, indent=1))
