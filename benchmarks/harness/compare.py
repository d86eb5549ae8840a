"""Times libraries against each other on the same work: in one process, in turns A B C A B C, results checked first.

A file `bench_*.py` has workloads() and ends with `main(workloads)`, which gives it this command line:

    python -m benchmarks.ops.bench_gemm --threads 2 --only 768 --json benchmarks/results/gemm.local.json

The number of threads is one per process: a compiled torch function keeps the one it was compiled for.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import llmcore
from benchmarks.harness import results
from benchmarks.harness.environment import environment
from benchmarks.harness.workload import Sides, Unavailable, Workload

SLICE = 0.02  # seconds that one turn of a library takes at least: short calls are repeated
# Idle threads of OpenMP and OpenBLAS spin for a while after their last work and would take a core from whoever is next:
# every turn begins with a pause and an untimed call, and OpenBLAS spins for less than a pause (`benchmarks/__init__.py`).
PAUSE = 0.03


def main(workloads: Callable[[], Iterable[Workload]]) -> None:
    """Run the command line of a benchmark file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=llmcore.num_threads())
    parser.add_argument("--only", help="workloads whose row contains this")
    parser.add_argument("--libraries", nargs="+", help="by default all that are installed")
    parser.add_argument("--seconds", type=float, default=3.0, help="spent on each workload")
    parser.add_argument("--smoke", action="store_true", help="small shapes, to see that everything works")
    parser.add_argument("--json", type=Path, help="where to write the result")
    args = parser.parse_args()
    use_threads(args.threads)
    rows = []
    for workload in workloads():
        if args.only and args.only not in workload.label:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other libraries' own
            try:
                sides = workload.sides(args.smoke)
            except Unavailable as error:
                print(f"{workload.label:70} left out: {error}", flush=True)
                continue
            if args.libraries:
                sides.runs = {name: run for name, run in sides.runs.items() if name in args.libraries}
            row = {"name": workload.name, **compare(sides, args.seconds), "threads": args.threads}
        rows.append(row)
        print(f"{workload.label:70} {line(row)}", flush=True)
        del sides
    about = sys.modules["__main__"].__doc__ or ""  # of the file that called us
    title = " ".join(about.split()).partition(". ")[0]
    result = {"kind": "ops", "title": title, "environment": environment(args.threads), "rows": rows}
    results.write(args.json, result)


def line(row: dict) -> str:
    """Return a row's rate, times and ratio for the terminal."""
    ours, rate = row["seconds"]["llmcore"], ""
    if row["flops"]:
        rate = f"{row['flops'] / ours / 1e9:6.0f} GF/s"
    elif row["traffic"]:
        rate = f"{row['traffic'] / ours / 1e9:6.1f} GB/s"
    times = "  ".join(f"{name} {seconds * 1e3:9.4f} ms" for name, seconds in row["seconds"].items())
    return f"{rate:12} {times}  {row['ratio'] or 0:.2f}x"


def use_threads(threads: int) -> None:
    """Tell every library that is installed how many threads to use; before torch compiles anything."""
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


def compare(sides: Sides, seconds: float) -> dict:
    """Check every side, then time them in turns. Returns medians in seconds, and the median over the turns of the best
    peer's time to llmcore's (None without a peer)."""
    repeats = {}
    for library in sides.runs:
        run = sides.ready(library)
        sides.verify(library, run())
        once = min(timed(run, 1), timed(run, 1))
        repeats[library] = 1 if sides.fresh else max(1, round(SLICE / once))
    vars(sides).pop("reference", None)  # memory
    times: dict[str, list[float]] = {library: [] for library in repeats}
    began = time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        while len(times["llmcore"]) < 5 or (time.perf_counter() - began < seconds and len(times["llmcore"]) < 200):
            for library in repeats:
                run = sides.ready(library)
                time.sleep(PAUSE)
                if not sides.fresh:
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
        "dtype": sides.dtype,
        "flops": sides.flops,
        "traffic": sides.traffic,
        "rounds": len(times["llmcore"]),
        "seconds": medians,
        "ratio": ratio,
    }


def timed(run: Callable[[], object], repeats: int) -> float:
    """Return the seconds of one call, averaged over `repeats`."""
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - began) / repeats
