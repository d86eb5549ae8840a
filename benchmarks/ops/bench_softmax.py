"""Softmax, forward and backward: bound by memory, so the floor is bytes over bandwidth."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.harness.compare import main
from benchmarks.harness.memory_bound import ROWS, WIDTHS, Op, differentiated
from benchmarks.harness.peers import DTYPES, TORCH
from benchmarks.harness.workload import Sides, Workload
from llmcore import ops
from reference.softmax import softmax, softmax_backward


def workloads() -> Iterator[Workload]:
    for C in WIDTHS:
        for dtype in DTYPES:
            build = partial(over_rows, dtype)
            yield Workload(f"softmax {ROWS}x{C}", dtype, ("llmcore", *TORCH), build, (ROWS, C), (40, 96))


def test_softmax(entry):
    entry.measure()


def over_rows(dtype: str, M: int, C: int) -> Sides:
    def twin(x, dout):
        out = softmax(x)
        return [out, softmax_backward(dout, out)]

    return differentiated(Op(ops.softmax, lambda x: x.softmax(-1), twin), dtype, (M, C), (M, C))


if __name__ == "__main__":
    main(workloads)
