"""What holds for every value of a manifest, wherever it stands."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

from offramp.errors import ManifestError

__all__ = ["check_values"]

_DEEPEST = 32

# Characters that turn the reading direction round can make a terminal show another text.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def check_values(manifest: Any) -> None:
    """Refuse what JSON can say and a reader should not meet.

    That is: numbers that are not finite, nesting deeper than a recursive reader can follow, and
    text that would steer the terminal it is shown in.

    Args:
        manifest: Dictionaries, lists, strings, numbers.

    Raises:
        ManifestError: Names the key, the value and what was expected.
    """
    # No recursion, so that depth is counted and not suffered.
    waiting: list[tuple[str, Any, int]] = [("", manifest, 1)]
    while waiting:
        key, value, depth = waiting.pop()
        if isinstance(value, str):
            _check_text(key, value)
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise _fault(key, value, "a finite number")
        elif isinstance(value, dict | list | tuple):
            if depth > _DEEPEST:
                raise ManifestError(
                    f"manifest.json: key {key[:80]!r} is nested more than {_DEEPEST} levels deep, "
                    "expected fewer"
                )
            waiting += [(name, item, depth + 1) for name, item in reversed(_items(key, value))]


def _items(key: str, value: dict[str, Any] | list[Any] | tuple[Any, ...]) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        for name in value:
            _check_text(key, name)
        return [(f"{key}.{name}" if key else name, item) for name, item in value.items()]
    return [(f"{key}[{place}]", item) for place, item in enumerate(value)]


def _check_text(key: str, text: str) -> None:
    if text.isascii() and text.isprintable():
        return
    for letter in text:
        if letter in _TURNING or unicodedata.category(letter) in ("Cc", "Cs"):
            raise _fault(key, text, f"text without control characters such as U+{ord(letter):04X}")


def _fault(key: str, value: object, expected: str) -> ManifestError:
    return ManifestError(f"manifest.json: key {key!r} is {_short(value)}, expected {expected}")


def _short(value: object) -> str:
    # ascii() rather than repr(), which leaves the turning characters as they are.
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
