"""Fields of configurations: how they are declared, and what may stand in them."""

from __future__ import annotations

import math
import os
from dataclasses import field


def option(default, help: str, **metadata):
    """A field with the sentence that `--help` shows."""
    metadata["help"] = help
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"[config] expected {name} {', '.join(known[:-1])} or {known[-1]}, got {value!r:.100}")


def checked(name: str, value, annotation: str):
    """A value of the annotated type; whole floats serve as integers and integers as floats, as YAML writes them."""
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
    elif "list[float]" in kinds and isinstance(value, (list, tuple)):
        return [checked(name, v, "float") for v in value]
    elif "list[str]" in kinds and isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        return list(value)
    wanted = " or ".join(sorted(kinds - {"None"}))
    # Only what is short for sure: a few lines of YAML can mean a list of billions.
    got = repr(value)[:100] if isinstance(value, (str, int, float)) else type(value).__name__
    raise TypeError(f"[config] expected {name} of type {wanted}, got {got}")
