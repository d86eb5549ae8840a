"""Modules: parameters with a name, and a forward pass made of ops."""

from llmcore.nn.layers import Embedding, LayerNorm, Linear, RMSNorm
from llmcore.nn.module import Module, Parameter
from llmcore.nn.quantized import QuantizedWeight

__all__ = ["Embedding", "LayerNorm", "Linear", "Module", "Parameter", "QuantizedWeight", "RMSNorm"]
