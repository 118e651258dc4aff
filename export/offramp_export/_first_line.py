"""What a converter says, in a line."""

from __future__ import annotations

__all__ = ["first_line"]


def first_line(error: Exception) -> str:
    """The first line of a message that may go on for pages; its type, if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
