"""Losses: pure functions of what a model computed. Each states its formula and source.

A new loss is one more function here, made of ops or, where it takes a few numbers a sequence, of numbers with their
derivatives (`pointwise`), with a test of its own against a float64 twin; see CONTRIBUTING.md.
"""

from llmcore.losses.policy import gae, group_advantages, grpo, ppo, whiten
from llmcore.losses.preference import dpo, kto, orpo, reward, simpo
from llmcore.ops.loss import cross_entropy, linear_cross_entropy

__all__ = [
    "cross_entropy",
    "dpo",
    "gae",
    "group_advantages",
    "grpo",
    "kto",
    "linear_cross_entropy",
    "orpo",
    "ppo",
    "reward",
    "simpo",
    "whiten",
]
