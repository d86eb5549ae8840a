"""The ops: numpy or Tensor in, Tensor out, forward and backward. One file per family, each with both directions.

Bad shapes, dtypes and devices raise ValueError or TypeError as `[op] expected ..., got ...`.
"""

from llmcore._tensor import Tensor, tensor
from llmcore.ops.attention import attention
from llmcore.ops.cache import cache_append, rope_append
from llmcore.ops.elementwise import add, cast, geglu, gelu, mul, silu, softcap, swiglu
from llmcore.ops.embedding import embedding
from llmcore.ops.gather import take, weighted_sum
from llmcore.ops.gemm import linear, matmul
from llmcore.ops.loss import cross_entropy, linear_cross_entropy
from llmcore.ops.norm import layer_norm, rms_norm
from llmcore.ops.rope import rope
from llmcore.ops.sample import Sample, sample
from llmcore.ops.softmax import softmax
from llmcore.ops.views import concat, reshape, split

__all__ = [
    "Sample",
    "Tensor",
    "add",
    "attention",
    "cache_append",
    "cast",
    "concat",
    "cross_entropy",
    "embedding",
    "geglu",
    "gelu",
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
    "take",
    "tensor",
    "weighted_sum",
]
