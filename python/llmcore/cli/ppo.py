"""`llmcore ppo`: a model that is rewarded for its answers, and learns to foresee the reward."""

from __future__ import annotations

from llmcore.cli import stage
from llmcore.cli.config_flags import Config, config_flags
from llmcore.train.config import PPOConfig


@config_flags(PPOConfig)
def ppo(
    given: dict,
    config: Config = None,
    resume: stage.Resume = False,
    overwrite: stage.Overwrite = False,
    quiet: stage.Quiet = False,
) -> None:
    """Reward a model for its answers, token by token, against what it foresaw: PPO.

    Rows of JSONL or parquet: {"prompt": "..."}, and what the rewards need: "answer" for arithmetic, "words" for length. A
    reward of your own is a function in a file: def reward(prompts, completions, **columns): return [...]

    \b
    Example: llmcore ppo --model chat --data p.jsonl --rewards judge
             llmcore ppo --model chat --data p.jsonl --rewards my.py:reward
    """
    settings = stage.settings(PPOConfig, "ppo", given, config, resume)

    from llmcore.train import ppo as train

    stage.run(train, settings, resume, overwrite, quiet, "llmcore chat")
