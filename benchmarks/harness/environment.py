"""Where a benchmark runs: date, versions, threads, and the floors of the machine, measured then and there."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform

import llmcore

VERSIONED = (
    "numpy",
    "torch",
    "tiktoken",
    "tokenizers",
    "rustbpe",
    "gigatoken",
    "quicktok-v1",
    "llama-cpp-python",
    "ctranslate2",
)


def environment(threads: int) -> dict:
    """{"date", "python", "versions", "threads", "machine"}; see `llmcore.bench.measure_machine`."""
    versions = {name: peer_version(name) for name in VERSIONED}
    return {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "versions": {"llmcore": llmcore.__version__} | {k: v for k, v in versions.items() if v},
        "threads": threads,
        "machine": llmcore.bench.measure_machine(threads),
    }


def peer_version(name: str) -> str | None:
    """Its version, or None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
