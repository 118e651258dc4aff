"""Files that are either whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["write_atomically"]


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a killed process, never leaves half of it behind.

    The bytes go to a temporary file beside ``path``, are flushed to the disk, and then take the
    name in one step. A file that was there keeps its permissions; a new one gets those the process
    gives to new files.

    Args:
        path: The file; its folder must exist.
        data: The whole content.

    Raises:
        OSError: The folder does not exist, or the disk refused; ``path`` is as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}.part")
    # 0o666 less the process's mask, as for any new file; mkstemp would leave a file that only its
    # owner can read, which something to ship must not be.
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            temporary.chmod(path.stat().st_mode & 0o777)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
