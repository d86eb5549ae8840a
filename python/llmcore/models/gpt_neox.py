"""GPT-NeoX and Pythia (Black et al. 2022, Biderman et al. 2023): layer norm, GELU, attention and feed-forward in parallel on
the residual stream, and partial rotary embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from llmcore import nn
from llmcore._tensor import Tensor
from llmcore.errors import Error
from llmcore.formats.gguf import GGUFFile
from llmcore.models.base import CausalLM, initialise
from llmcore.models.config import Config, read, setting
from llmcore.models.layers import Attention, Positions
from llmcore.models.rope import Rotary
from llmcore.models.weights import Layout, Part


@dataclass(frozen=True)
class GPTNeoXConfig(Config):
    """Sizes of a GPT-NeoX. `rotary_part`: the fraction of a head that rotates. `parallel`: x + attention(norm1(x)) + mlp(norm2(x))
    instead of one after the other. `ffn` defaults to four times the width."""

    model_type: ClassVar[str] = "gpt_neox"
    hf_class: ClassVar[str] = "GPTNeoXForCausalLM"
    gguf_architecture: ClassVar[str | None] = "gptneox"
    fixed: ClassVar[Mapping[str, tuple]] = {
        "hidden_act": ("gelu",),
        "attention_bias": (True,),
    }
    hf_more: ClassVar[tuple[str, ...]] = ("rope_parameters", "rope_scaling", "is_decoder")

    ffn: int = setting(None, "intermediate_size", "feed_forward_length")
    rope_base: float = setting(10000.0, "rotary_emb_base", "rope.freq_base", absent=10000.0)
    rotary_part: float = setting(0.25, "rotary_pct", absent=0.25)
    eps: float = setting(1e-5, "layer_norm_eps", "attention.layer_norm_epsilon", absent=1e-5)
    parallel: bool = setting(True, "use_parallel_residual", "use_parallel_residual", absent=True)
    tied: bool = setting(False, "tie_word_embeddings", absent=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.derive(ffn=4 * self.width)
        self.check_positive("ffn")
        self.check_number("eps", 0)
        self.check_number("rope_base", 0, strict=True)
        if self.width % self.heads:
            self.fail("width a multiple of heads", f"{self.width} and {self.heads}")
        if not 0 < self.rotary_part <= 1 or self.rotary_size < 2 or self.rotary_size % 2:
            self.fail("a rotary_part in (0, 1] of an even number of dimensions", self.rotary_part)

    @property
    def rotary_size(self) -> int:
        return int(self.head_size * self.rotary_part)

    @classmethod
    def hf_values(cls, config: Mapping) -> dict[str, Any]:
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if not isinstance(rope, Mapping) or rope.get("rope_type", rope.get("type", "default")) != "default":
            raise Error("config.json", expected="rope_scaling of type default for gpt_neox", got=f"{rope!r:.100}")
        newer = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
        return super().hf_values({**config, **{old: rope[new] for new, old in newer.items() if new in rope}})

    @classmethod
    def gguf_values(cls, file: GGUFFile) -> dict[str, Any]:
        values = super().gguf_values(file)
        size = values["width"] // max(values["heads"], 1)
        turned = read(file.metadata, "gptneox.rope.dimension_count", int, size, "gguf")
        return values | {"rotary_part": turned / max(size, 1), "tied": "output.weight" not in file.tensors}

    def to_gguf(self) -> dict[str, Any]:
        return super().to_gguf() | {"gptneox.rope.dimension_count": self.rotary_size}


class Block(nn.Module):
    """x + attention(norm1(x)) + mlp(norm2(x)); if they are not parallel, norm2 reads the output of attention."""

    def __init__(self, c: GPTNeoXConfig, layer: int, rotary: Rotary):
        self.parallel = c.parallel
        self.norm1 = nn.LayerNorm(c.width, c.eps)
        self.attention = Attention(layer, c.width, c.heads, c.heads, c.head_size, rotary, bias=True, out_bias=True)
        self.norm2 = nn.LayerNorm(c.width, c.eps)
        self.mlp_in = nn.Linear(c.width, c.ffn)
        self.mlp_out = nn.Linear(c.ffn, c.width)

    def forward(self, x: Tensor, pos: Positions) -> Tensor:
        y = self.attention(self.norm1(x), pos, residual=x)
        read = x if self.parallel else y
        return self.mlp_out(self.mlp_in(self.norm2(read), activation="gelu_exact"), residual=y)


class GPTNeoX(CausalLM[GPTNeoXConfig]):
    """The model; parameters are drawn from `seed`."""

    config_class = GPTNeoXConfig
    hf_base, hf_head = "gpt_neox", "embed_out.weight"

    def __init__(self, config: GPTNeoXConfig, dtype: str = "float32", seed: int | None = 0):
        self.config, self.dtype = config, dtype
        rotary = Rotary(config.rotary_size, config.rope_base, config.context)
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.blocks = [Block(config, i, rotary) for i in range(config.layers)]
        self.norm = nn.LayerNorm(config.width, config.eps)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        initialise(self, seed, config.layers, residual=("attention.out.weight", "mlp_out.weight"))

    def hidden_at(self, ids: np.ndarray, pos: Positions) -> Tensor:
        x = self.tokens(ids, self.dtype)
        return self.norm(self.run_blocks(self.blocks, x, pos))

    @classmethod
    def layout(cls, c: GPTNeoXConfig) -> Layout:
        yield "tokens.weight", [Part("gpt_neox.embed_in.weight", "token_embd.weight", (c.vocab_size, c.width))]
        linear = {
            "attention.qkv": ("attention.query_key_value", "attn_qkv", 3 * c.width, c.width),
            "attention.out": ("attention.dense", "attn_output", c.width, c.width),
            "mlp_in": ("mlp.dense_h_to_4h", "ffn_up", c.ffn, c.width),
            "mlp_out": ("mlp.dense_4h_to_h", "ffn_down", c.width, c.ffn),
        }
        norms = {"norm1": ("input_layernorm", "attn_norm"), "norm2": ("post_attention_layernorm", "ffn_norm")}
        # Hugging Face files group query, key and value by head; here, and in GGUF, all queries come first.
        heads_first = np.arange(3 * c.width).reshape(c.heads, 3, c.head_size).swapaxes(0, 1).reshape(-1)
        for i in range(c.layers):
            ours, hf, gguf = f"blocks.{i}", f"gpt_neox.layers.{i}", f"blk.{i}"
            for name, (theirs, ggufs) in norms.items():
                for kind in ("weight", "bias"):
                    part = Part(f"{hf}.{theirs}.{kind}", f"{gguf}.{ggufs}.{kind}", (c.width,))
                    yield f"{ours}.{name}.{kind}", [part]
            for name, (theirs, ggufs, outputs, inputs) in linear.items():
                rows = heads_first if name == "attention.qkv" else None
                for kind, shape in (("weight", (outputs, inputs)), ("bias", (outputs,))):
                    part = Part(f"{hf}.{theirs}.{kind}", f"{gguf}.{ggufs}.{kind}", shape, hf_rows=rows)
                    yield f"{ours}.{name}.{kind}", [part]
        for kind in ("weight", "bias"):
            yield f"norm.{kind}", [Part(f"gpt_neox.final_layer_norm.{kind}", f"output_norm.{kind}", (c.width,))]
        if not c.tied:
            yield "head.weight", [Part("embed_out.weight", "output.weight", (c.vocab_size, c.width))]
