"""Errors as a person wants them: one line that says what is wrong, and an exit code that scripts can rely on."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from contextlib import suppress

from llmcore import terminal
from llmcore._names import meant
from llmcore.errors import FAILED, STOPPED, WRONG_USE, Error
from llmcore.train.distributed.group import is_distributed

# What the system says when the work cannot go on although nothing was asked wrongly.
_FAILURES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE}


def tell(error: BaseException, debug: bool = False) -> int:
    """Print the error's line on stderr, after its traceback if `debug`, and return the exit code."""
    if debug:
        traceback.print_exception(error)
    code, line = describe(error)
    line = re.sub(r"\s*\n\s*", " ", line).strip()
    if is_distributed():
        from llmcore.train.distributed.mpi import mpi_group

        mpi_group().failed(lambda: _print(line), code)
    else:
        _print(line)
    return code


def _print(line: str) -> None:
    label = "\x1b[1;31merror:\x1b[0m" if terminal.coloured(sys.stderr) else "error:"
    with suppress(OSError):  # a terminal that was closed
        print(f"{label} {line}", file=sys.stderr)


def describe(error: BaseException) -> tuple[int, str]:
    """(exit code, line) of any exception."""
    if hasattr(error, "format_message"):  # the command line's own, whichever version of typer made it
        return WRONG_USE, _usage(error)
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        return STOPPED, "stopped from the keyboard"
    if isinstance(error, MemoryError):
        return FAILED, "out of memory: try a smaller --batch-size, --context or --width"
    if isinstance(error, OSError) and not isinstance(error, Error):
        if error.errno is None:
            return WRONG_USE, str(error)
        where = f": {error.filename}" if error.filename else ""
        return FAILED if error.errno in _FAILURES else WRONG_USE, f"{error.strerror}{where}"
    found = Error.of(error)
    # Where it went wrong matters to programs, which see the whole line.
    if found.where or isinstance(error, Error):
        return found.exit_code, found.message
    return FAILED, f"{type(error).__name__}: {error} (this is a bug in llmcore; --debug shows where)"


class UsageError(Error):
    """A command was asked for something that cannot be done."""

    def __init__(self, message: str):
        super().__init__("", message)


def leave_broken_pipe() -> int:
    """The reader of our output left (`| head`): leave quietly too."""
    # What is still buffered is flushed at exit, to where nobody minds.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _usage(error) -> str:
    context = getattr(error, "ctx", None)
    name = getattr(error, "option_name", None)
    if name is not None and type(error).__name__ == "NoSuchOption":
        line = f"no such option {name}"
        flags = [o for p in context.command.get_params(context) for o in p.opts] if context else []
        names = {o[2:].replace("-", "_"): o for o in flags if o.startswith("--") and o != "--help"}
        found = meant(name.lstrip("-").replace("-", "_"), names)
        line += f" (did you mean {names[found]}?)" if found else ""
    else:
        line = re.sub(r"\. Did you mean (.*)\?$", r" (did you mean \1?)", error.format_message().strip()).rstrip(".")
        line = line[:1].lower() + line[1:]
    if context is not None:
        line += f"; see {context.command_path} --help"
    return line
