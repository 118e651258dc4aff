"""Training in several processes, each with its share of every batch."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import multiprocessing
from torch.multiprocessing.spawn import (
    ProcessExitedException,
    ProcessRaisedException,
    start_processes,
)

from offramp.errors import DataError, OfframpError, TrainingError
from offramp_search.training._fabric import open_fabric

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from offramp_search.training._fabric import Hardware
    from offramp_search.training._history import History, TrainingProgress
    from offramp_search.training._loop import Training

__all__ = ["run_in_processes"]

_POLL_S = 0.1


def run_in_processes(
    training: Training,
    hardware: Hardware,
    progress: Callable[[TrainingProgress], None] | None,
) -> History:
    """Start a process for each device, and take over what the first of them has trained.

    Processes are started afresh and run the training alone, not the program that asked for it: a
    command line is not run again by each of them, and what another thread held cannot be held for
    ever, as after a fork.

    Raises:
        DataError: What they need cannot be handed over.
        TrainingError: One of them died.
    """
    hardware.check()
    context = multiprocessing.get_context("spawn")
    told = context.SimpleQueue()
    threads = max(1, torch.get_num_threads() // hardware.devices)
    # As bytes: tensors would be put into shared memory, one for all processes to write.
    arguments = (_pickled(training), hardware, _free_port(), threads, told)
    # That the others are ended when one fails is no news: the failure is raised.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    with _quiet_torch():
        processes = start_processes(  # type: ignore[no-untyped-call]
            _work, arguments, nprocs=hardware.devices, join=False, start_method="spawn"
        )
    assert processes is not None
    ended: dict[str, Any] = {}

    def listen() -> None:
        while not told.empty():
            kind, value = told.get()
            if kind == "progress":
                if progress is not None:
                    progress(value)
            else:
                ended.setdefault(kind, value)

    try:
        while not processes.join(timeout=_POLL_S):
            listen()
        listen()
    except (ProcessRaisedException, ProcessExitedException) as error:
        listen()
        if "failed" in ended:
            raise ended["failed"] from error
        raise TrainingError(
            f"a process of {hardware.devices} that trained together died: {error}"
        ) from error
    finally:
        for process in processes.processes:
            if process.is_alive():
                process.terminate()
            process.join()
    network, (history, weights) = training.network, ended["done"]
    network.load_state_dict(tensors_of(weights))
    network.eval()
    return history  # type: ignore[no-any-return]


def _pickled(training: Training) -> bytes:
    try:
        return pickle.dumps(training)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise DataError(
            "training on several devices hands the network, teacher, before_step and transform to "
            f"other processes, and one of them cannot be pickled ({error}); make it a function or "
            "a class of a module, or train on one device"
        ) from error


@contextmanager
def _quiet_torch() -> Iterator[None]:
    """Let processes that start now say errors only.

    torch would advise each network that uses all its parameters not to look for unused ones. It
    reads the level when it is loaded, which is before a process runs anything of ours.
    """
    name = "TORCH_CPP_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ.setdefault(name, "ERROR")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _work(
    rank: int, pickled: bytes, hardware: Hardware, port: int, threads: int, told: Any
) -> None:
    """What one process does."""
    torch.set_num_threads(threads)
    os.environ.update(
        LOCAL_RANK=str(rank), NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    import lightning_fabric  # noqa: F401 - sets the level of its log

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    training: Training = pickle.loads(pickled)
    first = rank == 0
    try:
        fabric = open_fabric(hardware)
        fabric.launch()
        history = training.run(
            fabric, (lambda value: told.put(("progress", value))) if first else None
        )
        if first:
            weights = {
                name: value.contiguous() for name, value in training.network.state_dict().items()
            }
            told.put(("done", (history, bytes_of(weights))))
        fabric.barrier()
    except OfframpError as error:
        told.put(("failed", error))
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
