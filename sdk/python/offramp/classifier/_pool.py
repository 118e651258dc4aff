"""Copies of one program, each used by one thread at a time."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, final

from offramp.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offramp.classifier._walk import Walker

__all__ = ["WalkerPool"]

_CLOSED = "this classifier is closed; load the bundle again"
_FORKED = (
    "this classifier was loaded before this process was forked, and engines do not survive that; "
    "load the bundle in this process, or start processes with the 'spawn' method"
)

_pools: weakref.WeakSet[WalkerPool] = weakref.WeakSet()
# Those of the parent, in a forked child: never freed, because freeing may wait for kernel
# threads that only the parent has.
_parents: list[Sequence[Walker]] = []


@final
class WalkerPool:
    """Hands out walkers, the one used last first: its memory is still in the caches.

    Taking a free one costs no lock: taking from and adding to a list are atomic. Who is in a hurry
    does it without a call::

        try:
            walker = pool.free.pop()
        except IndexError:
            walker = pool.wait()
        ...
        pool.home.append(walker)
        if pool.waiting:
            pool.wake()

    Args:
        walkers: Copies of one program; closed together with the pool.

    Attributes:
        free: Those not in use; empty for good once the pool is closed, or in a forked child.
        home: Where they are given back: the same list until then.
        waiting: How many threads wait for one.
    """

    def __init__(self, walkers: Sequence[Walker]) -> None:
        self._all = tuple(walkers)
        self.free = self.home = list(walkers)
        self.waiting = 0
        self._refusal: str | None = None
        self._given_back = threading.Condition()
        self._closing = threading.Lock()
        _pools.add(self)

    def __len__(self) -> int:
        return len(self._all)

    def wait(self) -> Walker:
        """A walker for this thread alone, once one is free.

        Raises:
            ClosedError: The pool is closed, or was made before a fork.
        """
        return self._wait(closing=False)

    def wake(self) -> None:
        """Tell one of those who wait that a walker was given back.

        They count themselves before they look at the list, so nobody is overlooked.
        """
        with self._given_back:
            self._given_back.notify()

    def close(self) -> None:
        """Free all programs once they are given back; may be called more than once.

        In a forked child there is nothing to free.
        """
        if self._refusal == _FORKED:
            return
        with self._closing:
            if self._refusal is None:
                with self._given_back:
                    self._refusal = _CLOSED
                    self.free = []
                    self._given_back.notify_all()
                for walker in [self._wait(closing=True) for _ in self._all]:
                    walker.close()

    def _wait(self, *, closing: bool) -> Walker:
        with self._given_back:
            self.waiting += 1
            try:
                while True:
                    if self._refusal is not None and not closing:
                        # A notification meant for whoever closes must not end here.
                        self._given_back.notify()
                        raise ClosedError(self._refusal)
                    walkers = self.home if closing else self.free
                    if walkers:
                        return walkers.pop()
                    self._given_back.wait()
            finally:
                self.waiting -= 1

    def leave_to_parent(self) -> None:
        """In a forked child: refuse everything from now on."""
        self._refusal = _FORKED
        _parents.append(self._all)
        self.free, self.home = [], []


def _after_fork() -> None:
    for pool in list(_pools):
        pool.leave_to_parent()


# Not on Windows, where nothing forks.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
