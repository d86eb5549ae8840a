"""GPT-2 (Radford et al. 2019): learned positions, layer norm before each part, GELU, tied output layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from llmcore import nn, ops
from llmcore._tensor import Tensor
from llmcore.formats.gguf import GGUFFile
from llmcore.models.base import CausalLM, initialise
from llmcore.models.config import Config, setting
from llmcore.models.layers import Attention, Positions
from llmcore.models.weights import Layout, Part


@dataclass(frozen=True)
class GPT2Config(Config):
    """Sizes of a GPT-2; the defaults are its smallest, 124M parameters."""

    model_type: ClassVar[str] = "gpt2"
    hf_class: ClassVar[str] = "GPT2LMHeadModel"
    gguf_architecture: ClassVar[str | None] = "gpt2"
    fixed: ClassVar[Mapping[str, tuple]] = {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    }
    hf_more: ClassVar[tuple[str, ...]] = ("n_ctx",)  # n_positions says it too

    vocab_size: int = setting(50257, "vocab_size")
    context: int = setting(1024, "n_positions", "context_length")
    width: int = setting(768, "n_embd", "embedding_length")
    layers: int = setting(12, "n_layer", "block_count")
    heads: int = setting(12, "n_head", "attention.head_count")
    eps: float = setting(1e-5, "layer_norm_epsilon", "attention.layer_norm_epsilon", absent=1e-5)
    ffn: int = setting(None, "n_inner", "feed_forward_length")
    tied: bool = setting(True, "tie_word_embeddings", absent=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.derive(ffn=4 * self.width)
        self.check_positive("ffn")
        self.check_number("eps", 0)
        if self.width % self.heads:
            self.fail("width a multiple of heads", f"{self.width} and {self.heads}")

    @classmethod
    def gguf_values(cls, file: GGUFFile) -> dict[str, Any]:
        return super().gguf_values(file) | {"tied": "output.weight" not in file.tensors}

    def to_hf(self) -> dict[str, Any]:
        return super().to_hf() | {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, c: GPT2Config, layer: int):
        self.norm1 = nn.LayerNorm(c.width, c.eps)
        self.attention = Attention(layer, c.width, c.heads, c.heads, c.head_size, bias=True, out_bias=True)
        self.norm2 = nn.LayerNorm(c.width, c.eps)
        self.mlp_in = nn.Linear(c.width, c.ffn)
        self.mlp_out = nn.Linear(c.ffn, c.width)

    def forward(self, x: Tensor, pos: Positions) -> Tensor:
        x = self.attention(self.norm1(x), pos, residual=x)
        return self.mlp_out(self.mlp_in(self.norm2(x), activation="gelu"), residual=x)


class GPT2(CausalLM[GPT2Config]):
    """The model; parameters are drawn from `seed`."""

    config_class = GPT2Config
    hf_base = "transformer"

    def __init__(self, config: GPT2Config, dtype: str = "float32", seed: int | None = 0):
        self.config, self.dtype = config, dtype
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.blocks = [Block(config, i) for i in range(config.layers)]
        self.norm = nn.LayerNorm(config.width, config.eps)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        initialise(self, seed, config.layers, residual=("attention.out.weight", "mlp_out.weight"))

    def hidden_at(self, ids: np.ndarray, pos: Positions) -> Tensor:
        positions = (
            np.broadcast_to(np.arange(pos.end, dtype=np.int32), ids.shape) if pos.positions is None else pos.positions
        )
        x = ops.add(self.tokens(ids, self.dtype), self.positions(positions, self.dtype))
        return self.norm(self.run_blocks(self.blocks, x, pos))

    @classmethod
    def layout(cls, c: GPT2Config) -> Layout:
        yield "tokens.weight", [Part("transformer.wte.weight", "token_embd.weight", (c.vocab_size, c.width))]
        yield "positions.weight", [Part("transformer.wpe.weight", "position_embd.weight", (c.context, c.width))]
        linear = {
            "attention.qkv": ("attn.c_attn", "attn_qkv", 3 * c.width, c.width),
            "attention.out": ("attn.c_proj", "attn_output", c.width, c.width),
            "mlp_in": ("mlp.c_fc", "ffn_up", c.ffn, c.width),
            "mlp_out": ("mlp.c_proj", "ffn_down", c.width, c.ffn),
        }
        norms = {"norm1": ("ln_1", "attn_norm"), "norm2": ("ln_2", "ffn_norm")}
        for i in range(c.layers):
            ours, hf, gguf = f"blocks.{i}", f"transformer.h.{i}", f"blk.{i}"
            for name, (theirs, ggufs) in norms.items():
                for kind in ("weight", "bias"):
                    part = Part(f"{hf}.{theirs}.{kind}", f"{gguf}.{ggufs}.{kind}", (c.width,))
                    yield f"{ours}.{name}.{kind}", [part]
            for name, (theirs, ggufs, outputs, inputs) in linear.items():
                weight, bias = f"{hf}.{theirs}.weight", f"{hf}.{theirs}.bias"
                part = Part(weight, f"{gguf}.{ggufs}.weight", (outputs, inputs), hf_transposed=True)
                yield f"{ours}.{name}.weight", [part]
                yield f"{ours}.{name}.bias", [Part(bias, f"{gguf}.{ggufs}.bias", (outputs,))]
        for kind in ("weight", "bias"):
            yield f"norm.{kind}", [Part(f"transformer.ln_f.{kind}", f"output_norm.{kind}", (c.width,))]
        if not c.tied:
            yield "head.weight", [Part("lm_head.weight", "output.weight", (c.vocab_size, c.width))]
