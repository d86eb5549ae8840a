"""Architectures, one file each: config, model, and the names of its weights in the Hugging Face format."""

from llmcore.models.base import CausalLM, KVCache
from llmcore.models.gpt2 import GPT2, GPT2Config
from llmcore.models.llama import Llama, LlamaConfig

# By the `model_type` of a Hugging Face config.json, and by `general.architecture` of a GGUF file.
ARCHITECTURES: dict[str, type[CausalLM]] = {"gpt2": GPT2, "llama": Llama}
GGUF_ARCHITECTURES: dict[str, type[CausalLM]] = {"llama": Llama}

__all__ = ["ARCHITECTURES", "GGUF_ARCHITECTURES", "GPT2", "CausalLM", "GPT2Config", "KVCache", "Llama", "LlamaConfig"]
