"""Rotary positions, forward and backward: bound by memory, so the floor is bytes over bandwidth."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks.harness.compare import main
from benchmarks.harness.memory_bound import ROWS, WIDTHS, Op, differentiated
from benchmarks.harness.peers import DTYPES, TORCH, as_torch, torch
from benchmarks.harness.workload import Sides, Workload
from llmcore import Tensor, ops
from llmcore.models.rope import Rotary
from reference import rope

BATCH, HEAD = 4, 64


def workloads() -> Iterator[Workload]:
    for C in WIDTHS:
        for dtype in DTYPES:
            shape = (BATCH, ROWS // BATCH, C // HEAD, HEAD)
            build = partial(rotary, dtype)
            yield Workload(f"rope {ROWS}x{C}", dtype, ("llmcore", *TORCH), build, shape, (2, 20, 3, 16))


def test_rope(entry):
    entry.measure()


def rotary(dtype: str, B: int, T: int, H: int, D: int) -> Sides:
    """x (B, T, H, D); torch's as in transformers: rotate_half, with cosines and sines in x's dtype."""
    tables = Rotary(D, 10000.0, T).tables(T)
    cos, sin = (Tensor(table).numpy()[:T] for table in tables)
    if torch:
        c, s = (as_torch(np.concatenate([t, t], 1)[None, :, None], dtype) for t in (cos, sin))

    def theirs(x):
        half = torch.cat((-x[..., D // 2 :], x[..., : D // 2]), dim=-1)
        return x * c + half * s

    def twin(x, dout):
        return [rope.rope(x, cos, sin), rope.rope(dout, cos, -sin)]

    op = Op(lambda x: ops.rope(x, *tables), theirs, twin, traffic=4)
    return differentiated(op, dtype, (B, T, H, D), (B, T, H, D))


if __name__ == "__main__":
    main(workloads)
