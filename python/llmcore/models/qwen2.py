"""Qwen2 and Qwen2.5 (Yang et al. 2024): a Llama with biases on queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from llmcore.models.layers import Attention
from llmcore.models.llama import Block, Llama, LlamaConfig
from llmcore.models.rope import Rotary
from llmcore.models.weights import Layout, Part


@dataclass(frozen=True)
class Qwen2Config(LlamaConfig):
    """Sizes of a Qwen2."""

    model_type: ClassVar[str] = "qwen2"
    hf_class: ClassVar[str] = "Qwen2ForCausalLM"
    gguf_architecture: ClassVar[str | None] = "qwen2"
    gguf_pairs: ClassVar[bool] = False
    fixed: ClassVar[Mapping[str, tuple]] = {"hidden_act": ("silu",), "use_sliding_window": (False,)}
    hf_more: ClassVar[tuple[str, ...]] = ("sliding_window", "attention_bias")

    @classmethod
    def from_hf(cls, config: Mapping):
        return super().from_hf(without_idle_window(config))


def without_idle_window(config: Mapping) -> Mapping:
    """Return a config.json without a window that no layer has: they begin at max_window_layers."""
    layers, first = config.get("num_hidden_layers"), config.get("max_window_layers")
    idle = config.get("sliding_window") is None or (
        isinstance(first, int) and isinstance(layers, int) and first >= layers
    )
    if (
        config.get("use_sliding_window") is True
        and idle
        and "sliding_attention" not in (config.get("layer_types") or ())
    ):
        return {**config, "use_sliding_window": False}
    return config


class Qwen2Block(Block[Qwen2Config]):
    def make_attention(self, c: Qwen2Config, layer: int, rotary: Rotary | None, **options) -> Attention:
        return super().make_attention(c, layer, rotary, bias=True, **options)


class Qwen2(Llama[Qwen2Config]):
    """The model; parameters are drawn from `seed`."""

    config_class = Qwen2Config
    Block = Qwen2Block

    @classmethod
    def attention_layout(cls, c: Qwen2Config, hf: str, gguf: str) -> Layout:
        yield from super().attention_layout(c, hf, gguf)
        heads = {"q": c.heads, "k": c.kv_heads, "v": c.kv_heads}
        parts = [
            Part(f"{hf}.self_attn.{n}_proj.bias", f"{gguf}.attn_{n}.bias", (h * c.head_size,)) for n, h in heads.items()
        ]
        yield "attention.qkv.bias", parts
