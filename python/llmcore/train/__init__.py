"""Training stages, each a small file on one loop (`loop.py`). Loaded when first used, so that the command line shows a
stage's options without loading what trains it."""

import importlib

_LAZY = {
    "DPOConfig": "llmcore.train.config",
    "CheckpointError": "llmcore.train.checkpoint",
    "GRPOConfig": "llmcore.train.config",
    "Interrupted": "llmcore.train.errors",
    "KTOConfig": "llmcore.train.config",
    "PPOConfig": "llmcore.train.config",
    "PretrainConfig": "llmcore.train.config",
    "Report": "llmcore.train.report",
    "RewardConfig": "llmcore.train.config",
    "SFTConfig": "llmcore.train.config",
    "TerminalReport": "llmcore.train.report",
    "TrainingError": "llmcore.train.errors",
    "dpo": "llmcore.train.stages.dpo",
    "grpo": "llmcore.train.stages.grpo",
    "kto": "llmcore.train.stages.kto",
    "ppo": "llmcore.train.stages.ppo",
    "pretrain": "llmcore.train.stages.pretrain",
    "reward": "llmcore.train.stages.reward",
    "sft": "llmcore.train.stages.sft",
}

__all__ = list(_LAZY)


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module 'llmcore.train' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
