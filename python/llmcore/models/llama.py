"""Llama 1, 2 and 3 (Touvron et al. 2023, Grattafiori et al. 2024): rotary positions, RMS norm, SwiGLU, grouped queries.
SmolLM and SmolLM2 are Llamas too. Most other architectures here are this one with a few differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from llmcore import nn
from llmcore._tensor import Tensor
from llmcore.errors import Error
from llmcore.formats.gguf import GGUFFile
from llmcore.formats.quantization import dequantize
from llmcore.models import rope_scaling
from llmcore.models.base import CausalLM, initialise
from llmcore.models.config import Config, read, setting
from llmcore.models.layers import Attention, GatedFeedForward, Positions
from llmcore.models.rope import Rotary
from llmcore.models.rope_scaling import RopeScaling
from llmcore.models.weights import Layout, Part


@dataclass(frozen=True)
class LlamaConfig(Config):
    """Sizes of a Llama. `kv_heads` defaults to heads, `ffn` to 8/3 of the width rounded up to 64, `head_size` to
    width / heads. `tied`: the output layer is the token embedding."""

    model_type: ClassVar[str] = "llama"
    hf_class: ClassVar[str] = "LlamaForCausalLM"
    gguf_architecture: ClassVar[str | None] = "llama"
    fixed: ClassVar[Mapping[str, tuple]] = {"hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,)}
    gguf_fixed: ClassVar[Mapping[str, tuple]] = {"expert_count": (0,)}
    # Whether GGUF orders the rows of queries and keys for rotation of neighbouring pairs.
    gguf_pairs: ClassVar[bool] = True
    # The field that says which part of a head rotates; None: all of it does.
    rope_part: ClassVar[str | None] = None
    # Whether max_position_embeddings may be that of pretraining.
    scaled_context: ClassVar[bool] = True
    hf_more: ClassVar[tuple[str, ...]] = (
        "rope_parameters", "rope_scaling", "rope_theta", "original_max_position_embeddings", "partial_rotary_factor",
        "layer_types",
    )  # fmt: skip

    # None until __post_init__ fills them in.
    kv_heads: int = setting(None, "num_key_value_heads", "attention.head_count_kv")
    ffn: int = setting(None, "intermediate_size", "feed_forward_length")
    head_size: int = setting(None, "head_dim", "attention.key_length")
    rope_base: float = setting(10000.0, "rope_theta", "rope.freq_base", absent=10000.0)
    eps: float = setting(1e-5, "rms_norm_eps", "attention.layer_norm_rms_epsilon", absent=1e-6)
    tied: bool = setting(True, "tie_word_embeddings", absent=False)
    rope_scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        ffn, head_size = -(-8 * self.width // (3 * 64)) * 64, max(self.width // self.heads, 1)
        self.derive(kv_heads=self.heads, ffn=ffn, head_size=head_size)
        self.check_positive("kv_heads", "ffn", "head_size")
        if self.heads % self.kv_heads:
            self.fail("heads a multiple of kv_heads", f"{self.heads} and {self.kv_heads}")
        if self.head_size % 2:
            self.fail("an even head_size (width / heads)", self.head_size)
        self.check_number("rope_base", 0, strict=True)
        self.check_number("eps", 0)
        if self.rope_scaling is not None:
            self.rope_scaling.check_size(self.rotary_size)

    @property
    def rotary_size(self) -> int:
        """How many dimensions of a head rotate."""
        return self.head_size

    @classmethod
    def hf_values(cls, config: Mapping) -> dict[str, Any]:
        # Older files have rope_theta and rope_scaling, newer ones have rope_parameters for both.
        rope = cls.rope_of(config)
        values = super().hf_values({**config, **(rope or {})})
        scaling = RopeScaling.from_hf(rope, values["context"])
        if cls.rope_part is None and (scaling is None or scaling.kind != "proportional"):
            part = read({**config, **(rope or {})}, "partial_rotary_factor", float, 1.0)
            if part != 1.0:
                raise Error("config.json", expected=f"partial_rotary_factor 1 for {cls.model_type}", got=part)
        kinds, window = read(config, "layer_types", list, None), values.get("window")
        right = "full_attention" if window is None else "sliding_attention"
        if "sliding" not in cls.__dataclass_fields__ and any(kind != right for kind in kinds or ()):
            raise Error("config.json", expected=f"layer_types of {right} for {cls.model_type}", got=f"{kinds!r:.100}")
        if scaling is not None and cls.scaled_context:
            values["context"] = scaling.context(values["context"])
        return values | {"rope_scaling": scaling}

    @classmethod
    def rope_of(cls, config: Mapping) -> dict[str, Any] | None:
        """Return what a config.json says of rotations."""
        return rope_scaling.merged(config)

    def to_hf(self) -> dict[str, Any]:
        scaling, values = self.rope_scaling, super().to_hf()
        if scaling is None:
            return values
        if scaling.kind == "linear" and self.context == scaling.context(1):
            values["max_position_embeddings"] = scaling.original_context
        return values | {"rope_scaling": scaling.to_hf(self.context)}

    @classmethod
    def hf_notes(cls, config: Mapping) -> list[str]:
        values, notes = cls.hf_values(config), super().hf_notes(config)
        scaling, stated = values["rope_scaling"], config.get("max_position_embeddings")
        if scaling is not None and (scaling.kind == "longrope" or values["context"] != stated):
            notes.append(f"positions: {scaling.describe()}; the context is {values['context']}")
        return notes

    def notes_on_tensors(self, tensors: Mapping[str, np.ndarray]) -> list[str]:
        rotary = Rotary(self.rotary_size, self.rope_base, self.context)
        scaled = Rotary(self.rotary_size, self.rope_base, self.context, self.rope_scaling)
        right = [rotary.frequencies(), scaled.frequencies(), scaled.frequencies(short=True)]
        for name in sorted(tensors):
            if name.endswith("rotary_emb.inv_freq"):
                stored = np.asarray(tensors[name]).astype(np.float64).reshape(-1)
                if not any(stored.shape == r.shape and np.allclose(stored, r, rtol=1e-2) for r in right):
                    return [
                        f"{name} is not what config.json says (rope_theta {self.rope_base:g}), which is used, as transformers does"
                    ]
        return []

    @classmethod
    def gguf_values(cls, file: GGUFFile) -> dict[str, Any]:
        values = super().gguf_values(file)
        values["tied"] = "output.weight" not in file.tensors
        values["rope_scaling"] = scaling = RopeScaling.from_gguf(file, cls.gguf_architecture or "", values["context"])
        if scaling is not None and scaling.original_context != values["context"] and cls.scaled_context:
            values["context"] = scaling.context(values["context"])
        return values

    @classmethod
    def from_gguf(cls, file: GGUFFile):
        c = super().from_gguf(file)
        for name, size in (("rope.dimension_count", c.rotary_size), ("attention.value_length", c.head_size)):
            if (got := file.metadata.get(f"{cls.gguf_architecture}.{name}", size)) != size:
                raise Error("gguf", expected=f"{cls.gguf_architecture}.{name} {size}", got=repr(got))
        return _with_factors(c, file)

    def to_gguf(self) -> dict[str, Any]:
        name = self.gguf_architecture
        values = super().to_gguf() | {
            f"{name}.attention.value_length": self.head_size,
            f"{name}.rope.dimension_count": self.rotary_size,
        }
        return values | ({} if self.rope_scaling is None else self.rope_scaling.to_gguf(name or ""))


L = TypeVar("L", bound=LlamaConfig)


def _with_factors(c: L, file: GGUFFile) -> L:
    """Return the config with the Llama 3 scaling that matches GGUF's tensor of frequency factors, if the file has one."""
    if "rope_freqs.weight" not in file.tensors:
        return c
    factors = dequantize(file.tensors["rope_freqs.weight"]).reshape(-1)
    factor = float(factors.max(initial=1.0))
    powers = (1 << bit for bit in range(4, c.context.bit_length()))
    for original in (8192, *powers, c.context):
        scaling = RopeScaling("llama3", factor, original) if np.isfinite(factor) and factor > 0 else None
        if scaling and factors.shape == (c.rotary_size // 2,):
            expected = Rotary(c.rotary_size, c.rope_base, c.context, scaling).frequency_factors()
            if np.allclose(factors, expected, rtol=1e-4):
                return dataclasses.replace(c, rope_scaling=scaling)
    raise Error("gguf", expected="rope_freqs.weight as Llama 3 has it", got="other factors")


class Block(nn.Module, Generic[L]):
    """x + attention(norm(x)), then x + mlp(norm(x)). Variants of the architecture override what differs."""

    def __init__(self, c: L, layer: int, rotary: Rotary | None):
        self.norm1 = nn.RMSNorm(c.width, c.eps)
        self.attention = self.make_attention(c, layer, rotary)
        self.norm2 = nn.RMSNorm(c.width, c.eps)
        self.mlp = self.make_mlp(c, layer)

    def make_attention(self, c: L, layer: int, rotary: Rotary | None, **options) -> Attention:
        return Attention(layer, c.width, c.heads, c.kv_heads, c.head_size, rotary, eps=c.eps, **options)

    def make_mlp(self, c: L, layer: int) -> nn.Module:
        return GatedFeedForward(c.width, c.ffn)

    def forward(self, x: Tensor, pos: Positions) -> Tensor:
        x = self.attention(self.norm1(x), pos, residual=x)
        return self.mlp(self.norm2(x), residual=x)


class Llama(CausalLM[L]):
    """The model; parameters are drawn from `seed`."""

    config_class = LlamaConfig
    Block: ClassVar[type[Block]] = Block
    # Matrices that write to the residual stream.
    residual: ClassVar[tuple[str, ...]] = ("attention.out.weight", "mlp.down.weight")

    def __init__(self, config: L, dtype: str = "float32", seed: int | None = 0):
        self.config, self.dtype = config, dtype
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.blocks = [self.Block(config, i, rotary) for i, rotary in enumerate(self.rotaries(config))]
        self.norm = nn.RMSNorm(config.width, config.eps)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        initialise(self, seed, config.layers, self.residual)

    def rotaries(self, c: L) -> Sequence[Rotary | None]:
        """Return the rotation of each layer's queries and keys, or None for a layer without."""
        return [Rotary(c.rotary_size, c.rope_base, c.context, c.rope_scaling)] * c.layers

    def embed(self, ids: np.ndarray) -> Tensor:
        """Return the input of the first block: ids (B, T) -> (B, T, width)."""
        return self.tokens(ids, self.dtype)

    def hidden_at(self, ids: np.ndarray, pos: Positions) -> Tensor:
        x = self.embed(ids)
        return self.norm(self.run_blocks(self.blocks, x, pos))

    def gguf_rope_factors(self) -> dict[str, np.ndarray]:
        c = self.config
        scaling = c.rope_scaling
        if scaling is not None and scaling.kind == "llama3":
            rotary = Rotary(c.rotary_size, c.rope_base, c.context, scaling)
            return {"rope_freqs.weight": rotary.frequency_factors()}
        if scaling is not None and scaling.kind == "longrope":
            return {name: np.array(getattr(scaling, n), np.float32) for n, name in rope_scaling.GGUF_FACTORS.items()}
        return {}

    @classmethod
    def layout(cls, c: L) -> Layout:
        yield "tokens.weight", [Part("model.embed_tokens.weight", "token_embd.weight", (c.vocab_size, c.width))]
        for i in range(c.layers):
            for name, parts in cls.block_layout(c, i, f"model.layers.{i}", f"blk.{i}"):
                yield f"blocks.{i}.{name}", parts
        yield "norm.weight", [Part("model.norm.weight", "output_norm.weight", (c.width,))]
        if not c.tied:
            yield "head.weight", [Part("lm_head.weight", "output.weight", (c.vocab_size, c.width))]

    @classmethod
    def block_layout(cls, c: L, layer: int, hf: str, gguf: str) -> Layout:
        """Yield the layout of one block; hf and gguf are the prefixes of its names in files."""
        yield "norm1.weight", [Part(f"{hf}.input_layernorm.weight", f"{gguf}.attn_norm.weight", (c.width,))]
        yield from cls.attention_layout(c, hf, gguf)
        yield "norm2.weight", [Part(f"{hf}.post_attention_layernorm.weight", f"{gguf}.ffn_norm.weight", (c.width,))]
        yield from cls.mlp_layout(c, layer, hf, gguf)

    @classmethod
    def attention_layout(cls, c: L, hf: str, gguf: str) -> Layout:
        pairs = c.gguf_pairs
        yield (
            "attention.qkv.weight",
            [
                Part(f"{hf}.self_attn.{n}_proj.weight", f"{gguf}.attn_{n}.weight", (heads * c.head_size, c.width),
                     gguf_heads=heads if pairs and n != "v" else None)
                for n, heads in (("q", c.heads), ("k", c.kv_heads), ("v", c.kv_heads))
            ],
        )  # fmt: skip
        out = (c.width, c.heads * c.head_size)
        yield "attention.out.weight", [Part(f"{hf}.self_attn.o_proj.weight", f"{gguf}.attn_output.weight", out)]

    @classmethod
    def mlp_layout(cls, c: L, layer: int, hf: str, gguf: str) -> Layout:
        yield (
            "mlp.gate_up.weight",
            [Part(f"{hf}.mlp.{n}_proj.weight", f"{gguf}.ffn_{n}.weight", (c.ffn, c.width)) for n in ("gate", "up")],
        )
        yield "mlp.down.weight", [Part(f"{hf}.mlp.down_proj.weight", f"{gguf}.ffn_down.weight", (c.width, c.ffn))]


def head_norms(c: LlamaConfig, hf: str, gguf: str, offset: float = 0.0) -> Layout:
    """Yield the layout of the norms of each query's and key's head."""
    for n in ("q", "k"):
        part = Part(f"{hf}.self_attn.{n}_norm.weight", f"{gguf}.attn_{n}_norm.weight", (c.head_size,), hf_offset=offset)
        yield f"attention.{n}_norm.weight", [part]
