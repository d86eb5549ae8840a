"""Losses: pure functions of what a model computed. Each states its formula and source.

A new loss is one more function here, made of ops or, if it takes a few numbers per sequence, of numbers with their
derivatives (`pointwise`), with a test of its own against a float64 twin; see CONTRIBUTING.md.
"""

from llmcore._lazy import lazy

_LAZY = {
    "cross_entropy": "llmcore.ops.loss",
    "dpo": "llmcore.losses.preference",
    "gae": "llmcore.losses.advantages",
    "group_advantages": "llmcore.losses.advantages",
    "grpo": "llmcore.losses.policy",
    "kto": "llmcore.losses.preference",
    "linear_cross_entropy": "llmcore.ops.loss",
    "orpo": "llmcore.losses.preference",
    "ppo": "llmcore.losses.policy",
    "reward": "llmcore.losses.preference",
    "simpo": "llmcore.losses.preference",
    "whiten": "llmcore.losses.advantages",
}

__all__ = list(_LAZY)
__getattr__, __dir__ = lazy(__name__, _LAZY)
