"""Fields of configurations: how they are declared and checked."""

from __future__ import annotations

import json
import math
import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any

from llmcore.errors import ArgumentTypeError, Error


def option(default, help: str, **metadata) -> Any:
    """Declare a field with the sentence that `--help` shows."""
    metadata["help"] = help
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def either(names: Sequence[str]) -> str:
    """Return names as "a, b or c"."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


def one_of(name: str, value: str, known: Sequence[str]) -> None:
    """Raise ValueError unless a field has one of the known values."""
    if value not in known:
        raise Error("config", expected=f"{name} {either(known)}", got=f"{value!r:.100}")


def is_number(value: Any) -> bool:
    """Return whether a value is a real number, one of NumPy's too, and neither a flag nor NaN."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and value == value


def number(where: str, name: str, value: Any, ok: Callable[[Any], bool], expected: str, whole: bool = False) -> Any:
    """Return an argument as a float, or as an int if it must be whole. TypeError or ValueError names the argument."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral if whole else numbers.Real):
        raise ArgumentTypeError(where, expected=f"{name} {expected}", got=f"{value!r:.100}")
    if not ok(value):
        raise Error(where, expected=f"{name} {expected}", got=f"{value!s:.100}")
    return int(value) if isinstance(value, numbers.Integral) and whole else float(value)


def flag(where: str, name: str, value: Any) -> None:
    """Raise TypeError unless an argument is True or False."""
    if (
        not isinstance(value, bool) and str(getattr(value, "dtype", "")) != "bool"
    ):  # numpy's, which --help does not load
        raise ArgumentTypeError(where, expected=f"{name} True or False", got=f"{value!r:.100}")


def checked(name: str, value, annotation: str):
    """Return a value as the annotated type: as in YAML, whole floats count as integers and integers as floats."""
    kinds = {part.strip() for part in annotation.split("|")}
    if value is None and "None" in kinds:
        return None
    if isinstance(value, bool):
        if "bool" in kinds:
            return value
    elif "int" in kinds and (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        return int(value)
    elif "float" in kinds and isinstance(value, (int, float)):
        return math.inf if isinstance(value, int) and value >= 2**1023 else float(value)
    elif "float" in kinds and isinstance(value, str):
        try:
            return float(value)  # YAML reads 1e-3 as text
        except ValueError:
            pass
    elif "str" in kinds and isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    elif "dict[str, str]" in kinds and isinstance(value, (str, Mapping)):
        return _names(name, value)
    elif "dict[str, Any]" in kinds and isinstance(value, (str, Mapping)):
        return _object(name, value)
    elif "list[float]" in kinds and isinstance(value, (list, tuple)):
        return [checked(name, v, "float") for v in value]
    elif "list[str]" in kinds and isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        return list(value)
    wanted = (
        " or ".join(sorted(kinds - {"None"})).replace("dict[str, Any]", "object").replace("dict[str, str]", "names")
    )
    # Only what is certainly short: a few lines of YAML can mean a list of billions.
    got = repr(value)[:100] if isinstance(value, (str, int, float)) else type(value).__name__
    raise ArgumentTypeError("config", expected=f"{name} of type {wanted}", got=got)


def _names(name: str, value: str | Mapping) -> dict[str, str]:
    """Return names for names, also where they are given as NAME=NAME,NAME=NAME or as JSON."""
    if isinstance(value, str) and value.lstrip()[:1] == "{":
        value = _object(name, value)
    if isinstance(value, str):
        pairs = [part.partition("=") for part in value.split(",")]
        found = {a.strip(): b.strip() for a, _, b in pairs}
        if not all(a.strip() and b.strip() for a, _, b in pairs) or len(found) < len(pairs):
            raise Error("config", expected=f"{name} as OURS=THEIRS,OURS=THEIRS", got=f"{value!r:.100}")
        return found
    if not all(isinstance(text, str) and text for pair in value.items() for text in pair):
        raise ArgumentTypeError("config", expected=f"{name} as texts for texts", got=f"{value!r:.100}")
    return dict(value)


def text_column(columns: str | Mapping[str, str] | None) -> str:
    """Return the name of the column of the text, which "text=NAME" says. ValueError for what is said of other columns."""
    found = checked("columns", columns, "dict[str, str] | None") or {}
    if set(found) - {"text"}:
        raise Error("config", expected="columns text=NAME: a text has no other", got=f"{', '.join(found):.100}")
    return found.get("text", "text")


def _object(name: str, value: str | Mapping) -> dict[str, Any]:
    """Return an object, also where it is given as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise Error("config", name, expected="JSON", got=error) from None
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ArgumentTypeError("config", expected=f"{name} as an object", got=type(value).__name__)
    return dict(value)
