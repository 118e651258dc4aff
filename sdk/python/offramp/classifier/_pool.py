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

    Taking a free one costs no lock: taking from and adding to a list are atomic.

    Args:
        walkers: Copies of one program; closed together with the pool.
    """

    def __init__(self, walkers: Sequence[Walker]) -> None:
        self._all = tuple(walkers)
        self._free = list(walkers)
        self._refusal: str | None = None
        self._waiting = 0
        self._given_back = threading.Condition()
        self._closing = threading.Lock()
        _pools.add(self)

    def __len__(self) -> int:
        return len(self._all)

    def take(self) -> Walker:
        """A walker for this thread alone; waits until one is free.

        Raises:
            ClosedError: The pool is closed, or was made before a fork.
        """
        if self._refusal is None:
            try:
                return self._free.pop()
            except IndexError:
                pass  # all are in use
        return self._wait(closing=False)

    def give_back(self, walker: Walker) -> None:
        """End of the use of a walker that was taken."""
        self._free.append(walker)
        # Who waits counts itself before it looks at the list, so nobody is overlooked.
        if self._waiting:
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
                    self._given_back.notify_all()
                for walker in [self._wait(closing=True) for _ in self._all]:
                    walker.close()

    def _wait(self, *, closing: bool) -> Walker:
        with self._given_back:
            self._waiting += 1
            try:
                while True:
                    if self._refusal is not None and not closing:
                        # A notification meant for whoever closes must not end here.
                        self._given_back.notify()
                        raise ClosedError(self._refusal)
                    if self._free:
                        return self._free.pop()
                    self._given_back.wait()
            finally:
                self._waiting -= 1

    def leave_to_parent(self) -> None:
        """In a forked child: refuse everything from now on."""
        self._refusal = _FORKED
        _parents.append(self._all)
        self._free = []


def _after_fork() -> None:
    for pool in list(_pools):
        pool.leave_to_parent()


# Not on Windows, where nothing forks.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
