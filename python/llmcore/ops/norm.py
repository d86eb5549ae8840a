"""Normalisation over the last dimension."""

from __future__ import annotations

from llmcore import _core, autograd
from llmcore._arrays import check_number
from llmcore._core import ActivationSource
from llmcore._tensor import Tensor, as_tensor
from llmcore.ops.deferred import Deferred


def layer_norm(x, weight, bias=None, eps: float = 1e-5) -> Tensor:
    """(x − mean) / √(var + eps) · weight + bias over the last dimension (Ba et al. 2016).

    x (..., C) float32 or bfloat16; weight and bias (C) float32; biased variance. Returns x's shape and dtype.
    """
    x, weight = as_tensor(x), as_tensor(weight)
    bias = None if bias is None else as_tensor(bias)
    y, mean, rstd = _core.layer_norm(
        x.array, weight.array, None if bias is None else bias.array, check_number("layer_norm", "eps", eps)
    )
    return _record(Tensor(y), x, weight, bias, mean, rstd)


def rms_norm(x, weight, eps: float = 1e-6, deferred: bool = False) -> Tensor:
    """x / √(mean(x²) + eps) · weight over the last dimension (Zhang & Sennrich 2019).

    x (..., C) float32 or bfloat16; weight (C) float32. Returns x's shape and dtype. deferred: where no gradient is wanted,
    made only when it is asked for (see `ops.deferred`).
    """
    x, weight = as_tensor(x), as_tensor(weight)
    if deferred and not autograd.needs_grad(x, weight):
        given, w = x.array, weight.array
        return Deferred(given, x.shape, lambda: _core.rms_norm(given, w, eps)[0], ActivationSource.rms_norm, w, eps)
    y, rstd = _core.rms_norm(x.array, weight.array, check_number("rms_norm", "eps", eps))
    return _record(Tensor(y), x, weight, None, None, rstd)


def _record(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, mean, rstd) -> Tensor:
    if autograd.needs_grad(x, weight, bias):
        x_saved, w_saved = x.array, weight.array

        def backward(dy):
            dw, dw_result = autograd.grad_slot(weight)
            db, db_result = autograd.grad_slot(bias)
            if dw is None:
                dw = _core.zeros(weight.shape, _core.DType.float32, weight.device)
            # Around a residual connection x has a gradient already: it is added in the same pass.
            dx = _core.norm_backward(dy, x_saved, w_saved, mean, rstd, dw, db, autograd.take_grad(x))
            return dx, dw_result, db_result

        autograd.record([out], [x, weight, bias], backward)
    return out
