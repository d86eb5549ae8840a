"""A short step of decoding, recorded once and replayed without Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmcore import _core, autograd, ops
from llmcore.models.cache import KVCache
from llmcore.models.layers import Place

if TYPE_CHECKING:
    from llmcore.models.base import CausalLM


class DecodeStep:
    """The next `count` tokens of every row of a cache: tokens (B, count) -> logits (B, count, V), in the same memory each
    time. With `last_only`, (B, 1, V): those of each row's token number last[b].

    The first call runs the model, which makes what it makes once (packed weights, tables of rotations); the second records
    what the ops do, and later ones replay that in C++, without the GIL. Weights must not be replaced meanwhile. Not for
    several threads at once.
    """

    def __init__(self, model: CausalLM, cache: KVCache, count: int = 1, last_only: bool = False):
        shape = (len(cache.lengths), count)
        self.last = np.full(shape[0], count - 1, np.int32)
        self._rows = np.zeros(shape[0], np.int32) if last_only and count > 1 else None  # of these among all tokens
        self._model, self._cache = model, cache
        self._ids, self._positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        self._plan: _core.Plan | None = None
        self._ran = False
        self._logits: _core.Array | None = None
        self._kept: list = []

    def __call__(self, tokens: np.ndarray) -> _core.Array:
        model, cache = self._model, self._cache
        if not model.recordable:
            return self._run(model, *model.place(np.asarray(tokens), cache))
        self._ids[...] = tokens
        rows, count = self._ids.shape
        self._positions[...] = cache.advance(count)
        if self._rows is not None:
            self._rows[...] = np.arange(rows) * count + self.last
        if not self._ran:
            self._ran = True
            return self._run(model, self._ids, Place(cache, self._positions, cache.capacity))
        if self._plan is None:
            self._record()
        else:
            self._plan.run()
        assert self._logits is not None
        return self._logits

    def _record(self) -> None:
        plan, at = _core.Plan(), Place(self._cache, self._positions, self._cache.capacity)
        tables = self._tables(at)  # another thread may make longer ones
        plan.begin()
        try:
            self._logits = self._run(self._model, self._ids, at)
        finally:
            plan.end()
        # The plan knows addresses only: what it reads must stay.
        parameters = [p for _, p in self._model.named_parameters()]
        self._kept = [p.memory() for p in parameters] + tables + self._tables(at)
        self._plan = plan

    def _tables(self, at: Place) -> list:
        return [r.tables(at.end, self._model.device) for r in self._model.rotary_tables()]

    def _run(self, model: CausalLM, ids: np.ndarray, at: Place) -> _core.Array:
        with autograd.no_grad():
            hidden = model.hidden_at(ids, at)
            if self._rows is not None:
                B, T, width = hidden.shape
                hidden = ops.gather_rows(hidden.reshape(B * T, width), self._rows).reshape(B, 1, width)
            return model.logits(hidden).array
