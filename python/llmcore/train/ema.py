"""Weights averaged over training, which are better than the last ones while the learning rate is high."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager

import numpy as np

from llmcore import _core
from llmcore._arrays import fill
from llmcore.nn import Parameter


class EMA:
    """An exponential moving average of parameters, e ← e + (1 − d)(p − e), with d = min(decay, (1 + t) / (10 + t)) after t
    updates: the first weights are soon forgotten."""

    def __init__(self, parameters: Mapping[str, Parameter], decay: float):
        self.parameters, self.decay = dict(parameters), decay
        self._values = {name: _copy(p) for name, p in self.parameters.items()}

    def update(self, updates: int) -> None:
        """After so many updates of the parameters."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        for name, p in self.parameters.items():
            _core.momentum(p.array, self._values[name], decay, False, 1.0)  # m ← d m + (1 − d) p

    @contextmanager
    def applied(self):
        """The parameters have the averaged values within, their own again behind."""
        own = {name: _copy(p) for name, p in self.parameters.items()}
        self._put(self._values)
        try:
            yield
        finally:
            self._put(own)

    def _put(self, values: Mapping[str, _core.Array]) -> None:
        for name, p in self.parameters.items():
            p.array.copy_from(values[name])
            p.updated()

    def state_dict(self) -> dict[str, np.ndarray]:
        """`ema.<name>`, views, of a GPU's copies."""
        return {f"ema.{name}": values.numpy() for name, values in self._values.items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """The reverse. ValueError names what does not fit."""
        for name, mine in self._values.items():
            key = f"ema.{name}"
            found = np.shape(state[key]) if key in state else None
            if found != mine.shape:
                raise ValueError(f"[average] expected {key} of shape {mine.shape}, got {found}")
            fill(mine, state[key])


def _copy(p: Parameter) -> _core.Array:
    out = _core.empty(list(p.shape), p.array.dtype, p.device)
    out.copy_from(p.array)
    return out
