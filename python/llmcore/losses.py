"""Losses: pure functions of what a model computed. Each states its formula and source.

A new loss is one more function here, made of ops, with a row in tests/ops/test_loss.py or a test of its own against a
float64 twin; see CONTRIBUTING.md.
"""

from llmcore.ops.loss import cross_entropy, linear_cross_entropy

__all__ = ["cross_entropy", "linear_cross_entropy"]
