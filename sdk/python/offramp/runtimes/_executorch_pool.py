"""The thread pool that all ExecuTorch programs of a process share."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from offramp.errors import ProgramError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["take_pool"]

_lock = threading.Lock()
_users = 0


def take_pool(
    threads: int, count: Callable[[], int], resize: Callable[[int], object]
) -> Callable[[], None]:
    """Give the pool so many threads, and hold it at that.

    Loaded programs keep pointers into the pool, so it is replaced only while none of ours uses it.

    Args:
        threads: How many it must have.
        count: How many it has.
        resize: Replaces it.

    Returns:
        A function to call once, when the program is closed.

    Raises:
        ProgramError: An open program uses it with another number.
    """
    global _users
    with _lock:
        found = count()
        if found != threads:
            if _users:
                raise ProgramError(
                    f"another ExecuTorch program of this process runs with {found} threads, and "
                    f"they share one pool; close it first, or ask for {found} threads"
                )
            resize(threads)
        _users += 1
    return _leave_pool


def _leave_pool() -> None:
    global _users
    with _lock:
        _users -= 1
