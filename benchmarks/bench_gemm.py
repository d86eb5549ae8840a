"""Linear layers: x (M,K) · weightᵀ, weight (N,K), forward and backward."""

import numpy as np
import pytest

from llmcore import autograd, nn, ops
from peers import TORCH, as_llmcore, as_torch, measure, peer, torch_call

SHAPES = {  # M, N, K
    "mlp in": (4096, 1536, 384),
    "mlp out": (4096, 384, 1536),
    "square": (1024, 1024, 1024),
    "decode": (1, 4096, 1024),
}


def problem(M, N, K):
    rng = np.random.default_rng(0)
    x, w, dy = (rng.standard_normal(s, np.float32) for s in ((M, K), (N, K), (M, N)))
    rounded = [as_llmcore(a, "bfloat16").numpy().astype(np.float32) for a in (x, w, dy)]  # exact in both dtypes
    return rounded


def bytes_moved(M, N, K, dtype):
    return (M * K + N * K + M * N) * (2 if dtype == "bfloat16" else 4)


@pytest.mark.parametrize("library", ["llmcore", "torch", "numpy"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SHAPES)
def test_linear(benchmark, name, dtype, library):
    M, N, K = SHAPES[name]
    x, w, _ = problem(M, N, K)
    if library == "llmcore":
        weight, a = nn.Parameter(w), as_llmcore(x, dtype)

        def run():
            with autograd.no_grad():
                return [ops.linear(a, weight)]

    elif library == "numpy":
        if dtype != "float32":
            pytest.skip("numpy has no bfloat16 products")

        def run():
            return [x @ w.T]

    else:
        torch = peer("torch")
        a, b = as_torch(x, dtype), as_torch(w, dtype)

        def run():
            with torch.no_grad():
                return [torch.nn.functional.linear(a, b)]

    expected = [x.astype(np.float64) @ w.T.astype(np.float64)]
    group = f"linear, {name} ({M}x{N}x{K})"
    shape = {"M": M, "N": N, "K": K}
    measure(benchmark, group, library, run, expected, dtype, shape, 2 * M * N * K, bytes_moved(M, N, K, dtype))


@pytest.mark.parametrize("library", ["llmcore", *TORCH])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["mlp in", "mlp out"])
def test_linear_forward_backward(benchmark, name, dtype, library):
    M, N, K = SHAPES[name]
    x, w, dy = problem(M, N, K)
    if library == "llmcore":
        weight, a, d = nn.Parameter(w), as_llmcore(x, dtype, grad=True), as_llmcore(dy, dtype)

        def run():
            a.grad = None
            weight.zero_grad()
            out = ops.linear(a, weight)
            out.backward(d)
            return [out, a.grad, weight.grad]

    else:
        linear = torch_call(library, peer("torch").nn.functional.linear)
        a, b, d = as_torch(x, dtype, grad=True), as_torch(w, dtype, grad=True), as_torch(dy, dtype)

        def run():
            a.grad = b.grad = None
            out = linear(a, b)
            out.backward(d)
            return [out, a.grad, b.grad]

    x, w, dy = (t.astype(np.float64) for t in (x, w, dy))
    expected = [x @ w.T, dy @ w, dy.T @ x]
    group = f"linear, forward and backward, {name} ({M}x{N}x{K})"
    shape = {"M": M, "N": N, "K": K}
    measure(benchmark, group, library, run, expected, dtype, shape, 6 * M * N * K, 3 * bytes_moved(M, N, K, dtype))
