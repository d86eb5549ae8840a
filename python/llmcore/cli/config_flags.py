"""A flag for every field of a stage's configuration, generated from the dataclass."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="A YAML file of these options; flags win over it.")
]


def config_flags(config_class: type) -> Callable[[Callable], Callable]:
    """Decorator: the command gets a `--kebab-case` flag for each field, and the ones that were given as `given`, a dict
    by field name."""

    def decorate(command: Callable) -> Callable:
        hints = get_type_hints(command, include_extras=True)
        own = [p for p in inspect.signature(command).parameters.values() if p.name != "given"]
        fields = dataclasses.fields(config_class)

        def run(**values: Any) -> None:
            given = {f.name: values.pop(f.name) for f in fields}
            command(given={name: v for name, v in given.items() if v is not None and v != []}, **values)

        parameters = [
            inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_flag(f)) for f in fields
        ] + [p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[p.name]) for p in own]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect looks for
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def _flag(f: dataclasses.Field) -> Any:
    """The annotation that makes a field's flag."""
    kinds = {part.strip() for part in str(f.type).split("|")}
    many = bool(kinds & {"list[str]", "list[float]"})
    if "bool" in kinds:
        flag, state = f.name.replace("_", "-"), "on" if f.default else "off"
        return Annotated[bool | None, typer.Option(f"--{flag}/--no-{flag}", help=f"{f.metadata['help']} [{state}]")]
    kind = (
        list[float]
        if "list[float]" in kinds
        else list[str]
        if many
        else int
        if "int" in kinds
        else float
        if "float" in kinds
        else str
    )
    default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
    shown = (
        ", ".join(map(str, default))
        if isinstance(default, list)
        else f"{default:g}"
        if isinstance(default, float)
        else default
    )
    help = f.metadata["help"] + (" (repeatable)" if many else "") + (f" [{shown}]" if default not in (None, []) else "")
    metavar = {int: "N", float: "X"}.get(kind, "TEXT")
    return Annotated[kind | None, typer.Option("--" + f.name.replace("_", "-"), metavar=metavar, help=help)]
