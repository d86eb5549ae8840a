"""Architectures, one file each: config, model, and the layout of its weights in files."""

from llmcore.models.base import CausalLM
from llmcore.models.config import Config
from llmcore.models.decode_step import DecodeStep
from llmcore.models.gemma2 import Gemma2, Gemma2Config
from llmcore.models.gemma3 import Gemma3, Gemma3Config
from llmcore.models.gpt2 import GPT2, GPT2Config
from llmcore.models.gpt_neox import GPTNeoX, GPTNeoXConfig
from llmcore.models.kv_cache import KVCache
from llmcore.models.llama import Llama, LlamaConfig
from llmcore.models.mistral import Mistral, MistralConfig
from llmcore.models.olmo2 import OLMo2, OLMo2Config
from llmcore.models.phi3 import Phi3, Phi3Config
from llmcore.models.qwen2 import Qwen2, Qwen2Config
from llmcore.models.qwen3 import Qwen3, Qwen3Config
from llmcore.models.qwen3_moe import Qwen3MoE, Qwen3MoEConfig
from llmcore.models.rope_scaling import RopeScaling
from llmcore.models.smollm3 import SmolLM3, SmolLM3Config

_ALL: tuple[type[CausalLM], ...] = (
    GPT2,
    Llama,
    Gemma2,
    Gemma3,
    GPTNeoX,
    Mistral,
    OLMo2,
    Phi3,
    Qwen2,
    Qwen3,
    Qwen3MoE,
    SmolLM3,
)
# By the `model_type` of a Hugging Face config.json, and by the `general.architecture` of a GGUF file; if two share one,
# the first reads it.
ARCHITECTURES: dict[str, type[CausalLM]] = {m.config_class.model_type: m for m in _ALL}
GGUF_ARCHITECTURES: dict[str, type[CausalLM]] = {
    m.config_class.gguf_architecture: m for m in reversed(_ALL) if m.config_class.gguf_architecture is not None
}

__all__ = [
    "ARCHITECTURES",
    "GGUF_ARCHITECTURES",
    "GPT2",
    "CausalLM",
    "Config",
    "DecodeStep",
    "GPT2Config",
    "GPTNeoX",
    "GPTNeoXConfig",
    "Gemma2",
    "Gemma2Config",
    "Gemma3",
    "Gemma3Config",
    "KVCache",
    "Llama",
    "LlamaConfig",
    "Mistral",
    "MistralConfig",
    "OLMo2",
    "OLMo2Config",
    "Phi3",
    "Phi3Config",
    "Qwen2",
    "Qwen2Config",
    "Qwen3",
    "Qwen3Config",
    "Qwen3MoE",
    "Qwen3MoEConfig",
    "RopeScaling",
    "SmolLM3",
    "SmolLM3Config",
]
