"""Causal attention: training shapes forward and backward, and one query against a cache."""

import numpy as np
import pytest

from llmcore import autograd, ops
from peers import TORCH, as_llmcore, as_torch, measure, peer, torch_call
from reference import attention as reference

SHAPES = {"short": (4, 256, 6, 64), "long": (1, 1024, 6, 64)}  # B, T, H, D


def problem(B, T, S, H, D):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s, np.float32) for s in ((B, T, H, D), (B, S, H, D), (B, S, H, D), (B, T, H, D))]
    return [as_llmcore(a, "bfloat16").numpy().astype(np.float32) for a in arrays]


def heads_first(x, dtype, grad=False):
    """(B,T,H,D) -> torch's (B,H,T,D), in memory too: the layout it is fastest in."""
    return as_torch(np.ascontiguousarray(x.transpose(0, 2, 1, 3)), dtype, grad)


@pytest.mark.parametrize("library", ["llmcore", *TORCH])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SHAPES)
def test_attention_forward_backward(benchmark, name, dtype, library):
    B, T, H, D = SHAPES[name]
    q, k, v, dout = problem(B, T, T, H, D)
    if library == "llmcore":
        inputs = [as_llmcore(x, dtype, grad=True) for x in (q, k, v)]
        d = as_llmcore(dout, dtype)

        def run():
            for x in inputs:
                x.grad = None
            out = ops.attention(*inputs)
            out.backward(d)
            return [out, *(x.grad for x in inputs)]

    else:
        torch = peer("torch")
        attend = torch_call(
            library, lambda *x: torch.nn.functional.scaled_dot_product_attention(*x, is_causal=True).transpose(1, 2)
        )
        inputs = [heads_first(x, dtype, grad=True) for x in (q, k, v)]
        d = as_torch(dout, dtype)

        def run():
            for x in inputs:
                x.grad = None
            out = attend(*inputs)
            out.backward(d)
            return [out, *(x.grad.transpose(1, 2) for x in inputs)]

    scale = D**-0.5
    expected = [reference.attention(q, k, v, scale)[0], *reference.attention_backward(dout, q, k, v, scale)]
    flops = (4 + 10) * B * H * T * T * D / 2  # half the square; backward computes the scores again
    measure(
        benchmark,
        f"attention, forward and backward, {name} (B={B} T={T} H={H} D={D})",
        library,
        run,
        expected,
        dtype,
        {"B": B, "T": T, "H": H, "D": D},
        flops,
        8 * q.size * (2 if dtype == "bfloat16" else 4),
        factor=2,  # four products, one after the other
    )


@pytest.mark.parametrize("library", ["llmcore", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_decode(benchmark, dtype, library):
    B, S, H, D = 4, 1024, 6, 64
    q, k, v, _ = problem(B, 1, S, H, D)
    if library == "llmcore":
        inputs = [as_llmcore(x, dtype) for x in (q, k, v)]
        lengths = np.full(B, S, np.int32)

        def run():
            with autograd.no_grad():
                return [ops.attention(*inputs, lengths=lengths)]

    else:
        torch = peer("torch")
        inputs = [heads_first(x, dtype) for x in (q, k, v)]

        def run():
            with torch.no_grad():
                return [torch.nn.functional.scaled_dot_product_attention(*inputs).transpose(1, 2)]

    expected = [reference.attention(q, k, v, D**-0.5)[0]]
    measure(
        benchmark,
        f"attention, one query of {B} rows, {S} keys",
        library,
        run,
        expected,
        dtype,
        {"B": B, "S": S, "H": H, "D": D},
        4 * B * S * H * D,
        2 * k.size * (2 if dtype == "bfloat16" else 4),
    )
