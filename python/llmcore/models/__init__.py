"""Architectures, one file each: config, model, and the names of its weights in the Hugging Face format."""

from llmcore.models.base import CausalLM, KVCache
from llmcore.models.gpt2 import GPT2, GPT2Config
from llmcore.models.llama import Llama, LlamaConfig

# Hugging Face's `model_type` -> (config, model)
ARCHITECTURES = {"gpt2": (GPT2Config, GPT2), "llama": (LlamaConfig, Llama)}

__all__ = ["ARCHITECTURES", "GPT2", "CausalLM", "GPT2Config", "KVCache", "Llama", "LlamaConfig"]
