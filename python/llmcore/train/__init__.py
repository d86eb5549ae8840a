"""Training stages, each a small file on one loop (`loop.py`)."""

from llmcore.train.config import PretrainConfig
from llmcore.train.loop import Interrupted, TrainingError
from llmcore.train.pretrain import pretrain

__all__ = ["Interrupted", "PretrainConfig", "TrainingError", "pretrain"]
