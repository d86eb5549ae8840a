"""Losses of a few numbers per sequence: computed in float64 with their derivatives, and recorded on the tape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmcore import _core, autograd
from llmcore._tensor import Tensor
from llmcore.errors import Error


def vector(op: str, name: str, values, like: np.ndarray | None = None) -> np.ndarray:
    """Return numbers as float64, one per sequence."""
    a = np.asarray(values.numpy() if isinstance(values, Tensor) else values, np.float64)
    if like is not None and a.shape != like.shape:
        raise Error(op, expected=f"{name} of shape {like.shape}", got=a.shape)
    return a


def recorded(inputs: Sequence, value: np.ndarray, partials: Sequence[np.ndarray | None]) -> Tensor:
    """Return a Tensor of `value` whose gradient to each input is partial · (the gradient of the value); None for constants."""
    out = Tensor(_core.from_numpy(np.ascontiguousarray(value, np.float32)))
    tensors = [x if isinstance(x, Tensor) else None for x in inputs]
    if autograd.needs_grad(*tensors):

        def backward(dy):
            g = np.asarray(dy.numpy(), np.float64)
            return [None if p is None else _on(t, g * p) for p, t in zip(partials, tensors, strict=True)]

        autograd.record([out], tensors, backward)
    return out


def _on(t: Tensor | None, gradient: np.ndarray) -> _core.Array:
    """Return the gradient as float32, on the device of the tensor that it belongs to."""
    array = _core.from_numpy(np.ascontiguousarray(gradient, np.float32))
    return array if t is None else array.to(t.device)


def sequence_logps(losses: Tensor, weights: np.ndarray | None = None) -> Tensor:
    """Return the log-probability (B) of each sequence from the losses (B, T) of its tokens (−log p, 0 outside the targets).
    weights (B, T): the weight of each token."""
    a = np.asarray(losses.numpy(), np.float64)
    w = np.ones_like(a) if weights is None else np.asarray(weights, np.float64)
    out = Tensor(_core.from_numpy(np.ascontiguousarray(-(a * w).sum(axis=1), np.float32)))
    if autograd.needs_grad(losses):

        def backward(dy):
            g = np.asarray(dy.numpy(), np.float64)[:, None]
            return (_on(losses, -g * w),)

        autograd.record([out], [losses], backward)
    return out


def total(values: Tensor) -> Tensor:
    """Return the sum of all values, a Tensor without dimensions."""
    a = np.asarray(values.numpy(), np.float64)
    out = Tensor(_core.from_numpy(np.asarray(a.sum(), np.float32)))
    if autograd.needs_grad(values):
        shape = a.shape

        def backward(dy):
            return (_on(values, np.full(shape, dy.numpy().item())),)

        autograd.record([out], [values], backward)
    return out


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))
