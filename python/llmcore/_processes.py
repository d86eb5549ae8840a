"""What other processes get of an object: a fork of this one, or one that is sent it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, Generic, NoReturn, Protocol, TypeVar, overload

from llmcore.errors import ArgumentTypeError


class Forks(Protocol):
    def after_fork(self) -> None:
        """Make the locks anew, in a forked child. Whoever held one may not be there, and has left its work half done."""


_told: weakref.WeakSet[Forks] = weakref.WeakSet()


def tell_of_forks(thing: Forks) -> None:
    """Call `thing.after_fork()` in every forked child, before anything else runs there."""
    _told.add(thing)


def _in_child() -> None:
    for thing in list(_told):
        thing.after_fork()


os.register_at_fork(after_in_child=_in_child)


class NotCopied:
    """Something that no other process can be sent, and that nobody copies: pickling and copying it say what to do."""

    __slots__ = ()

    def _instead(self) -> str:
        raise NotImplementedError

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise ArgumentTypeError(
            "pickle", expected=f"no {type(self).__name__}, to copy or send to a process: {self._instead()}"
        )


T = TypeVar("T")


class made_once(Generic[T]):
    """An attribute that is made when it is first read. Unlike functools.cached_property, which before Python 3.12 holds a lock
    meanwhile that a forked child would wait for, it may be made twice; all threads get the same one."""

    def __init__(self, make: Callable[[Any], T]):
        self._make, self._name, self.__doc__ = make, make.__name__, make.__doc__

    @overload
    def __get__(self, owner: None, kind: type) -> made_once[T]: ...

    @overload
    def __get__(self, owner: object, kind: type) -> T: ...

    def __get__(self, owner: Any, kind: type) -> made_once[T] | T:
        if owner is None:
            return self
        return vars(owner).setdefault(self._name, self._make(owner))
