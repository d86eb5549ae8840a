"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable

from llmcore import _core
from llmcore.nn import Parameter
from llmcore.optim.base import Optimizer


class SGD(Optimizer):
    """SGD with momentum: m ← momentum · m + g, and p ← p − lr · m, or p ← p − lr · (g + momentum · m) with nesterov
    (Sutskever et al. 2013). Without momentum there is no state."""

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        lr: float = 0.1,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ):
        self.momentum, self.nesterov = momentum, nesterov
        super().__init__(named_parameters, lr, weight_decay)

    def kinds_of(self, name, p) -> str:
        return "m" if self.momentum else ""

    def update(self, name, p, kept, lr, decay, scale) -> None:
        m = kept[0] if kept else None
        _core.sgd(p.array, p.grad, m, lr, self.momentum, self.nesterov, decay, scale, p.panels_in_use())
