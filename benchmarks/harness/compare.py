"""Times libraries against each other on the same work: in one process, in turns A B C A B C, results checked first.

A file `bench_*.py` yields `Workload`s and ends with `main(workloads)`, which gives it this command line:

    python -m benchmarks.ops.bench_gemm --threads 2 --only 768 --json benchmarks/results/gemm.local.json

The number of threads is one per process: a compiled torch function keeps the one it was compiled for.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import llmcore

SLICE = 0.02  # seconds that one turn of a library takes at least: short calls are repeated
# Idle threads of OpenMP and OpenBLAS spin for a while after their last work and would take a core from whoever is next:
# every turn begins with a pause and an untimed call, and OpenBLAS is told to spin for 2^20 cycles only (its 2^26 are
# longer than a pause).
PAUSE = 0.03
OPENBLAS = {"OPENBLAS_THREAD_TIMEOUT": "20"}


@dataclass
class Workload:
    """One row of the table: what to do, by whom, what must come out, and what it costs at least.

    sides: library -> run() -> arrays, in the order of what expected() returns. flops and traffic (bytes that must move)
    give the floor. factor: see `tolerances.assert_close`; a number, or one for each library that needs its own.
    """

    name: str
    dtype: str
    sides: Mapping[str, Callable[[], list]]
    expected: Callable[[], list[np.ndarray]] | None = None
    flops: float = 0
    traffic: float = 0
    factor: float | Mapping[str, float] = 1.0
    check: Callable[[str, Any], None] | None = None  # of (library, what it returned), instead of expected()
    fresh: Mapping[str, Callable[[], Callable]] | None = None  # instead of sides: makes run(), for one call, untimed


def main(workloads: Callable[[], Iterable[Workload]]) -> None:
    """The command line of a benchmark file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=llmcore.num_threads())
    parser.add_argument("--only", help="workloads whose row contains this")
    parser.add_argument("--libraries", nargs="+", help="by default all that are installed")
    parser.add_argument("--seconds", type=float, default=3.0, help="spent on each workload")
    parser.add_argument("--json", type=Path, help="where to write the result")
    args = parser.parse_args()
    if not OPENBLAS.items() <= os.environ.items():  # it reads its environment when numpy is imported
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | OPENBLAS)
    use_threads(args.threads)
    from benchmarks.harness.environment import environment

    about = sys.modules["__main__"].__doc__ or ""  # of the file that called us
    title = " ".join(about.split()).partition(". ")[0]
    result = {"kind": "ops", "title": title, "environment": environment(args.threads), "rows": []}
    for workload in workloads():
        label = f"{workload.name}, {workload.dtype}"
        if args.only and args.only not in label:
            continue
        if args.libraries:
            workload.sides = {k: v for k, v in workload.sides.items() if k in args.libraries}
            workload.fresh = workload.fresh and {k: v for k, v in workload.fresh.items() if k in args.libraries}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other libraries' own
            row = compare(workload, args.seconds)
        result["rows"].append(row | {"threads": args.threads})
        timings = "  ".join(f"{name} {seconds * 1e3:9.4f} ms" for name, seconds in row["seconds"].items())
        rate = f"{workload.flops / row['seconds']['llmcore'] / 1e9:6.0f} GF/s" if workload.flops else ""
        if not workload.flops and workload.traffic:
            rate = f"{workload.traffic / row['seconds']['llmcore'] / 1e9:6.1f} GB/s"
        print(f"{label:70} {rate:12} {timings}  {row['ratio'] or 0:.2f}x", flush=True)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")


def use_threads(threads: int) -> None:
    """Tell every library that is here; before torch compiles anything."""
    cache = Path(tempfile.gettempdir()) / f"llmcore-inductor-{os.getuid()}-{threads}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    llmcore.set_num_threads(threads)
    try:
        import torch
    except ImportError:
        pass
    else:
        torch.set_num_threads(threads)
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return
    threadpool_limits(threads, user_api="blas")


def compare(workload: Workload, seconds: float) -> dict:
    """Check every side, then time them in turns. Returns medians in seconds, and the median over the turns of the best
    peer's time to llmcore's (None without a peer)."""
    from benchmarks.harness.peers import as_numpy
    from support.tolerances import assert_close

    expected = None if workload.check else workload.expected()
    repeats = {}
    for library in workload.fresh or workload.sides:
        run = workload.fresh[library]() if workload.fresh else workload.sides[library]
        got = run()
        if workload.check:
            workload.check(library, got)
        else:
            factor = workload.factor
            if isinstance(factor, Mapping):
                factor = factor.get(library, factor.get("llmcore", 1.0))
            for value, wanted in zip(got, expected, strict=True):
                assert_close(as_numpy(value), wanted, workload.dtype, factor)
        del got
        once = min(timed(run, 1), timed(run, 1))
        repeats[library] = 1 if workload.fresh else max(1, round(SLICE / once))
    del expected
    times: dict[str, list[float]] = {library: [] for library in repeats}
    began = time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        while len(times["llmcore"]) < 5 or (time.perf_counter() - began < seconds and len(times["llmcore"]) < 200):
            for library in repeats:
                run = workload.fresh[library]() if workload.fresh else workload.sides[library]
                time.sleep(PAUSE)
                if not workload.fresh:
                    run()
                times[library].append(timed(run, repeats[library]))
    finally:
        gc.enable()
    medians = {library: statistics.median(t) for library, t in times.items()}
    peers = [library for library in times if library != "llmcore"]
    ratio = None
    if peers:
        best = min(peers, key=medians.__getitem__)
        ratio = statistics.median(b / a for a, b in zip(times["llmcore"], times[best], strict=True))
    return {
        "name": workload.name,
        "dtype": workload.dtype,
        "flops": workload.flops,
        "traffic": workload.traffic,
        "rounds": len(times["llmcore"]),
        "seconds": medians,
        "ratio": ratio,
    }


def timed(run: Callable[[], object], repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - began) / repeats
