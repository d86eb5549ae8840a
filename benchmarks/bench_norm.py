"""Norms, activations and softmax: bound by memory, so the floor is bytes over bandwidth."""

import numpy as np
import pytest

from llmcore import ops
from peers import TORCH, as_llmcore, as_torch, measure, peer, torch_call
from reference import elementwise, norm, softmax

try:
    import torch.nn.functional as F
except ImportError:
    F = None  # every comparison with it is skipped

ROWS, WIDTH = 4096, 384


def torch_swiglu(x):
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def softmax_twin(x, dout):
    out = softmax.softmax(x)
    return [out, softmax.softmax_backward(dout, out)]


# name -> our op, torch's, parameters of size WIDTH, (x, dout, *parameters) -> [out, dx, *gradients of the parameters]
CASES = {
    "layer_norm": (
        ops.layer_norm,
        lambda x, w, b: F.layer_norm(x, (WIDTH,), w, b),
        2,
        lambda x, dout, w, b: [norm.layer_norm(x, w, b), *norm.layer_norm_backward(dout, x, w)],
    ),
    "rms_norm": (
        ops.rms_norm,
        lambda x, w: F.rms_norm(x.float(), (WIDTH,), w, 1e-6).to(x.dtype),
        1,
        lambda x, dout, w: [norm.rms_norm(x, w), *norm.rms_norm_backward(dout, x, w)],
    ),
    "gelu": (
        ops.gelu,
        lambda x: F.gelu(x, approximate="tanh"),
        0,
        lambda x, dout: [elementwise.gelu(x), dout * elementwise.gelu_derivative(x)],
    ),
    "swiglu": (
        ops.swiglu,
        torch_swiglu,
        0,
        lambda x, dout: [elementwise.swiglu(x), elementwise.swiglu_backward(dout, x)],
    ),
    "softmax": (ops.softmax, lambda x: F.softmax(x, dim=-1), 0, softmax_twin),
}


@pytest.mark.parametrize("library", ["llmcore", *TORCH])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_forward_backward(benchmark, name, dtype, library):
    ours, theirs, parameters, twin = CASES[name]
    rng = np.random.default_rng(0)
    sizes = [(ROWS, 2 * WIDTH if name == "swiglu" else WIDTH), (ROWS, WIDTH), *[(WIDTH,)] * parameters]
    arrays = [as_llmcore(rng.standard_normal(s, np.float32), "bfloat16").numpy().astype(np.float32) for s in sizes]
    x, dout, *weights = arrays
    if library == "llmcore":
        op, convert = ours, as_llmcore
    else:
        peer("torch")
        op, convert = torch_call(library, theirs), as_torch
    inputs = [convert(x, dtype, grad=True), *(convert(w, "float32", grad=True) for w in weights)]
    d = convert(dout, dtype)

    def run():
        for t in inputs:
            t.grad = None
        out = op(*inputs)
        out.backward(d)
        return [out, *(t.grad for t in inputs)]

    measure(
        benchmark,
        f"{name}, forward and backward ({ROWS}x{x.shape[1]})",
        library,
        run,
        twin(*(a.astype(np.float64) for a in arrays)),
        dtype,
        {"M": ROWS, "C": WIDTH},
        traffic=(2 if dtype == "bfloat16" else 4) * (3 * x.size + 2 * dout.size),  # x twice, dx; out, dout
        # torch sums the gradients of layer_norm's parameters in bfloat16
        factor=10 if (name, dtype, library) == ("layer_norm", "bfloat16", "torch") else 2,
    )
