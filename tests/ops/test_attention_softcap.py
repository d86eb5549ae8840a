"""Attention with capped scores: forward, backward, through a cache, with windows; the promises hold for it too."""

import numpy as np
import pytest

from llmcore import ops
from reference import attention as reference
from support.gradcheck import gradients, random
from support.threads import assert_same_bits
from support.tolerances import assert_close

DTYPES = ["float32", "bfloat16"]
CAP = 2.5


def qkv(B, T, S, H, Hkv, D, dtype):
    return [random((B, n, h, D), dtype, i, scale=3.0) for i, (n, h) in enumerate([(T, H), (S, Hkv), (S, Hkv)])]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"window": 9}, {"causal": False}, {"scale": 0.3}], ids=str)
@pytest.mark.parametrize(
    "shape", [(2, 1, 1, 2, 1, 8), (1, 70, 70, 4, 2, 40), (2, 33, 90, 3, 3, 64), (1, 130, 130, 2, 1, 80)]
)
def test_matches_twin(shape, options, dtype):
    arrays = qkv(*shape, dtype)
    dout = random(arrays[0].shape, dtype, 9)
    out, grads = gradients(lambda q, k, v: ops.attention(q, k, v, softcap=CAP, **options), arrays, [dtype] * 3, dout)
    scale = options.get("scale", shape[-1] ** -0.5)
    rest = {name: value for name, value in options.items() if name != "scale"}
    expected, _ = reference.attention(*arrays, scale, softcap=CAP, **rest)
    assert_close(out, expected, dtype)
    expected = reference.attention_backward(dout, *arrays, scale, softcap=CAP, **rest)
    joined = [np.concatenate([g.ravel() for g in gs]) for gs in (grads, expected)]
    assert_close(*joined, dtype)


@pytest.mark.host  # a GPU has another kernel for few queries
@pytest.mark.parametrize("dtype", DTYPES)
def test_decoding_has_the_bits_of_the_whole(dtype):
    q, k, v = (a.astype(np.float32) for a in qkv(1, 600, 600, 4, 2, 32, dtype))
    whole = ops.attention(q, k, v, softcap=CAP).numpy()
    for n in (1, 65, 513, 600):
        lengths = np.array([n], np.int32)
        last = ops.attention(q[:, n - 1 : n], k, v, lengths=lengths, softcap=CAP).numpy()
        np.testing.assert_array_equal(last[:, 0], whole[:, n - 1])


def test_threads_do_not_change_bits():
    q, k, v = (a.astype(np.float32) for a in qkv(2, 150, 150, 4, 2, 40, "float32"))
    assert_same_bits(lambda: [ops.attention(q, k, v, softcap=CAP).numpy()])


def test_bad_caps_are_refused():
    q = np.zeros((1, 2, 1, 4), np.float32)
    for cap in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=r"\[attention\] expected softcap a number > 0"):
            ops.attention(q, q, q, softcap=cap)
    with pytest.raises(TypeError, match=r"\[attention\] expected softcap a number"):
        ops.attention(q, q, q, softcap="much")
