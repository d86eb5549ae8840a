"""Norms, softmax, activations and rotary positions, forward and backward: bound by memory, so the floor is bytes over
bandwidth. Parameters are float32, as in mixed-precision training; gradients are new at every call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.harness.compare import Workload, main
from benchmarks.harness.peers import DTYPES, as_llmcore, as_torch, normal, torch, torch_sides
from llmcore import ops
from llmcore.models.rope import Rotary
from reference import elementwise, norm, rope, softmax

ROWS, WIDTHS = 4096, (768, 3072)
BATCH, HEAD = 4, 64  # of rope


@dataclass
class Case:
    """ours and theirs: (x, *parameters) -> out. twin: float64 (x, dout, *parameters) -> [out, dx, *gradients]."""

    ours: Callable
    theirs: Callable
    twin: Callable
    parameters: int = 0  # vectors as long as a row
    traffic: int = 5  # times x: forward reads it and writes out; backward reads dout and what was kept, and writes dx


def softmax_twin(x, dout):
    out = softmax.softmax(x)
    return [out, softmax.softmax_backward(dout, out)]


def cases(C: int) -> Iterator[tuple[str, Case]]:
    F = torch.nn.functional if torch else None
    yield (
        "layer_norm",
        Case(
            ops.layer_norm,
            lambda x, w, b: F.layer_norm(x, (C,), w, b),
            lambda x, dout, w, b: [norm.layer_norm(x, w, b), *norm.layer_norm_backward(dout, x, w)],
            parameters=2,
        ),
    )
    yield (
        "rms_norm",
        Case(
            ops.rms_norm,
            lambda x, w: F.rms_norm(x.float(), (C,), w, 1e-6).to(x.dtype),
            lambda x, dout, w: [norm.rms_norm(x, w), *norm.rms_norm_backward(dout, x, w)],
            parameters=1,
        ),
    )
    yield "softmax", Case(ops.softmax, lambda x: F.softmax(x, dim=-1), softmax_twin)
    yield (
        "gelu",
        Case(
            ops.gelu,
            lambda x: F.gelu(x, approximate="tanh"),
            lambda x, dout: [elementwise.gelu(x), dout * elementwise.gelu_derivative(x)],
        ),
    )


def workloads() -> Iterator[Workload]:
    for C in WIDTHS:
        for dtype in DTYPES:
            for name, case in cases(C):
                yield workload(name, case, dtype, (ROWS, C), (ROWS, C), C)
            yield swiglu(C, dtype)
            yield rotary(C, dtype)


def swiglu(C: int, dtype: str) -> Workload:
    def theirs(x):
        gate, up = x.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate) * up

    def twin(x, dout):
        return [elementwise.swiglu(x), elementwise.swiglu_backward(dout, x)]

    return workload("swiglu", Case(ops.swiglu, theirs, twin, traffic=4), dtype, (ROWS, 2 * C), (ROWS, C), C)


def rotary(C: int, dtype: str) -> Workload:
    """x (B, T, H, D); torch's as in transformers: rotate_half, with cosines and sines in x's dtype."""
    T, H = ROWS // BATCH, C // HEAD
    cos, sin = (table[:T] for table in Rotary(HEAD, 10000.0, T).tables(T))
    if torch:
        c, s = (as_torch(np.concatenate([t, t], 1)[None, :, None], dtype) for t in (cos, sin))

    def theirs(x):
        half = torch.cat((-x[..., HEAD // 2 :], x[..., : HEAD // 2]), dim=-1)
        return x * c + half * s

    def twin(x, dout):
        return [rope.rope(x, cos, sin), rope.rope(dout, cos, -sin)]

    shape = (BATCH, T, H, HEAD)
    return workload("rope", Case(lambda x: ops.rope(x, cos, sin), theirs, twin, traffic=4), dtype, shape, shape, C)


def workload(name: str, case: Case, dtype: str, x_shape, out_shape, C: int) -> Workload:
    arrays = normal(x_shape, out_shape, *[(C,)] * case.parameters)
    x, dout, *parameters = arrays

    def side(convert: Callable, op: Callable) -> Callable[[], list]:
        inputs = [convert(x, dtype, grad=True), *(convert(p, "float32", grad=True) for p in parameters)]
        d = convert(dout, dtype)

        def run():
            for t in inputs:
                t.grad = None
            out = op(*inputs)
            out.backward(d)
            return [out, *(t.grad for t in inputs)]

        return run

    return Workload(
        f"{name} {ROWS}x{C}",
        dtype,
        {"llmcore": side(as_llmcore, case.ours), **torch_sides(lambda f: side(as_torch, f), case.theirs)},
        lambda: case.twin(*(a.astype(np.float64) for a in arrays)),
        traffic=case.traffic * x.size * (2 if dtype == "bfloat16" else 4),
        # torch sums the gradients of the parameters of layer_norm in bfloat16
        factor={"llmcore": 2, "torch": 20 if dtype == "bfloat16" else 2},
    )


if __name__ == "__main__":
    main(workloads)
