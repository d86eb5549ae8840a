"""Matrix products."""

from __future__ import annotations

from llmcore import _core, autograd
from llmcore._arrays import FLOATS, to_dtype
from llmcore._core import ActivationSource
from llmcore._tensor import Tensor, as_tensor
from llmcore.errors import ArgumentTypeError, Error
from llmcore.ops.deferred import Deferred
from llmcore.ops.elementwise import ACTIVATIONS, activate, add

_GATED: dict[str | None, ActivationSource] = {"swiglu": ActivationSource.swiglu, "geglu": ActivationSource.geglu}


def linear(x, weight, bias=None, residual=None, activation: str | None = None, out_dtype=None) -> Tensor:
    """residual + act(x · weightᵀ + bias), in one kernel where there is one.

    x (..., K) float32 or bfloat16, which is also the compute dtype; weight (N, K) any float dtype (packed to the compute
    dtype); bias (N) float32; residual as the result; activation None, "gelu" (tanh approximation), "gelu_exact",
    "silu", "swiglu" or "geglu": silu(gate) · up or gelu(gate) · up of N = 2F columns [gate, up] (Shazeer 2020), which
    leaves F. Returns (..., N), or (..., F), in x's dtype, or float32 when `out_dtype="float32"`. "gelu" and "swiglu" see
    the product before it is rounded to that.
    """
    if activation not in ACTIVATIONS:
        known = ", ".join(map(repr, ACTIVATIONS))
        raise Error("linear", expected=f"activation one of {known}", got=repr(activation))
    x, weight = as_tensor(x), as_tensor(weight)
    bias = None if bias is None else as_tensor(bias)
    residual = None if residual is None else as_tensor(residual)
    if weight.quantized is not None:
        return _quantized(x, weight, bias, residual, activation, out_dtype)
    dtype = x.array.dtype
    if dtype not in FLOATS:  # before the weight is packed to it
        raise ArgumentTypeError("linear", expected="x float32 or bfloat16", got=dtype.name)
    taped = autograd.needs_grad(x, weight, bias, residual)
    y, pre = _core.linear(
        x.array,
        weight.panels(dtype, True, activation == "swiglu"),
        None if bias is None else bias.array,
        None if residual is None else residual.array,
        ACTIVATIONS[activation],
        activation is not None and taped,  # keep the pre-activation
        None if out_dtype is None else to_dtype(out_dtype),
    )
    out = Tensor(y)
    if taped:
        saved = x.array

        def backward(dy):
            dpre = dy
            if activation is not None:
                dpre = _core.activate_backward(ACTIVATIONS[activation], dy, pre)
            if dpre.dtype is not saved.dtype:
                dpre = _core.cast(dpre, saved.dtype)
            dx = _core.linear(dpre, weight.panels(saved.dtype, False))[0] if x.requires_grad else None
            dw = autograd.write_grad(weight, lambda dw: _core.linear_weight_grad(dpre, saved, dw))
            db, db_result = autograd.grad_slot(bias)
            if db is not None:
                _core.linear_bias_grad(dpre, db)
            return dx, dw, db_result, dy

        autograd.record([out], [x, weight, bias, residual], backward)
    return out


def _quantized(x: Tensor, weight: Tensor, bias, residual, activation, out_dtype) -> Tensor:
    """With a weight that stays quantized; x is rounded to int8 in blocks of 32. Gradients flow to x, bias and residual,
    by the weight's float32 values, as if x had not been rounded."""
    deferred = x if isinstance(x, Deferred) and not x.made else None
    own = x.array.dtype if deferred is None else deferred.core_dtype
    dtype = own if out_dtype is None else to_dtype(out_dtype)
    taped = autograd.needs_grad(x, bias, residual)
    if activation in _GATED and not taped:
        pre = _quantized(x, weight, bias, None, None, out_dtype).array
        kind, shape = ACTIVATIONS[activation], (*pre.shape[:-1], pre.shape[-1] // 2)
        if pre.shape[-1] % 2 == 0 and dtype is own:
            y: Tensor = Deferred(pre, shape, lambda: _core.activate(kind, pre), _GATED[activation])
        else:
            y = Tensor(_core.activate(kind, pre))
        return y if residual is None else add(y, residual)
    if taped and activation is not None:
        y = activate(_quantized(x, weight, bias, None, None, out_dtype), ACTIVATIONS[activation])
        return y if residual is None else add(y, residual)
    tensors = None if bias is None else bias.array, None if residual is None else residual.array
    assert weight.quantized is not None
    given = x.array if deferred is None else deferred.given
    how = () if deferred is None else (deferred.source, deferred.norm_weight, deferred.eps)
    out = Tensor(_core.quantized_linear(given, weight.quantized, *tensors, ACTIVATIONS[activation], dtype, *how))
    if not taped:
        return out
    source = x.array.dtype

    def backward(dy):
        dpre = _core.cast(dy, source)
        dx = _core.linear(dpre, weight.panels(source, False))[0] if x.requires_grad else None
        db, db_result = autograd.grad_slot(bias)
        if db is not None:
            _core.linear_bias_grad(dpre, db)
        return dx, db_result, dy

    autograd.record([out], [x, bias, residual], backward)
    return out


def matmul(a, b) -> Tensor:
    """a · b: (..., K) · (K, N), or (*batch, M, K) · (*batch, K, N) with equal leading dimensions; one float dtype."""
    a, b = as_tensor(a), as_tensor(b)
    out = Tensor(_core.matmul(a.array, b.array))
    if autograd.needs_grad(a, b):
        x, y = a.array, b.array

        def backward(dy):
            da = _core.matmul(dy, y, transpose_b=True) if a.requires_grad else None
            if not b.requires_grad:
                return da, None
            if y.ndim == 2 and x.ndim > 2:  # one b for a stack of a: the stack is one tall matrix
                rows = [-1, x.shape[-1]], [-1, dy.shape[-1]]
                return da, _core.matmul(x.reshape(rows[0]), dy.reshape(rows[1]), transpose_a=True)
            return da, _core.matmul(x, dy, transpose_a=True)

        autograd.record([out], [a, b], backward)
    return out
