"""llmcore on a GPU beside torch on the same GPU, in one run: training, attention, what memory bounds, decoding, drawing.

    python -m benchmarks.gpu.run --json benchmarks/results/gpu.local.json      # see gpu.sh for all that belongs to it
    python -m benchmarks.gpu.run --tiny                                        # small shapes: compared, not timed

Every row first asserts that both sides computed the same. The file is rewritten after every row: what was not reached,
or failed, stands there as such. Exit status 1 where a row failed, 124 where there was no time for all. --tiny takes torch's CPU where it sees
no GPU, so that it tests this file with an emulated device.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu.torch_models import keep_compiled
from benchmarks.harness.environment import peer_version

keep_compiled()

import torch  # noqa: E402

import llmcore  # noqa: E402
from benchmarks.gpu import models as gpu_models  # noqa: E402
from benchmarks.gpu import ops as gpu_ops  # noqa: E402
from benchmarks.gpu.timing import Row, measured, release, synchronize, where  # noqa: E402
from llmcore import _device  # noqa: E402

OUT_OF_TIME = 124  # as of the program `timeout`
VERSIONED = ("numpy", "torch", "triton", "transformers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="rows whose name contains this; the peaks are measured always")
    parser.add_argument("--tiny", action="store_true", help="small shapes: compared, not timed")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="llmcore's; cpu with --tiny only")
    parser.add_argument("--seconds", type=float, default=1.0, help="spent on each row")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no row is begun")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--after", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    where.device, where.tiny, where.seconds = args.device, args.tiny, args.seconds
    where.torch_device = "cuda" if torch.cuda.is_available() and args.device == "cuda" else "cpu"
    if not args.tiny and where.torch_device == "cpu":
        parser.error("torch sees no GPU: there is nothing to compare with but with --tiny")
    try:
        llmcore.set_device(args.device)
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    sys.exit(run(args.only, args.budget, args.json, args.after))


def run(only: str | None, budget: float, path: Path | None, after: int) -> int:
    """All rows, of which the first `after` are in the file; returns the exit status."""
    began = time.perf_counter()
    peaks = list(gpu_ops.peaks())
    found = [*peaks, *((n, m) for n, m in (*gpu_ops.rows(), *gpu_models.rows()) if not only or only in n)]
    result = {"environment": environment(), "tiny": where.tiny, "peaks": {}, "rows": [{"name": n} for n, _ in found]}
    for row in result["rows"]:
        row["status"] = "not run"
    if after and path is not None:
        before = json.loads(path.read_text())
        result["rows"][:after], result["peaks"] = before["rows"][:after], before["peaks"]
        know(result["peaks"])
    write(result, path)
    for number, ((name, make), row) in enumerate(zip(found, result["rows"], strict=True)):
        if number < after:
            continue
        if time.perf_counter() - began > budget:
            row["note"] = "no time was left"
            continue
        row["status"] = "did not finish"
        write(result, path)
        row |= attempt(make)
        if "copy" in name and row["status"] == "done":
            result["peaks"] |= rates("copy_gb_s", row, row["traffic"])
        if "product" in name and row["status"] == "done":
            result["peaks"] |= rates("bf16_tflop_s", row, row["flops"] / 1e3)
        know(result["peaks"])
        print(line(row), flush=True)
        write(result, path)
        if row["status"] == "failed" and path is not None and unusable():
            again(number + 1, budget - (time.perf_counter() - began))
    write(result, path)
    statuses = {row["status"] for row in result["rows"]}
    return 1 if "failed" in statuses else OUT_OF_TIME if statuses != {"done"} else 0


def know(peaks: dict) -> None:
    """The floors are made of the best that either side reached."""
    where.bandwidth = 1e9 * max(peaks.get("copy_gb_s", {"": 0.0}).values())
    where.peak = 1e12 * max(peaks.get("bf16_tflop_s", {"": 0.0}).values())


def unusable() -> bool:
    """Whether a kernel's error has left this process without the device."""
    try:
        synchronize()
    except RuntimeError:
        return True
    return False


def again(after: int, budget: float) -> None:
    """The rows that follow, in a process that has the device."""
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], "--after", str(after), "--budget", str(budget)])


def attempt(make: Callable[[], Row]) -> dict:
    """Return a row's figures, or why it has none."""
    began = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other libraries' own
            found = {"status": "done", **measured(make())}
    except Exception as error:  # the others are measured all the same
        text = str(error).strip().splitlines() or [""]
        found = {"status": "failed", "note": f"{type(error).__name__}: {text[0]:.300}"}
    try:
        release()
    except RuntimeError as error:
        found = {"status": "failed", "note": f"afterwards {error}"}
    return found | {"took": time.perf_counter() - began}


def rates(name: str, row: dict, amount: float) -> dict:
    """Return 10⁹ (of thousands: 10¹²) units per second of each side."""
    return {name: {side: amount / s / 1e9 for side, s in row["seconds"].items()}} if "seconds" in row else {}


def line(row: dict) -> str:
    name = f"{row['name']:64}"
    if row["status"] != "done":
        return f"{name} {row['status'].upper()}: {row.get('note', '')}"
    if "seconds" not in row:
        return f"{name} the same, {row['difference']:.1e} apart at most"
    times = "  ".join(f"{side} {1e3 * s:.4f} ms" for side, s in row["seconds"].items())
    ratio = f"  {row['ratio']:.2f}x" if row["ratio"] else ""
    share = f"  {row['share']:.0%} of the {row['bound']}' floor" if "share" in row else ""
    return f"{name} {times}{ratio}{share}"


def environment() -> dict:
    versions = {name: peer_version(name) for name in VERSIONED}
    found = {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "versions": {"llmcore": llmcore.__version__} | {k: v for k, v in versions.items() if v},
        "threads": llmcore.num_threads(),
        "llmcore_device": where.device,
        "torch_device": where.torch_device,
    }
    if where.device == "cuda":
        found["gpu"] = _device.cuda_info()
    if where.torch_device == "cuda":
        found["torch_gpu"] = {"name": torch.cuda.get_device_name(0), "cuda": torch.version.cuda}
    return found


def write(result: dict, path: Path | None) -> None:
    """Whole or not at all."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f".{path.name}-unfinished")
    made.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(made, path)


if __name__ == "__main__":
    main()
