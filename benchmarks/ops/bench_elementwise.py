"""Activations, forward and backward: bound by memory, so the floor is bytes over bandwidth."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.harness.compare import main
from benchmarks.harness.memory_bound import ROWS, WIDTHS, Op, differentiated
from benchmarks.harness.peers import DTYPES, TORCH, torch
from benchmarks.harness.workload import Sides, Workload
from llmcore import ops
from reference import elementwise


def workloads() -> Iterator[Workload]:
    for C in WIDTHS:
        for dtype in DTYPES:
            for build in (gelu, swiglu):
                name = f"{build.__name__} {ROWS}x{C}"
                yield Workload(name, dtype, ("llmcore", *TORCH), partial(build, dtype), (ROWS, C), (40, 96))


def test_elementwise(entry):
    entry.measure()


def gelu(dtype: str, M: int, C: int) -> Sides:
    def theirs(x):
        return torch.nn.functional.gelu(x, approximate="tanh")

    def twin(x, dout):
        return [elementwise.gelu(x), dout * elementwise.gelu_derivative(x)]

    return differentiated(Op(ops.gelu, theirs, twin), dtype, (M, C), (M, C))


def swiglu(dtype: str, M: int, C: int) -> Sides:
    """x (M, 2 C) holds [gate, up]."""

    def theirs(x):
        gate, up = x.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate) * up

    def twin(x, dout):
        return [elementwise.swiglu(x), elementwise.swiglu_backward(dout, x)]

    return differentiated(Op(ops.swiglu, theirs, twin, traffic=4), dtype, (M, 2 * C), (M, C))


if __name__ == "__main__":
    main(workloads)
