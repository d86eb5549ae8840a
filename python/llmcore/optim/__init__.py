"""Optimizers, one file each."""

from llmcore.optim.adamw import AdamW
from llmcore.optim.base import Optimizer, global_norm
from llmcore.optim.lion import Lion
from llmcore.optim.muon import Muon
from llmcore.optim.sgd import SGD

__all__ = ["SGD", "AdamW", "Lion", "Muon", "Optimizer", "global_norm"]
