"""What the process of ``run_isolated`` does: one program, its images, one answer."""

# ruff: noqa: TC001 - msgspec reads the annotations at run time
from __future__ import annotations

import contextlib
import math
import os
import sys
from pathlib import Path

import msgspec
import numpy as np

from offramp.bundle import ProgramEntry
from offramp.errors import MissingExtraError, OfframpError
from offramp.runtimes._choice import choose_runtime
from offramp.runtimes._self_test import run_images

__all__ = ["HELLO", "Answer", "Job", "main"]

HELLO = b"offramp: ready\n"
"""Written first: from here on, what happens is the program's doing."""


class Job(msgspec.Struct, frozen=True):
    """What is to be run; fields as the arguments of ``run_isolated``."""

    entry: ProgramEntry
    runtime: str
    threads: int
    limit_s: float
    program: bytes
    images: bytes
    shape: tuple[int, ...]


class Answer(msgspec.Struct, frozen=True):
    """What came of it: logits as float32 in C order, or one of our errors."""

    logits: bytes = b""
    error: str = ""
    is_missing_extra: bool = False


def main() -> None:
    """Read a job from standard input and answer on standard output."""
    # Native code may print; the answer must not be among it.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    answers.write(HELLO)
    job = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Job)
    _limit(job)
    answers.write(msgspec.msgpack.encode(_run(job)))


def _run(job: Job) -> Answer:
    images = np.frombuffer(job.images, np.uint8).reshape(job.shape)
    try:
        choice = choose_runtime(job.entry, job.runtime)
        with choice.open(job.program, job.entry.stages, job.threads) as runtime:
            return Answer(logits=run_images(runtime, images).tobytes())
    except OfframpError as error:
        return Answer(error=str(error), is_missing_extra=isinstance(error, MissingExtraError))


def _limit(job: Job) -> None:
    """Leave no core file, do not outlive a parent that was killed, and be the first out of memory.

    Where the system has no such limits the parent's own limit is the only one.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        seconds = math.ceil(2 * job.limit_s * job.threads)
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        if most == resource.RLIM_INFINITY or most > seconds:
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
