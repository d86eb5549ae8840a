"""Architectures, one file each: config, model, and the names of its weights in the Hugging Face format."""

from llmcore.models.base import CausalLM, KVCache
from llmcore.models.gpt2 import GPT2, GPT2Config
from llmcore.models.llama import Llama, LlamaConfig

# By the `model_type` of a Hugging Face config.json.
ARCHITECTURES: dict[str, type[CausalLM]] = {"gpt2": GPT2, "llama": Llama}

__all__ = ["ARCHITECTURES", "GPT2", "CausalLM", "GPT2Config", "KVCache", "Llama", "LlamaConfig"]
