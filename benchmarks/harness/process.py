"""Work in a process of its own, so that its threads and its peak memory are its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the repository: modules are found from there


def command(module: str, *arguments: object) -> list[str]:
    """Return the command that runs a module of the benchmarks, from ROOT."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def child(
    module: str, *arguments: object, before: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> dict:
    """Run a module and return the last JSON object that it printed; `before` it: a program that starts it."""
    done = subprocess.run(
        [*before, *command(module, *arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
    )
    return json.loads([line for line in done.stdout.splitlines() if line.startswith('{"')][-1])


def memory(field: str) -> int:
    """Return VmRSS or VmHWM (its peak) of this process in bytes. ru_maxrss would start with the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")
