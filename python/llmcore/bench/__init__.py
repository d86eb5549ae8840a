"""Benchmarks: what the machine can do, and the lower bounds that follow from it."""

from llmcore.bench.machine import measure_machine

__all__ = ["measure_machine"]
