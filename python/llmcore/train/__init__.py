"""Training stages, each a small file on one loop (`loop.py`). Names are loaded when they are first used, so that the command
line shows the options of a stage without loading what trains it."""

from llmcore._lazy import lazy

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
__getattr__, __dir__ = lazy(__name__, _LAZY)
