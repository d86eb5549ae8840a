"""Packages whose names are imported when they are first used, so that importing the package itself stays fast."""

from __future__ import annotations

import importlib
import sys

TYPE_CHECKING = False  # typing's own would cost more than all the rest of `import llmcore`
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def lazy(package: str, table: Mapping[str, str | None]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's `__getattr__` and `__dir__`. table: public name -> module that defines it (None: the submodule
    of that name)."""

    def get(name: str) -> Any:
        if name not in table:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = table[name]
        if home is None:
            value = importlib.import_module(f"{package}.{name}")
        else:
            value = getattr(importlib.import_module(home), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted(sys.modules[package].__all__)

    return get, names
