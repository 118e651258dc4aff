"""Evaluation on this machine."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

from offramp_search.engine._base import Engine, LostEvaluationError
from offramp_search.evaluators import Evaluator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offramp_search.evaluators import Outputs
    from offramp_search.spaces import Architecture

__all__ = ["LocalEngine"]

_MAX_STARTS = 3


@final
class LocalEngine(Engine):
    """This process alone, or several processes of this machine.

    A process that dies, for want of memory for instance, is replaced, and what it worked on is
    done again. Processes are started afresh (``spawn``), so a script that searches with more than
    one keeps its calls under ``if __name__ == "__main__"``.

    Args:
        workers: 1 evaluates in this process; more start as many others, which share the
            processor cores among them.
    """

    def __init__(self, workers: int = 1) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self._workers = workers

    @property
    def workers(self) -> int:
        """How many architectures are evaluated at once."""
        return self._workers

    @contextmanager
    def open(self, evaluator: Evaluator) -> Iterator[Evaluator]:
        """The evaluator itself, or one that hands out the work."""
        if self._workers == 1:
            yield evaluator
            return
        threads = max(1, (os.cpu_count() or 1) // self._workers)
        elsewhere = _Elsewhere(pickle.dumps(evaluator), self._workers, threads)
        try:
            yield elsewhere
        finally:
            elsewhere.close()


@final
class _Elsewhere(Evaluator):
    """One process for each worker, so that the death of one is not the death of all."""

    def __init__(self, evaluator: bytes, workers: int, threads: int) -> None:
        self._evaluator = evaluator
        self._threads = threads
        self._free: queue.SimpleQueue[ProcessPoolExecutor] = queue.SimpleQueue()
        for _ in range(workers):
            self._free.put(self._start())
        self._workers = workers

    def evaluate(self, architecture: Architecture, *, seed: int) -> Outputs:
        process = self._free.get()
        try:
            for _ in range(_MAX_STARTS):
                try:
                    return process.submit(_evaluate, dict(architecture), seed).result()
                except BrokenProcessPool:
                    process.shutdown()
                    process = self._start()
        finally:
            self._free.put(process)
        raise LostEvaluationError(f"{_MAX_STARTS} processes died of {dict(architecture)}")

    def close(self) -> None:
        for _ in range(self._workers):
            self._free.get().shutdown(cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_receive,
            initargs=(self._evaluator, self._threads),
        )


_held: list[Evaluator] = []
"""In a worker process, what it was given to evaluate with."""


def _receive(evaluator: bytes, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    _held[:] = [pickle.loads(evaluator)]


def _evaluate(architecture: Architecture, seed: int) -> Outputs:
    return _held[0].evaluate(architecture, seed=seed)
