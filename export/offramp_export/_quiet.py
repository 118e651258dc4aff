"""Keeping a converter's chatter out of the user's terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["quiet"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow what converters and runtimes print to standard error, and their warnings.

    Most of it is written by C++ straight to file descriptor 2, so that descriptor itself is pointed
    elsewhere. It belongs to the whole process: nothing else should print meanwhile. Exceptions pass
    through untouched.
    """
    level = logging.root.manager.disable
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
