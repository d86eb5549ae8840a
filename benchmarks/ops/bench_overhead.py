"""What a call costs: ops on a few numbers, given as tensors, as numpy arrays, and recorded for gradients.

Each beside the same op of torch. A row "kernel" is the call of the core alone: at most 2 us more is Python's share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

import llmcore
from benchmarks.harness.compare import Workload, main
from benchmarks.harness.peers import normal, torch
from llmcore import _core, nn, ops
from llmcore._core import DType
from reference import attention as attention_reference
from reference import elementwise, gemm, norm, rope, softmax


def workloads() -> Iterator[Workload]:
    x, y, w, ones, zeros = *normal((2, 16), (2, 16), (16, 16)), np.ones(16, np.float32), np.zeros(16, np.float32)
    q, k, v = normal((1, 4, 2, 8), (1, 4, 2, 8), (1, 4, 2, 8))
    angles = normal((4, 4))[0]
    cos, sin = np.cos(angles), np.sin(angles)
    ids = np.array([[3, 1]], np.int32)
    weight, gain, shift = nn.Parameter(w), nn.Parameter(ones), nn.Parameter(zeros)
    for parameter in (weight, gain, shift):
        parameter.requires_grad = False  # in the row "taped" the data's gradient alone is what is recorded
    panels = weight.panels(DType.float32, transposed=True)
    f = torch.nn.functional if torch else None

    def peer(function: Callable, *arrays: np.ndarray) -> Callable | None:
        if not torch:
            return None
        tensors = [torch.tensor(a) for a in arrays]
        return lambda: function(*tensors)

    def rotated(x, cos, sin):
        x1, x2 = x.chunk(2, -1)
        cos, sin = cos[:, None], sin[:, None]
        return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1)

    def heads_first(q, k, v):
        q, k, v = (a.transpose(1, 2) for a in (q, k, v))
        return f.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    def table_rows(ids, table):
        return f.embedding(ids, table)

    def row(name, arrays, op, kernel, theirs, expected) -> Iterator[Workload]:
        """op and kernel take the arrays that are data; parameters are bound in them, as a model does."""
        tensors = [llmcore.tensor(a) for a in arrays]
        cores = [t.array for t in tensors]
        taped = [llmcore.tensor(a, requires_grad=True) for a in arrays]

        def core():
            out = kernel(*cores)
            return [out[0] if isinstance(out, tuple) else out]

        runs = {"kernel": core, "tensors": lambda: [op(*tensors)], "numpy": lambda: [op(*arrays)]}
        if name not in ("embedding", "sample"):  # whose data has no gradient
            runs["taped"] = lambda: [op(*taped)]
        for how, run in runs.items():
            sides = {"llmcore": run}
            if theirs:
                sides["torch"] = lambda: [theirs()]
            yield Workload(f"overhead {name}, {how}", "float32", sides, lambda: [expected])

    F32 = DType.float32
    linear = peer(f and f.linear, x, w, zeros)
    normed = peer(lambda x, w, b: f.layer_norm(x, (16,), w, b), x, ones, zeros)
    yield from row(
        "linear",
        [x],
        lambda x: ops.linear(x, weight, shift),
        lambda x: _core.linear(x, panels, shift.array),
        linear,
        gemm.linear(x, w, zeros),
    )
    yield from row(
        "layer_norm",
        [x],
        lambda x: ops.layer_norm(x, gain, shift),
        lambda x: _core.layer_norm(x, gain.array, shift.array, 1e-5),
        normed,
        norm.layer_norm(x, ones, zeros),
    )
    yield from row(
        "gelu",
        [x],
        ops.gelu,
        lambda x: _core.activate(_core.Activation.gelu, x),
        peer(lambda x: f.gelu(x, approximate="tanh"), x),
        elementwise.gelu(x),
    )
    yield from row("add", [x, y], ops.add, _core.add, peer(lambda x, y: x + y, x, y), x + y)
    yield from row("softmax", [x], ops.softmax, _core.softmax, peer(lambda x: x.softmax(-1), x), softmax.softmax(x))
    yield from row(
        "attention",
        [q, k, v],
        ops.attention,
        lambda q, k, v: _core.attention(q, k, v, 8**-0.5, True),
        peer(heads_first, q, k, v),
        attention_reference.attention(q, k, v, 8**-0.5)[0],
    )
    c, s = _core.from_numpy(cos), _core.from_numpy(sin)
    yield from row(
        "rope",
        [q],
        lambda q: ops.rope(q, c, s),
        lambda q: _core.rope(q, c, s, None, 2, False),
        peer(rotated, q, cos, sin),
        rope.rope(q, cos, sin),
    )
    yield from row(
        "embedding",
        [ids],
        lambda ids: ops.embedding(ids, weight),
        lambda ids: _core.embedding(weight.array, ids, F32),
        peer(table_rows, ids, w),
        w[ids],
    )
    yield from row(
        "sample",
        [x],
        lambda x: ops.sample(x, 0.0).tokens,
        lambda x: _core.sample(x, 0.0, 0, 1.0, 0.0, 0, 0),
        peer(lambda x: x.argmax(-1), x),
        x.argmax(-1),
    )


if __name__ == "__main__":
    main(workloads)
