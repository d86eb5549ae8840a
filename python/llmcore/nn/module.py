"""`Parameter` and `Module`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from llmcore import _core
from llmcore._core import DType
from llmcore._tensor import Tensor, array_to_numpy


class Parameter(Tensor):
    """A trainable float32 tensor. Matrices keep themselves packed for the kernels, once per dtype and direction, until
    `updated()` says that the values changed; an optimizer writes the panels that are in use with the values."""

    __slots__ = ("_fresh", "_packed", "_used")

    def __init__(self, values) -> None:
        array = _core.empty(list(np.shape(values)), DType.float32)
        array.numpy()[...] = values
        super().__init__(array, requires_grad=True)
        # For the six kinds: both directions, and pairs for a swiglu, in both dtypes.
        self._packed: list[_core.Panels | None] = [None] * 6
        self._fresh = [False] * 6
        self._used = [False] * 6  # since the last update

    def panels(self, dtype: DType, transposed: bool, paired: bool = False) -> _core.Panels:
        kind = 2 * (transposed + paired) + (dtype is DType.bfloat16)
        if not self._fresh[kind]:
            # The memory of the stale panels is used again.
            self._packed[kind] = _core.pack(self.array, dtype, transposed, self._packed[kind], paired)
            self._fresh[kind] = True
        self._used[kind] = True
        return self._packed[kind]  # type: ignore[return-value]

    def updated(self) -> None:
        """Call after writing to `array`: packed copies are made anew at their next use."""
        self._fresh, self._used = [False] * 6, [False] * 6

    def panels_in_use(self) -> list[_core.Panels]:
        """The panels used since the last update, for who writes them together with `array`: they count as new, all
        others as old from now on."""
        # The optimizer writes pairs by 32 rows: where halves have others, they are packed anew.
        self._fresh = [u and not (p and p.paired and p.N % 64) for u, p in zip(self._used, self._packed, strict=True)]
        self._used = [False] * 6
        return [p for p, fresh in zip(self._packed, self._fresh, strict=True) if fresh and p is not None]

    def assign(self, values) -> None:
        """Overwrite the values (same shape)."""
        values = np.asarray(values)
        if values.shape != self.shape:
            raise ValueError(f"[parameter] expected values of shape {self.shape}, got {values.shape}")
        self.array.numpy()[...] = values
        self.updated()


class Module:
    """Something with parameters: attributes that are Parameters, Modules, or lists of Modules are found by name."""

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """(name, parameter) pairs in the order of definition; a shared parameter comes once, under its first name."""
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

    def parameters(self) -> list[Parameter]:
        return [p for _, p in self.named_parameters()]

    @property
    def num_parameters(self) -> int:
        """How many numbers are trained; shared ones count once."""
        return sum(p.size for p in self.parameters())

    def zero_grad(self) -> None:
        for p in self.parameters():
            p.zero_grad()

    def state_dict(self) -> dict[str, np.ndarray]:
        """Views of the parameters by name, float32."""
        return {name: array_to_numpy(p.array) for name, p in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Overwrite all parameters. ValueError names what is missing, left over, or of another shape; nothing is
        written then."""
        own = dict(self.named_parameters())
        missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or extra:
            what = [
                f"{kind} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
                for kind, names in (("no", missing), ("unknown", extra))
                if names
            ]
            raise ValueError(f"[load] expected the parameters of this model, got {', '.join(what)}")
        for name, p in own.items():
            if tuple(np.shape(state[name])) != p.shape:
                raise ValueError(f"[load] expected {name} of shape {p.shape}, got {np.shape(state[name])}")
        for name, p in own.items():
            p.assign(state[name])

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)
