"""Averaged weights, which are better than the last ones while the learning rate is high."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager

import numpy as np

from llmcore import _core
from llmcore._arrays import fill
from llmcore.errors import Error
from llmcore.nn import Parameter


class EMA:
    """An exponential moving average of parameters, e ← e + (1 − d)(p − e), with d = min(decay, (1 + t) / (10 + t)) after t
    updates, so that the first weights are soon forgotten."""

    def __init__(self, parameters: Mapping[str, Parameter], decay: float):
        self.parameters, self.decay = dict(parameters), decay
        self._values = {name: _copy(p) for name, p in self.parameters.items()}

    def update(self, updates: int) -> None:
        """Take the parameters in, after so many updates."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        for name, p in self.parameters.items():
            _blend(self._values[name], p.array, decay)

    @contextmanager
    def applied(self):
        """Give the parameters the averaged values, and their own again afterwards."""
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
        """Return the averages as `ema.<name>`: views, or copies if they are on a GPU."""
        return {f"ema.{name}": values.numpy() for name, values in self._values.items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Load what `state_dict` returned. Raises ValueError that names what does not fit."""
        for name, mine in self._values.items():
            key = f"ema.{name}"
            found = np.shape(state[key]) if key in state else None
            if found != mine.shape:
                raise Error("average", expected=f"{key} of shape {mine.shape}", got=found)
            fill(mine, state[key])


def _blend(average: _core.Array, values: _core.Array, decay: float) -> None:
    """Set average ← decay · average + (1 − decay) · values, which is what the momentum kernel does without Nesterov."""
    _core.momentum(values, average, decay, False, 1.0)


def _copy(p: Parameter) -> _core.Array:
    out = _core.empty(list(p.shape), p.array.dtype, p.device)
    out.copy_from(p.array)
    return out
