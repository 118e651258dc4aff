"""Keep what native libraries say while they load out of the user's terminal."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Said", "capture_stderr"]

# Descriptor 2 belongs to the whole process: two threads that exchange it would lose it.
_lock = threading.RLock()

# How the lines begin that engines write of their own accord; an ERROR is not among them.
_CHATTER = (
    *("INFO: ", "WARNING: [", "└ ", "I0000 ", "W0000 "),  # LiteRT
    *("[cpuinfo_utils.cpp:", "[threadpool.cpp:"),  # ExecuTorch
)
# What torchao logs while executorch imports it: extensions for other processors are missing.
_IMPORT_CHATTER = re.compile(r"Failed to load .*torchao|W\d{4} .*KernelPreference")


@final
@dataclass(slots=True)
class Said:
    """What native code wrote to descriptor 2; filled when the block ends."""

    text: str = ""

    def complaints(self) -> list[str]:
        """The lines that are not an engine's chatter."""
        return [line for line in self.text.splitlines() if not _is_chatter(line)]


@contextlib.contextmanager
def capture_stderr() -> Iterator[Said]:
    """Catch what native code writes to descriptor 2 while the block runs.

    When the block succeeds, an engine's own chatter is dropped and every other line, such as
    another thread's, is written out late. When it raises, nothing is written: the caller puts the
    text into its error.
    """
    said = Said()
    with _lock:
        try:
            kept = os.dup(2)
        except OSError:
            # A daemon may have closed it; then there is no terminal to keep clean.
            yield said
            return
        succeeded = False
        try:
            with tempfile.TemporaryFile() as file:
                _flush()
                os.dup2(file.fileno(), 2)
                try:
                    yield said
                    succeeded = True
                finally:
                    _flush()
                    os.dup2(kept, 2)
                    file.seek(0)
                    said.text = file.read().decode("utf-8", "replace")
        finally:
            os.close(kept)
            if succeeded:
                _write_others(said.text)


def _is_chatter(line: str) -> bool:
    return line.startswith(_CHATTER) or _IMPORT_CHATTER.match(line) is not None


def _flush() -> None:
    # Under pytest or pythonw there may be no stream, or one that is closed.
    if sys.stderr is not None and not sys.stderr.closed:
        sys.stderr.flush()


def _write_others(text: str) -> None:
    lines = [line for line in text.splitlines(keepends=True) if not _is_chatter(line)]
    if lines:
        os.write(2, "".join(lines).encode())
