"""`llmcore grpo`: a model that is rewarded for its answers."""

from __future__ import annotations

from llmcore.cli import stage
from llmcore.cli.config_flags import Config, config_flags
from llmcore.train.config import GRPOConfig


@config_flags(GRPOConfig)
def grpo(
    given: dict,
    config: Config = None,
    resume: stage.Resume = False,
    overwrite: stage.Overwrite = False,
    quiet: stage.Quiet = False,
) -> None:
    """Reward a model for its answers, each against the others to the same prompt: GRPO and its relatives.

    Rows of JSONL or parquet: {"prompt": "..."}, and what the rewards need: "answer" for arithmetic, "words" for length. A
    reward of your own is a function in a file: def reward(prompts, completions, **columns): return [...]

    \b
    Example: llmcore grpo --model chat --data arithmetic --rewards arithmetic
             llmcore grpo --model chat --data p.jsonl --rewards mine.py:reward
    """
    settings = stage.settings(GRPOConfig, "grpo", given, config, resume)

    from llmcore.train import grpo as train

    stage.run(train, settings, resume, overwrite, quiet, "llmcore chat")
