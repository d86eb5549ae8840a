"""What several commands share: the flags for model, text and JSON, and what they mean."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
        help="Model directory, .gguf file or pulled name; by default the last one trained or pulled, else ./run or ./demo-model.",
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
_BESIDE = ("run", "demo-model")  # where pretrain and demo write by default
_MODEL = ("config.json", "adapter_config.json", "checkpoints/step-*")  # what a folder with a model has, or a run


def remember_model(directory: Path) -> None:
    """Make this the default model of the commands."""
    write_cache(cache_folder() / _POINTER, str(directory.resolve()).encode("utf-8", "surrogateescape"))


def model_directory(given: Path | None) -> Path:
    """Return the model to use: the one named, else the last one made, else ./run or ./demo-model. Raises UsageError if there
    is none."""
    return _chosen(given)[0]


def _chosen(given: Path | None) -> tuple[Path, str]:
    """Return the model to use, and why that one."""
    found = (given, "") if given is not None else last_model()
    if found is None:
        raise UsageError("expected a model: name one with --model MODEL, or make one with `llmcore demo`")
    return found


def named(argument: Path | None, option: Path | None) -> Path | None:
    """Return the model of a command that takes it as an argument or as --model. Raises UsageError if both are given."""
    if argument is not None and option is not None:
        raise UsageError("expected one model, got two")
    return argument or option


def last_model() -> tuple[Path, str] | None:
    """Return the last model made, else ./run or ./demo-model, and which of them it is; None if there is none of them."""
    try:
        last = Path((cache_folder() / _POINTER).read_bytes().decode("utf-8", "surrogateescape"))
    except OSError:
        last = None
    for directory, why in ((last, "the last one made"), *((Path(name), "found here") for name in _BESIDE)):
        if directory is not None and (directory.is_file() or any(any(directory.glob(name)) for name in _MODEL)):
            return directory, why
    return None


def load_model(
    given: Path | None, device: str | None = None, quantize: str | None = None, threads: int | None = None
) -> LanguageModel:
    """Load the model to use, say on stderr which it is and its notes, and set the number of threads."""
    from llmcore.runtime import set_num_threads
    from llmcore.train.runs import load

    if threads is not None:
        set_num_threads(threads)
    path, why = _chosen(given)
    lm = load(path, quantize=quantize, device=device)
    say_taken(path, why, lm.model.described())
    say_notes(lm.notes)
    return lm


def say_taken(path: Path, why: str, what: str) -> None:
    """Say in a line on stderr what a command took: the model made last changes under one's feet."""
    if not _hushed:
        said = f"{path}{f' ({why})' if why else ''}: {what}"
        terminal.say_dim(terminal.harmless(said))


_hushed: list[bool] = []  # not empty while a command says errors and notes only


@contextmanager
def hushed(quiet: bool) -> Iterator[None]:
    """Surround a command, which does not say what it took if it is to be quiet."""
    _hushed.extend([True] if quiet else [])
    try:
        yield
    finally:
        _hushed.clear()


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
