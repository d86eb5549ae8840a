"""Optimizers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from llmcore import _core
from llmcore._core import DType
from llmcore._tensor import array_to_numpy
from llmcore.nn import Parameter


class AdamW:
    """AdamW (Loshchilov & Hutter 2019). Weight decay acts on matrices only, never on norms and biases.

    named_parameters: (name, parameter) pairs; the names key the saved state.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ):
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.steps = 0
        self._parameters = dict(named_parameters)
        self._moments = {
            name: (_core.zeros(p.shape, DType.float32), _core.zeros(p.shape, DType.float32))
            for name, p in self._parameters.items()
        }

    def step(self, grad_scale: float = 1.0, lr: float | None = None) -> None:
        """One update of every parameter that has a gradient; gradients are multiplied by grad_scale first."""
        self.steps += 1
        for name, p in self._parameters.items():
            if p.grad is None:
                continue
            m, v = self._moments[name]
            decay = self.weight_decay if p.ndim >= 2 else 0.0
            _core.adamw(
                p.array,
                p.grad,
                m,
                v,
                self.lr if lr is None else lr,
                *self.betas,
                self.eps,
                decay,
                self.steps,
                grad_scale,
                p.panels_in_use(),
            )

    def state_dict(self) -> dict[str, np.ndarray]:
        """Views of the moments, `m.<name>` and `v.<name>`; `steps` is kept by the caller."""
        return {
            f"{kind}.{name}": array_to_numpy(t)
            for name, pair in self._moments.items()
            for kind, t in zip("mv", pair, strict=True)
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray], steps: int) -> None:
        """The reverse of `state_dict`. ValueError names what does not fit."""
        for key, own in self.state_dict().items():
            found = np.shape(state[key]) if key in state else None
            if found != own.shape:
                raise ValueError(f"[optimizer] expected {key} of shape {own.shape}, got {found}")
            own[...] = state[key]
        self.steps = steps


def global_norm(parameters: Iterable[Parameter]) -> float:
    """√(Σ g²) over all gradients, summed in float64 in a fixed order."""
    return _core.global_norm([p.grad for p in parameters if p.grad is not None])
