"""What a call costs: ops on a few numbers, given as tensors, as numpy arrays, and recorded for gradients.

Each beside the same op of torch. A row "kernel" is the call of the core alone: at most 2 us more is Python's share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

import llmcore
from benchmarks.harness.compare import main
from benchmarks.harness.peers import normal, torch
from benchmarks.harness.workload import Sides, Workload
from llmcore import _core, nn, ops
from llmcore._core import DType
from reference import attention as attention_reference
from reference import elementwise, gemm, norm
from reference import rope as rope_reference
from reference import softmax as softmax_reference

F = torch.nn.functional if torch else None


@dataclass
class Call:
    """op and kernel take the arrays that are data; parameters are bound in them, as a model does. theirs takes torch's
    tensors of `given`, by default those of the data."""

    data: list[np.ndarray]
    op: Callable
    kernel: Callable
    theirs: Callable
    expected: np.ndarray
    given: list[np.ndarray] | None = None


def workloads() -> Iterator[Workload]:
    for call in CALLS:
        for how in ("kernel", "tensors", "numpy", "taped"):
            if how != "taped" or call not in (embedding, sample):  # whose data has no gradient
                name, build = f"overhead {call.__name__}, {how}", partial(overhead, call, how)
                yield Workload(name, "float32", ("llmcore", "torch"), build, (), ())


def test_overhead(entry):
    entry.measure()


def overhead(call: Callable[[], Call], how: str) -> Sides:
    c = call()
    given = {
        "kernel": [llmcore.tensor(a).array for a in c.data],
        "tensors": [llmcore.tensor(a) for a in c.data],
        "numpy": c.data,
        "taped": [llmcore.tensor(a, requires_grad=how == "taped") for a in c.data],
    }[how]

    def kernel():
        out = c.kernel(*given)
        return [out[0] if isinstance(out, tuple) else out]

    sides = {"llmcore": kernel if how == "kernel" else lambda: [c.op(*given)]}
    if torch:
        tensors = [torch.tensor(a) for a in c.given or c.data]
        sides["torch"] = lambda: [c.theirs(*tensors)]
    return Sides(sides, lambda: [c.expected])


def frozen(w: np.ndarray) -> nn.Parameter:
    """Return a parameter; in the row "taped" the data's gradient alone is recorded."""
    parameter = nn.Parameter(w)
    parameter.requires_grad = False
    return parameter


def linear() -> Call:
    x, w = normal((2, 16), (16, 16))
    zeros = np.zeros(16, np.float32)
    weight, shift = frozen(w), frozen(zeros)
    panels = weight.panels(DType.float32, transposed=True)
    return Call(
        [x],
        lambda x: ops.linear(x, weight, shift),
        lambda x: _core.linear(x, panels, shift.array),
        lambda x, w, b: F.linear(x, w, b),
        gemm.linear(x, w, zeros),
        [x, w, zeros],
    )


def layer_norm() -> Call:
    x, ones, zeros = *normal((2, 16)), np.ones(16, np.float32), np.zeros(16, np.float32)
    gain, shift = frozen(ones), frozen(zeros)
    return Call(
        [x],
        lambda x: ops.layer_norm(x, gain, shift),
        lambda x: _core.layer_norm(x, gain.array, shift.array, 1e-5),
        lambda x, w, b: F.layer_norm(x, (16,), w, b),
        norm.layer_norm(x, ones, zeros),
        [x, ones, zeros],
    )


def gelu() -> Call:
    (x,) = normal((2, 16))
    return Call(
        [x],
        ops.gelu,
        lambda x: _core.activate(_core.Activation.gelu, x),
        lambda x: F.gelu(x, approximate="tanh"),
        elementwise.gelu(x),
    )


def add() -> Call:
    x, y = normal((2, 16), (2, 16))
    return Call([x, y], ops.add, _core.add, lambda x, y: x + y, x + y)


def softmax() -> Call:
    (x,) = normal((2, 16))
    return Call([x], ops.softmax, _core.softmax, lambda x: x.softmax(-1), softmax_reference.softmax(x))


def attention() -> Call:
    q, k, v = normal((1, 4, 2, 8), (1, 4, 2, 8), (1, 4, 2, 8))

    def heads_first(q, k, v):
        q, k, v = (a.transpose(1, 2) for a in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    return Call(
        [q, k, v],
        ops.attention,
        lambda q, k, v: _core.attention(q, k, v, 8**-0.5, True),
        heads_first,
        attention_reference.attention(q, k, v, 8**-0.5)[0],
    )


def rope() -> Call:
    q, angles = normal((1, 4, 2, 8), (4, 4))
    cos, sin = np.cos(angles), np.sin(angles)
    c, s = _core.from_numpy(cos), _core.from_numpy(sin)

    def rotated(x, cos, sin):
        x1, x2 = x.chunk(2, -1)
        cos, sin = cos[:, None], sin[:, None]
        return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1)

    return Call(
        [q],
        lambda q: ops.rope(q, c, s),
        lambda q: _core.rope(q, c, s, None, 2, False),
        rotated,
        rope_reference.rope(q, cos, sin),
        [q, cos, sin],
    )


def embedding() -> Call:
    (w,), ids = normal((16, 16)), np.array([[3, 1]], np.int32)
    weight = frozen(w)
    return Call(
        [ids],
        lambda ids: ops.embedding(ids, weight),
        lambda ids: _core.embedding(weight.array, ids, DType.float32),
        lambda ids, table: F.embedding(ids, table),
        w[ids],
        [ids, w],
    )


def sample() -> Call:
    (x,) = normal((2, 16))
    return Call(
        [x],
        lambda x: ops.sample(x, 0.0).tokens,
        lambda x: _core.sample(x, 0.0, 0, 1.0, 0.0, 0, 0),
        lambda x: x.argmax(-1),
        x.argmax(-1),
    )


CALLS = (linear, layer_norm, gelu, add, softmax, attention, rope, embedding, sample)


if __name__ == "__main__":
    main(workloads)
