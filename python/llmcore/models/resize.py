"""More rows for the tokens of a model that exists."""

from __future__ import annotations

import dataclasses

import numpy as np

from llmcore import nn
from llmcore.errors import Error
from llmcore.models.adapters import owner
from llmcore.models.base import CausalLM


def add_rows(model: CausalLM, known: int, rows: int) -> None:
    """Give the model rows for new tokens, those from `known` up to `rows`, in its embedding and its output layer: the mean of the
    rows before, so that none of them is likelier than another, and others' probabilities hardly change. Rows that the model
    has beyond its tokens are used first."""
    for path in ("tokens.weight", "head.weight", "head.bias"):
        if path.startswith("head.") and model.head is None:
            continue
        module, name = owner(model, path)
        old = getattr(module, name, None)
        if old is None:
            continue
        if getattr(module, "lora", None) is not None:
            raise Error("train", expected="a model without adapters of its embedding, to add tokens", got=path)
        values = np.array(old.stored(), np.float32)
        new = np.concatenate([values, np.zeros((max(0, rows - len(values)), *values.shape[1:]), np.float32)])
        new[known:rows] = values[:known].mean(0)
        parameter = nn.Parameter(new)
        parameter.parts, parameter.requires_grad = (len(new),) if old.parts else (), old.requires_grad
        setattr(module, name, parameter)
    model.config = dataclasses.replace(model.config, vocab_size=max(rows, model.config.vocab_size))
