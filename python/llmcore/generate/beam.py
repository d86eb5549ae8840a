"""Beam search: an approximation of the completions that are likeliest as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmcore import _core, autograd
from llmcore._sequences import largest
from llmcore.errors import Error
from llmcore.generate.engine.params import SamplingParams
from llmcore.generate.text import Completion, TextStream
from llmcore.generate.text_model import TextModel
from llmcore.models import DecodeStep, KVCache
from llmcore.models.kv_cache import BLOCK, BlockPool, blocks_for


@dataclass
class _Beam:
    tokens: list[int]
    logprobs: list[float]
    blocks: list[int]

    @property
    def total(self) -> float:
        return float(np.sum(self.logprobs))

    def score(self, length_penalty: float) -> float:
        """Return the sum of log-probabilities over length ** length_penalty."""
        return self.total / max(len(self.tokens), 1) ** length_penalty


def search(
    lm: TextModel, prompt: Sequence[int], params: SamplingParams, beams: int, length_penalty: float
) -> list[Completion]:
    """Return at most `beams` completions, the best first, by the sum of their tokens' log-probabilities divided by
    length ** length_penalty (as transformers does; Wu et al. 2016 use another formula). Of params, only max_tokens, stop,
    stop_ids, ignore_eos and logprobs matter; nothing is drawn. Beams share the blocks of their common prefix."""
    context = lm.config.context
    if not 0 < len(prompt) < context:
        raise Error("generate", expected=f"a prompt of 1 to {context - 1} tokens", got=len(prompt))
    room = min(params.max_tokens, context - len(prompt))
    ends = {*(() if params.ignore_eos else lm.end_ids), *params.stop_ids}
    blocks, shift = blocks_for(len(prompt) + room), lm.model.shift(len(prompt) + room)  # of the longest beam
    pool = lm.model.new_pool(blocks_for(len(prompt)) + beams * (blocks - len(prompt) // BLOCK + 2))
    table = np.array([[pool.allocate() for _ in range(blocks_for(len(prompt)))]], np.int32)
    cache = KVCache(pool, table, np.zeros(1, np.int32), table.size * BLOCK, shift)
    with autograd.no_grad():
        logits = lm.model(np.array([prompt]), cache, last_only=True).array.reshape([1, -1])
    live = [_Beam([], [], table[0].tolist())]
    done: list[tuple[_Beam, str]] = []
    cache = KVCache(pool, np.zeros((beams, blocks), np.int32), np.zeros(beams, np.int32), blocks * BLOCK, shift)
    step = DecodeStep(lm.model, cache)
    for n in range(room):
        chosen = _best(logits, live, 2 * beams)
        grown: list[_Beam] = []
        for i, token, logprob in chosen:
            parent = live[i]
            if token in ends:
                done.append((_Beam(parent.tokens, [*parent.logprobs, logprob], []), "stop"))
            elif len(grown) < beams:
                child = _Beam([*parent.tokens, token], [*parent.logprobs, logprob], parent.blocks)
                if _stopped(lm, child, params):
                    done.append((child, "stop"))
                else:
                    grown.append(child)
        done = sorted(done, key=lambda d: -d[0].score(length_penalty))[:beams]
        best_hope = max((g.score(length_penalty) for g in grown), default=-np.inf)
        if not grown or n + 1 == room or (len(done) == beams and done[-1][0].score(length_penalty) >= best_hope):
            live = grown
            break
        live = _own_blocks(pool, live, grown, len(prompt) + n)
        for row, b in enumerate(live):
            cache.tables[row, : len(b.blocks)] = b.blocks
        cache.tables[len(live) :] = cache.tables[0]  # padding rows repeat the first and write the same values
        cache.lengths[:] = len(prompt) + n
        tokens = np.array([[b.tokens[-1]] for b in [*live, *[live[0]] * (beams - len(live))]], np.int32)
        logits = step(tokens).reshape([beams, -1])
    done += [(b, "length") for b in live]
    done.sort(key=lambda d: -d[0].score(length_penalty))
    return [_completion(lm, b, reason, len(prompt), params) for b, reason in done[:beams]]


def _best(logits: _core.Array, live: Sequence[_Beam], count: int) -> list[tuple[int, int, float]]:
    """Return (beam, token, log-probability) of the continuations with the largest sums, the best first."""
    rows = logits.numpy()[: len(live)].astype(np.float64)
    top = rows.max(axis=1, keepdims=True)
    logprobs = rows - top - np.log(np.exp(rows - top).sum(axis=1, keepdims=True))
    sums = (logprobs + np.array([[b.total] for b in live])).reshape(-1)
    best = largest(sums, count)
    return [(int(i // rows.shape[1]), int(i % rows.shape[1]), float(logprobs.reshape(-1)[i])) for i in best]


def _own_blocks(pool: BlockPool, before: Sequence[_Beam], grown: list[_Beam], length: int) -> list[_Beam]:
    """Give the grown beams their own blocks for what they write next; full blocks stay shared."""
    full, partial = length // BLOCK, length % BLOCK
    for b in grown:
        own = [pool.retain(block) for block in b.blocks[:full]]
        own.append(pool.allocate())
        if partial:
            pool.copy(b.blocks[full], own[-1], partial)
        b.blocks = own
    for b in before:
        for block in b.blocks:
            pool.release(block)
    return grown


def _stopped(lm: TextModel, b: _Beam, params: SamplingParams) -> bool:
    if not params.stop:
        return False
    stream = TextStream(lm.tokenizer, params.stop)
    for token in b.tokens:
        stream.push(token)
    return stream.stopped


def _completion(lm: TextModel, b: _Beam, reason: str, prompt_tokens: int, params: SamplingParams) -> Completion:
    stream = TextStream(lm.tokenizer, params.stop)
    text = "".join(stream.push(t) for t in b.tokens if t < lm.tokenizer.vocab_size) + stream.finish()
    logprobs = b.logprobs[: len(b.tokens)] if params.logprobs else None
    return Completion(text, b.tokens, reason, prompt_tokens, logprobs)
