"""Locks between processes that a killed process lets go of."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["exclusive", "is_held"]


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file; waits for whoever holds it, process or thread.

    The kernel lets go of it when the process ends, however it ends, so nobody waits for the dead.

    Args:
        path: The lock file; made if it is not there, and left where it is.
    """
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_held(path: Path) -> bool:
    """Whether anybody holds a lock file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
