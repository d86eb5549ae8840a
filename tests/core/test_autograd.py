"""The tape: shared inputs, views, leaves, graphs that are walked once."""

import numpy as np
import pytest

import llmcore
from llmcore import ops
from llmcore._arrays import array_to_numpy


def leaf(*shape, seed=0):
    return llmcore.tensor(np.random.default_rng(seed).normal(size=shape).astype(np.float32), requires_grad=True)


def grad(t):
    return array_to_numpy(t.grad)


def test_an_input_used_twice_gets_both_gradients():
    x = leaf(3, 4)
    y = ops.add(ops.mul(x, x), ops.mul(x, 3.0))
    y.backward(np.ones((3, 4), np.float32))
    np.testing.assert_allclose(grad(x), 2 * x.numpy() + 3, rtol=1e-6)


def test_gradients_accumulate_over_backward_calls():
    x = leaf(5)
    for _ in range(3):
        ops.mul(x, 2.0).backward(np.ones(5, np.float32))
    np.testing.assert_allclose(grad(x), np.full(5, 6.0))
    x.zero_grad()
    assert x.grad is None


def test_split_and_its_unused_parts():
    x = leaf(2, 7)
    a, _, c = ops.split(x, [2, 4, 1])
    ops.mul(a, 5.0).backward(np.ones((2, 2), np.float32))
    expected = np.zeros((2, 7))
    expected[:, :2] = 5
    np.testing.assert_array_equal(grad(x), expected)
    np.testing.assert_array_equal(c.numpy(), x.numpy()[:, 6:])
    with pytest.raises(ValueError, match="add up to 7"):
        ops.split(x, [3, 3])


def test_reshape_and_cast_pass_gradients():
    x = leaf(2, 6)
    y = ops.cast(x.reshape(3, 4), "bfloat16")
    y.backward(ops.cast(np.full((3, 4), 2.0, np.float32), "bfloat16"))
    np.testing.assert_array_equal(grad(x), np.full((2, 6), 2.0))


def test_no_grad_records_nothing():
    x = leaf(3)
    with llmcore.no_grad():
        y = ops.mul(x, 2.0)
    assert not y.requires_grad
    with pytest.raises(RuntimeError, match="constant"):
        y.backward(np.ones(3, np.float32))


def test_a_graph_is_walked_once():
    x = leaf(3)
    y = ops.mul(x, 2.0)
    y.backward(np.ones(3, np.float32))
    with pytest.raises(RuntimeError, match="not walked yet"):
        y.backward(np.ones(3, np.float32))


def test_a_deep_graph_needs_no_recursion():
    x = leaf(2)
    y = x
    for _ in range(5000):
        y = ops.mul(y, 1.0)
    y.backward(np.ones(2, np.float32))
    np.testing.assert_array_equal(grad(x), np.ones(2))


def test_wrong_gradients_are_refused():
    y = ops.mul(leaf(3), 2.0)
    with pytest.raises(ValueError, match="more than one element"):
        y.backward()
    with pytest.raises(ValueError, match="expected a grad"):
        y.backward(np.ones(4, np.float32))


def test_leaves_that_get_the_same_gradient_do_not_share_it():
    x, p, q = np.ones((1, 2), np.float32), leaf(2, 2), leaf(2, 2, seed=1)
    first = ops.linear(x, p)  # its backward comes last, and adds to p's gradient in place
    ops.add(first, ops.linear(x, ops.add(p, q))).backward(np.ones((1, 2), np.float32))
    np.testing.assert_array_equal(grad(p), np.full((2, 2), 2))
    np.testing.assert_array_equal(grad(q), np.ones((2, 2)))


def test_the_gradient_that_was_passed_in_is_not_written_to():
    seed = np.ones((2, 2), np.float32)
    p = leaf(2, 2)
    p.backward(seed)
    ops.linear(np.ones((1, 2), np.float32), p).backward(np.ones((1, 2), np.float32))
    np.testing.assert_array_equal(grad(p), np.full((2, 2), 2))
    np.testing.assert_array_equal(seed, np.ones((2, 2)))
