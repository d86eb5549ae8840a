"""The ops: numpy or Tensor in, Tensor out, forward and backward. One file per family, each with both directions.

Bad shapes, dtypes and devices raise ValueError or TypeError as `[op] expected ..., got ...`.
"""

from llmcore._tensor import Tensor, tensor
from llmcore.ops.activation import geglu, gelu, silu, softcap, softmax, swiglu
from llmcore.ops.arithmetic import add, cast, join, mul, reshape, split
from llmcore.ops.attention import attention, cache_append, rope_append
from llmcore.ops.embedding import embedding, rope
from llmcore.ops.experts import gather_rows, weighted_sum
from llmcore.ops.linear import linear, matmul
from llmcore.ops.loss import cross_entropy, linear_cross_entropy
from llmcore.ops.norm import layer_norm, rms_norm
from llmcore.ops.sample import Sample, sample

__all__ = [
    "Sample",
    "Tensor",
    "add",
    "attention",
    "cache_append",
    "cast",
    "cross_entropy",
    "embedding",
    "gather_rows",
    "geglu",
    "gelu",
    "join",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "matmul",
    "mul",
    "reshape",
    "rms_norm",
    "rope",
    "rope_append",
    "sample",
    "silu",
    "softcap",
    "softmax",
    "split",
    "swiglu",
    "tensor",
    "weighted_sum",
]
