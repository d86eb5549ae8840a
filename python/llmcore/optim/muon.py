"""Muon: orthogonalised momentum."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llmcore import _core
from llmcore._arrays import to_dtype
from llmcore.nn import Parameter
from llmcore.optim.base import Optimizer


def is_block_matrix(name: str, p: Parameter) -> bool:
    """Return whether this is a matrix inside the blocks, neither embedding nor output layer."""
    return p.ndim == 2 and name.startswith("blocks.")


class Muon(Optimizer):
    """Momentum of the matrices inside the blocks, orthogonalised by Newton-Schulz (Jordan et al. 2024); AdamW for
    embeddings, output layer, norms and biases.

    An orthogonal update is scaled by 0.2 √max(rows, columns), so that its entries are as large as AdamW's and one
    learning rate and decay serve both (Liu et al. 2025). The parts of a fused matrix (queries, keys and values; gate and
    up) are orthogonalised separately: see `Parameter.parts`. dtype: of the products, "float32" or "bfloat16".
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Parameter]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        dtype: str = "float32",
        orthogonal: Callable[[str, Parameter], bool] = is_block_matrix,
    ):
        self.momentum, self.betas, self.eps, self.dtype, self.orthogonal = momentum, betas, eps, dtype, orthogonal
        super().__init__(named_parameters, lr, weight_decay)

    def kinds_of(self, name, p) -> str:
        return "m" if self.orthogonal(name, p) else "mv"

    def update(self, name, p, kept, lr, decay, scale) -> None:
        panels = p.panels_in_use()
        if not self.orthogonal(name, p):
            m, v = kept
            _core.adamw(p.array, p.grad, m, v, lr, *self.betas, self.eps, decay, self.steps, scale, panels)
            return
        u = _core.momentum(p.grad, kept[0], self.momentum, True, scale)
        start = 0
        for rows in p.parts or (p.shape[0],):
            part = u.narrow(0, start, rows)
            part.copy_from(_core.scale(orthogonalised(part, self.dtype), 0.2 * max(part.shape) ** 0.5))
            start += rows
        _core.sgd(p.array, u, None, lr, 0.0, False, decay, 1.0, panels)


def orthogonalised(x: _core.Array, dtype: str = "float32") -> _core.Array:
    """Return the matrix x (m, n) float32 with all singular values moved close to 1: five Newton-Schulz iterations from
    x / ‖x‖, with products in dtype."""
    return _core.orthogonalised(x, to_dtype(dtype))
