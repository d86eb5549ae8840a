"""Gemma 3's text models (Gemma Team 2025): Gemma 2 with norms of queries and keys instead of capped scores, a sliding window
in five of six layers, and another rotation base in those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from llmcore.errors import Error
from llmcore.models.config import read, setting
from llmcore.models.gemma2 import Gemma2, Gemma2Block, Gemma2Config
from llmcore.models.layers import Attention
from llmcore.models.llama import head_norms
from llmcore.models.rope import Rotary
from llmcore.models.weights import Layout


@dataclass(frozen=True)
class Gemma3Config(Gemma2Config):
    """Sizes of a Gemma 3. `window_rope_base`: the rotation base of layers with a window; `rope_base` and `rope_scaling`
    apply to the others."""

    model_type: ClassVar[str] = "gemma3_text"
    hf_class: ClassVar[str] = "Gemma3ForCausalLM"
    gguf_architecture: ClassVar[str | None] = "gemma3"
    hf_more: ClassVar[tuple[str, ...]] = ("sliding_window_pattern", "_sliding_window_pattern")
    pattern: ClassVar[int] = 6
    scaled_context: ClassVar[bool] = False  # max_position_embeddings has the factor in it

    rope_base: float = setting(1e6, "rope_theta", "rope.freq_base", absent=1e6)
    window_rope_base: float = setting(10000.0, "rope_local_base_freq", "rope.freq_base_swa", absent=10000.0)

    attention_softcap: float | None = setting(None, "attn_logit_softcapping", kind=float)  # type: ignore[assignment]
    logit_softcap: float | None = setting(None, "final_logit_softcapping", kind=float)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("window_rope_base", 0, strict=True)

    @classmethod
    def hf_values(cls, config: Mapping) -> dict[str, Any]:
        rope = config.get("rope_parameters")
        if isinstance(rope, Mapping) and "full_attention" in rope:  # newer files: one object per kind of layer
            full, window = rope["full_attention"], rope.get("sliding_attention") or {}
            if not isinstance(full, Mapping) or not isinstance(window, Mapping):
                raise Error("config.json", expected="rope_parameters of two objects", got=f"{rope!r:.100}")
            if window.get("rope_type", "default") != "default":
                raise Error("config.json", expected="sliding_attention of rope_type default", got=f"{window!r:.100}")
            config = {**config, "rope_parameters": full}
            if "rope_theta" in window:
                config["rope_local_base_freq"] = window["rope_theta"]
        values = super().hf_values(config)
        if "sliding" not in values:
            pattern = read(config, "sliding_window_pattern", int, cls.pattern)
            if pattern < 1:
                raise Error("config.json", expected="sliding_window_pattern at least 1", got=pattern)
            values["sliding"] = cls.usual_sliding(values["layers"], pattern)
        return values

    @classmethod
    def gguf_query_scalar(cls, values: Mapping[str, Any]) -> float | None:
        """Return the query scalar, which GGUF does not store; None for the head size, which it is for all but Gemma 3 27B."""
        return values["width"] / values["heads"] if values["layers"] == 62 and values["heads"] else None


class Gemma3Block(Gemma2Block[Gemma3Config]):
    def make_attention(self, c: Gemma3Config, layer: int, rotary: Rotary | None, **options) -> Attention:
        return super().make_attention(c, layer, rotary, norm="head", **options)


class Gemma3(Gemma2[Gemma3Config]):
    """The model; parameters are drawn from `seed`."""

    config_class = Gemma3Config
    Block = Gemma3Block

    def rotaries(self, c: Gemma3Config) -> Sequence[Rotary | None]:
        window = Rotary(c.head_size, c.window_rope_base, c.context)
        return [window if s else full for s, full in zip(c.sliding, super().rotaries(c), strict=True)]

    @classmethod
    def attention_layout(cls, c: Gemma3Config, hf: str, gguf: str) -> Layout:
        yield from super().attention_layout(c, hf, gguf)
        yield from head_norms(c, hf, gguf, offset=1.0)
