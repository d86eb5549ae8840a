"""OLMo 2 (OLMo et al. 2024): a Llama that normalises the outputs of its layers instead of their inputs, and all queries
and all keys of a token together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from llmcore import ops
from llmcore._tensor import Tensor
from llmcore.models.config import setting
from llmcore.models.layers import Attention, Positions
from llmcore.models.llama import Block, Llama, LlamaConfig
from llmcore.models.rope import Rotary
from llmcore.models.weights import Layout, Part


@dataclass(frozen=True)
class OLMo2Config(LlamaConfig):
    """Sizes of an OLMo 2."""

    model_type: ClassVar[str] = "olmo2"
    hf_class: ClassVar[str] = "Olmo2ForCausalLM"
    gguf_architecture: ClassVar[str | None] = "olmo2"
    gguf_pairs: ClassVar[bool] = False

    eps: float = setting(1e-5, "rms_norm_eps", "attention.layer_norm_rms_epsilon", absent=1e-5)


class OLMo2Block(Block[OLMo2Config]):
    """x + norm(attention(x)), then x + norm(mlp(x))."""

    def make_attention(self, c: OLMo2Config, layer: int, rotary: Rotary | None, **options) -> Attention:
        return super().make_attention(c, layer, rotary, norm="width", **options)

    def forward(self, x: Tensor, pos: Positions) -> Tensor:
        x = ops.add(x, self.norm1(self.attention(x, pos)))
        return ops.add(x, self.norm2(self.mlp(x)))


class OLMo2(Llama[OLMo2Config]):
    """The model; parameters are drawn from `seed`."""

    config_class = OLMo2Config
    Block = OLMo2Block

    @classmethod
    def block_layout(cls, c: OLMo2Config, layer: int, hf: str, gguf: str) -> Layout:
        yield from cls.attention_layout(c, hf, gguf)
        for n, heads in (("q", c.heads), ("k", c.kv_heads)):
            part = Part(f"{hf}.self_attn.{n}_norm.weight", f"{gguf}.attn_{n}_norm.weight", (heads * c.head_size,))
            yield f"attention.{n}_norm.weight", [part]
        yield from cls.mlp_layout(c, layer, hf, gguf)
        norms = (("post_attention_layernorm", "post_attention_norm"), ("post_feedforward_layernorm", "post_ffw_norm"))
        for i, (theirs, ggufs) in enumerate(norms, 1):
            yield f"norm{i}.weight", [Part(f"{hf}.{theirs}.weight", f"{gguf}.{ggufs}.weight", (c.width,))]
