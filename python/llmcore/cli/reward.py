"""`llmcore reward`: a model that says how good an answer is."""

from __future__ import annotations

from llmcore.cli import stage
from llmcore.cli.config_flags import Config, config_flags
from llmcore.train.config import RewardConfig


@config_flags(RewardConfig)
def reward(
    given: dict,
    config: Config = None,
    resume: stage.Resume = False,
    overwrite: stage.Overwrite = False,
    quiet: stage.Quiet = False,
) -> None:
    """Train a model to say how good an answer is, from pairs of answers, of which one is preferred.

    Rows of JSONL or parquet: {"prompt": "...", "chosen": "...", "rejected": "..."}, maybe with a "margin".

    \b
    Example: llmcore reward --model chat --data pairs.jsonl --out judge
    """
    settings = stage.settings(RewardConfig, "reward", given, config, resume)

    from llmcore.train import reward as train

    stage.run(train, settings, resume, overwrite, quiet, f"llmcore ppo --rewards {settings.out}")
