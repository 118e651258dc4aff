"""Text that somebody else chose."""

from __future__ import annotations

__all__ = ["shown"]


def shown(text: str) -> str:
    """A name as it may be shown in a terminal, which control characters would steer."""
    return text if text.isprintable() else repr(text)
