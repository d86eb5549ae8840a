"""Results as JSON files."""

from __future__ import annotations

import json
from pathlib import Path


def write(path: Path | None, result: dict) -> None:
    """Write a result, where a file was asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")


def model_row(name: str, seconds: dict[str, float], ratio: float | None, threads: int) -> dict:
    """Return a row of work that has no floor: a whole model's."""
    return {
        "name": name,
        "dtype": "model",
        "seconds": seconds,
        "ratio": ratio,
        "flops": 0,
        "traffic": 0,
        "threads": threads,
    }
