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
    """Return {"date", "python", "versions", "threads", "machine"}; see `llmcore.bench.measure_machine`."""
    return {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "versions": versions(),
        "threads": threads,
        "machine": llmcore.bench.measure_machine(threads),
    }


def versions() -> dict[str, str]:
    """Return the version of every library that is compared and installed."""
    found = {name: peer_version(name) for name in VERSIONED}
    return {"llmcore": llmcore.__version__} | {name: version for name, version in found.items() if version}


def peer_version(name: str) -> str | None:
    """Return its version, or None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
