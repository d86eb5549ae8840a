"""Several processes under mpiexec train one model (extra `mpi`): see `llmcore.train.distributed.group`.

A thread of its own reduces gradients in the order in which backward produces them, while backward goes on, each to the
process that owns its parameter. It broadcasts new values the same way while others are still being computed. The order is
the same everywhere and in every update, so runs with the same number of processes are equal to the bit. Arrays are sent
from where they lie: the matrices are large messages, and the small arrays cost little.
"""

from __future__ import annotations

import json
import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import numpy as np

from llmcore import runtime
from llmcore._arrays import array_to_numpy
from llmcore._tensor import Tensor
from llmcore.errors import Error
from llmcore.nn import Parameter

T = TypeVar("T")

PATIENCE = 2.0  # seconds to wait for the other processes to fail too


@cache
def mpi_group() -> MPIGroup:
    """Return the group of all processes that mpiexec started. Raises ValueError if mpi4py is not installed."""
    try:
        from mpi4py import MPI
    except ImportError:
        raise Error("mpi", "several processes need mpi4py: pip install 'llmcore[mpi]'") from None
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise Error("mpi", expected="an MPI that several threads of a process may call", got="one that refuses it")
    return MPIGroup(MPI)


class MPIGroup:
    """The group of all processes, as seen by this one; see `ProcessGroup` for what its methods do."""

    def __init__(self, mpi: Any):
        self._mpi = mpi
        self._comm, self._data, self._ends = mpi.COMM_WORLD, mpi.COMM_WORLD.Dup(), mpi.COMM_WORLD.Dup()
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        here = self._comm.Split_type(mpi.COMM_TYPE_SHARED).Get_size()  # on this machine
        self.threads: int | None = max(1, runtime.num_threads() // here)
        self._uncaught, sys.excepthook = sys.excepthook, self._end_all
        self._shared: dict[str, _Shared] = {}
        self._of: dict[int, _Shared] = {}  # by the id of a parameter
        self._worker: _Worker | None = None
        self._waited = self._busy = 0.0

    def _end_all(self, kind, error, traceback) -> None:
        """Handle an exception that nobody caught."""
        self.failed(lambda: self._uncaught(kind, error, traceback))

    @contextmanager
    def training(self, parameters: Mapping[str, Parameter]):
        self._shared = _shared(parameters, self.size)
        self._of = {id(item.parameter): item for item in self._shared.values()}
        self._worker = _Worker()
        try:
            yield
        finally:
            self._worker.end()

    def failed(self, tell: Callable[[], object], code: int = 1) -> None:
        """End this process, which cannot go on. If all processes fail, rank 0 alone tells; if only this one does, it tells
        and aborts the others, which would wait for it for ever."""
        everyone, deadline = self._ends.Ibarrier(), time.monotonic() + PATIENCE
        while not (together := everyone.Test()) and time.monotonic() < deadline:
            time.sleep(0.01)
        if self.rank == 0 or not together:
            tell()
        if not together or (self._worker is not None and self._worker.pending):
            sys.stderr.flush()
            time.sleep(0.5)  # until mpiexec has passed that on
            self._comm.Abort(code)

    def check_same(self, what: Mapping[str, Any]) -> None:
        mine = json.loads(json.dumps(dict(what)))
        first = self.broadcast(mine)
        for name, value in first.items():
            if mine.get(name) != value:
                raise Error(
                    "mpi",
                    expected=f"{name} {value!r:.80} in every process, as in the first",
                    got=f"{mine.get(name)!r:.80}",
                )

    def owned(self, parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
        return {name: p for name, p in parameters.items() if self._shared[name].owner == self.rank}

    def shard(self, batches: Sequence[T]) -> tuple[int, Sequence[T]]:
        start, end = (rank * len(batches) // self.size for rank in (self.rank, self.rank + 1))
        return start, batches[start:end]

    def broadcast(self, value: T) -> T:
        return json.loads(self._broadcast_bytes(json.dumps(value).encode() if self.rank == 0 else b""))

    def all_reduce(self, values: Sequence[float]) -> list[float]:
        mine = np.array(values, np.float64)
        everyone = np.empty((self.size, len(values)), np.float64)
        self._comm.Allgather(mine, everyone)
        return [sum(column) for column in everyone.T.tolist()]  # in the order of ranks

    def mean(self, figures: Mapping[str, float]) -> dict[str, float]:
        names = self.broadcast(list(figures))
        totals = self.all_reduce([float(figures.get(name, math.nan)) for name in names])
        return {name: total / self.size for name, total in zip(names, totals, strict=True)}

    def broadcast_parameters(self, parameters: Mapping[str, Parameter]) -> None:
        for p in parameters.values():
            self._comm.Bcast(array_to_numpy(p.array))
            p.updated()

    def barrier(self) -> None:
        self._comm.Barrier()

    # ---- while backward runs ----

    def on_gradient(self, parameter: Tensor) -> None:
        item = self._of.get(id(parameter))
        if item is not None:
            item.ready = True
            self._send_ready(self._reduce)

    def finish_reduce(self) -> None:
        self._finish(self._reduce)  # some parameters may have no gradient here
        for item in self._shared.values():  # what others own only has to be received
            item.ready = item.owner != self.rank

    def on_updated(self, name: str) -> None:
        self._shared[name].ready = True
        self._send_ready(self._send)

    def finish_broadcast(self) -> None:
        self._finish(self._send)

    def figures(self) -> dict[str, float]:
        """Return comm/seconds, the time that the last update's communication took, and comm/hidden, the fraction of it
        during which this process went on computing."""
        busy, waited = self._busy, self._waited
        self._busy = self._waited = 0.0
        return {"comm/seconds": busy, "comm/hidden": max(0.0, 1 - waited / busy) if busy else 1.0}

    def gather(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.rank:
            head = np.frombuffer(json.dumps([(k, a.shape) for k, a in arrays.items()]).encode(), np.uint8)
            self._comm.Send(np.array([len(head)], np.int64), 0)
            self._comm.Send(head, 0)
            for values in arrays.values():
                self._comm.Send(np.ascontiguousarray(values), 0)
            return arrays
        found = dict(arrays)
        for rank in range(1, self.size):
            size = np.empty(1, np.int64)
            self._comm.Recv(size, rank)
            head = np.empty(int(size[0]), np.uint8)
            self._comm.Recv(head, rank)
            for key, shape in json.loads(head.tobytes()):
                values = np.empty(shape, np.float32)
                self._comm.Recv(values, rank)
                found[key] = values
        return found

    # ---- the thread that communicates ----

    def _send_ready(self, work: Callable[[_Shared], None]) -> None:
        """Start what is ready, in the order that is the same everywhere: a parameter waits for those before it."""
        for item in self._shared.values():
            if not item.sent:
                if not item.ready:
                    return
                item.sent = True
                assert self._worker is not None
                self._worker.do(work, item)

    def _finish(self, work: Callable[[_Shared], None]) -> None:
        """Wait until all parameters are done, and prepare the next phase."""
        for item in self._shared.values():
            item.ready = True
        self._send_ready(work)
        began = time.perf_counter()
        assert self._worker is not None
        self._busy += self._worker.wait()
        self._waited += time.perf_counter() - began
        for item in self._shared.values():
            item.ready = item.sent = False

    def _reduce(self, item: _Shared) -> None:
        """Sum the gradients into the owner's; the others no longer need theirs."""
        grad = array_to_numpy(
            item.parameter.grad_buffer()
        )  # zeros if it has no gradient; its own copy if others hold it
        mine = self.rank == item.owner
        self._data.Reduce(self._mpi.IN_PLACE if mine else grad, grad if mine else None, root=item.owner)

    def _send(self, item: _Shared) -> None:
        self._data.Bcast(array_to_numpy(item.parameter.array), root=item.owner)
        if self.rank != item.owner:
            item.parameter.updated()

    def _broadcast_bytes(self, data: bytes) -> bytes:
        size = np.array([len(data)], np.int64)
        self._comm.Bcast(size)
        buffer = np.frombuffer(data, np.uint8).copy() if self.rank == 0 else np.empty(int(size[0]), np.uint8)
        self._comm.Bcast(buffer)
        return buffer.tobytes()


class _Shared:
    """A parameter, the rank that owns it, and how far it is in this phase."""

    def __init__(self, parameter: Parameter, owner: int):
        self.parameter, self.owner = parameter, owner
        self.ready = self.sent = False


def _shared(parameters: Mapping[str, Parameter], size: int) -> dict[str, _Shared]:
    """Return the parameters in the order in which backward reaches them, the last ones first, cut into one stretch per
    owner, all of about the same size."""
    whole, seen = sum(p.size for p in parameters.values()), 0
    made: dict[str, _Shared] = {}
    for name, p in reversed(list(parameters.items())):
        made[name] = _Shared(p, min(size - 1, (seen + p.size // 2) * size // max(1, whole)))
        seen += p.size
    return made


class _Worker:
    """A thread that does one thing after another."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue = queue.SimpleQueue()
        self._done = threading.Event()
        self._busy = 0.0
        self.pending = 0  # tasks that are not done yet
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="mpi", daemon=True)
        self._thread.start()

    def do(self, work: Callable, *args: Any) -> None:
        self.pending += 1
        self._work.put((work, args))

    def wait(self) -> float:
        """Wait until all is done, and return the seconds that the work took. Raises what went wrong."""
        self._done.clear()
        self.do(self._done.set)
        self._done.wait()
        busy, self._busy = self._busy, 0.0
        if self._error is not None:
            raise self._error
        return busy

    def end(self) -> None:
        self._work.put(None)
        self._thread.join(1.0)

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            work, args = item
            began = time.perf_counter()
            try:
                work(*args)
            except BaseException as error:  # raised by wait()
                self._error = error
            self._busy += time.perf_counter() - began
            self.pending -= 1
