"""GPT-2 (Radford et al. 2019): learned positions, layer norm before each part, GELU, tied output layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llmcore import nn, ops
from llmcore._tensor import Tensor
from llmcore.models.base import CausalLM, KVCache, check_config, field, initialise


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

    def __init__(self, config: GPT2Config, dtype: str = "float32", seed: int = 0):
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
        """Weights by their names in the Hugging Face format."""
        state = self.state_dict()
        return {
            hf: np.ascontiguousarray(state[name].T) if transposed else state[name]
            for name, hf, transposed in _hf_names(self.config)
        }

    def load_hf(self, weights: Mapping[str, np.ndarray]) -> None:
        """The reverse of `to_hf`. ValueError names what is missing or of another shape."""
        bare = {k.removeprefix("transformer."): v for k, v in weights.items()}
        state = {}
        for name, hf, transposed in _hf_names(self.config):
            w = bare.get(hf.removeprefix("transformer."))
            if w is None:
                raise ValueError(f"[load] expected a tensor {hf}, got none")
            state[name] = np.asarray(w).T if transposed else w
        self.load_state_dict(state)


def _hf_names(config: GPT2Config):
    """(our name, Hugging Face's name, whether the matrix is stored transposed)"""
    yield "tokens.weight", "transformer.wte.weight", False
    yield "positions.weight", "transformer.wpe.weight", False
    layers = {
        "norm1": "ln_1",
        "qkv": "attn.c_attn",
        "attention_out": "attn.c_proj",
        "norm2": "ln_2",
        "mlp_in": "mlp.c_fc",
        "mlp_out": "mlp.c_proj",
    }
    for i in range(config.layers):
        for ours, theirs in layers.items():
            for kind in ("weight", "bias"):
                transposed = kind == "weight" and not ours.startswith("norm")
                yield f"blocks.{i}.{ours}.{kind}", f"transformer.h.{i}.{theirs}.{kind}", transposed
    yield "norm.weight", "transformer.ln_f.weight", False
    yield "norm.bias", "transformer.ln_f.bias", False
