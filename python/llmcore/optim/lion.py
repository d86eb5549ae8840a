"""Lion."""

from __future__ import annotations

from collections.abc import Iterable

from llmcore import _core
from llmcore.nn import Parameter
from llmcore.optim.base import Optimizer


class Lion(Optimizer):
    """Updates by the sign of a momentum (Chen et al. 2023): half of AdamW's memory; the learning rate is three to ten times
    lower and the decay as much higher."""

    kinds = "m"

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 1.0,
    ):
        super().__init__(named_parameters, lr, weight_decay)
        self.betas = betas

    def update(self, name, p, kept, lr, decay, scale) -> None:
        _core.lion(p.array, p.grad, kept[0], lr, *self.betas, decay, scale, p.panels_in_use())
