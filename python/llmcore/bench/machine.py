"""Measures this machine's peak arithmetic and read bandwidth: no kernel can be faster, so they are the limits to compare with."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from llmcore import _core, runtime
from llmcore._core import DType

# Name in the result -> what is multiplied. The byte products are unsigned by signed, as the instructions are.
PEAKS = {"fp32_gflops": DType.float32, "bf16_gflops": DType.bfloat16, "int8_gops": DType.uint8}
REPEATS = 7
SECONDS = 0.03  # per measurement of arithmetic; longer than a time slice that another process may take
LARGEST_BUFFER = 1 << 30


def measure_machine(threads: int | None = None) -> dict:
    """Measure for about five seconds: the best of several interleaved repeats, since other processes can only slow them down.

    threads: the "all" of the result, by default the threads that kernels use. Returns
    {"cpu", "isa", "threads", "cache_bytes", "buffer_bytes", "fp32_gflops", "bf16_gflops", "int8_gops", "read_gb_s"}; the last four are
    {"1": on one thread, "all": on all}, in 10⁹ operations (a multiply-add is two) or bytes per second. The buffer that is
    read is larger than the last-level cache if memory allows.
    """
    before = runtime.num_threads()
    counts = {"1": 1, "all": before if threads is None else threads}
    buffer = np.ones(_buffer_bytes() // 4, np.uint32)
    words = _core.from_numpy(buffer)
    best: dict[str, dict[str, float]] = {name: dict.fromkeys(counts, 0.0) for name in (*PEAKS, "read_gb_s")}
    try:
        rounds = {}
        for _ in range(REPEATS):
            for key, n in counts.items():
                runtime.set_num_threads(n)
                for name, dtype in PEAKS.items():
                    if name not in rounds:
                        rounds[name] = _rounds(dtype)
                    pieces = (
                        1 if n == 1 else 4 * n
                    )  # more pieces than threads, so that a slow thread does not delay the rest
                    per_piece = max(1, rounds[name] * n // pieces)
                    rate = _rate(lambda: _core.machine_peak(dtype, pieces, per_piece))  # noqa: B023 - called at once
                    best[name][key] = max(best[name][key], rate)
                rate = _rate(lambda: _core.machine_read(words) and buffer.nbytes)
                best["read_gb_s"][key] = max(best["read_gb_s"][key], rate)
    finally:
        runtime.set_num_threads(before)
    return {
        "cpu": cpu_name(),
        "isa": _core.current_isa(),
        "threads": counts["all"],
        "cache_bytes": _largest_cache(),
        "buffer_bytes": buffer.nbytes,
        **best,
    }


def peak_flops(dtype: str) -> float:
    """Measure operations per second in "float32" or "bfloat16" on the threads in use, for about a tenth of a second."""
    n, kind = runtime.num_threads(), DType.float32 if dtype == "float32" else DType.bfloat16
    rounds = _rounds(kind)
    return 1e9 * max(_rate(lambda: _core.machine_peak(kind, 4 * n, max(1, rounds // 4))) for _ in range(3))


def _rate(work: Callable[[], float]) -> float:
    """Return 10⁹ units per second, where work() returns the units it did."""
    began = time.perf_counter()
    units = work()
    return units / (time.perf_counter() - began) / 1e9


def _rounds(dtype: DType) -> int:
    """Return how many rounds fill SECONDS on one thread."""
    rounds = 1000
    while True:
        began = time.perf_counter()
        _core.machine_peak(dtype, 1, rounds)
        taken = time.perf_counter() - began
        if taken > SECONDS / 10:
            return max(1, int(rounds * SECONDS / taken))
        rounds *= 8


def _buffer_bytes() -> int:
    """Return twice the size of the last-level cache, but at least 256 MB, at most 1 GiB and at most a quarter of free memory."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(max(2 * _largest_cache(), 1 << 28), LARGEST_BUFFER, max(free // 4, 1 << 24)) // 4096 * 4096


def _largest_cache() -> int:
    """Return the size of the first processor's largest cache; 0 if Linux does not say."""
    largest = 0
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()  # such as 32K
        scale = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:])
        if scale and text[:-1].isdigit():
            largest = max(largest, int(text[:-1]) * scale)
    return largest


def cpu_name() -> str:
    """Return the processor's name as Linux gives it, else the machine type."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
