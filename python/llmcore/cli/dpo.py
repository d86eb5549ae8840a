"""`llmcore dpo`: a model that prefers better answers."""

from __future__ import annotations

from llmcore.cli import stage
from llmcore.cli.config_flags import Config, config_flags
from llmcore.train.config import DPOConfig


@config_flags(DPOConfig)
def dpo(
    given: dict,
    config: Config = None,
    resume: stage.Resume = False,
    overwrite: stage.Overwrite = False,
    quiet: stage.Quiet = False,
) -> None:
    """Train a model on pairs of answers, of which one is preferred: DPO and its relatives.

    Rows of JSONL or parquet: {"prompt": "...", "chosen": "...", "rejected": "..."}.

    \b
    Example: llmcore dpo --model chat --data pairs.jsonl --out preferred --lr 5e-6
    """
    settings = stage.settings(DPOConfig, "dpo", given, config, resume)

    from llmcore.train import dpo as train

    stage.run(train, settings, resume, overwrite, quiet, "llmcore chat")
