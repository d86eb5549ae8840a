"""Architectures, one file each: config, model, and where its weights lie in files."""

from llmcore.models.base import CausalLM
from llmcore.models.cache import KVCache
from llmcore.models.config import Config
from llmcore.models.gpt2 import GPT2, GPT2Config
from llmcore.models.llama import Llama, LlamaConfig
from llmcore.models.rope import RopeScaling

_ALL: tuple[type[CausalLM], ...] = (GPT2, Llama)
# By the `model_type` of a Hugging Face config.json, and by `general.architecture` of a GGUF file.
ARCHITECTURES: dict[str, type[CausalLM]] = {m.config_class.model_type: m for m in _ALL}
GGUF_ARCHITECTURES: dict[str, type[CausalLM]] = {
    m.config_class.gguf_architecture: m for m in _ALL if m.config_class.gguf_architecture is not None
}

__all__ = [
    "ARCHITECTURES",
    "GGUF_ARCHITECTURES",
    "GPT2",
    "CausalLM",
    "Config",
    "GPT2Config",
    "KVCache",
    "Llama",
    "LlamaConfig",
    "RopeScaling",
]
