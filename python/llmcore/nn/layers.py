"""The layers that models are built from. Weights start as zeros or ones; a model initialises them (`models.base.initialise`)."""

from __future__ import annotations

from llmcore import ops
from llmcore._tensor import Tensor
from llmcore.nn.lora import LoRAEmbedding, LoRALinear
from llmcore.nn.module import Constant, Module, Parameter
from llmcore.ops.elementwise import ACTIVATIONS, activate


class Linear(Module):
    """y = x · weightᵀ + bias; weight (outputs, inputs). `lora`: the adapters, or None. outputs: a tuple if several layers
    share one matrix."""

    lora: LoRALinear | None = None

    def __init__(self, inputs: int, outputs: int | tuple[int, ...], bias: bool = True):
        parts = outputs if isinstance(outputs, tuple) else (outputs,)
        self.weight = Parameter(Constant((sum(parts), inputs), 0.0))
        self.weight.parts = parts
        self.bias = Parameter(Constant((sum(parts),), 0.0)) if bias else None

    def forward(
        self, x: Tensor, residual: Tensor | None = None, activation: str | None = None, out_dtype: str | None = None
    ) -> Tensor:
        lora = self.lora
        if lora is None:
            return ops.linear(x, self.weight, self.bias, residual, activation, out_dtype)
        whole = activation is None and not lora.scales  # one kernel adds the bias and the residual
        bias, added = (None if lora.scales else self.bias), (residual if whole else None)
        y = lora.add(x, ops.linear(x, self.weight, bias, added, out_dtype=out_dtype))
        if lora.scales:
            y = lora.scale(y, self.weight, self.bias)
        if activation is not None:
            y = activate(y, ACTIVATIONS[activation])
        return y if residual is None or whole else ops.add(y, residual)


class Embedding(Module):
    """One row of `weight` (rows, width) for each id. `lora`: the adapters, or None."""

    lora: LoRAEmbedding | None = None

    def __init__(self, rows: int, width: int):
        self.weight = Parameter(Constant((rows, width), 0.0))

    def forward(self, ids, dtype="float32") -> Tensor:
        y = ops.embedding(ids, self.weight, dtype)
        if self.lora is None:
            return y
        y = self.lora.lookup(ids, y)
        return self.lora.scale(y, self.weight, None) if self.lora.scales else y


class LayerNorm(Module):
    """Layer norm with weight and bias."""

    def __init__(self, width: int, eps: float = 1e-5):
        self.weight = Parameter(Constant((width,), 1.0))
        self.bias = Parameter(Constant((width,), 0.0))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """RMS norm with weight. `deferred`: the layers that read it are quantized and compute the norm along with their products."""

    deferred = False

    def __init__(self, width: int, eps: float = 1e-6):
        self.weight = Parameter(Constant((width,), 1.0))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps, self.deferred)
