"""Linear layers: y = x (M,K) · weightᵀ, weight (N,K); dx = dy · weight; dweight = dyᵀ · x, each by itself.

Weights are packed once per update in llmcore and so before the clock starts, as a library that keeps its weights packed
would; whatever else must be rearranged is part of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks.harness.compare import main
from benchmarks.harness.peers import DTYPES, as_llmcore, as_torch, normal, size_of, torch
from benchmarks.harness.workload import Sides, Workload
from llmcore import _core, autograd, nn, ops
from reference import gemm

SHAPES = [  # M, N, K
    (1024, 768, 768),
    (1024, 3072, 768),
    (1024, 768, 3072),
    (1024, 50304, 768),
    (4096, 4096, 4096),
]
SKINNY = [(M, 4096, 4096) for M in (1, 4, 8, 16)]  # the weights are 64 MB in float32, 32 MB in bfloat16
CACHED = (1, 576, 1536)  # of a small model: found in a cache
GATED = (4096, 4096, 768)  # 2 x 2048 columns of [gate, up]
ODD = [(1023, 767, 769), (1000, 3001, 777)]


SMALL = (40, 96, 64)


def workloads() -> Iterator[Workload]:
    for dtype in DTYPES:
        for shape in SHAPES:
            for what, build in (("forward", forward), ("dx", input_gradient), ("dw", weight_gradient)):
                yield linear(what, build, shape, dtype)
        for shape in ODD:
            yield linear("forward, odd", forward, shape, dtype, small=(33, 65, 77))
        for shape in (*SKINNY, CACHED):
            yield linear("M small", skinny, shape, dtype, numpy=False)
        M, N, K = GATED
        yield Workload(
            f"linear and swiglu {M}x{N}x{K}", dtype, ("llmcore", "torch"), partial(gated, dtype), GATED, SMALL
        )


def linear(what: str, build, shape: tuple[int, int, int], dtype: str, numpy=True, small=SMALL) -> Workload:
    M, N, K = shape
    # numpy has no bfloat16 products
    libraries = ("llmcore", "numpy", "torch") if numpy and dtype == "float32" else ("llmcore", "torch")
    return Workload(f"linear {what} {M}x{N}x{K}", dtype, libraries, partial(build, dtype), shape, small)


def test_gemm(entry):
    entry.measure()


def multiplied(sides: dict, expected, dtype: str, M: int, N: int, K: int) -> Sides:
    traffic = (M * K + N * K + M * N) * size_of(dtype)
    return Sides({k: s for k, s in sides.items() if s}, expected, 2 * M * N * K, traffic)


def product(a: np.ndarray, b: np.ndarray):
    return lambda: [a.astype(np.float64) @ b.astype(np.float64)]


def numpy_product(a: np.ndarray, b: np.ndarray, dtype: str):
    return (lambda: [a @ b]) if dtype == "float32" else None  # numpy has no bfloat16 products


def forward(dtype: str, M: int, N: int, K: int) -> Sides:
    x, w = normal((M, K), (N, K))
    weight, a = nn.Parameter(w), as_llmcore(x, dtype)

    def ours():
        with autograd.no_grad():
            return [ops.linear(a, weight)]

    sides = {"llmcore": ours, "numpy": numpy_product(x, w.T, dtype)}
    if torch:
        ta, tb = as_torch(x, dtype), as_torch(w, dtype)
        sides["torch"] = lambda: [torch.nn.functional.linear(ta, tb)]
    return multiplied(sides, product(x, w.T), dtype, M, N, K)


def input_gradient(dtype: str, M: int, N: int, K: int) -> Sides:
    w, dy = normal((N, K), (M, N))
    weight, d = nn.Parameter(w), as_llmcore(dy, dtype)
    panels = weight.panels(d.array.dtype, transposed=False)
    sides = {"llmcore": lambda: [_core.linear(d.array, panels)[0]], "numpy": numpy_product(dy, w, dtype)}
    if torch:
        ta, tb = as_torch(dy, dtype), as_torch(w, dtype)
        sides["torch"] = lambda: [ta @ tb]
    return multiplied(sides, product(dy, w), dtype, M, N, K)


def weight_gradient(dtype: str, M: int, N: int, K: int) -> Sides:
    """Into a new float32 buffer here, as the first micro-batch of an update does; torch's is of its own dtype."""
    x, dy = normal((M, K), (M, N))
    a, d = as_llmcore(x, dtype), as_llmcore(dy, dtype)

    def ours():
        return [_core.linear_weight_grad(d.array, a.array)]

    sides = {"llmcore": ours, "numpy": numpy_product(dy.T, x, dtype)}
    if torch:
        ta, tb = as_torch(x, dtype), as_torch(dy, dtype)
        sides["torch"] = lambda: [tb.T @ ta]
    return multiplied(sides, product(dy.T, x), dtype, M, N, K)


def gated(dtype: str, M: int, N: int, K: int) -> Sides:
    """silu(gate) * up of a linear layer's [gate, up], forward and backward."""
    x, w, dout = normal((M, K), (N, K), (M, N // 2))
    w /= 32  # so that silu sees values around 1; a power of two, exact in bfloat16

    def twin():
        x64, w64, d64 = (a.astype(np.float64) for a in (x, w, dout))
        out = gemm.linear(x64, w64, activation="swiglu")
        return [out, *gemm.linear_backward(d64, x64, w64, activation="swiglu")[:2]]

    a, weight, d = as_llmcore(x, dtype, grad=True), nn.Parameter(w), as_llmcore(dout, dtype)

    def ours():
        a.grad = weight.grad = None
        out = ops.linear(a, weight, activation="swiglu")
        out.backward(d)
        return [out, a.grad, weight.grad]

    sides = {"llmcore": ours}
    if torch:
        ta, tw, td = as_torch(x, dtype, grad=True), as_torch(w, dtype, grad=True), as_torch(dout, dtype)

        def theirs():
            ta.grad = tw.grad = None
            gate, up = torch.nn.functional.linear(ta, tw).chunk(2, dim=-1)
            out = torch.nn.functional.silu(gate) * up
            out.backward(td)
            return [out, ta.grad, tw.grad]

        sides["torch"] = theirs
    # torch rounds gate and up before the product in bfloat16
    return Sides(sides, twin, 6 * M * N * K, factor=2)


def skinny(dtype: str, M: int, N: int, K: int) -> Sides:
    """What decoding does: of a large model several weights in turn, so that none is found in a cache."""
    size = N * K * size_of(dtype)
    copies = max(2, (128 << 20) // size) if size > 16 << 20 else 1
    x, w = normal((M, K), (N, K))
    weights, a, turn = [nn.Parameter(w) for _ in range(copies)], as_llmcore(x, dtype), [0, 0]

    def ours():
        turn[0] += 1
        with autograd.no_grad():
            return [ops.linear(a, weights[turn[0] % copies])]

    for weight in weights:
        weight.panels(a.array.dtype, transposed=True)
    sides = {"llmcore": ours}
    if torch:
        ta, tbs = as_torch(x, dtype), [as_torch(w, dtype) for _ in range(copies)]

        def theirs():
            turn[1] += 1
            return [torch.nn.functional.linear(ta, tbs[turn[1] % copies])]

        sides["torch"] = theirs
    return multiplied(sides, product(x, w.T), dtype, M, N, K)


if __name__ == "__main__":
    main(workloads)
