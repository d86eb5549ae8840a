"""A small tape: every op that needs gradients leaves one `Node`, and `backward` walks them newest first.

The tape knows nothing of tensors but what `Differentiable` says; `_tensor.Tensor` is one. A node's `backward` takes the gradients of its outputs (arrays, or None for outputs nobody used) and returns one gradient
per input (an array, or None). Gradients of parameters are written by the op straight into `Tensor.grad_buffer()`, so
that accumulation over several uses and several micro-batches costs no extra pass.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from llmcore import _core
from llmcore.errors import StateError


class Differentiable(Protocol):
    """What the tape needs of a tensor. A leaf has no `_node`; a computed tensor is output `_index` of its `_node`."""

    grad: _core.Array | None
    requires_grad: bool
    _node: Node | None
    _index: int

    @property
    def array(self) -> _core.Array: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def device(self) -> str: ...
    def accumulate_grad(self, grad: _core.Array, shared: bool = True) -> None: ...
    def grad_buffer(self) -> _core.Array: ...


D = TypeVar("D", bound=Differentiable)


class _State(threading.local):
    enabled = True  # whether ops on this thread record themselves


_state = _State()
_counter = itertools.count()


def grad_enabled() -> bool:
    """Say whether ops on this thread record themselves."""
    return _state.enabled


@contextmanager
def no_grad():
    """Run a block without recording: less memory, nothing to differentiate."""
    before = grad_enabled()
    _state.enabled = False
    try:
        yield
    finally:
        _state.enabled = before


class Node:
    """One recorded op. It keeps references to leaf inputs; for computed inputs it keeps only (producer, output index), so
    activations that no backward needs are freed early."""

    __slots__ = ("backward", "grads", "inputs", "order", "within")

    def __init__(self, inputs: Sequence[Differentiable | None], outputs: int, backward: Callable | None):
        self.inputs: Sequence[Differentiable | tuple[Node, int] | None] = [_source(t) for t in inputs]
        self.backward = backward
        self.grads: list = [None] * outputs
        self.order = next(_counter)
        self.within: Sequence[Differentiable] = ()  # leaves that its backward reaches besides its inputs

    def leaves(self) -> list[Differentiable]:
        """Return the leaves that it gives gradients to."""
        return [t for t in (*self.inputs, *self.within) if t is not None and not isinstance(t, tuple)]


def _source(t: Differentiable | None) -> Differentiable | tuple[Node, int] | None:
    """Return where the gradient of an input goes: to a leaf, or to an output of an earlier op."""
    if t is None or not t.requires_grad:
        return None
    return t if t._node is None else (t._node, t._index)


def needs_grad(*inputs) -> bool:
    """Say whether an op on these inputs has to record itself."""
    for t in inputs:  # a loop: any() would cost as much as the rest of a small op
        if t is not None and t.requires_grad:
            return _state.enabled
    return False


def record(outputs: Sequence[Differentiable], inputs: Sequence[Differentiable | None], backward: Callable) -> None:
    """Attach one node to `outputs`. The caller has asked `needs_grad(*inputs)`."""
    node = Node(inputs, len(outputs), backward)
    for i, out in enumerate(outputs):
        out.requires_grad = True
        out._node, out._index = node, i


def recomputed(function: Callable, x: D, *others, parameters: Sequence[D] = ()) -> D:
    """Return function(x, *others) without keeping its intermediate results: they are computed again when gradients are
    wanted (Chen et al. 2016), which trades time for memory. The function must do the same each time; `parameters` are the
    leaves besides x that it reads and gives gradients to."""
    if not _state.enabled:
        return function(x, *others)
    with no_grad():
        out = function(x, *others)
    array = x.array

    def backward(dout):
        found = []
        again = type(out)(array)
        record([again], [], lambda dx: found.append(dx) or ())  # no leaf: ops may take its gradient and add to it
        run_backward(function(again, *others), dout)
        return (found[0] if found else None,)

    record([out], [x], backward)
    out._node.within = [p for p in parameters if p.requires_grad]
    return out


def _add(a, b):
    return b if a is None else _core.add(a, b.to(a.device))


def run_backward(root: Differentiable, grad, done: Callable[[Any], object] | None = None) -> None:
    """Propagate `grad` from `root` to every leaf that requires gradients. A graph can be walked once. `done` is called with
    each leaf when its gradient is complete."""
    if root._node is None:
        if root.requires_grad:
            root.accumulate_grad(grad)
            if done is not None:
                done(root)
        return
    nodes, stack = {root._node}, [root._node]
    while stack:
        for source in stack.pop().inputs:
            if isinstance(source, tuple) and source[0] not in nodes:
                nodes.add(source[0])
                stack.append(source[0])
    left: Counter[int] = Counter()  # ops that a leaf still waits for
    if done is not None:
        left.update(id(leaf) for node in nodes for leaf in node.leaves())
    root._node.grads[root._index] = grad
    # An op is newer than everything it reads, so newest first is a topological order.
    for node in sorted(nodes, key=lambda n: n.order, reverse=True):
        if node.backward is None:
            raise StateError("backward", expected="a graph that was not walked yet", got="one whose memory is freed")
        grads, backward, inputs, leaves = node.grads, node.backward, node.inputs, node.leaves()
        node.grads, node.backward, node.inputs = [None] * len(grads), None, ()
        if any(g is not None for g in grads):
            for source, g in zip(inputs, backward(*grads), strict=True):
                if g is None or source is None:
                    continue
                if isinstance(source, tuple):
                    earlier, index = source
                    earlier.grads[index] = _add(earlier.grads[index], g)
                else:
                    source.accumulate_grad(g)
        if done is not None:
            for leaf in leaves:
                left[id(leaf)] -= 1
                if not left[id(leaf)]:
                    done(leaf)


def write_grad(t: Differentiable | None, write: Callable):
    """Write the gradient of a matrix with an op that adds to a buffer, `write(buffer)`, or makes one, `write(None)`, which
    spares the first gradient of an update the zeros and their addition. Returns the result for the tape, as `grad_slot`
    does."""
    if t is None or not t.requires_grad:
        return None
    if t._node is not None:
        return write(None)
    if t.grad is None:
        t.accumulate_grad(write(None), shared=False)
    else:
        write(t.grad_buffer())
    return None


def take_grad(t: Differentiable):
    """Take the gradient that has arrived for a computed tensor so far, or None. The op that takes it must add it to the
    gradient that it returns for t, which saves a pass over memory. It must not write to it: others may hold the array."""
    if t._node is None:
        return None
    grad, t._node.grads[t._index] = t._node.grads[t._index], None
    return grad


def grad_slot(t: Differentiable | None):
    """Return where an op adds the float32 gradient of a parameter-like input: (buffer, result for the tape).

    A leaf's own buffer is written in place and the tape gets None; for a computed tensor the buffer itself is the result.
    An input that needs no gradient gets (None, None).
    """
    if t is None or not t.requires_grad:
        return None, None
    if t._node is None:
        return t.grad_buffer(), None
    buffer = _core.zeros(t.shape, _core.DType.float32, t.device)
    return buffer, buffer
