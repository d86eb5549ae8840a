"""Cross entropy, alone and fused with the output layer."""

from __future__ import annotations

import numpy as np

from llmcore import _core, autograd
from llmcore._tensor import Tensor, as_tensor
from llmcore.errors import Error
from llmcore.ops.deferred import OnHost

_REDUCTIONS = ("mean", "sum", "none")


def _row_weights(op: str, targets: Tensor, reduction: str) -> np.ndarray:
    """What each row counts in the reduced loss, float32 (0 for ignored rows)."""
    if reduction not in _REDUCTIONS:
        raise Error(op, expected="reduction 'mean', 'sum' or 'none'", got=repr(reduction))
    counted = targets.numpy() >= 0
    if reduction != "mean":
        return counted.astype(np.float32)
    n = int(counted.sum())
    if n == 0:
        raise Error(op, expected="at least one target >= 0", got="none")
    return counted * np.float32(1.0 / n)


def _reduce(loss: _core.Array, weights: np.ndarray, reduction: str) -> Tensor:
    if reduction == "none":
        return Tensor(loss)
    # Ignored rows have loss 0; a float64 sum keeps long batches exact.
    return OnHost(_core.sum(loss, 1 / np.count_nonzero(weights) if reduction == "mean" else 1.0))


def _row_grads(dy: _core.Array, weights: np.ndarray, reduction: str) -> _core.Array:
    return dy if reduction == "none" else _core.from_numpy(weights * dy.numpy())


def cross_entropy(logits, targets, reduction: str = "mean") -> Tensor:
    """−log softmax(logits)[target], in nats.

    logits (..., V) float32 or bfloat16; targets (...) integers < V, negative ones are ignored. reduction: "mean" over
    the targets that count, "sum", or "none" (loss 0 where ignored). Returns float32. "mean" of nothing raises.
    """
    logits, targets = as_tensor(logits), as_tensor(targets)
    weights = _row_weights("cross_entropy", targets, reduction)
    loss, lse = _core.cross_entropy(logits.array, targets.array)
    out = _reduce(loss, weights, reduction)
    if autograd.needs_grad(logits):
        x, y = logits.array, targets.array

        def backward(dy):
            return (_core.cross_entropy_backward(_row_grads(dy, weights, reduction), x, y, lse),)

        autograd.record([out], [logits], backward)
    return out


def linear_cross_entropy(x, weight, targets, reduction: str = "mean") -> Tensor:
    """cross_entropy(linear(x, weight), targets) in chunks of rows: the (rows, V) logits never exist at once.

    x (..., C) float32 or bfloat16; weight (V, C); targets (...) integers, negative ones are ignored. The logits of a chunk
    are float32 whatever the dtype. With "mean" and "sum" the gradients are made in the same sweep as the loss (Hsu et al.
    2024); with "none" the sweep is repeated when the gradients of the rows are known.
    """
    x, weight, targets = as_tensor(x), as_tensor(weight), as_tensor(targets)
    weights = _row_weights("linear_cross_entropy", targets, reduction)
    dtype = x.array.dtype
    forward = weight.panels(dtype, True)
    if not autograd.needs_grad(x, weight):
        return _reduce(_core.linear_cross_entropy(x.array, forward, targets.array), weights, reduction)

    saved, ids = x.array, targets.array

    def sweep(row_grads):
        return _core.linear_cross_entropy_grad(
            saved, forward, weight.panels(dtype, False), ids, row_grads, weight.requires_grad
        )

    if reduction == "none":
        loss = _core.linear_cross_entropy(saved, forward, ids)

        def backward(dy):
            return sweep(dy)[1:]

    else:
        loss, dx, dw = sweep(_core.from_numpy(weights))

        def backward(dy):
            factor = dy.numpy().item()
            by_x, by_weight = (g if g is None or factor == 1.0 else _core.scale(g, factor) for g in (dx, dw))
            if by_weight is None or weight._node is not None:
                return by_x, by_weight
            weight.accumulate_grad(by_weight, shared=False)  # nobody else has it: later ops may add to it in place
            return by_x, None

    out = _reduce(loss, weights, reduction)
    autograd.record([out], [x, weight], backward)
    return out
