"""The command `llmcore`: one small file per command, put together in `app.py`. Heavy imports wait until a command runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 (failure), 2 (wrong use or bad input) or 130 (stopped
    from the keyboard). Errors are one line on stderr; tracebacks are shown only with --debug."""
    from llmcore.cli import errors
    from llmcore.cli.app import app

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = _take_debug(arguments)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the process that started us
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - open as long as we run
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows a question mark
    try:
        code = app(arguments, prog_name="llmcore", standalone_mode=False)
        if code == 130:
            raise KeyboardInterrupt
        sys.stdout.flush()
    except BrokenPipeError:
        return errors.leave_broken_pipe()
    except SystemExit as left:  # typer's own way out of a broken pipe
        if not isinstance(left.__context__, BrokenPipeError):
            raise
        return errors.leave_broken_pipe()
    except Exception as error:
        return errors.tell(error, debug)
    except KeyboardInterrupt as error:
        return errors.tell(error, debug)
    return code if isinstance(code, int) else 0


def _take_debug(arguments: list[str]) -> bool:
    """Remove --debug from the arguments before a `--`, and return whether it was there."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if "--debug" not in arguments[:end]:
        return False
    arguments[:end] = [a for a in arguments[:end] if a != "--debug"]
    return True
