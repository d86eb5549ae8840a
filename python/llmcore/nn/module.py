"""`Parameter` and `Module`."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Protocol, TypeVar

import numpy as np

from llmcore import _core
from llmcore._arrays import array_to_numpy, fill, to_host_array
from llmcore._core import DType
from llmcore._device import checked
from llmcore._device import device as default_device
from llmcore._tensor import Tensor
from llmcore.errors import Error

M = TypeVar("M", bound="Module")


class Source(Protocol):
    """Values that a parameter reads when they are first needed: from a file, or a constant."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def values(self) -> np.ndarray:
        """Return float32 or bfloat16 values of the shape."""
        ...


class Constant:
    """One number in every element."""

    def __init__(self, shape: tuple[int, ...], value: float):
        self.shape, self.value = shape, value

    def values(self) -> np.ndarray:
        return np.full(self.shape, self.value, np.float32)


class Parameter(Tensor):
    """A trainable float32 tensor, from an array, which is copied, or from a source, which is read when the values are first
    needed.

    Matrices keep themselves packed for the kernels, once per dtype and direction, until `updated()` says that the values
    changed; an optimizer writes the panels that are in use along with the values. A matrix that is only multiplied with is
    packed straight from its source and never becomes float32.
    """

    __slots__ = ("_device", "_fresh", "_held", "_packed", "_used", "parts", "version")

    def __init__(self, values) -> None:
        self._device = default_device()
        self.version = 0  # how often the values have changed
        self.parts: tuple[int, ...] = ()  # the row counts, if this is several matrices one below the other
        super().__init__(_NOTHING, requires_grad=True)
        # For the six kinds: both directions, and pairs for a swiglu, in both dtypes.
        self._packed: list[_core.Panels | None] = [None] * 6
        self._fresh = [False] * 6
        self._used = [False] * 6  # since the last update
        # The values, or where they come from until they are needed as float32: one attribute, so that no thread can find
        # an array without its values.
        self._held: _core.Array | Source = values if hasattr(values, "values") else self._allocate(np.asarray(values))

    @property
    def array(self) -> _core.Array:
        """The values, float32."""
        held = self._held
        return held if isinstance(held, _core.Array) else self._load(held)

    @array.setter
    def array(self, array: _core.Array) -> None:
        self._held = array

    def _load(self, source: Source) -> _core.Array:
        self._held = array = self._allocate(source.values())
        return array

    def _allocate(self, values: np.ndarray) -> _core.Array:
        array = _core.empty(list(values.shape), DType.float32, self._device)
        fill(array, values)
        return array

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._held.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def dtype(self) -> str:
        return "float32"

    @property
    def device(self) -> str:
        return self._device

    def panels(self, dtype: DType, transposed: bool, paired: bool = False) -> _core.Panels:
        """Return this matrix packed for the kernels (see `Tensor.panels`), from memory until the next update."""
        kind = 2 * (transposed + paired) + (dtype is DType.bfloat16)
        panels = self._packed[kind]
        if panels is None or not self._fresh[kind]:
            panels = self._packed[kind] = self._pack(kind, dtype, transposed, paired)
            self._fresh[kind] = True
        self._used[kind] = True
        return panels

    def _pack(self, kind: int, dtype: DType, transposed: bool, paired: bool) -> _core.Panels:
        if self._device != "cpu":  # one copy serves both directions
            for other in range(kind % 2, 6, 2):
                panels = self._packed[other]
                if self._fresh[other] and panels is not None:
                    return panels if bool(other // 2) == transposed else panels.other_direction()
        held = self._held
        values = held if isinstance(held, _core.Array) else to_host_array(held.values()).to(self._device)
        # Reuses the memory of the stale panels.
        return _core.pack(values, dtype, transposed, self._packed[kind], paired)

    def move(self, device: str) -> None:
        """Move to another device, with the gradient."""
        device = checked(device)
        if device == self._device:
            return
        if isinstance(self._held, _core.Array):
            self._held = self._held.to(device)
        if self.grad is not None:
            self.grad, self._grad_shared = self.grad.to(device), False
        self._device, self._packed = device, [None] * 6
        self.updated()

    def updated(self) -> None:
        """Declare that `array` was written to: packed copies are made again at their next use."""
        self.version += 1
        self._fresh, self._used = [False] * 6, [False] * 6

    def panels_in_use(self) -> list[_core.Panels]:
        """Return the panels used since the last update. The caller is about to rewrite them along with `array`, so they are
        marked fresh and all others stale."""
        self.version += 1
        # The optimizer writes pairs by 32 rows: halves of other sizes are packed again.
        self._fresh = [u and not (p and p.paired and p.N % 64) for u, p in zip(self._used, self._packed, strict=True)]
        self._used = [False] * 6
        return [p for p, fresh in zip(self._packed, self._fresh, strict=True) if fresh and p is not None]

    def assign(self, values) -> None:
        """Overwrite the values with an array or a source of the same shape."""
        if not hasattr(values, "values"):
            values = np.asarray(values)
        if tuple(values.shape) != self.shape:
            raise Error("parameter", expected=f"values of shape {self.shape}", got=tuple(values.shape))
        if not isinstance(values, np.ndarray):
            self._held = values
        elif isinstance(self._held, _core.Array):
            fill(self._held, values)
        else:
            self._held = self._allocate(values)
        self.updated()

    def memory(self) -> list:
        """Return everything of this parameter that kernels may read, for callers that must keep it alive."""
        return [self._held, *self._packed]

    @property
    def source(self) -> Source | None:
        """Where the values come from, until they are needed as float32; None after that."""
        return None if isinstance(self._held, _core.Array) else self._held

    def stored(self) -> np.ndarray:
        """Return the values for reading: those of the source, float32 or bfloat16, until they are needed as float32."""
        held = self._held
        return held.numpy() if isinstance(held, _core.Array) else held.values()


_NOTHING = _core.empty([0], DType.float32)


class Module:
    """A tree of parameters: attributes that are Parameters, Modules, or lists of Modules are found by name."""

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Yield (name, parameter) pairs in the order of definition; a shared parameter comes once, under its first name."""
        seen: set[int] = set()
        for name, parameter in self._walk(prefix):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def _walk(self, prefix: str) -> Iterator[tuple[str, Parameter]]:
        for name, value in vars(self).items():
            path = f"{prefix}{name}"
            if isinstance(value, Parameter):
                yield path, value
            elif isinstance(value, Module):
                yield from value._walk(f"{path}.")
            elif isinstance(value, (list, tuple)):
                for i, item in enumerate(value):
                    if isinstance(item, Module):
                        yield from item._walk(f"{path}.{i}.")

    def modules(self) -> Iterator[tuple[str, Module]]:
        """Yield (path, module) of all modules inside, each once per path."""
        for name, value in vars(self).items():
            items = [(name, value)] if isinstance(value, Module) else []
            if isinstance(value, (list, tuple)):
                items = [(f"{name}.{i}", item) for i, item in enumerate(value) if isinstance(item, Module)]
            for path, module in items:
                yield path, module
                yield from ((f"{path}.{inner}", m) for inner, m in module.modules())

    def parameters(self) -> list[Parameter]:
        """Return all parameters, each once."""
        return [p for _, p in self.named_parameters()]

    def trainable(self) -> dict[str, Parameter]:
        """Return the parameters that training changes, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def shared_copy(self: M) -> M:
        """Return a shallow copy: a module of the same parameters, to which something can be added without changing this one."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Module):
                setattr(other, name, value.shared_copy())
            elif isinstance(value, (list, tuple)):
                setattr(other, name, [v.shared_copy() if isinstance(v, Module) else v for v in value])
        return other

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {p.shape}" for name, p in list(self.named_parameters())[:4])
        more = ", ..." if len(list(self.parameters())) > 4 else ""
        return f"<{type(self).__name__}: {self.num_parameters:,} parameters: {parts}{more}>"

    @property
    def num_parameters(self) -> int:
        """The number of weights; shared parameters count once."""
        return sum(p.size for p in self.parameters())

    @property
    def version(self) -> int:
        """A number that changes whenever parameters are changed or replaced."""
        return hash(tuple((id(p), p.version) for p in self.parameters()))

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.parameters():
            p.zero_grad()

    def to(self: M, device: str) -> M:
        """Move the parameters to "cpu" or "cuda"; returns the module."""
        for p in self.parameters():
            p.move(device)
        return self

    @property
    def device(self) -> str:
        """Where its parameters are."""
        return next((p.device for p in self.parameters()), default_device())

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return views of the parameters by name, float32."""
        return {name: array_to_numpy(p.array) for name, p in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, np.ndarray | Source]) -> None:
        """Overwrite all parameters: see `assign`."""
        assign(dict(self.named_parameters()), state)

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)


def assign(parameters: Mapping[str, Parameter], state: Mapping[str, np.ndarray | Source]) -> None:
    """Overwrite parameters with arrays or sources of the same names. ValueError names what is missing, left over, or of
    another shape; in that case nothing is written."""
    missing, extra = sorted(parameters.keys() - state.keys()), sorted(state.keys() - parameters.keys())
    if missing or extra:
        what = [
            f"{kind} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
            for kind, names in (("no", missing), ("unknown", extra))
            if names
        ]
        raise Error("load", expected="the parameters of this model", got=", ".join(what))
    for name, p in parameters.items():
        if tuple(state[name].shape) != p.shape:
            raise Error("load", expected=f"{name} of shape {p.shape}", got=tuple(state[name].shape))
    for name, p in parameters.items():
        p.assign(state[name])
