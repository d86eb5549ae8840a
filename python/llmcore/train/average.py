"""Weights averaged over training, which are better than the last ones while the learning rate is high."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager

import numpy as np

from llmcore.nn import Parameter
from llmcore.nn.module import assign


class Average:
    """An exponential moving average of parameters, e ← e + (1 − d)(p − e), with d = min(decay, (1 + t) / (10 + t)) after t
    updates: the first weights are soon forgotten."""

    def __init__(self, parameters: Mapping[str, Parameter], decay: float):
        self.parameters, self.decay = dict(parameters), decay
        self._values = {name: np.array(p.array.numpy()) for name, p in self.parameters.items()}

    def update(self, updates: int) -> None:
        """After so many updates of the parameters."""
        rate = np.float32(1 - min(self.decay, (1 + updates) / (10 + updates)))
        for name, p in self.parameters.items():
            mine = self._values[name]
            mine += rate * (p.array.numpy() - mine)

    @contextmanager
    def applied(self):
        """The parameters have the averaged values within, their own again behind."""
        own = {name: np.array(p.array.numpy()) for name, p in self.parameters.items()}
        assign(self.parameters, self._values)
        try:
            yield
        finally:
            assign(self.parameters, own)

    def state_dict(self) -> dict[str, np.ndarray]:
        """`ema.<name>`, views."""
        return {f"ema.{name}": values for name, values in self._values.items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """The reverse. ValueError names what does not fit."""
        for key, mine in self.state_dict().items():
            found = np.shape(state[key]) if key in state else None
            if found != mine.shape:
                raise ValueError(f"[average] expected {key} of shape {mine.shape}, got {found}")
            mine[...] = state[key]
