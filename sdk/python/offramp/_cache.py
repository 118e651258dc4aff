"""Where files are kept that can be made again."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path | None:
    """``offramp`` in the user's cache folder, which may not exist yet.

    ``XDG_CACHE_HOME`` names the cache folder; by default it is ``~/.cache``.

    Returns:
        ``None`` where the user has no home.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    # The standard says that a relative path is to be ignored.
    if Path(named).is_absolute():
        return Path(named) / "offramp"
    try:
        return Path.home() / ".cache" / "offramp"
    except RuntimeError:
        return None
