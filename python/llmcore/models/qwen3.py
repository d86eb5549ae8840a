"""Qwen3 (Yang et al. 2025): a Llama that normalises every head of queries and keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from llmcore.models.config import setting
from llmcore.models.layers import Attention
from llmcore.models.llama import Block, Llama, LlamaConfig, head_norms
from llmcore.models.qwen2 import without_idle_window
from llmcore.models.rope import Rotary
from llmcore.models.weights import Layout


@dataclass(frozen=True)
class Qwen3Config(LlamaConfig):
    """Sizes of a Qwen3."""

    model_type: ClassVar[str] = "qwen3"
    hf_class: ClassVar[str] = "Qwen3ForCausalLM"
    gguf_architecture: ClassVar[str | None] = "qwen3"
    gguf_pairs: ClassVar[bool] = False
    fixed: ClassVar[Mapping[str, tuple]] = {
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "use_sliding_window": (False,),
    }

    hf_more: ClassVar[tuple[str, ...]] = ("sliding_window",)

    head_size: int = setting(None, "head_dim", "attention.key_length", absent=128)

    @classmethod
    def from_hf(cls, config: Mapping):
        return super().from_hf(without_idle_window(config))


Q = TypeVar("Q", bound=Qwen3Config)


class Qwen3Block(Block[Q]):
    def make_attention(self, c: Q, layer: int, rotary: Rotary | None, **options) -> Attention:
        return super().make_attention(c, layer, rotary, norm="head", **options)


class Qwen3(Llama[Q]):
    """The model; parameters are drawn from `seed`."""

    config_class = Qwen3Config
    Block: ClassVar[type[Block]] = Qwen3Block

    @classmethod
    def attention_layout(cls, c: Q, hf: str, gguf: str) -> Layout:
        yield from super().attention_layout(c, hf, gguf)
        yield from head_norms(c, hf, gguf)
