"""Mistral (Jiang et al. 2023): a Llama whose queries see a sliding window of keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from llmcore.models.config import setting
from llmcore.models.layers import Attention
from llmcore.models.llama import Block, Llama, LlamaConfig
from llmcore.models.rope import Rotary


@dataclass(frozen=True)
class MistralConfig(LlamaConfig):
    """Sizes of a Mistral. `window`: how many keys a query sees, including its own; None is all."""

    model_type: ClassVar[str] = "mistral"
    hf_class: ClassVar[str] = "MistralForCausalLM"
    # GGUF has no name for it: such files say Llama, and Llama reads them.

    window: int | None = setting(None, "sliding_window")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window is not None:
            self.check_positive("window")

    @classmethod
    def hf_values(cls, config: Mapping) -> dict[str, Any]:
        return super().hf_values(
            {"sliding_window": 4096, **config}
        )  # null means none, no word of it transformers' default

    def to_gguf(self) -> dict[str, Any]:
        if self.window is not None and self.window < self.context:
            self.fail("a window of at least the context for GGUF, which calls this a Llama", self.window)
        return super().to_gguf()


W = TypeVar("W", bound=MistralConfig)


class MistralBlock(Block[W]):
    def make_attention(self, c: W, layer: int, rotary: Rotary | None, **options) -> Attention:
        return super().make_attention(c, layer, rotary, window=c.window, **options)


class Mistral(Llama[MistralConfig]):
    """The model; parameters are drawn from `seed`."""

    config_class = MistralConfig
    Block = MistralBlock
