"""Beam search: an approximation of the completions that are likeliest as a whole."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llmcore import _core, autograd
from llmcore._sequences import largest
from llmcore.errors import Error
from llmcore.generate.engine.allowed import allow, note_end
from llmcore.generate.engine.constrain import Constraint
from llmcore.generate.engine.dry import Breakers, biases
from llmcore.generate.engine.params import SamplingParams
from llmcore.generate.text import Completion, TextStream
from llmcore.generate.text_model import TextModel
from llmcore.models import DecodeStep, KVCache
from llmcore.models.kv_cache import BLOCK, BlockPool, blocks_for


@dataclass
class _Beam:
    """What was written so far (an `allowed.Unfinished`). score: the sum of log-probabilities, with what biases and penalties
    add to them."""

    tokens: list[int]  # the prompt's too
    prompt_length: int
    params: SamplingParams
    end_ids: Sequence[int]
    constraint: Constraint | None
    notes: list[str] = field(default_factory=list)
    score: float = 0.0
    logprobs: list[float] = field(default_factory=list)
    tops: list[list[tuple[int, float]]] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    reason: str = "length"
    stop_reason: str | int | None = None

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length

    def rank(self, length_penalty: float) -> float:
        """Return the score over length ** length_penalty. The end counts as a token."""
        return self.score / max(self.generated + isinstance(self.stop_reason, int), 1) ** length_penalty


def search(
    lm: TextModel,
    prompt: Sequence[int],
    params: SamplingParams,
    end_ids: Sequence[int],
    constraint: Constraint | None,
    beams: int,
    length_penalty: float,
    timeout: float | None,
) -> list[Completion]:
    """Return at most `beams` completions, the best first, by the sum of their tokens' log-probabilities, that of the end
    included, divided by length ** length_penalty: the rule of transformers with its defaults, early stopping included (Wu
    et al. 2016 use another formula). Biases, penalties, bans and forms change what is summed as they change logits; nothing
    is drawn. Beams share the blocks of their common prefix."""
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    context = lm.config.context
    if not 0 < len(prompt) < context:
        raise Error("generate", expected=f"a prompt of 1 to {context - 1} tokens", got=len(prompt))
    params.check_ids(lm.config.vocab_size)
    room = min(params.max_tokens, context - len(prompt))
    blocks, shift = blocks_for(len(prompt) + room), lm.model.shift(len(prompt) + room)  # of the longest beam
    pool = lm.model.new_pool(blocks_for(len(prompt)) + beams * (blocks - len(prompt) // BLOCK + 2))
    table = np.array([[pool.allocate() for _ in range(blocks_for(len(prompt)))]], np.int32)
    cache = KVCache(pool, table, np.zeros(1, np.int32), table.size * BLOCK, shift)
    with autograd.no_grad():
        logits = lm.model(np.array([prompt]), cache, last_only=True).array.reshape([1, -1])
    live = [_Beam(list(prompt), len(prompt), params, end_ids, constraint, blocks=table[0].tolist())]
    done: list[_Beam] = []
    cache = KVCache(pool, np.zeros((beams, blocks), np.int32), np.zeros(beams, np.int32), blocks * BLOCK, shift)
    step = DecodeStep(lm.model, cache)
    for n in range(1, room + 1):
        if time.monotonic() > deadline:
            for b in live:
                b.reason = "timeout"
            break
        grown: list[_Beam] = []
        for place, child in enumerate(_children(lm, logits, live, (1 + max(len(end_ids), 1)) * beams)):
            if child.reason == "stop" or n == room:
                done += [child] if place < beams else []  # later ones may only take the place of those that end
            elif len(grown) < beams:
                grown.append(child)
        done = sorted(done, key=lambda b: -b.rank(length_penalty))[:beams]
        hope = max((b.rank(length_penalty) for b in grown), default=-math.inf)
        if not grown or (len(done) == beams and hope <= done[-1].rank(length_penalty)):
            live = []
            break
        live = _own_blocks(pool, live, grown, len(prompt) + n - 1)
        for row, b in enumerate(live):
            cache.tables[row, : len(b.blocks)] = b.blocks
        cache.tables[len(live) :] = cache.tables[0]  # padding rows repeat the first and write the same values
        cache.lengths[:] = len(prompt) + n - 1
        tokens = np.array([[b.tokens[-1]] for b in [*live, *[live[0]] * (beams - len(live))]], np.int32)
        logits = step(tokens).reshape([beams, -1])
    done = sorted(done + live, key=lambda b: -b.rank(length_penalty))[:beams]
    before = _prompt_logprobs(lm, prompt) if params.prompt_logprobs else None
    return [_completion(lm, b, before) for b in done]


def _children(lm: TextModel, logits: _core.Array, live: Sequence[_Beam], count: int) -> list[_Beam]:
    """Return the continuations with the largest scores, the best first."""
    rows = logits.numpy()[: len(live)].astype(np.float64)
    top = rows.max(axis=1, keepdims=True)
    logprobs = rows - top - np.log(np.exp(rows - top).sum(axis=1, keepdims=True))
    breakers = Breakers(lm.tokenizer.token_bytes, live[0].params.dry_breakers)
    changed = [_changed(p, row, b, breakers) for p, row, b in zip(logprobs, rows, live, strict=True)]
    scores = np.stack([b.score + row for b, row in zip(live, changed, strict=True)])
    children = []
    for i, token in (divmod(int(at), rows.shape[1]) for at in largest(scores.reshape(-1), count)):
        if scores[i, token] > -math.inf:
            children.append(_child(lm, live[i], token, scores[i, token], logprobs[i]))
    return children


def _changed(logprobs: np.ndarray, logits: np.ndarray, b: _Beam, breakers: Breakers) -> np.ndarray:
    """Return the log-probabilities (V) of what comes next, with what the parameters add to logits, and −inf for what must
    not come."""
    p, changed = b.params, logits.copy()
    for token, bias in biases(b.tokens, p, breakers).items():
        changed[token] += bias
    if p.penalised:
        seen = np.unique(b.tokens)
        r = p.repetition_penalty
        changed[seen] = np.where(changed[seen] > 0, changed[seen] / r, changed[seen] * r)
        for token, count in Counter(b.tokens[b.prompt_length :]).items():
            changed[token] -= count * p.frequency_penalty + p.presence_penalty
    found = logprobs + (changed - logits)
    if p.masks or b.constraint is not None:
        mask = np.zeros(-(-len(logits) // 32), np.uint32)
        allow(b, len(logits), mask)
        allowed = np.unpackbits(mask.view(np.uint8), count=len(logits), bitorder="little")
        found = np.where(allowed, found, -math.inf)
    return found


def _child(lm: TextModel, b: _Beam, token: int, score: float, logprobs: np.ndarray) -> _Beam:
    child = _Beam(b.tokens, b.prompt_length, b.params, b.end_ids, b.constraint, b.notes.copy(), float(score))
    child.logprobs, child.tops, child.blocks = b.logprobs, b.tops, b.blocks
    if token in b.end_ids:
        child.reason, child.stop_reason = "stop", token
        return child
    child.tokens, child.logprobs = [*b.tokens, token], [*b.logprobs, float(logprobs[token])]
    if b.params.top_logprobs:
        tops = [(int(i), float(logprobs[i])) for i in largest(logprobs, b.params.top_logprobs)]
        child.tops = [*b.tops, tops]
    if b.constraint is not None:
        child.constraint = b.constraint.copy()
        child.constraint.accept(token)
    child.stop_reason = _read(lm, child)[0].stopped_by if b.params.stop else None
    if child.stop_reason is not None or (child.constraint is not None and child.constraint.complete):
        child.reason = "stop"
    return child


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


def _read(lm: TextModel, b: _Beam) -> tuple[TextStream, str]:
    """Return a stream that has read what a beam wrote, and the text."""
    stream = TextStream(lm.tokenizer, b.params.stop)
    text = "".join(stream.push(t) for t in b.tokens[b.prompt_length :] if t < lm.tokenizer.vocab_size)
    return stream, text


def _completion(lm: TextModel, b: _Beam, prompt_logprobs: list[float] | None) -> Completion:
    stream, text = _read(lm, b)
    note_end(b, b.reason, b.stop_reason is None)
    wanted = b.params.logprobs or b.params.top_logprobs
    return Completion(
        text + stream.finish(),
        b.tokens[b.prompt_length :],
        b.reason,
        b.prompt_length,
        b.logprobs if wanted else None,
        b.tops if b.params.top_logprobs else None,
        prompt_logprobs,
        stop_reason=b.stop_reason,
        notes=b.notes,
    )


def _prompt_logprobs(lm: TextModel, prompt: Sequence[int]) -> list[float]:
    if len(prompt) < 2:
        return []
    row = np.array([prompt], np.int32)
    with autograd.no_grad():
        return [-float(x) for x in lm.model.loss(row[:, :-1], row[:, 1:], reduction="none").numpy()[0]]
