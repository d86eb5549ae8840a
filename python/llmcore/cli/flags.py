"""Flags that commands share without declaring them: one for every field of a stage's configuration or of the parameters of
sampling, and `--device`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from llmcore.cli import options
from llmcore.cli.errors import UsageError
from llmcore.generate.engine.params import SamplingParams

Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="YAML file of these options; flags override it.")
]
Device = Annotated[
    str | None,
    typer.Option("--device", metavar="DEVICE", help="cpu or cuda; by default the value of LLMCORE_DEVICE, else cpu."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Do not say which model is used.")]


def config_flags(config_class: type) -> Callable[[Callable], Callable]:
    """Return a decorator that gives a command a `--kebab-case` flag for each field, in place of its parameter `given`: a
    dict of the fields that were set."""
    flags = [_parameter(f.name, None, _config_flag(f)) for f in dataclasses.fields(config_class)]

    def decorate(command: Callable) -> Callable:
        return expand(command, "given", flags, lambda v: {k: x for k, x in v.items() if x is not None and x != []})

    return decorate


def sampling_flags(*names: str, **defaults: float) -> Callable[[Callable], Callable]:
    """Return a decorator that gives a command the flags of these fields of `SamplingParams`, by default of all that have
    one, in place of its parameter `sampling`: a dict of the fields. defaults: those that differ from the fields' own."""
    fields = {f.name: f for f in dataclasses.fields(SamplingParams) if "help" in f.metadata}
    flags = [_sampling_flag(fields[name], defaults.get(name, fields[name].default)) for name in names or fields]
    return lambda command: expand(command, "sampling", flags, _sampling)


def on_device(command: Callable) -> Callable:
    """Return the command with a `--device` flag: everything that it creates lies there."""

    def run(**values: Any) -> None:
        device = values.pop("device")
        if device is not None:
            from llmcore._device import set_device

            set_device(device)
        command(**values)

    return _dressed(run, command, [*_parameters(command), _parameter("device", None, Device)])


def quietly(command: Callable) -> Callable:
    """Return the command with a `--quiet` flag: it does not say which model it took."""

    def run(**values: Any) -> None:
        with options.hushed(values.pop("quiet")):
            command(**values)

    return _dressed(run, command, [*_parameters(command), _parameter("quiet", False, Quiet)])


def expand(
    command: Callable,
    name: str,
    flags: Sequence[inspect.Parameter],
    collect: Callable[[dict[str, Any]], dict[str, Any]],
) -> Callable:
    """Return the command with flags in place of one parameter, which gets what `collect` makes of their values."""

    def run(**values: Any) -> None:
        given = collect({f.name: values.pop(f.name) for f in flags})
        command(**{name: given}, **values)

    shown = [f for p in _parameters(command) for f in (flags if p.name == name else [p])]
    return _dressed(run, command, shown)


def _dressed(run: Callable, command: Callable, parameters: Sequence[inspect.Parameter]) -> Callable:
    """Make a function look like the command, with other parameters: typer reads flags and help from that."""
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect looks for
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def _parameters(command: Callable) -> list[inspect.Parameter]:
    hints = get_type_hints(command, include_extras=True)
    return [_parameter(p.name, p.default, hints[p.name]) for p in inspect.signature(command).parameters.values()]


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _config_flag(f: dataclasses.Field) -> Any:
    """Return the annotation of a configuration field's flag. Its default is shown, but None: a YAML file may set it."""
    kinds = {part.strip() for part in str(f.type).split("|")}
    flag, help = "--" + f.name.replace("_", "-"), f.metadata["help"]
    default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
    if "bool" in kinds:
        names = f"{flag}/--no-{flag[2:]}"
        return Annotated[bool | None, typer.Option(names, help=f"{help} [{'on' if default else 'off'}]")]
    many = bool(kinds & {"list[str]", "list[float]"})
    types = {"list[float]": list[float], "list[str]": list[str], "int": int, "float": float}
    kind: Any = next((types[name] for name in types if name in kinds), str)
    if isinstance(default, list):
        default = ", ".join(map(str, default))
    elif isinstance(default, float):
        default = f"{default:g}"
    help += (" (repeatable)" if many else "") + (f" [{default}]" if default not in (None, "") else "")
    metavar = {int: "N", float: "X"}.get(kind, "TEXT")
    return Annotated[kind | None, typer.Option(flag, metavar=metavar, help=help)]


def _sampling_flag(f: dataclasses.Field, default: Any) -> inspect.Parameter:
    kinds: dict[str, tuple[Any, str]] = {"int": (int, "N"), "float": (float, "X"), "int | None": (int | None, "N")}
    kind, metavar = kinds.get(str(f.type), (list[str] | None, "TEXT"))
    many = kind == list[str] | None
    help = f.metadata["help"].removesuffix(".") + " (repeatable)." if many else f.metadata["help"]
    option = typer.Option("--" + f.name.replace("_", "-"), metavar=f.metadata.get("metavar", metavar), help=help)
    return _parameter(f.name, None if many else default, Annotated[kind, option])


def _sampling(values: dict[str, Any]) -> dict[str, Any]:
    if "logit_bias" in values:
        values["logit_bias"] = dict(map(_bias, values["logit_bias"] or ()))
    given = {name: value for name, value in values.items() if value not in (None, []) or name == "seed"}
    SamplingParams(**given)  # a wrong one is told before a model is loaded
    return given


def _bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise UsageError(f"expected --logit-bias ID=BIAS, got {text}") from None
