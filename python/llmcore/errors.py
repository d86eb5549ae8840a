"""What llmcore raises: one class, in structure, and its kinds for those who catch Python's own.

An error is one line, `[where] expected ..., got ...`, or `[where] message`. What was a TypeError, a FileNotFoundError or a
RuntimeError can be caught as such. The compiled core raises Python's own kinds with the same line: `Error.of` reads it.
"""

from __future__ import annotations

import re

FAILED, WRONG_USE, STOPPED = 1, 2, 130  # what the command line exits with
_UNSAID: object = object()
_LINE = re.compile(r"\[([\w.\- ]+)\] (.*)", re.DOTALL)


class Error(ValueError):
    """An error in one line.

    Attributes: `where` (the operation, "" for the command line's own), `expected` and `got` (texts, or None where the
    line does not say it so), `message` (the line without `where`), `exit_code` (of the command line).
    """

    exit_code = WRONG_USE

    def __init__(self, where: str, about: object = "", *, expected: object = _UNSAID, got: object = _UNSAID):
        """about: what is wrong, or, with `expected`, what it is wrong with: a file and a field, or nothing."""
        self.where = where
        self.expected = None if expected is _UNSAID else str(expected)
        self.got = None if got is _UNSAID else str(got)
        self.message = str(about)
        if self.expected is not None:
            self.message += f"{': ' if self.message else ''}expected {self.expected}"
            self.message += "" if self.got is None else f", got {self.got}"
        super().__init__(f"[{where}] {self.message}" if where else self.message)

    def __reduce__(self):
        return _restored, (type(self), str(self), vars(self))

    @classmethod
    def of(cls, error: BaseException) -> Error:
        """Return an exception as an Error: itself if it is one, else of this class with what its line says, as the compiled
        core writes it. The only place where a line is taken apart."""
        if isinstance(error, Error):
            return error
        line = str(error)
        found = _LINE.match(line)
        made = cls(found[1], found[2]) if found else cls("", line)
        if not isinstance(error, (ValueError, TypeError)):
            made.exit_code = FAILED
        return made


def _restored(kind: type[Error], line: str, values: dict) -> Error:
    error = kind.__new__(kind)
    error.args = (line,)
    vars(error).update(values)
    return error


class ArgumentTypeError(Error, TypeError):
    """An argument of a type that cannot be used."""


class FileError(Error, OSError):
    """Something that could not be fetched, read or stored, although it was asked for correctly."""

    def __new__(cls, *_args, **_fields):  # OSError's own would look for a number among them
        return OSError.__new__(cls)


class MissingFileError(FileError, FileNotFoundError):
    """A file or folder that does not exist."""


class ExistingFileError(FileError, FileExistsError):
    """A file or folder that exists and would be overwritten."""


class StateError(Error, RuntimeError):
    """A call that cannot be made now: the object or the process is not in a state for it."""

    exit_code = FAILED


class DeviceError(StateError):
    """A device that is not there or cannot do what is asked of it."""


class CorpusError(Error):
    """Text or rows unfit to train on. The line names the source, and the line or row in it if there is one."""
