"""The layers that models are built from. Weights start as zeros or ones; a model initialises them (`models.base.initialise`)."""

from __future__ import annotations

from llmcore import ops
from llmcore._tensor import Tensor
from llmcore.nn.lora import LoRALinear
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

    def forward(self, x: Tensor, residual: Tensor | None = None, activation: str | None = None) -> Tensor:
        if self.lora is None:
            return ops.linear(x, self.weight, self.bias, residual=residual, activation=activation)
        if activation is None:
            return self.lora(x, ops.linear(x, self.weight, self.bias, residual=residual))
        y = activate(self.lora(x, ops.linear(x, self.weight, self.bias)), ACTIVATIONS[activation])
        return y if residual is None else ops.add(y, residual)


class Embedding(Module):
    """One row of `weight` (rows, width) for each id."""

    def __init__(self, rows: int, width: int):
        self.weight = Parameter(Constant((rows, width), 0.0))

    def forward(self, ids, dtype="float32") -> Tensor:
        return ops.embedding(ids, self.weight, dtype)


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
