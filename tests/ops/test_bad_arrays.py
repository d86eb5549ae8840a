"""Arrays that no op may trust: without dimensions, read-only, of the wrong dtype, strided where the kernel is not, or
empty in a size that kernels divide by. Each gives its error, or the right result, and never touches other memory."""

import numpy as np
import pytest

from llmcore import _core, ops
from llmcore._core import DType

F32, BF16, I32 = DType.float32, DType.bfloat16, DType.int32


def zeros(*shape, dtype=F32):
    return _core.zeros(list(shape), dtype)


def one_value(*shape):
    """An array of that shape in the memory of a single number."""
    return _core.from_numpy(np.broadcast_to(np.float32(1), shape))


def backward(name, statistic):
    """A backward op given the statistics that its forward would have kept."""
    n, x = 512, zeros(512, 4)
    heads = [zeros(1, n, 2, 8)] * 5
    return {
        "cross_entropy": lambda: _core.cross_entropy_backward(zeros(n), x, zeros(n, dtype=I32), statistic(n)),
        "rstd": lambda: _core.norm_backward(x, x, zeros(4), None, statistic(n), zeros(4), None),
        "mean": lambda: _core.norm_backward(x, x, zeros(4), statistic(n), zeros(n), zeros(4), zeros(4)),
        "attention": lambda: _core.attention_backward(*heads, statistic(1, 2, n), 1.0, True),
    }[name]


@pytest.mark.parametrize("name", ["cross_entropy", "rstd", "mean", "attention"])
def test_statistics_of_another_layout(name):
    with pytest.raises(TypeError, match=r"^\[\w+\] expected \w+ float32, got bfloat16$"):
        backward(name, lambda *shape: zeros(*shape, dtype=BF16))()
    with pytest.raises(ValueError, match=r"^\[\w+\] expected \w+ contiguous, got a strided view$"):
        backward(name, one_value)()


def test_attention_backward_takes_any_strides_of_its_output():
    rng = np.random.default_rng(0)
    dout, q, k, v, out = (rng.standard_normal((1, 9, 2, 8)).astype(np.float32) for _ in range(5))
    lse = rng.standard_normal((1, 2, 9)).astype(np.float32)
    wide = np.zeros((1, 9, 2, 16), np.float32)
    wide[..., ::2] = out

    def grads(out):
        arrays = [_core.from_numpy(a) for a in (dout, q, k, v, out, lse)]
        return [g.numpy() for g in _core.attention_backward(*arrays, 0.5, True)]

    for one, other in zip(grads(out), grads(wide[..., ::2]), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "call",
    [
        lambda: _core.linear_bias_grad(zeros(), zeros(1)),
        lambda: _core.linear_weight_grad(zeros(), zeros(), zeros(1, 1)),
        lambda: _core.embedding_backward(zeros(2, 1), zeros(2, dtype=I32), zeros(3)),
        lambda: _core.embedding_backward(zeros(2, 1), zeros(2, dtype=I32), zeros()),
        lambda: _core.activate_backward(_core.Activation.swiglu, zeros(), zeros()),
        lambda: _core.activate_backward(_core.Activation.swiglu, zeros(2, 1), zeros(2, 3)),
        lambda: _core.softmax_backward(zeros(), zeros()),
        lambda: _core.cross_entropy_backward(zeros(), zeros(), zeros(dtype=I32), zeros()),
        lambda: ops.split(np.float32(1), [1]),
        lambda: ops.split(np.ones((2, 2), np.float32), [1, 1], dim=5),
    ],
)
def test_too_few_dimensions(call):
    with pytest.raises(ValueError, match=r"^\[\w+\] expected .*, got "):
        call()


def test_parameters_of_other_types():
    x, one = np.ones((1, 2, 2, 4), np.float32), np.ones(4, np.float32)
    angles = np.ones((2, 2), np.float32)
    for expected, call in (
        ("[layer_norm] expected eps a number, got 'a'", lambda: ops.layer_norm(x, one, eps="a")),
        ("[rms_norm] expected eps a number, got None", lambda: ops.rms_norm(x, one, eps=None)),
        ("[attention] expected scale a number, got '2'", lambda: ops.attention(x, x, x, scale="2")),
        ("[attention] expected window an integer, got 1.5", lambda: ops.attention(x, x, x, window=1.5)),
        ("[rope] expected heads an integer, got True", lambda: ops.rope(x, angles, angles, heads=True)),
        ("[reshape] expected sizes an integer, got 2.0", lambda: ops.reshape(x, [2.0, -1])),
    ):
        with pytest.raises(TypeError) as error:
            call()
        assert str(error.value) == expected
    as_numpy = ops.layer_norm(x, one, eps=np.float32(1)).numpy(), ops.reshape(x, [np.int64(2), -1]).numpy()
    np.testing.assert_array_equal(as_numpy[0], ops.layer_norm(x, one, eps=1).numpy())
    assert as_numpy[1].shape == (2, 8)


def test_split_sizes_are_integers():
    with pytest.raises(TypeError, match=r"^\[split\] expected sizes as integers"):
        ops.split(np.ones((2, 2), np.float32), [1.0, 1.0])


@pytest.mark.host  # of arrays of numpy
def test_read_only_memory_stays_as_it_is():
    fixed = np.frombuffer(bytes(64), np.float32).reshape(1, 4, 2, 2)
    with pytest.raises(ValueError, match=r"^\[cache_append\] expected cache writable .*, got a read-only array$"):
        ops.cache_append(fixed, np.ones((1, 2, 2, 2), np.float32), np.array([2], np.int32))
    array = _core.from_numpy(fixed)
    for write in (array.zero, lambda: array.copy_from(zeros(1, 4, 2, 2)), array.narrow(1, 1, 2).zero):
        with pytest.raises(ValueError, match="read-only"):
            write()
    flat = array.reshape([16])
    with pytest.raises(ValueError, match=r"\[adamw\] expected param writable"):
        _core.adamw(flat, zeros(16), zeros(16), zeros(16), 1.0, 0.9, 0.9, 1e-8, 0.0, 1, 1.0)
    assert not ops.tensor(fixed).numpy().flags.writeable
    assert not flat.numpy().flags.writeable
    assert ops.gelu(fixed).numpy().flags.writeable


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize(("B", "T", "S", "H"), [(0, 3, 3, 2), (1, 0, 0, 2), (1, 0, 5, 2), (1, 3, 5, 0), (1, 3, 0, 2)])
def test_attention_over_nothing(dtype, B, T, S, H):
    q, k = zeros(B, T, H, 8, dtype=dtype), zeros(B, S, 2, 8, dtype=dtype)
    causal = S > 0
    out, lse = _core.attention(q, k, k, 1.0, causal)
    assert (out.shape, lse.shape) == ((B, T, H, 8), (B, H, T))
    grads = _core.attention_backward(q, q, k, k, out, lse, 1.0, causal)
    assert [g.shape for g in grads] == [q.shape, k.shape, k.shape]
    assert all(not g.numpy().any() for g in grads)


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_products_over_nothing(dtype):
    stack = _core.matmul(zeros(2, 3, 0, dtype=dtype), zeros(0, 4, dtype=dtype))
    assert stack.shape == (2, 3, 4)
    assert not stack.numpy().any()
    _core.linear_weight_grad(zeros(3, 0, dtype=dtype), zeros(3, 4, dtype=dtype), zeros(0, 4))
    _core.linear_weight_grad(zeros(3, 4, dtype=dtype), zeros(3, 0, dtype=dtype), zeros(4, 0))
    made = _core.linear_weight_grad(zeros(0, 3, dtype=dtype), zeros(0, 4, dtype=dtype))
    assert made.shape == (3, 4)
    assert not made.numpy().any()


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_a_weight_gradient_is_made_or_added_to(dtype):
    rng = np.random.default_rng(0)
    dy, x = (_core.cast(_core.from_numpy(rng.standard_normal(s, np.float32)), dtype) for s in ((700, 5), (700, 70)))
    made = _core.linear_weight_grad(dy, x).numpy()
    added = zeros(5, 70)
    assert _core.linear_weight_grad(dy, x, added).numpy().ctypes.data == added.numpy().ctypes.data
    np.testing.assert_array_equal(added.numpy(), made)
    np.testing.assert_allclose(_core.linear_weight_grad(dy, x, added).numpy(), 2 * made, rtol=1e-5, atol=1e-4)


HUGE = 2**62


@pytest.mark.parametrize(
    "call",
    [
        lambda: zeros(4).narrow(0, HUGE, HUGE),
        lambda: zeros(4).narrow(0, 5, 2**63 - 3),
        lambda: zeros(4).reshape([2**32, 2**32, -1]),
        lambda: zeros(4).reshape([2**32, 2**32]),
        lambda: zeros(0, 2**40, 2**40),
        lambda: zeros(2**40, 2**40, 0),
        lambda: zeros(HUGE),
    ],
)
def test_sizes_that_overflow(call):
    with pytest.raises(ValueError, match=r"^\[\w+\] expected .*, got "):
        call()


def test_zero_of_a_view_clears_the_view_alone():
    x = np.ones((4, 6), np.float32)
    _core.from_numpy(x).narrow(1, 2, 2).zero()
    expected = np.ones((4, 6), np.float32)
    expected[:, 2:4] = 0
    np.testing.assert_array_equal(x, expected)
    _core.from_numpy(x[::-1, ::-1]).narrow(0, 0, 1).zero()
    expected[3] = 0
    np.testing.assert_array_equal(x, expected)
