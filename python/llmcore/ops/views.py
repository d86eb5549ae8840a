"""The same elements in another shape, taken apart and put together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmcore import _core, autograd
from llmcore._arrays import check_integer
from llmcore._tensor import Tensor, as_tensor
from llmcore.errors import ArgumentTypeError, Error


def reshape(x, shape: Sequence[int]) -> Tensor:
    """x with another shape of as many elements; one -1 is inferred."""
    x = as_tensor(x)
    out = Tensor(x.array.reshape([check_integer("reshape", "sizes", n) for n in shape]))
    if autograd.needs_grad(x):
        before = list(x.shape)
        autograd.record([out], [x], lambda dy: (dy.reshape(before),))
    return out


def split(x, sizes: Sequence[int], dim: int = -1) -> list[Tensor]:
    """Views of x along `dim`, `sizes` long, which must add up to that dimension."""
    x = as_tensor(x)
    if not -x.ndim <= dim < x.ndim:
        raise Error("split", expected=f"a dimension of {x.shape}", got=dim)
    dim %= x.ndim
    if not all(isinstance(n, (int, np.integer)) for n in sizes):
        raise ArgumentTypeError("split", expected="sizes as integers", got=list(sizes))
    if any(n < 0 for n in sizes) or sum(sizes) != x.shape[dim]:
        raise Error("split", expected=f"sizes that add up to {x.shape[dim]}", got=list(sizes))
    outputs, start = [], 0
    for n in sizes:
        outputs.append(Tensor(x.array.narrow(dim, start, n)))
        start += n
    if autograd.needs_grad(x):
        shapes, dtype, where = [o.shape for o in outputs], x.array.dtype, x.device

        def backward(*grads):
            parts = [_core.zeros(s, dtype, where) if g is None else g for g, s in zip(grads, shapes, strict=True)]
            return (_core.concat(parts, dim),)

        autograd.record(outputs, [x], backward)
    return outputs


def concat(parts: Sequence[Tensor], dim: int = -1) -> Tensor:
    """The tensors one after the other along `dim`; their other sizes and dtypes agree."""
    tensors = [as_tensor(p) for p in parts]
    out = Tensor(_core.concat([t.array for t in tensors], check_integer("concat", "dim", dim)))
    if autograd.needs_grad(*tensors):
        dim %= out.ndim
        ends = np.cumsum([t.shape[dim] for t in tensors]).tolist()

        def backward(dy):
            return [dy.narrow(dim, end - t.shape[dim], t.shape[dim]) for t, end in zip(tensors, ends, strict=True)]

        autograd.record([out], tensors, backward)
    return out


def _reshape_method(self: Tensor, *shape) -> Tensor:
    """A view with another shape, given as numbers or as one sequence."""
    return reshape(self, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)


Tensor.reshape = _reshape_method  # type: ignore[method-assign]
