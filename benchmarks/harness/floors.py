"""The least time that the machine's measured peaks allow."""

from __future__ import annotations

PEAK = {"float32": "fp32_gflops", "bfloat16": "bf16_gflops", "int8": "bf16_gflops"}  # as ops/bench_quantized.py counts


def floor_seconds(row: dict, machine: dict) -> float:
    """Return the time that arithmetic or memory takes at least, whichever is longer; 0 where neither is stated. What fits
    the last cache need not come from memory."""
    arithmetic = row["flops"] / (1e9 * machine[PEAK[row["dtype"]]]["all"]) if row["flops"] else 0.0
    memory = row["traffic"] / (1e9 * machine["read_gb_s"]["all"]) if row["traffic"] > machine["cache_bytes"] else 0.0
    return max(arithmetic, memory)


def roofline(result: dict, row: dict, machine: dict) -> float:
    """Return the least time of an update over the time it took: its flops at the measured peak, then AdamW's 28 bytes per
    parameter (reads p, g, m, v; writes p, m, v) at the measured bandwidth."""
    peak = 1e9 * machine[PEAK[row["dtype"]]]["all"]
    tokens = result["batch"] * result["context"]
    least = tokens * result["flops_per_token"] / peak
    if 28 * result["parameters"] > machine["cache_bytes"]:
        least += 28 * result["parameters"] / (1e9 * machine["read_gb_s"]["all"])
    return least * row["tokens_per_second"] / tokens
