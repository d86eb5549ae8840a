"""Gemma 2 (Gemma Team 2024): norms before and after each part, GeGLU, scores and logits capped by tanh, embeddings scaled
by √width, and layers that alternate between a sliding window and all keys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from llmcore import nn, ops
from llmcore._tensor import Tensor
from llmcore.errors import Error
from llmcore.formats.gguf import GGUFFile
from llmcore.models.config import read, setting
from llmcore.models.layers import Attention, GatedFeedForward, Positions
from llmcore.models.llama import Block, Llama, LlamaConfig
from llmcore.models.rope import Rotary
from llmcore.models.weights import Layout, Part


@dataclass(frozen=True)
class Gemma2Config(LlamaConfig):
    """Sizes of a Gemma 2. `window`: how many keys a query sees in the layers that `sliding` marks (by default every
    other one, from the first). `query_scalar`: scores are divided by its square root; by default head_size.
    `attention_softcap`, `logit_softcap`: see `ops.softcap`."""

    model_type: ClassVar[str] = "gemma2"
    hf_class: ClassVar[str] = "Gemma2ForCausalLM"
    gguf_architecture: ClassVar[str | None] = "gemma2"
    gguf_pairs: ClassVar[bool] = False
    fixed: ClassVar[Mapping[str, tuple]] = {
        "hidden_activation": ("gelu_pytorch_tanh",),
        "attention_bias": (False,),
        "use_bidirectional_attention": (None, False),
    }
    hf_more: ClassVar[tuple[str, ...]] = ("hidden_act",)
    pattern: ClassVar[int] = 2  # one in so many layers sees all keys

    eps: float = setting(1e-6, "rms_norm_eps", "attention.layer_norm_rms_epsilon", absent=1e-6)
    tied: bool = setting(True, "tie_word_embeddings", absent=True)
    head_size: int = setting(None, "head_dim", "attention.key_length", absent=256)
    window: int = setting(4096, "sliding_window", "attention.sliding_window", absent=4096)
    query_scalar: float = setting(None, "query_pre_attn_scalar", kind=float)
    attention_softcap: float = setting(50.0, "attn_logit_softcapping", "attn_logit_softcapping", absent=50.0)
    logit_softcap: float = setting(30.0, "final_logit_softcapping", "final_logit_softcapping", absent=30.0)
    sliding: tuple[bool, ...] = None  # type: ignore[assignment]  # until __post_init__

    def __post_init__(self) -> None:
        super().__post_init__()
        self.derive(query_scalar=float(self.head_size), sliding=self.usual_sliding(self.layers))
        self.check_positive("window")
        self.check_number("query_scalar", 0, strict=True)
        if len(self.sliding) != self.layers:
            self.fail(f"sliding of {self.layers} layers", len(self.sliding))
        for name in ("attention_softcap", "logit_softcap"):
            if getattr(self, name) is not None:  # Gemma 3 has none
                self.check_number(name, 0, strict=True)

    @classmethod
    def usual_sliding(cls, layers: int, pattern: int | None = None) -> tuple[bool, ...]:
        """Return whether each layer has a window: all but every `pattern`-th."""
        return tuple((i + 1) % (pattern or cls.pattern) != 0 for i in range(layers))

    @classmethod
    def hf_values(cls, config: Mapping) -> dict[str, Any]:
        values = super().hf_values(config)
        kinds = read(config, "layer_types", list, None)
        if kinds is None:
            return values
        if not all(kind in ("sliding_attention", "full_attention") for kind in kinds):
            raise Error(
                "config.json", expected="layer_types of sliding_attention and full_attention", got=f"{kinds!r:.100}"
            )
        return values | {"sliding": tuple(kind == "sliding_attention" for kind in kinds)}

    def to_hf(self) -> dict[str, Any]:
        kinds = ["sliding_attention" if s else "full_attention" for s in self.sliding]
        scalar = self.query_scalar
        whole = {"query_pre_attn_scalar": int(scalar)} if scalar == int(scalar) else {}  # transformers wants an integer
        return super().to_hf() | whole | {"layer_types": kinds}

    @classmethod
    def gguf_values(cls, file: GGUFFile) -> dict[str, Any]:
        values = super().gguf_values(file)
        return values | {"query_scalar": cls.gguf_query_scalar(values)}

    @classmethod
    def gguf_query_scalar(cls, values: Mapping[str, Any]) -> float | None:
        """Return the query scalar, which GGUF does not store; None for the head size, which it is for all but Gemma 2 27B."""
        return values["width"] / values["heads"] if values["layers"] == 46 and values["heads"] else None

    def to_gguf(self) -> dict[str, Any]:
        known = self.gguf_query_scalar({"width": self.width, "heads": self.heads, "layers": self.layers})
        if self.query_scalar != (known or self.head_size):
            self.fail("query_scalar the head's size for GGUF, which does not say it", self.query_scalar)
        if self.sliding != self.usual_sliding(self.layers):
            self.fail(f"a window in all but every layer {self.pattern} for GGUF, which does not say it", self.sliding)
        return super().to_gguf()


G = TypeVar("G", bound=Gemma2Config)


class Gemma2Block(Block[G]):
    """x + norm(attention(norm(x))), then x + norm(mlp(norm(x)))."""

    def __init__(self, c: G, layer: int, rotary: Rotary | None):
        super().__init__(c, layer, rotary)
        self.attention_norm = nn.RMSNorm(c.width, c.eps)
        self.mlp_norm = nn.RMSNorm(c.width, c.eps)

    def make_attention(self, c: G, layer: int, rotary: Rotary | None, **options) -> Attention:
        window = c.window if c.sliding[layer] else None
        scale, softcap = c.query_scalar**-0.5, c.attention_softcap
        return super().make_attention(c, layer, rotary, window=window, scale=scale, softcap=softcap, **options)

    def make_mlp(self, c: G, layer: int) -> GatedFeedForward:
        return GatedFeedForward(c.width, c.ffn, "geglu")

    def forward(self, x: Tensor, pos: Positions) -> Tensor:
        x = ops.add(x, self.attention_norm(self.attention(self.norm1(x), pos)))
        return ops.add(x, self.mlp_norm(self.mlp(self.norm2(x))))


class Gemma2(Llama[G]):
    """The model; parameters are drawn from `seed`."""

    config_class: ClassVar[type[Gemma2Config]] = Gemma2Config
    Block: ClassVar[type[Block]] = Gemma2Block

    def __init__(self, config: G, dtype: str = "float32", seed: int | None = 0):
        super().__init__(config, dtype, seed)
        self.logit_softcap = config.logit_softcap

    def embed(self, ids: np.ndarray) -> Tensor:
        return ops.mul(super().embed(ids), math.sqrt(self.config.width))

    @classmethod
    def layout(cls, c: G) -> Layout:
        for name, parts in super().layout(c):
            # Hugging Face files store the difference from 1, GGUF files the weight itself.
            if name == "norm.weight":
                parts = [Part(parts[0].hf, parts[0].gguf, parts[0].shape, hf_offset=1.0)]
            yield name, parts

    @classmethod
    def block_layout(cls, c: G, layer: int, hf: str, gguf: str) -> Layout:
        norms = {
            "norm1": ("input_layernorm", "attn_norm"),
            "attention_norm": ("post_attention_layernorm", "post_attention_norm"),
            "norm2": ("pre_feedforward_layernorm", "ffn_norm"),
            "mlp_norm": ("post_feedforward_layernorm", "post_ffw_norm"),
        }
        for name, (theirs, ggufs) in norms.items():
            part = Part(f"{hf}.{theirs}.weight", f"{gguf}.{ggufs}.weight", (c.width,), hf_offset=1.0)
            yield f"{name}.weight", [part]
        yield from cls.attention_layout(c, hf, gguf)
        yield from cls.mlp_layout(c, layer, hf, gguf)
