"""What all optimizers share: parameters by name, the optimizer state, and the norm of the gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import ClassVar

import numpy as np

from llmcore import _core
from llmcore._arrays import array_to_numpy, fill
from llmcore._core import DType
from llmcore.errors import Error
from llmcore.nn import Parameter


class Optimizer:
    """Updates parameters with their gradients. Weight decay is decoupled, lr · decay · p, and applies to matrices only, never
    to norms and biases.

    named_parameters: (name, parameter) pairs; the names are the keys of the saved state.
    """

    kinds: ClassVar[str] = ""  # one letter per state array of a parameter

    def __init__(self, named_parameters: Iterable[tuple[str, Parameter]], lr: float, weight_decay: float):
        self.lr, self.weight_decay = lr, weight_decay
        self.steps = 0
        self.parameters = dict(named_parameters)
        self._kept = {
            name: [_core.zeros(p.shape, DType.float32, p.device) for _ in self.kinds_of(name, p)]
            for name, p in self.parameters.items()
        }

    def kinds_of(self, name: str, p: Parameter) -> str:
        """Return the letters of one parameter's state arrays."""
        return self.kinds

    def update(self, name: str, p: Parameter, kept: list[_core.Array], lr: float, decay: float, scale: float) -> None:
        """Update p, its panels in use and its state, with p.grad times scale."""
        raise NotImplementedError

    def step(
        self, grad_scale: float = 1.0, lr: float | None = None, done: Callable[[str], object] | None = None
    ) -> None:
        """Update every parameter that has a gradient; gradients are multiplied by grad_scale first. done: called with each
        parameter's name as soon as it is updated."""
        self.steps += 1
        # A GPU updates all parameters together, unless the caller waits for each.
        with _core.UpdateBatch() if done is None else nullcontext():
            for name, p in self.parameters.items():
                if p.grad is not None:
                    decay = self.weight_decay if p.ndim >= 2 else 0.0
                    self.update(name, p, self._kept[name], self.lr if lr is None else lr, decay, grad_scale)
                if done is not None:
                    done(name)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return views of the state, `m.<name>` and so on (copies, if it is on a GPU); the caller saves `steps`."""
        return {key: array_to_numpy(array) for key, array in self._named()}

    def load_state_dict(self, state: Mapping[str, np.ndarray], steps: int) -> None:
        """Restore what `state_dict` returned. ValueError names what does not fit."""
        for key, own in self._named():
            found = np.shape(state[key]) if key in state else None
            if found != own.shape:
                raise Error("optimizer", expected=f"{key} of shape {own.shape}", got=found)
            fill(own, state[key])
        self.steps = steps

    def _named(self) -> Iterator[tuple[str, _core.Array]]:
        for name, kept in self._kept.items():
            for kind, array in zip(self.kinds_of(name, self.parameters[name]), kept, strict=True):
                yield f"{kind}.{name}", array


def global_norm(parameters: Iterable[Parameter]) -> float:
    """Return √(Σ g²) over all gradients, summed in float64 in a fixed order."""
    return _core.global_norm([p.grad for p in parameters if p.grad is not None])
