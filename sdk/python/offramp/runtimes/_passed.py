"""What has been seen to work on this machine, kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np

from offramp._cache import cache_folder
from offramp._files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Passed"]

_PROCESSOR_CHARACTERS = 4096


@final
@dataclass(frozen=True, slots=True)
class Passed:
    """A test that need not be run again here once it was passed.

    Args:
        what: Which test, and of what; all that its outcome depends on, but for this machine and
            the versions of Offramp and NumPy, which are added.
    """

    what: Mapping[str, object]

    def is_remembered(self) -> bool:
        """Whether it was passed here, as this user's own cache, or the superuser's, says."""
        file = self._file()
        if file is None:
            return False
        path, content = file
        try:
            with path.open("rb") as opened:
                # A cache in a shared folder must not let another user vouch for a program.
                trusted = sys.platform == "win32" or (
                    os.fstat(opened.fileno()).st_uid in (0, os.geteuid())
                )
                return trusted and opened.read(len(content) + 1) == content
        except OSError:
            return False

    def remember(self) -> None:
        """Keep that it was passed, where there is a cache that can be written."""
        file = self._file()
        if file is None:
            return
        path, content = file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        except OSError:
            # A full or read-only disk costs the next start the same test again, nothing more.
            return

    def _file(self) -> tuple[Path, bytes] | None:
        folder = cache_folder()
        if folder is None:
            return None
        content = json.dumps(
            {
                **self.what,
                "machine": platform.machine(),
                "processor": _processor(),
                "versions": [version("offramp"), np.__version__],
            },
            sort_keys=True,
        ).encode()
        return folder / "self-tests" / f"{hashlib.sha256(content).hexdigest()}.json", content


def _processor() -> str:
    """What the kernel says of the first processor, less what changes while it runs."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            # The kernel makes the text as it is read, and asks every further core its clock.
            text = file.read(_PROCESSOR_CHARACTERS)
    except OSError:
        return platform.processor()
    first = text.partition("\n\n")[0].splitlines()
    return "\n".join(line for line in first if "MHz" not in line and "bogomips" not in line.lower())
