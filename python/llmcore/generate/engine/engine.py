"""The engine: requests for one model join and leave a running batch (continuous batching, Yu et al. 2022).

A request waits, is prefilled in chunks between the decoding steps of others, and then decodes one token per step. Its
tokens depend on its prompt and its own parameters only: kernels compute every row independently of its neighbours, and
draws are keyed by the request's seed and the number of the draw.

No background thread: whoever waits for a request steps the engine for everyone (`Engine.step`), under a lock, so nothing
runs unless somebody is waiting, and any number of threads may submit requests at the same time.

An exception may strike anywhere (Ctrl-C), and a fork leaves behind whatever other threads were doing. Afterwards all
requests begin again with what the prefix cache holds, and so get the same tokens; in a forked child, they fail.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from llmcore import _core, autograd, ops
from llmcore._fields import number
from llmcore._processes import NotCopied, tell_of_forks
from llmcore._tensor import Tensor
from llmcore.errors import Error, StateError
from llmcore.generate.engine.pool import new_pool
from llmcore.generate.engine.prefix_cache import PrefixCache
from llmcore.generate.engine.recorded_steps import LARGEST, RecordedSteps
from llmcore.generate.engine.request import QueueFull, Request, SampledToken
from llmcore.generate.engine.sampler import Sampler
from llmcore.models import CausalLM, KVCache
from llmcore.models.kv_cache import BLOCK, NoBlocks, blocks_for

_FEW = 32  # tokens of a prompt, at most, that a recorded step prefills
_LOGIT_ROWS = 64  # positions per step of a prompt whose log-probabilities are wanted


class Engine(NotCopied):
    """Runs any number of requests for one model.

    max_batch: how many requests decode at a time. max_waiting: how many may wait. chunk: how many tokens of a prompt are
    prefilled between two decoding steps of others. cache_bytes: memory for keys and values; by default an eighth of the
    machine's, at most 1 GiB, but at least enough for a context of 8,192 tokens; it is taken as it is needed. cache_dtype:
    as of `CausalLM.new_cache`. Computed prefixes stay cached as long as there is room.
    """

    def __init__(
        self,
        model: CausalLM,
        max_batch: int = 64,
        max_waiting: int = 4096,
        chunk: int = 128,
        cache_bytes: int | None = None,
        cache_dtype: str | None = None,
    ):
        for name, value in (("max_batch", max_batch), ("max_waiting", max_waiting), ("chunk", chunk)):
            number("engine", name, value, lambda v: v >= 1, "an integer >= 1", True)
        if cache_bytes is not None:
            cache_bytes = number("engine", "cache_bytes", cache_bytes, lambda v: v >= 1, "an integer >= 1", True)
        self.model, self.max_batch, self.max_waiting, self.chunk = model, min(max_batch, LARGEST), max_waiting, chunk
        self.pool = new_pool(model, cache_bytes, cache_dtype, max_batch)
        self.prefixes = PrefixCache(self.pool)
        self._steps = RecordedSteps(model, self.pool)
        self._lock = threading.RLock()
        self._live: dict[int, Request] = {}  # all that were submitted and are not done, by their id()
        self._waiting: list[tuple[int, int, Request]] = []  # a heap: (-priority, number, request)
        self._numbers = itertools.count()
        self._prefilling: Request | None = None
        self._decoding: list[Request] = []
        self._sampler: Sampler | None = None
        self._stepping = False
        self._writing: Request | None = None  # whose sink is being written to
        self._dropped: deque[Request] = deque()  # to be cancelled by whoever is inside next
        self._in_order, self._forked = True, False  # unless an exception strikes; in a child that has not noticed yet
        self._version = model.version
        tell_of_forks(self)

    # ---- for callers ----

    def submit(self, request: Request) -> None:
        """Queue a request. QueueFull if too many wait already; ValueError for a prompt that cannot be continued."""
        context = self.model.config.context
        if not 0 < len(request.tokens) < context:
            raise Error(
                "generate",
                expected=f"a prompt of 1 to {context - 1} tokens (the context is {context})",
                got=len(request.tokens),
            )
        vocab = self.model.config.vocab_size
        if not all(0 <= i < vocab for i in request.tokens):
            raise Error("generate", expected=f"token ids in [0, {vocab})", got=str(request.tokens)[:240])
        request.params.check_ids(vocab)
        with self.entered():
            if len(self._waiting) >= self.max_waiting:
                raise QueueFull("engine", expected=f"at most {self.max_waiting} waiting requests", got="one more")
            if not (self._waiting or self._decoding or self._prefilling):
                self.notice_new_weights()
            if request.params.max_tokens == 0 and not request.params.prompt_logprobs:
                request.done = True
                return
            self._live[id(request)] = request
            heapq.heappush(self._waiting, (-request.priority, next(self._numbers), request))

    def cancel(self, *requests: Request) -> None:
        """Drop requests, whatever their state; their blocks are free when this returns."""
        self._dropped.extend(requests)
        with self.entered():
            self._drop()

    def abandon(self, request: Request) -> None:
        """Drop a request without ever waiting: destructors run in the middle of anything. It gets no token more."""
        self._dropped.append(request)
        self._drop_if_free()

    def run(self, requests: Sequence[Request], submit: bool = True) -> None:
        """Run these requests until all are done, then raise the first error among them. Requests beyond what the queue takes
        are submitted as others finish."""
        try:
            for i, r in enumerate(requests if submit else ()):
                while True:
                    try:
                        self.submit(r)
                        break
                    except QueueFull:
                        before = next((b for b in requests[:i] if not b.done), None)
                        if before is None:
                            raise  # others fill the queue
                        self.step_for(before)
            for r in requests:
                while not r.done:
                    self.step_for(r)
        finally:
            self.cancel(*requests)
        for r in requests:
            if r.error is not None:
                raise r.error

    def step_for(self, request: Request) -> None:
        """Step the engine, unless the request is done."""
        with self.entered():
            if not request.done:
                self._one_step()

    def step(self) -> None:
        """Admit a waiting request, prefill a chunk of a prompt, and decode a token for every request that is past its prompt."""
        with self.entered():
            self._one_step()

    def _one_step(self) -> None:
        if self._stepping:
            raise StateError("engine", expected="on_token not to generate", got="a request from inside it")
        self._stepping = True
        try:
            with autograd.no_grad():
                self._step()
        finally:
            self._stepping = False

    def _step(self) -> None:
        self._expire()
        self._admit()
        if self._prefilling is not None:
            self._guarded(self._prefill, self._prefilling)
        for r in [r for r in self._decoding if r.shift != self.model.shift(len(r.tokens))]:
            self._send_back(r)  # beyond longrope's original context everything turns otherwise
        proposing = [r for r in self._decoding if r.proposer is not None]
        for r in proposing:
            if r in self._decoding:  # neither sent back nor cancelled meanwhile
                self._guarded(self._verify, r)
        self._decode([r for r in self._decoding if r.proposer is None])

    def reset(self) -> None:
        """Forget all cached prefixes."""
        with self.entered():
            self.prefixes.clear()

    def _instead(self) -> str:
        return "load the model there and make one, Engine(lm.model, ...)"

    # ---- whoever is inside ----

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Hold the lock. Where anything but an `Error` leaves, whoever enters next puts everything in order."""
        nested = self._lock._is_owned()  # type: ignore[attr-defined]
        with self._lock:
            if self._forked or not (self._in_order or nested):
                self._begin_again()
            self._in_order = False
            self._drop()
            try:
                yield
            except Error:
                self._in_order = not nested
                raise
            self._in_order = not nested
        if not nested:
            self._drop_if_free()

    def _drop(self) -> None:
        while self._dropped:
            self._take_out(self._dropped[0])
            self._dropped.popleft()

    def _drop_if_free(self) -> None:
        """Drop what was abandoned, unless somebody is inside, who does it afterwards."""
        while self._dropped and not self._lock._is_owned() and self._lock.acquire(blocking=False):  # type: ignore[attr-defined]
            try:
                with self.entered():
                    pass
            finally:
                self._lock.release()

    def after_fork(self) -> None:
        self._lock = threading.RLock()
        self._forked = True

    def _begin_again(self) -> None:
        """Put in order what an exception from outside, or a fork, has left half done: every request begins again with what
        the prefix cache holds. Those of a forked process fail in the child, where nobody may wait for them."""
        if self._forked and self.model.device != "cpu":
            raise StateError(
                "engine", expected="a process that loads the model itself, to use a GPU", got="a forked one"
            )
        self._stepping, self._sampler, self._prefilling, self._decoding = False, None, None, []
        self._steps.clear()
        for r in list(self._live.values()):
            r.blocks, r.computed = [], 0
            if self._forked:
                r.error = StateError("engine", "the process was forked while this request ran: ask again")
            elif r is self._writing:
                r.error = StateError("engine", "the request was interrupted while a token was written: ask again")
            if r.error is not None or r.done:
                r.done = True
                self._live.pop(id(r))
        self._recount()
        self._waiting = [(-r.priority, next(self._numbers), r) for r in self._live.values()]
        heapq.heapify(self._waiting)
        self._writing, self._forked = None, False

    def _recount(self) -> None:
        """Count the references to blocks anew."""
        if self.prefixes.changing:
            self.prefixes = PrefixCache(self.pool)
        held = [r.blocks for r in self._live.values()]
        self.pool.recount(itertools.chain([self._steps.scratch], self.prefixes.blocks(), *held))

    def notice_new_weights(self) -> None:
        """Forget what was computed with weights that have changed since."""
        version = self.model.version
        if version != self._version:
            self.prefixes.clear()
            self._steps.clear()
            self._version = version

    def _expire(self) -> None:
        now = time.monotonic()
        prefilling = [] if self._prefilling is None else [self._prefilling]
        for r in [*(w[2] for w in self._waiting), *prefilling, *self._decoding]:
            if r.deadline is not None and now > r.deadline:
                r.timed_out = True
                self._take_out(r)

    def _admit(self) -> None:
        """Start the next prompt. One at a time, because the next may share a prefix with it."""
        if self._prefilling is not None or not self._waiting or len(self._decoding) >= self.max_batch:
            return
        r = heapq.heappop(self._waiting)[2]
        reusable = 0 if r.params.prompt_logprobs and not r.generated else len(r.tokens) - 1
        r.shift = self.model.shift(len(r.tokens))
        blocks, more = self.prefixes.find(_key(r, reusable))
        r.prompt_logprobs = []
        r.blocks = [self.pool.retain(b) for b in blocks]
        r.computed = r.cached_tokens = BLOCK * len(blocks)
        self._prefilling = r
        if more is not None:
            block, positions = more
            self.pool.retain(block)  # so that making room for its copy does not evict it
            try:
                own = self._allocate()
                self.pool.copy(block, own, positions)
                r.blocks.append(own)
                r.computed = r.cached_tokens = r.computed + positions
            except NoBlocks:
                pass  # these positions are computed again
            finally:
                self.pool.release(block)

    def _take_out(self, r: Request) -> None:
        """Cancel a request, whatever its state."""
        r.cancelled = True
        if not r.done:
            self._waiting = [w for w in self._waiting if w[2] is not r]
            heapq.heapify(self._waiting)
            self._finish(r)

    def _finish(self, r: Request) -> None:
        r.done = True
        if r is self._prefilling:
            self._prefilling = None
        self._decoding = [w for w in self._decoding if w is not r]
        self._release(r)
        self._live.pop(id(r), None)

    def _release(self, r: Request) -> None:
        """Release a request's blocks; their contents stay in the prefix cache."""
        if r.computed:
            self.prefixes.add(_key(r, r.computed), r.blocks)
        for block in r.blocks:
            self.pool.release(block)
        r.blocks, r.computed = [], 0

    def _fail(self, r: Request, error: BaseException) -> None:
        r.error = error
        r.blocks, r.computed = [], 0  # whose contents, and whose number, may be wrong now
        self._finish(r)
        self._recount()

    def _guarded(self, work: Callable[..., Any], r: Request, *args: Any) -> Any:
        """Return work(r, ...), or None if it failed: an error ends the request that caused it and no other."""
        try:
            return work(r, *args)
        except Exception as error:
            self._fail(r, error)
            return None

    def _too_small(self, r: Request) -> MemoryError:
        room = (self.pool.blocks - 1) * BLOCK
        return MemoryError(
            f"[engine] expected at most {room} tokens at a time (what cache_bytes has room for), got {len(r.tokens)}"
        )

    # ---- blocks ----

    def _allocate(self) -> int:
        if not self.pool.free:
            self.prefixes.evict(1)
        return self.pool.allocate()

    def _make_room(self, r: Request, positions: int) -> bool:
        """Allocate blocks for the next positions of a request. If none are left, the request that came last among those of
        the lowest priority goes back to the queue and recomputes what it lost; returns False if that was `r` itself."""
        while len(r.blocks) < blocks_for(r.computed + positions):
            try:
                r.blocks.append(self._allocate())
            except NoBlocks:
                others = [*self._decoding, *([self._prefilling] if self._prefilling else [])]
                last = max(others, key=lambda w: (-w.priority, w is self._prefilling, others.index(w)))
                if last is r and len(others) == 1:
                    raise self._too_small(r) from None
                self._send_back(last)
                if last is r:
                    return False
        return True

    def _send_back(self, r: Request) -> None:
        """Return a request to the queue, where it is the next of its priority."""
        if r is self._prefilling:
            self._prefilling = None
        self._decoding = [w for w in self._decoding if w is not r]
        self._release(r)
        heapq.heappush(self._waiting, (-r.priority, -next(self._numbers), r))

    # ---- prefill ----

    def _prefill(self, r: Request) -> None:
        busy = bool(self._decoding)
        n = min(len(r.tokens) - r.computed, self.chunk if busy else max(self.chunk, 512))
        ask = r.params.prompt_logprobs and not r.generated
        if ask:
            n = min(n, _LOGIT_ROWS)
        if not self._make_room(r, n):
            return
        ids = np.array([r.tokens[r.computed : r.computed + n]], np.int32)
        last = r.computed + n == len(r.tokens)
        if n <= _FEW and self.model.recordable and not ask:
            logits = self._run([r], ids, last_only=True)
        else:
            table = np.array([r.blocks], np.int32)
            cache = KVCache(self.pool, table, np.array([r.computed], np.int32), len(r.blocks) * BLOCK, r.shift)
            hidden = self.model.hidden(ids, cache)
            r.computed += n
            if ask:
                self._score_prompt(r, hidden, n)
            if not last:
                return
            logits = self.model.logits(Tensor(hidden.array.narrow(1, n - 1, 1))).array
        if not last:
            return
        self._prefilling = None
        self.prefixes.add(_key(r, r.computed), r.blocks)
        if ask:
            r.sink.prompt(r.prompt_logprobs)
        if r.params.max_tokens == 0:
            self._finish(r)
            return
        self._decoding.append(r)
        rows = logits.reshape([-1, logits.shape[-1]])
        row = rows.narrow(0, rows.shape[0] - 1, 1)
        self._deliver(r, Sampler([r], self.model.config.vocab_size).draw(row)[0])

    def _score_prompt(self, r: Request, hidden: Tensor, n: int) -> None:
        logits = self.model.logits(hidden)
        rows = Tensor(logits.array.reshape([n, logits.shape[-1]]))
        targets = np.full(n, -1, np.int32)
        known = r.tokens[r.computed - n + 1 : r.computed + 1]
        targets[: len(known)] = known
        losses = ops.cross_entropy(rows, targets, "none").numpy()
        r.prompt_logprobs += [-float(x) for x in losses[: len(known)]]

    # ---- decode ----

    def _run(self, requests: Sequence[Request], ids: np.ndarray, last_only: bool = False) -> _core.Array:
        """Compute the next tokens (B, count) of requests that have room for them -> logits (B, count, V), or (B, 1, V)."""
        logits = self._steps.run([(r.blocks, r.computed, r.shift) for r in requests], ids, last_only)
        for r in requests:
            r.computed += ids.shape[1]
        return logits

    def _decode(self, requests: list[Request]) -> None:
        for r in requests:
            if r in self._decoding:  # not sent back to the queue for lack of room meanwhile
                r.computed = len(r.tokens) - 1  # even if an earlier step was interrupted
                self._guarded(self._make_room, r, 1)
        ready = [r for r in requests if r in self._decoding]
        if not ready:
            return
        logits = self._run(ready, np.array([[r.tokens[-1]] for r in ready], np.int32))
        rows = logits.reshape([len(ready), logits.shape[-1]])
        try:
            if self._sampler is None or not self._sampler.is_for(ready):
                self._sampler = Sampler(ready, self.model.config.vocab_size)
            drawn = self._sampler.draw(rows)
        except Exception:  # find out which of them
            self._sampler = None
            for i, r in enumerate(ready):
                if r.done:
                    continue
                d = self._guarded(self._sample_alone, r, rows.narrow(0, i, 1))
                if d is not None:
                    self._guarded(self._deliver, r, d)
            return
        for r, d in zip(ready, drawn, strict=True):
            if not r.done:  # an earlier one cancelled it
                self._guarded(self._deliver, r, d)

    def _sample_alone(self, r: Request, row: _core.Array) -> SampledToken:
        return Sampler([r], self.model.config.vocab_size).draw(row)[0]

    def _verify(self, r: Request) -> None:
        """Decode the proposed tokens in one step and keep those that were right, and one more. Draws are keyed by their
        number, so they are the same as one token at a time; a guess is right if it equals the draw."""
        assert r.proposer is not None
        r.computed = len(r.tokens) - 1
        room = min(r.params.max_tokens - r.generated, self.model.config.context - len(r.tokens)) - 1
        room = min(room, _FEW - 1)
        while room > 0 and self.model.shift(len(r.tokens) + room) != r.shift:
            room -= 1
        guesses = list(r.proposer.propose(r, room)) if room > 0 else []
        if not self._make_room(r, 1 + len(guesses)):
            return
        start = r.computed
        logits = self._run([r], np.array([[r.tokens[-1], *guesses]], np.int32))
        rows = logits.reshape([1 + len(guesses), logits.shape[-1]])
        for i in range(1 + len(guesses)):
            drawn = self._sample_alone(r, rows.narrow(0, i, 1))
            r.computed = start + i + 1  # positions of wrong guesses are overwritten
            self._deliver(r, drawn)
            if r.done or i == len(guesses) or drawn.token != guesses[i]:
                r.proposer.record(i, len(guesses))
                return

    def _deliver(self, r: Request, drawn: SampledToken) -> None:
        self._writing = r
        r.tokens.append(drawn.token)
        last = "length" if r.generated >= r.params.max_tokens or len(r.tokens) >= self.model.config.context else None
        if r.constraint is not None:
            r.constraint.accept(drawn.token)
            last = "stop" if r.constraint.complete else last
        r.done = bool(r.sink.write(drawn, last) or last) or r.done
        self._writing = None
        if r.done:
            self._finish(r)


def _key(r: Request, count: int) -> list[int]:
    """Return what stands for a request's first tokens in the prefix cache: keys that turn otherwise are not shared."""
    return [~id for id in r.tokens[:count]] if r.shift else r.tokens[:count]
