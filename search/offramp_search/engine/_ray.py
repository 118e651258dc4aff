"""Evaluation on a Ray cluster."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

from offramp._optional import require
from offramp.errors import DeviceError
from offramp_search.engine._base import Engine, LostEvaluationError
from offramp_search.evaluators import Evaluator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offramp_search.evaluators import Outputs
    from offramp_search.spaces import Architecture

__all__ = ["RayEngine"]

_MAX_RETRIES = 2
_OBJECT_STORE_BYTES = 500 * 2**20


@final
class RayEngine(Engine):
    """A Ray cluster: the one at an address, or one that is started on this machine and ended again.

    The evaluator is put into the cluster's object store once. Ray starts an evaluation again on
    another process when the one it was on died; a worker keeps the evaluator between evaluations.
    Every machine of a cluster needs this version of Offramp, with the extra ``cluster``.

    Args:
        workers: How many architectures are evaluated at once.
        address: Of a running cluster, as ``ray.init`` takes it (``auto``, ``HOST:6379``,
            ``ray://HOST:10001``); ``None`` starts one here.
        cpus: Processor cores that each evaluation is given, for torch as well.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    def __init__(self, workers: int = 2, *, address: str | None = None, cpus: int = 1) -> None:
        if workers < 1 or cpus < 1:
            raise ValueError(f"workers and cpus must be at least 1, got {workers} and {cpus}")
        # Ray reports its use to its makers unless it is told otherwise before it is imported.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray: Any = require("ray", extra="cluster")
        self._workers = workers
        self._address = address
        self._cpus = cpus

    @property
    def workers(self) -> int:
        """How many architectures are evaluated at once."""
        return self._workers

    @contextmanager
    def open(self, evaluator: Evaluator) -> Iterator[Evaluator]:
        """Connect to the cluster, or start one; disconnect at the end if it was not connected.

        Raises:
            DeviceError: No cluster answers at the address.
        """
        ray = self._ray
        was_connected = ray.is_initialized()
        if not was_connected:
            self._connect()
        try:
            yield _OnRay(ray, evaluator, self._cpus)
        finally:
            if not was_connected:
                ray.shutdown()

    def _connect(self) -> None:
        # What is imported here from a path of its own is imported there from the same path.
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {"env_vars": {"PYTHONPATH": paths}} if self._address is None else None
        options: dict[str, Any] = {"log_to_driver": False, "runtime_env": environment}
        if self._address is None:
            options |= {
                "num_cpus": self._workers * self._cpus,
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
            }
        try:
            self._ray.init(address=self._address or "local", **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise DeviceError(
                f"no Ray cluster could be reached at {self._address or 'this machine'} ({error}); "
                "start one with `ray start --head` and give its address, or leave the address out"
            ) from error


@final
class _OnRay(Evaluator):
    """Hands every evaluation to the cluster."""

    def __init__(self, ray: Any, evaluator: Evaluator, cpus: int) -> None:
        self._ray = ray
        self._evaluator = ray.put(evaluator)
        self._task = ray.remote(num_cpus=cpus, max_retries=_MAX_RETRIES)(_evaluate)
        self._cpus = cpus

    def evaluate(self, architecture: Architecture, *, seed: int) -> Outputs:
        # In a list, so that Ray hands over the reference and a worker fetches it only once.
        answer = self._task.remote([self._evaluator], dict(architecture), seed, self._cpus)
        errors = self._ray.exceptions
        try:
            outputs: Outputs = self._ray.get(answer)
        except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError) as error:
            raise LostEvaluationError(str(error)) from error
        except errors.RayTaskError as error:
            raise error.cause from error
        return outputs


_held: dict[Any, Evaluator] = {}
"""In a worker process, the evaluator it fetched last."""


def _evaluate(
    evaluator: list[Any], architecture: dict[str, str | int], seed: int, cpus: int
) -> Outputs:
    import ray
    import torch

    torch.set_num_threads(cpus)
    (reference,) = evaluator
    if reference not in _held:
        _held.clear()
        _held[reference] = ray.get(reference)
    return _held[reference].evaluate(architecture, seed=seed)
