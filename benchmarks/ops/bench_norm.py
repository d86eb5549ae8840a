"""Norms, forward and backward: bound by memory, so the floor is bytes over bandwidth."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.harness.compare import main
from benchmarks.harness.memory_bound import ROWS, WIDTHS, Op, differentiated
from benchmarks.harness.peers import DTYPES, TORCH, torch
from benchmarks.harness.workload import Sides, Workload
from llmcore import ops
from reference import norm


def workloads() -> Iterator[Workload]:
    for C in WIDTHS:
        for dtype in DTYPES:
            for build in (layer_norm, rms_norm):
                name = f"{build.__name__} {ROWS}x{C}"
                yield Workload(name, dtype, ("llmcore", *TORCH), partial(build, dtype), (ROWS, C), (40, 96))


def test_norm(entry):
    entry.measure()


def layer_norm(dtype: str, M: int, C: int) -> Sides:
    def theirs(x, w, b):
        return torch.nn.functional.layer_norm(x, (C,), w, b)

    def twin(x, dout, w, b):
        return [norm.layer_norm(x, w, b), *norm.layer_norm_backward(dout, x, w)]

    return differentiated(Op(ops.layer_norm, theirs, twin, [(C,), (C,)]), dtype, (M, C), (M, C))


def rms_norm(dtype: str, M: int, C: int) -> Sides:
    def theirs(x, w):
        return torch.nn.functional.rms_norm(x.float(), (C,), w, 1e-6).to(x.dtype)

    def twin(x, dout, w):
        return [norm.rms_norm(x, w), *norm.rms_norm_backward(dout, x, w)]

    return differentiated(Op(ops.rms_norm, theirs, twin, [(C,)]), dtype, (M, C), (M, C))


if __name__ == "__main__":
    main(workloads)
