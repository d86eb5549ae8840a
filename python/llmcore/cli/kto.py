"""`llmcore kto`: a model that prefers better answers."""

from __future__ import annotations

from llmcore.cli import stage
from llmcore.cli.config_flags import Config, config_flags
from llmcore.train.config import KTOConfig


@config_flags(KTOConfig)
def kto(
    given: dict,
    config: Config = None,
    resume: stage.Resume = False,
    overwrite: stage.Overwrite = False,
    quiet: stage.Quiet = False,
) -> None:
    """Train a model on single answers, each of which is good or bad: KTO.

    Rows of JSONL or parquet: {"prompt": "...", "completion": "...", "label": true}, or pairs as for dpo.

    \b
    Example: llmcore kto --model chat --data answers.jsonl --lr 5e-6
    """
    settings = stage.settings(KTOConfig, "kto", given, config, resume)

    from llmcore.train import kto as train

    stage.run(train, settings, resume, overwrite, quiet, "llmcore chat")
