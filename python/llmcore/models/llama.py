"""Llama (Touvron et al. 2023): rotary positions, RMS norm, SwiGLU, grouped-query attention."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcore import nn, ops
from llmcore._tensor import Tensor
from llmcore.formats.quantization import LazyTensor
from llmcore.models.base import CausalLM, KVCache, check_config, check_shapes, field, initialise

if TYPE_CHECKING:
    from llmcore.formats.gguf import GGUFFile

Rotary = tuple[np.ndarray, np.ndarray]  # cos and sin, (positions, head_size / 2)


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a Llama. `kv_heads` defaults to heads, `ffn` to 8/3 of the width rounded up to 64, `head_size` to
    width / heads. `tied`: the output layer is the token embedding."""

    vocab_size: int = 32000
    context: int = 2048
    width: int = 768
    layers: int = 12
    heads: int = 12
    # None until __post_init__ has put a number there.
    kv_heads: int = None  # type: ignore[assignment]
    ffn: int = None  # type: ignore[assignment]
    head_size: int = None  # type: ignore[assignment]
    rope_base: float = 10000.0
    eps: float = 1e-5
    tied: bool = True

    def __post_init__(self):
        check_config("LlamaConfig", self)
        derived = {
            "kv_heads": self.heads,
            "ffn": -(-8 * self.width // (3 * 64)) * 64,
            "head_size": self.width // self.heads,
        }
        for name, value in derived.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in derived:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"[LlamaConfig] expected {name} a positive integer, got {value!r}")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"[LlamaConfig] expected heads a multiple of kv_heads, got {self.heads} and {self.kv_heads}"
            )
        if self.head_size % 2 or self.head_size < 2:
            raise ValueError(f"[LlamaConfig] expected an even head_size (width / heads), got {self.head_size}")
        if not (math.isfinite(self.rope_base) and self.rope_base > 0):
            raise ValueError(f"[LlamaConfig] expected rope_base > 0, got {self.rope_base}")

    def to_hf(self) -> dict:
        """config.json of the Hugging Face format."""
        return {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.context,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.ffn,
            "head_dim": self.head_size,
            "rope_theta": self.rope_base,
            "rms_norm_eps": self.eps,
            "tie_word_embeddings": self.tied,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
        }

    @classmethod
    def from_hf(cls, c: Mapping) -> LlamaConfig:
        """From config.json; what this implementation does not have is refused by name."""
        rope = c.get("rope_parameters") or c.get("rope_scaling") or {}
        if not isinstance(rope, Mapping) or rope.get("rope_type", rope.get("type", "default")) != "default":
            raise ValueError(f"[config.json] expected rope_scaling of type 'default', got {rope!r}")
        for name, wanted in {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}.items():
            if c.get(name, wanted) != wanted:
                raise ValueError(f"[config.json] expected {name} {wanted!r}, got {c[name]!r}")
        heads = field(c, "num_attention_heads", int)
        width = field(c, "hidden_size", int)
        return cls(
            vocab_size=field(c, "vocab_size", int),
            context=field(c, "max_position_embeddings", int),
            width=width,
            layers=field(c, "num_hidden_layers", int),
            heads=heads,
            kv_heads=field(c, "num_key_value_heads", int, heads),
            ffn=field(c, "intermediate_size", int),
            head_size=c.get("head_dim") or width // max(heads, 1),
            rope_base=field({**c, **rope}, "rope_theta", float, 10000.0),
            eps=field(c, "rms_norm_eps", float, 1e-6),
            tied=field(c, "tie_word_embeddings", bool, False),
        )


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, c: LlamaConfig):
        self.heads, self.kv_heads, self.head_size = c.heads, c.kv_heads, c.head_size
        self.norm1 = nn.RMSNorm(c.width, c.eps)
        self.qkv = nn.Linear(c.width, (c.heads + 2 * c.kv_heads) * c.head_size, bias=False)
        self.attention_out = nn.Linear(c.heads * c.head_size, c.width, bias=False)
        self.norm2 = nn.RMSNorm(c.width, c.eps)
        self.gate_up = nn.Linear(c.width, 2 * c.ffn, bias=False)
        self.down = nn.Linear(c.ffn, c.width, bias=False)

    def forward(self, x: Tensor, layer: int, rotary: Rotary, positions, cache: KVCache | None) -> Tensor:
        B, T, _ = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(B, T, self.heads + 2 * self.kv_heads, self.head_size)
        # Queries and keys are turned, values pass: one call on the packed tensor.
        qkv = ops.rope(qkv, *rotary, positions, heads=self.heads + self.kv_heads)
        q, k, v = ops.split(qkv, [self.heads, self.kv_heads, self.kv_heads], dim=2)
        y = ops.attention(q, k, v) if cache is None else cache.attend(layer, q, k, v)
        x = self.attention_out(y.reshape(B, T, self.heads * self.head_size), residual=x)
        return self.down(self.gate_up(self.norm2(x), activation="swiglu"), residual=x)


class Llama(CausalLM):
    """The model; parameters are drawn from `seed`."""

    def __init__(self, config: LlamaConfig, dtype: str = "float32", seed: int | None = 0):
        self.config, self.dtype = config, dtype
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.blocks = [Block(config) for _ in range(config.layers)]
        self.norm = nn.RMSNorm(config.width, config.eps)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        self._tables: tuple[np.ndarray, np.ndarray] | None = None
        initialise(self, seed, config.layers, residual=("attention_out.weight", "down.weight"))

    def output_weight(self) -> nn.Parameter:
        return self.tokens.weight if self.head is None else self.head.weight

    def hidden(self, ids, cache: KVCache | None = None) -> Tensor:
        ids = self.checked_ids(ids)
        positions = None if cache is None else cache.advance(ids.shape[1])
        rotary = self._rotary(ids.shape[1] if positions is None else int(positions.max(initial=0)) + 1)
        x = self.tokens(ids, self.dtype)
        for i, block in enumerate(self.blocks):
            x = block(x, i, rotary, positions, cache)
        return self.norm(x)

    def _rotary(self, positions: int) -> tuple[np.ndarray, np.ndarray]:
        """cos and sin of at least so many positions. Made as far as they are needed: a config may promise any context."""
        if self._tables is None or len(self._tables[0]) < positions:
            c = self.config
            rows = min(max(1 << (positions - 1).bit_length(), 256), c.context)
            self._tables = rotary_tables(rows, c.head_size, c.rope_base)
        return self._tables

    # ---- Hugging Face names: query, key, value and gate, up are separate matrices there ----

    def to_hf(self) -> dict[str, np.ndarray]:
        state, out = self.state_dict(), {}
        for name, parts in _hf_names(self.config):
            ends = np.cumsum([shape[0] for _, shape in parts])
            for (hf, shape), end in zip(parts, ends, strict=True):
                out[hf] = state[name][end - shape[0] : end]
        return out

    @classmethod
    def from_hf(cls, config: Mapping, weights: Mapping[str, np.ndarray], dtype: str = "float32") -> Llama:
        c = LlamaConfig.from_hf(config)
        check_shapes((part for _, parts in _hf_names(c) for part in parts), weights)
        model = cls(c, dtype, seed=None)
        model.load_state_dict({name: np.concatenate([weights[hf] for hf, _ in parts]) for name, parts in _hf_names(c)})
        return model

    # ---- GGUF: the same parts under other names, queries and keys in another order of rows ----

    @classmethod
    def from_gguf(cls, file: GGUFFile, dtype: str = "float32") -> Llama:
        def value(name: str, kind, default=None):
            return field(file.metadata, f"llama.{name}", kind, default, of="gguf")

        for name, wanted in {"rope.scaling.type": "none", "expert_count": 0}.items():
            if (got := file.metadata.get(f"llama.{name}", wanted)) != wanted:
                raise ValueError(f"[gguf] expected llama.{name} {wanted!r}, got {got!r}")
        heads, width = value("attention.head_count", int), value("embedding_length", int)
        head_size = value("attention.key_length", int, width // max(heads, 1))
        for name in ("rope.dimension_count", "attention.value_length"):
            if value(name, int, head_size) != head_size:
                raise ValueError(f"[gguf] expected llama.{name} {head_size} (the head's size), got {value(name, int)}")
        tied = "output.weight" not in file.tensors
        config = {
            "vocab_size": file.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in file.tensors else 0,
            "max_position_embeddings": value("context_length", int),
            "hidden_size": width,
            "num_hidden_layers": value("block_count", int),
            "num_attention_heads": heads,
            "num_key_value_heads": value("attention.head_count_kv", int, heads),
            "intermediate_size": value("feed_forward_length", int),
            "head_dim": head_size,
            "rope_theta": value("rope.freq_base", float, 10000.0),
            "rms_norm_eps": value("attention.layer_norm_rms_epsilon", float),
            "tie_word_embeddings": tied,
        }
        names = _gguf_names(LlamaConfig.from_hf(config))
        if unknown := sorted(file.tensors.keys() - {gguf for gguf, _ in names.values()}):
            raise ValueError(f"[gguf] expected the tensors of a Llama only, got {unknown[0]}")
        weights: dict[str, Any] = {
            hf: LazyTensor(file.tensors[gguf], turned) for hf, (gguf, turned) in names.items() if gguf in file.tensors
        }
        return cls.from_hf(config, weights, dtype)


def rotary_tables(positions: int, head_size: int, base: float) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin (positions, head_size / 2) float32 of position · base^(−2i / head_size)."""
    frequency = base ** (-np.arange(0, head_size, 2, dtype=np.float64) / head_size)
    angle = np.arange(positions, dtype=np.float64)[:, None] * frequency
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def _gguf_names(c: LlamaConfig) -> dict[str, tuple[str, int | None]]:
    """Hugging Face's name -> (GGUF's, how many heads its rows are where they are in another order)"""
    names: dict[str, tuple[str, int | None]] = {
        "model.embed_tokens.weight": ("token_embd.weight", None),
        "model.norm.weight": ("output_norm.weight", None),
        "lm_head.weight": ("output.weight", None),
    }
    parts = {
        "input_layernorm": ("attn_norm", None),
        "self_attn.q_proj": ("attn_q", c.heads),
        "self_attn.k_proj": ("attn_k", c.kv_heads),
        "self_attn.v_proj": ("attn_v", None),
        "self_attn.o_proj": ("attn_output", None),
        "post_attention_layernorm": ("ffn_norm", None),
        "mlp.gate_proj": ("ffn_gate", None),
        "mlp.up_proj": ("ffn_up", None),
        "mlp.down_proj": ("ffn_down", None),
    }
    for i in range(c.layers):
        for hf, (gguf, heads) in parts.items():
            names[f"model.layers.{i}.{hf}.weight"] = f"blk.{i}.{gguf}.weight", heads
    return names


def _hf_names(c: LlamaConfig) -> Iterator[tuple[str, list[tuple[str, tuple[int, ...]]]]]:
    """(our name, [(Hugging Face's name, shape), ...]): the parts that ours is made of, row by row"""
    yield "tokens.weight", [("model.embed_tokens.weight", (c.vocab_size, c.width))]
    heads = {"q": c.heads * c.head_size, "k": c.kv_heads * c.head_size, "v": c.kv_heads * c.head_size}
    for i in range(c.layers):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        yield f"{ours}.norm1.weight", [(f"{theirs}.input_layernorm.weight", (c.width,))]
        yield f"{ours}.qkv.weight", [(f"{theirs}.self_attn.{n}_proj.weight", (r, c.width)) for n, r in heads.items()]
        yield f"{ours}.attention_out.weight", [(f"{theirs}.self_attn.o_proj.weight", (c.width, heads["q"]))]
        yield f"{ours}.norm2.weight", [(f"{theirs}.post_attention_layernorm.weight", (c.width,))]
        yield f"{ours}.gate_up.weight", [(f"{theirs}.mlp.{n}_proj.weight", (c.ffn, c.width)) for n in ("gate", "up")]
        yield f"{ours}.down.weight", [(f"{theirs}.mlp.down_proj.weight", (c.width, c.ffn))]
    yield "norm.weight", [("model.norm.weight", (c.width,))]
    if not c.tied:
        yield "head.weight", [("lm_head.weight", (c.vocab_size, c.width))]
