"""Phi-3 and Phi-4-mini (Abdin et al. 2024): a Llama whose files store queries, keys and values, and gate and up, in one
matrix each; heads may rotate partially."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from llmcore.formats.gguf import GGUFFile
from llmcore.models.config import read, setting
from llmcore.models.llama import Llama, LlamaConfig
from llmcore.models.mistral import MistralBlock
from llmcore.models.weights import Layout, Part


@dataclass(frozen=True)
class Phi3Config(LlamaConfig):
    """Sizes of a Phi-3. `window`: how many keys a query sees; None is all. `rotary_part`: the fraction of a head that rotates."""

    model_type: ClassVar[str] = "phi3"
    hf_class: ClassVar[str] = "Phi3ForCausalLM"
    gguf_architecture: ClassVar[str | None] = "phi3"
    gguf_pairs: ClassVar[bool] = False
    fixed: ClassVar[Mapping[str, tuple]] = {"hidden_act": ("silu",), "attention_bias": (False,)}
    rope_part: ClassVar[str | None] = "rotary_part"

    eps: float = setting(1e-5, "rms_norm_eps", "attention.layer_norm_rms_epsilon", absent=1e-5)
    window: int | None = setting(None, "sliding_window", "attention.sliding_window")
    rotary_part: float = setting(1.0, "partial_rotary_factor", absent=1.0)

    def __post_init__(self) -> None:
        expected = "a rotary_part in (0, 1] of an even number of dimensions"
        if not 0 < self.rotary_part <= 1:  # before it is counted in dimensions
            self.fail(expected, self.rotary_part)
        super().__post_init__()
        if self.window is not None:
            self.check_positive("window")
        if self.rotary_size < 2 or self.rotary_size % 2:
            self.fail(expected, self.rotary_part)

    @property
    def rotary_size(self) -> int:
        return int(self.head_size * self.rotary_part)

    @classmethod
    def rope_of(cls, config: Mapping) -> dict[str, Any] | None:
        """Return the same; as in transformers, "yarn" means longrope here too, and the original context is 4096 by default."""
        rope = super().rope_of(config)
        if rope is None or rope.get("rope_type") not in ("longrope", "su", "yarn"):
            return rope
        return {"original_max_position_embeddings": 4096, **rope, "rope_type": "longrope"}

    def to_hf(self) -> dict[str, Any]:
        values = super().to_hf()
        original = values.get("rope_scaling", {}).get("original_max_position_embeddings")
        return values | ({} if original is None else {"original_max_position_embeddings": original})

    @classmethod
    def gguf_values(cls, file: GGUFFile) -> dict[str, Any]:
        values = super().gguf_values(file)
        size = values["head_size"] or values["width"] // max(values["heads"], 1)
        turned = read(file.metadata, "phi3.rope.dimension_count", int, size, "gguf")
        return values | {"rotary_part": turned / max(size, 1)}


class Phi3(Llama[Phi3Config]):
    """The model; parameters are drawn from `seed`."""

    config_class = Phi3Config
    Block = MistralBlock  # it has a window too

    @classmethod
    def attention_layout(cls, c: Phi3Config, hf: str, gguf: str) -> Layout:
        rows, out = (c.heads + 2 * c.kv_heads) * c.head_size, (c.width, c.heads * c.head_size)
        yield (
            "attention.qkv.weight",
            [Part(f"{hf}.self_attn.qkv_proj.weight", f"{gguf}.attn_qkv.weight", (rows, c.width))],
        )
        yield "attention.out.weight", [Part(f"{hf}.self_attn.o_proj.weight", f"{gguf}.attn_output.weight", out)]

    @classmethod
    def mlp_layout(cls, c: Phi3Config, layer: int, hf: str, gguf: str) -> Layout:
        yield (
            "mlp.gate_up.weight",
            [Part(f"{hf}.mlp.gate_up_proj.weight", f"{gguf}.ffn_up.weight", (2 * c.ffn, c.width))],
        )
        yield "mlp.down.weight", [Part(f"{hf}.mlp.down_proj.weight", f"{gguf}.ffn_down.weight", (c.width, c.ffn))]
