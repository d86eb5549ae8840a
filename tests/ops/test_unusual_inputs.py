"""Numbers and layouts that data rarely has and users sometimes do, for every op: nan, infinities, subnormal numbers, rows
of zeros, sizes of 1, and numpy views of any layout. Each gives what the float64 twin gives; nothing leaks into rows that
do not hold it."""

from typing import Any, NamedTuple

import numpy as np
import pytest

import llmcore
from llmcore import ops
from reference import attention as attention_twin
from reference import elementwise, gemm, loss, norm, rope, softmax
from support.gradcheck import NUMPY, random
from support.tolerances import tolerance


class Case(NamedTuple):
    op: Any
    twin: Any
    shapes: list  # of the float inputs
    rest: tuple = ()  # inputs of other dtypes, after those
    float32: tuple = ()  # inputs that are float32 whatever the dtype


def attention(q, k, v):
    return attention_twin.attention(q, k, v, q.shape[-1] ** -0.5)[0]


IDS = np.array([[2, 0, 2]], np.int32)
TARGETS = np.array([1, -1, 0], np.int32)
CASES = {
    "linear": Case(ops.linear, gemm.linear, [(5, 33), (7, 33), (7,)], float32=(2,)),
    "linear, gelu, residual": Case(
        lambda x, w, b, r: ops.linear(x, w, b, r, "gelu"),
        lambda x, w, b, r: gemm.linear(x, w, b, r, "gelu"),
        [(3, 5), (70, 5), (70,), (3, 70)],
        float32=(2,),
    ),
    "linear of ones": Case(ops.linear, gemm.linear, [(1, 1), (1, 1)]),
    "matmul": Case(ops.matmul, gemm.matmul, [(2, 3, 17), (2, 17, 9)]),
    "matmul of a row": Case(ops.matmul, gemm.matmul, [(1, 40), (40, 1)]),
    "layer_norm": Case(ops.layer_norm, norm.layer_norm, [(4, 37), (37,), (37,)], float32=(1, 2)),
    "rms_norm": Case(ops.rms_norm, norm.rms_norm, [(4, 37), (37,)], float32=(1,)),
    "rms_norm of one": Case(ops.rms_norm, norm.rms_norm, [(2, 1), (1,)], float32=(1,)),
    "gelu": Case(ops.gelu, elementwise.gelu, [(3, 21)]),
    "silu": Case(ops.silu, elementwise.silu, [(3, 21)]),
    "swiglu": Case(ops.swiglu, elementwise.swiglu, [(3, 42)]),
    "softmax": Case(ops.softmax, softmax.softmax, [(3, 35)]),
    "softmax of one": Case(ops.softmax, softmax.softmax, [(3, 1)]),
    "add": Case(ops.add, np.add, [(3, 21), (3, 21)]),
    "mul": Case(ops.mul, np.multiply, [(3, 21), (3, 21)]),
    "mul by a number": Case(lambda x: ops.mul(x, 0.5), lambda x: x * 0.5, [(3, 21)]),
    "split": Case(lambda x: ops.split(x, [1, 2], dim=1)[1], lambda x: x[:, 1:], [(2, 3, 4)]),
    "attention": Case(ops.attention, attention, [(1, 5, 4, 8), (1, 6, 2, 8), (1, 6, 2, 8)]),
    "attention, long": Case(ops.attention, attention, [(1, 150, 2, 32), (1, 150, 1, 32), (1, 150, 1, 32)]),
    "attention, one head": Case(ops.attention, attention, [(2, 3, 1, 16)] * 3),
    "attention, T=1": Case(ops.attention, attention, [(2, 1, 2, 8), (2, 7, 2, 8), (2, 7, 2, 8)]),
    "rope": Case(ops.rope, rope.rope, [(2, 3, 2, 8), (3, 4), (3, 4)], float32=(1, 2)),
    "embedding": Case(
        lambda table, ids: ops.embedding(ids, table), lambda t, ids: t[ids], [(3, 9)], (IDS,), float32=(0,)
    ),
    "cross_entropy": Case(lambda x, t: ops.cross_entropy(x, t, "none"), loss.cross_entropy, [(3, 21)], (TARGETS,)),
    "linear_cross_entropy": Case(
        lambda x, w, t: ops.linear_cross_entropy(x, w, t, "none"),
        lambda x, w, t: loss.cross_entropy(gemm.linear(x, w), t),
        [(3, 6), (21, 6)],
        (TARGETS,),
    ),
}
INPUTS = [(name, i) for name, case in CASES.items() for i in range(len(case.shapes))]
DTYPES = ["float32", "bfloat16"]
SPECIAL = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "subnormal": 1e-40, "-0": -0.0, "zeros": 0.0}


def arrays_of(case, dtype):
    """Inputs as float64 that the dtypes hold exactly."""
    return [random(s, "float32" if i in case.float32 else dtype, seed=i) for i, s in enumerate(case.shapes)]


def as_given(case, arrays, dtype):
    kinds = ["float32" if i in case.float32 else dtype for i in range(len(arrays))]
    return [a.astype(NUMPY.get(k, k)) for a, k in zip(arrays, kinds, strict=True)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize(("name", "i"), INPUTS)
def test_special_numbers(name, i, special, dtype):
    case = CASES[name]
    arrays = arrays_of(case, dtype)
    if special == "zeros":
        arrays[i][0] = 0.0
    else:
        # In values, at a key that every query sees: hidden ones have weight 0, and 0 · nan is nan in a tile.
        arrays[i].flat[0 if case.op is ops.attention and i == 2 else arrays[i].size // 2] = SPECIAL[special]
    given = as_given(case, arrays, dtype)
    with np.errstate(all="ignore"):
        want = np.asarray(case.twin(*[a.astype(np.float64) for a in given], *case.rest))
    got = case.op(*given, *case.rest).numpy().astype(np.float64)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    finite = np.isfinite(want)
    np.testing.assert_array_equal(got[~finite], want[~finite])
    scale = np.abs(want[finite]).max(initial=1e-30)
    assert np.abs(got[finite] - want[finite]).max(initial=0) <= 2 * tolerance(dtype) * scale


def padded(a):
    """The same numbers at addresses that are not multiples of their size."""
    raw = np.zeros(a.nbytes + 1, np.uint8)
    raw[1:] = np.ascontiguousarray(a).view(np.uint8).reshape(-1)
    return raw[1:].view(a.dtype).reshape(a.shape)


def spread(a):
    """Every second element of a larger array, along the last dimension."""
    wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), 7, a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def fixed(a):
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS = {
    "every second": spread,
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "reversed": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "misaligned": padded,
    "read-only": fixed,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")) if a.dtype.kind == "f" else a,
    "a slice": lambda a: np.concatenate([a, a, a])[len(a) : 2 * len(a)],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_layouts(name, layout, dtype):
    """Results and gradients to the bit as from contiguous arrays, which stay as they are."""
    case = CASES[name]
    plain = as_given(case, arrays_of(case, dtype), dtype)

    def compute(arrays, rest):
        tensors = [llmcore.tensor(a, requires_grad=True) for a in arrays]
        out = case.op(*tensors, *rest)
        out.backward(random(out.shape, out.dtype, seed=9).astype(out.numpy().dtype))
        return [out.numpy(), *(t.grad.numpy() for t in tensors if t.grad is not None)]

    change = LAYOUTS[layout]
    given, rest = [change(a) for a in plain], [change(a) for a in case.rest]
    for got, want in zip(compute(given, rest), compute(plain, case.rest), strict=True):
        np.testing.assert_array_equal(got, want)
    with llmcore.no_grad():
        np.testing.assert_array_equal(case.op(*given, *rest).numpy(), case.op(*plain, *case.rest).numpy())
    for a, b in zip(given, plain, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_what_is_sampled_from(layout):
    logits, change = random((3, 50)).astype(np.float32), LAYOUTS[layout]
    options = {"top_k": 9, "seed": np.arange(3), "history": [[1], [2, 2], [3]], "repetition_penalty": [1.5, 2, 0.5]}
    for got, want in zip(ops.sample(change(logits), **options), ops.sample(logits, **options), strict=True):
        if want is not None:
            np.testing.assert_array_equal(got.numpy(), want.numpy())
