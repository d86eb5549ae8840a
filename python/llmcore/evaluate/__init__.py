"""Evaluates models on texts and tasks: loss, bits per byte, multiple choice, cloze. `harness` (to be imported separately)
adapts a model to EleutherAI's lm-evaluation-harness."""

from llmcore.evaluate.likelihood import Likelihood, likelihoods
from llmcore.evaluate.tasks import evaluate_task
from llmcore.evaluate.texts import evaluate_texts

__all__ = ["Likelihood", "evaluate_task", "evaluate_texts", "likelihoods"]
