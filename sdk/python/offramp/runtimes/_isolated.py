"""A program run in a process of its own, which is the one to die or hang if the program is bad."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from offramp._text import shown
from offramp.errors import MissingExtraError, OfframpError, ProgramError
from offramp.runtimes._isolated_main import HELLO, Answer, Job
from offramp.runtimes._quiet import Said

if TYPE_CHECKING:
    from typing import IO

    from numpy.typing import NDArray

    from offramp.bundle import ProgramEntry

__all__ = ["limit_s", "run_isolated"]

# A cold start of a small board that has to import torch, and then the slowest machines there are.
_START_S = 30.0
_BYTES_PER_S = 1e6
_MULTIPLY_ADDS_PER_S = 1e8
# The manifest's numbers are somebody else's.
_LONGEST_S = 900.0

_SLICE_S = 0.5
_MOST_WORDS = 300

_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from offramp.runtimes._isolated_main import main; main()"
)


def limit_s(program: bytes, images: int, multiply_adds: int) -> float:
    """How long a process may take over a program before it counts as hanging.

    Args:
        program: Its content.
        images: How many images it is to run.
        multiply_adds: Of one image.
    """
    work = len(program) / _BYTES_PER_S + (images + 1) * multiply_adds / _MULTIPLY_ADDS_PER_S
    return min(_START_S + work, _LONGEST_S)


def run_isolated(
    program: bytes,
    entry: ProgramEntry,
    images: NDArray[np.uint8],
    *,
    runtime: str,
    threads: int,
    limit_s: float,
) -> NDArray[np.float32]:
    """Load a program in another process and run images through every stage there.

    The process is a new one, never a fork: the interpreter of ``multiprocessing.spawn``, with this
    process's ``sys.path``. It is no sandbox: it has the rights of its user.

    Args:
        program: The file's content, whose SHA-256 has been checked.
        entry: What the manifest says of it.
        images: ``(images, height, width, 3)`` uint8.
        runtime: What runs it, a name of ``installed_runtimes``.
        threads: How many threads the kernels may use.
        limit_s: The longest it may take, in seconds; time in which this process stood still as
            well is not counted.

    Returns:
        ``(exits, images, classes)`` float32 logits.

    Raises:
        ProgramError: The runtime refused, the process died or was silent for too long, or none
            could be started.
        MissingExtraError: No runtime for it is installed.
    """
    job = Job(
        entry=entry,
        runtime=runtime,
        threads=threads,
        limit_s=limit_s,
        program=program,
        images=images.tobytes(),
        shape=images.shape,
    )
    # A pipe would have to be filled while the answer is waited for, and is only so large.
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr:
        stdin.write(msgspec.msgpack.encode(job))
        stdin.seek(0)
        status, output = _ask(_command(), stdin, stderr, limit_s)
        stderr.seek(0)
        said = _last_line(stderr.read())
    if not output.startswith(HELLO):
        raise _not_started(f"it {_end(status, limit_s)}{said}")
    if status != 0:
        raise ProgramError(
            f"{entry.name} was tried in a process of its own, which {_end(status, limit_s)}{said}; "
            "the program is damaged or made to do harm, so do not load it; copy the bundle anew"
        )
    try:
        answer = msgspec.msgpack.decode(output[len(HELLO) :], type=Answer)
        logits = np.frombuffer(answer.logits, np.float32)
        logits = logits.reshape(len(entry.stages), len(images), -1 if len(logits) else 0)
    except ValueError as error:
        raise ProgramError(
            f"{entry.name} was tried in a process of its own, whose answer makes no sense: {error}"
        ) from error
    if answer.error:
        raise (MissingExtraError if answer.is_missing_extra else ProgramError)(answer.error)
    return logits


def _command() -> list[str]:
    # Needed once per program and machine, and not a light import.
    import multiprocessing.spawn

    executable = os.fsdecode(multiprocessing.spawn.get_executable() or "")
    if not executable:
        raise _not_started("this interpreter does not know its own file")
    if getattr(sys, "frozen", False) and executable == sys.executable:
        raise _not_started(f"{executable} is an application, not an interpreter")
    asked = (
        ("E", sys.flags.ignore_environment),
        ("s", sys.flags.no_user_site),
        ("S", sys.flags.no_site),
    )
    path = json.dumps([place for place in sys.path if isinstance(place, str)])
    # -P: a module in the current folder must not be taken for one of ours.
    return [executable, "-P", *(f"-{letter}" for letter, on in asked if on), "-c", _CODE, path]


def _not_started(why: str) -> OfframpError:
    return ProgramError(
        "a program that is new here is tried in a process of its own, which could not be started: "
        f"{why}; name a Python interpreter with multiprocessing.set_executable(), or, for programs "
        "whose maker you trust, choose self_test='in_process'"
    )


def _ask(
    command: list[str], stdin: IO[bytes], stderr: IO[bytes], limit_s: float
) -> tuple[int | None, bytes]:
    """Exit status, ``None`` for one that hung and was ended, and what it wrote."""
    try:
        process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr)
    except OSError as error:
        raise _not_started(str(error)) from error
    waited_s = 0.0
    with process:
        try:
            while True:
                began = time.monotonic()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    output, _ = process.communicate(timeout=_SLICE_S)
                    return process.returncode, output
                # After Ctrl-Z, or in a frozen container, both stood still: that is no silence.
                waited_s += min(time.monotonic() - began, 2 * _SLICE_S)
                if waited_s >= limit_s:
                    process.kill()
                    output, _ = process.communicate()
                    return None, output
        except BaseException:
            process.kill()
            raise


def _end(status: int | None, limit_s: float) -> str:
    if status is None:
        return f"did not end within {limit_s:.0f} s"
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _last_line(stderr: bytes) -> str:
    complaints = Said(stderr.decode("utf-8", "replace")).complaints()
    lines = [line for line in complaints if line.strip()]
    return f" ({shown(lines[-1].strip()[:_MOST_WORDS])})" if lines else ""
