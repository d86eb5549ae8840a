"""A small config of every architecture, with all that is special about it in use: windows shorter than the texts, groups
of heads, heads that are no part of the width."""

import math

from llmcore import models
from llmcore.models import RopeScaling

SIZES = {"vocab_size": 99, "context": 64, "width": 48, "layers": 3, "heads": 4}
GROUPED = {**SIZES, "kv_heads": 2, "ffn": 80}

CONFIGS = {
    "gpt2": models.GPT2Config(**SIZES),
    "gpt2-ffn": models.GPT2Config(**SIZES, ffn=40),
    "llama": models.LlamaConfig(**GROUPED),
    "llama-untied": models.LlamaConfig(**{**GROUPED, "width": 64}, tied=False, head_size=24, rope_base=500.0),
    "llama-linear": models.LlamaConfig(**GROUPED, rope_scaling=RopeScaling("linear", 4.0, 16)),
    "llama3": models.LlamaConfig(
        **{**GROUPED, "head_size": 32},
        rope_base=500.0,
        rope_scaling=RopeScaling("llama3", 8.0, 16, low_freq_factor=1.0, high_freq_factor=4.0),
    ),
    "llama-yarn": models.LlamaConfig(
        **{**GROUPED, "head_size": 32},
        rope_scaling=RopeScaling("yarn", 4.0, 16, attention_factor=0.1 * math.log(4) + 1),
    ),
    "llama-yarn-own": models.LlamaConfig(
        **{**GROUPED, "head_size": 32},
        rope_scaling=RopeScaling("yarn", 4.0, 16, attention_factor=1.5),
    ),
    "mistral": models.MistralConfig(**GROUPED, window=7, tied=False),
    "qwen2": models.Qwen2Config(**GROUPED),
    "qwen3": models.Qwen3Config(**GROUPED, head_size=32),
    "qwen3-moe": models.Qwen3MoEConfig(**GROUPED, head_size=16, experts=6, experts_used=2, expert_ffn=24),
    "qwen3-moe-plain": models.Qwen3MoEConfig(**GROUPED, experts=4, experts_used=3, expert_ffn=20, normalised=False),
    "gemma2": models.Gemma2Config(**GROUPED, head_size=16, window=6, query_scalar=24.0),
    "gemma3": models.Gemma3Config(
        **{**GROUPED, "layers": 7}, head_size=16, window=6, rope_scaling=RopeScaling("linear", 8.0, 64)
    ),
    "phi3": models.Phi3Config(**GROUPED, window=9, tied=False),
    "phi3-partial": models.Phi3Config(**{**GROUPED, "width": 64}, rotary_part=0.75),
    "phi3-longrope": models.Phi3Config(
        **{**GROUPED, "width": 64},
        rope_scaling=RopeScaling(
            "longrope",
            4.0,
            16,
            attention_factor=math.sqrt(1 + math.log(4) / math.log(16)),
            short_factor=(1.0, 1.25, 1.0, 1.5, 2.0, 1.0, 1.0, 1.75),
            long_factor=(1.0, 2.5, 3.0, 4.5, 6.0, 8.0, 16.0, 12.5),
        ),
    ),
    "smollm3": models.SmolLM3Config(**{**GROUPED, "layers": 5}),
    "olmo2": models.OLMo2Config(**GROUPED, tied=False),
    "pythia": models.GPTNeoXConfig(**{**SIZES, "width": 64}),
    "neox-serial": models.GPTNeoXConfig(**{**SIZES, "width": 64}, parallel=False, rotary_part=0.5, ffn=96),
}
