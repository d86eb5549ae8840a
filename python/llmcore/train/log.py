"""log.jsonl: one JSON object per update; words.jsonl: the vectors of watched words, now and then."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from llmcore._files import write_atomically
from llmcore.train.errors import TrainingError


class RunLog:
    """Appends lines to a log; the lines of steps that a resumed run repeats are dropped first."""

    def __init__(self, path: Path, start: int):
        kept = [json.dumps(row) for row in read_log(path) if row["step"] <= start] if start else []
        write_atomically(path, "".join(f"{line}\n" for line in kept).encode())
        self._path = path

    def __enter__(self):
        self._file = self._path.open("a", encoding="utf-8", buffering=1)
        return self

    def __exit__(self, kind, *exc):
        try:
            self._file.close()
        except OSError as e:
            if kind is None:  # otherwise `write` has raised this already
                raise self._problem(e) from e

    def write(self, row: Mapping) -> None:
        line = json.dumps({k: float(v) if isinstance(v, np.floating) else v for k, v in row.items()})
        try:
            self._file.write(line + "\n")
        except OSError as e:
            raise self._problem(e) from e

    def _problem(self, error: OSError) -> TrainingError:
        return TrainingError(
            "train", f"cannot write {self._path}: {error.strerror}; checkpoints are untouched, continue with --resume"
        )


def read_log(path: Path) -> list[dict]:
    """Return the lines of a log in order, without a line that a killed run cut short."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                if isinstance(row, dict) and row["step"] >= 0:
                    rows.append(row)
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
    return rows
