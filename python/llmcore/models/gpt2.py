"""GPT-2 (Radford et al. 2019): learned positions, layer norm before each part, GELU, tied output layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from llmcore import nn, ops
from llmcore._tensor import Tensor
from llmcore.models.base import CausalLM, KVCache, check_config, check_shapes, field, initialise


@dataclass(frozen=True)
class GPT2Config:
    """Sizes of a GPT-2; the defaults are its smallest, 124M parameters."""

    vocab_size: int = 50257
    context: int = 1024
    width: int = 768
    layers: int = 12
    heads: int = 12
    eps: float = 1e-5

    def __post_init__(self):
        check_config("GPT2Config", self)
        if self.width % self.heads:
            raise ValueError(f"[GPT2Config] expected width a multiple of heads, got {self.width} and {self.heads}")

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    def to_hf(self) -> dict:
        """config.json of the Hugging Face format."""
        return {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "vocab_size": self.vocab_size,
            "n_positions": self.context,
            "n_embd": self.width,
            "n_layer": self.layers,
            "n_head": self.heads,
            "layer_norm_epsilon": self.eps,
            "activation_function": "gelu_new",
            "tie_word_embeddings": True,
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
        }

    @classmethod
    def from_hf(cls, c: Mapping) -> GPT2Config:
        """From config.json; what this implementation does not have is refused by name."""
        for name, wanted in {
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
            "n_inner": (None, 4 * field(c, "n_embd", int)),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "tie_word_embeddings": (True,),
            "add_cross_attention": (False,),
        }.items():
            if c.get(name, wanted[0]) not in wanted:
                raise ValueError(f"[config.json] expected {name} one of {list(wanted)}, got {c[name]!r}")
        return cls(
            field(c, "vocab_size", int),
            field(c, "n_positions", int),
            field(c, "n_embd", int),
            field(c, "n_layer", int),
            field(c, "n_head", int),
            field(c, "layer_norm_epsilon", float, 1e-5),
        )


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, c: GPT2Config):
        self.heads, self.head_size = c.heads, c.head_size
        self.norm1 = nn.LayerNorm(c.width, c.eps)
        self.qkv = nn.Linear(c.width, 3 * c.width)
        self.attention_out = nn.Linear(c.width, c.width)
        self.norm2 = nn.LayerNorm(c.width, c.eps)
        self.mlp_in = nn.Linear(c.width, 4 * c.width)
        self.mlp_out = nn.Linear(4 * c.width, c.width)

    def forward(self, x: Tensor, layer: int, cache: KVCache | None) -> Tensor:
        B, T, C = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(B, T, 3 * self.heads, self.head_size)
        q, k, v = ops.split(qkv, [self.heads] * 3, dim=2)
        y = ops.attention(q, k, v) if cache is None else cache.attend(layer, q, k, v)
        x = self.attention_out(y.reshape(B, T, C), residual=x)
        return self.mlp_out(self.mlp_in(self.norm2(x), activation="gelu"), residual=x)


class GPT2(CausalLM):
    """The model; parameters are drawn from `seed`."""

    def __init__(self, config: GPT2Config, dtype: str = "float32", seed: int | None = 0):
        self.config, self.dtype = config, dtype
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.blocks = [Block(config) for _ in range(config.layers)]
        self.norm = nn.LayerNorm(config.width, config.eps)
        initialise(self, seed, config.layers, residual=("attention_out.weight", "mlp_out.weight"))

    def output_weight(self) -> nn.Parameter:
        return self.tokens.weight

    def hidden(self, ids, cache: KVCache | None = None) -> Tensor:
        ids = self.checked_ids(ids)
        B, T = ids.shape
        positions = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T)) if cache is None else cache.advance(T)
        x = ops.add(self.tokens(ids, self.dtype), self.positions(positions, self.dtype))
        for i, block in enumerate(self.blocks):
            x = block(x, i, cache)
        return self.norm(x)

    # ---- Hugging Face names: linear layers are stored (inputs, outputs) there ----

    def to_hf(self) -> dict[str, np.ndarray]:
        state = self.state_dict()
        return {
            hf: np.ascontiguousarray(state[name].T) if _is_transposed(name, shape) else state[name]
            for name, hf, shape in _hf_names(self.config)
        }

    @classmethod
    def from_hf(cls, config: Mapping, weights: Mapping[str, np.ndarray], dtype: str = "float32") -> GPT2:
        c = GPT2Config.from_hf(config)
        if "wte.weight" in weights:  # as saved without the output layer
            weights = {f"transformer.{name}": w for name, w in weights.items()}
        check_shapes(((hf, shape) for _, hf, shape in _hf_names(c)), weights)
        model = cls(c, dtype, seed=None)
        model.load_state_dict(
            {name: weights[hf].T if _is_transposed(name, shape) else weights[hf] for name, hf, shape in _hf_names(c)}
        )
        return model


def _is_transposed(name: str, shape: tuple[int, ...]) -> bool:
    return name.startswith("blocks.") and len(shape) == 2


def _hf_names(c: GPT2Config) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(our name, Hugging Face's name, its shape there)"""
    yield "tokens.weight", "transformer.wte.weight", (c.vocab_size, c.width)
    yield "positions.weight", "transformer.wpe.weight", (c.context, c.width)
    linear = {
        "qkv": ("attn.c_attn", c.width, 3 * c.width),
        "attention_out": ("attn.c_proj", c.width, c.width),
        "mlp_in": ("mlp.c_fc", c.width, 4 * c.width),
        "mlp_out": ("mlp.c_proj", 4 * c.width, c.width),
    }
    for i in range(c.layers):
        ours, theirs = f"blocks.{i}", f"transformer.h.{i}"
        for name, hf in (("norm1", "ln_1"), ("norm2", "ln_2")):
            yield f"{ours}.{name}.weight", f"{theirs}.{hf}.weight", (c.width,)
            yield f"{ours}.{name}.bias", f"{theirs}.{hf}.bias", (c.width,)
        for name, (hf, inputs, outputs) in linear.items():
            yield f"{ours}.{name}.weight", f"{theirs}.{hf}.weight", (inputs, outputs)
            yield f"{ours}.{name}.bias", f"{theirs}.{hf}.bias", (outputs,)
    yield "norm.weight", "transformer.ln_f.weight", (c.width,)
    yield "norm.bias", "transformer.ln_f.bias", (c.width,)
