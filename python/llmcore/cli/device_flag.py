"""`--device` for commands that use a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

Device = Annotated[
    str | None,
    typer.Option("--device", metavar="DEVICE", help="cpu or cuda; by default what LLMCORE_DEVICE says, else cpu."),
]


def on_device(command: Callable) -> Callable:
    """The command with a `--device` flag: what it makes lies there."""
    hints = get_type_hints(command, include_extras=True)
    own = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[p.name])
        for p in inspect.signature(command).parameters.values()
    ]

    def run(**values: Any) -> None:
        given = values.pop("device")
        if given is not None:
            from llmcore._device import set_device

            set_device(given)
        command(**values)

    flag = inspect.Parameter("device", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Device)
    run.__signature__ = inspect.Signature([*own, flag])  # type: ignore[attr-defined]  # what inspect looks for
    run.__annotations__ = {p.name: p.annotation for p in (*own, flag)}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run
