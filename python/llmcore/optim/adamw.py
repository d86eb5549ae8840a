"""AdamW."""

from __future__ import annotations

from collections.abc import Iterable

from llmcore import _core
from llmcore.nn import Parameter
from llmcore.optim.base import Optimizer


class AdamW(Optimizer):
    """Adam with decoupled decay (Loshchilov & Hutter 2019)."""

    kinds = "mv"

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
    ):
        super().__init__(named_parameters, lr, weight_decay)
        self.betas, self.eps = betas, eps

    def update(self, name, p, kept, lr, decay, scale) -> None:
        m, v = kept
        _core.adamw(p.array, p.grad, m, v, lr, *self.betas, self.eps, decay, self.steps, scale, p.panels_in_use())
