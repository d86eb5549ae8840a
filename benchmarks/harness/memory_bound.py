"""Ops that are bound by memory, forward and backward: the floor is bytes over bandwidth. Parameters are float32, as in
mixed-precision training; gradients are new at every call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.harness.peers import TORCH, as_llmcore, as_torch, normal, size_of, torch_sides
from benchmarks.harness.workload import Sides

ROWS, WIDTHS = 4096, (768, 3072)


@dataclass
class Op:
    """ours and theirs: (x, *parameters) -> out. twin: float64 (x, dout, *parameters) -> [out, dx, *gradients]."""

    ours: Callable
    theirs: Callable
    twin: Callable
    parameters: Sequence[tuple[int, ...]] = ()  # their shapes
    traffic: int = 5  # times x: forward reads it and writes out; backward reads dout and what was kept, and writes dx


def differentiated(op: Op, dtype: str, x_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> Sides:
    """Return the sides of an op with its backward: [out, dx, *gradients of the parameters]."""
    arrays = normal(x_shape, out_shape, *op.parameters)
    x, dout, *parameters = arrays

    def side(convert: Callable, compute: Callable) -> Callable[[], list]:
        inputs = [convert(x, dtype, grad=True), *(convert(p, "float32", grad=True) for p in parameters)]
        d = convert(dout, dtype)

        def run():
            for t in inputs:
                t.grad = None
            out = compute(*inputs)
            out.backward(d)
            return [out, *(t.grad for t in inputs)]

        return run

    return Sides(
        {"llmcore": side(as_llmcore, op.ours), **torch_sides(lambda f: side(as_torch, f), op.theirs)},
        lambda: op.twin(*(a.astype(np.float64) for a in arrays)),
        traffic=op.traffic * x.size * size_of(dtype),
        # torch sums the gradients of the parameters of layer_norm in bfloat16, compiled too where a graph runs as it is
        factor={"llmcore": 2, **dict.fromkeys(TORCH, 20 if dtype == "bfloat16" else 2)},
    )
