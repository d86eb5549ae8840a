"""A short decoding step, recorded once and replayed without Python."""

from __future__ import annotations

import numpy as np

from llmcore import _core, autograd, ops
from llmcore.models.base import CausalLM
from llmcore.models.kv_cache import KVCache
from llmcore.models.layers import Positions


class DecodeStep:
    """Decodes the next `count` tokens of every row of a cache: tokens (B, count) -> logits (B, count, V), in the same memory
    each time. With `last_only`, (B, 1, V): the logits of each row's token number last[b].

    The first call runs the model, which prepares what it needs once (packed weights, rotation tables); the second records
    what the ops do, and later calls replay that in C++, without the GIL. Weights must not be replaced in between. Not
    thread-safe.
    """

    def __init__(self, model: CausalLM, cache: KVCache, count: int = 1, last_only: bool = False):
        shape = (len(cache.lengths), count)
        self.last = np.full(shape[0], count - 1, np.int32)
        self._rows = np.zeros(shape[0], np.int32) if last_only and count > 1 else None  # of the last tokens among all
        self._model, self._cache = model, cache
        self._ids, self._positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        self._plan: _core.Plan | None = None
        self._ran = False
        self._logits: _core.Array | None = None
        self._kept: list = []

    def __call__(self, tokens: np.ndarray) -> _core.Array:
        model, cache = self._model, self._cache
        if not model.recordable:
            return self._run(model, *model.locate(np.asarray(tokens), cache))
        self._ids[...] = tokens
        rows, count = self._ids.shape
        self._positions[...] = cache.advance(count)
        if self._rows is not None:
            self._rows[...] = np.arange(rows) * count + self.last
        if not self._ran:
            self._ran = True
            return self._run(model, self._ids, Positions(cache, self._positions, cache.capacity))
        if self._plan is None:
            self._record()
        else:
            self._plan.run()
        assert self._logits is not None
        return self._logits

    def _record(self) -> None:
        plan, pos = _core.Plan(), Positions(self._cache, self._positions, self._cache.capacity)
        tables = self._tables(pos)  # another thread may make longer ones
        plan.begin()
        try:
            self._logits = self._run(self._model, self._ids, pos)
        finally:
            plan.end()
        # The plan holds addresses only, so the memory behind them must stay alive.
        parameters = [p for _, p in self._model.named_parameters()]
        self._kept = [p.memory() for p in parameters] + tables + self._tables(pos)
        self._plan = plan

    def _tables(self, pos: Positions) -> list:
        return [r.tables(pos.end, self._model.device) for r in self._model.rotary_tables()]

    def _run(self, model: CausalLM, ids: np.ndarray, pos: Positions) -> _core.Array:
        with autograd.no_grad():
            hidden = model.hidden_at(ids, pos)
            if self._rows is not None:
                B, T, width = hidden.shape
                hidden = ops.take(hidden.reshape(B * T, width), self._rows).reshape(B, 1, width)
            return model.logits(hidden).array
