"""Gradients of an op against central differences of its float64 twin, in a random direction."""

import numpy as np
import pytest

import llmcore
from llmcore._arrays import array_to_numpy
from support.tolerances import GRADCHECK

ml_dtypes = pytest.importorskip("ml_dtypes")

NUMPY = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


def representable(x, dtype: str) -> np.ndarray:
    """x rounded to `dtype`, as float64: what both the op and its twin are given."""
    return np.asarray(x).astype(NUMPY[dtype]).astype(np.float64)


def random(shape, dtype: str = "float32", seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Normal numbers that `dtype` holds exactly, as float64."""
    return representable(np.random.default_rng(seed).standard_normal(shape) * scale, dtype)


def gradients(op, arrays, dtypes, dout, out_dtype=None):
    """op(*tensors) and the gradients of <out, dout> for every array, as float64."""
    tensors = [llmcore.tensor(a, t, requires_grad=True) for a, t in zip(arrays, dtypes, strict=True)]
    out = op(*tensors)
    out.backward(llmcore.tensor(dout, out_dtype or out.dtype))
    return out.numpy().astype(np.float64), [array_to_numpy(t.grad).astype(np.float64) for t in tensors]


def gradcheck(op, twin, arrays, dtypes, seed: int = 0, step: float = 1e-5) -> None:
    """Compare <gradient, direction> of `op` with central differences of `twin` for each of `arrays`.

    op takes Tensors of `dtypes`, twin float64 arrays; both return one output. The error is measured against the
    standard deviation of <gradient, direction> over directions, which is the gradient's norm.
    """
    rng = np.random.default_rng(seed)
    dtype = "bfloat16" if "bfloat16" in dtypes else "float32"
    dout = representable(rng.standard_normal(np.shape(twin(*arrays))), dtype)
    _, grads = gradients(op, arrays, dtypes, dout)
    for i, grad in enumerate(grads):
        direction = rng.standard_normal(arrays[i].shape)

        def along(h, i=i, direction=direction):
            return np.sum(twin(*[a + h * direction if j == i else a for j, a in enumerate(arrays)]) * dout)

        numeric = (along(step) - along(-step)) / (2 * step)
        error = abs(np.sum(grad * direction) - numeric) / max(abs(numeric), np.linalg.norm(grad), 1e-30)
        assert error <= GRADCHECK[dtype], f"input {i}: relative error {error:.3g} > {GRADCHECK[dtype]:.3g}"
