"""How a run tells where it is."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

__all__ = ["Reporter"]


def _silent(description: str) -> AbstractContextManager[Callable[[int, int | None], None]]:
    return nullcontext(lambda done, total: None)


def _quiet(line: str) -> None:
    """Say nothing."""


@final
@dataclass(frozen=True, slots=True)
class Reporter:
    """How a run tells where it is; by default it does not.

    Attributes:
        progress: Shows a step while the block runs; yields a function of (done, total).
        say: Tells what came out of a step, in one line.
    """

    progress: Callable[[str], AbstractContextManager[Callable[[int, int | None], None]]] = _silent
    say: Callable[[str], None] = _quiet
