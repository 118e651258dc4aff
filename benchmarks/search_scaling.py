"""What a search itself costs: evaluations a second and memory, by decisions and by workers.

The evaluator is a pure function of the decisions and the latencies are recorded, so what is
measured is the engine, Optuna's journal and the samplers. Workers are processes that share one
journal. Every cell of the grid (a sampler, a number of decisions, a number of workers) runs in
processes of its own, which are ended after its seconds, or with the fourth evaluation if that takes
longer, or when its time is over; a cell that is done is not done again.

    .venv/bin/python benchmarks/search_scaling.py

Populations and random starts are as short as can be, so that samplers are at their own work within
the few evaluations that ten thousand decisions leave time for. A cell in which not one
evaluation ended in time is reported as such, and larger ones of its sampler are not tried.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import multiprocessing.connection
import os
import resource
import shutil
import sys
import time
import zlib
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import msgspec
import numpy as np

from offramp._files import write_atomically
from offramp.cli import console
from offramp_search.budget import Budget
from offramp_search.devices import LatencyTable
from offramp_search.engine import search
from offramp_search.evaluators import Evaluator, Outputs
from offramp_search.report import Claim, write_result
from offramp_search.samplers import (
    DDPNASSampler,
    EvolutionSampler,
    PNASSampler,
    RandomSampler,
    ReinforceSampler,
    nsga2_sampler,
    tpe_sampler,
)
from offramp_search.testing import FakeSpace, write_fake_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from multiprocessing.synchronize import Barrier

    from optuna.samplers import BaseSampler

    from offramp_search.engine import SearchProgress
    from offramp_search.spaces import Architecture

RESULT = Path(__file__).parent / "results" / "search_scaling.json"

_IMAGES, _CLASSES = 64, 4
_LEAST_EVALUATIONS = 4
_GROWTH_GOAL = 15.0
"""Ten times the decisions may take so many times as long; ten is linear."""

SAMPLERS: dict[str, Callable[[FakeSpace], BaseSampler]] = {
    "random": lambda space: RandomSampler(0),
    "s2dnas, table": lambda space: ReinforceSampler(0),
    "s2dnas, lstm": lambda space: ReinforceSampler(0, policy="lstm"),
    "evolution": lambda space: EvolutionSampler(0, population=2, tournament=1),
    "nsga2": lambda space: nsga2_sampler(0, population=2),
    "tpe": lambda space: tpe_sampler(0, startup=1),
    "ddpnas": lambda space: DDPNASSampler(0, space.decisions()),
    "pnas": lambda space: PNASSampler(
        0,
        space.decisions(),
        neutral=dict.fromkeys(space.decisions(), "2-2"),
        first=1,
        most_first=4,
        step=max(1, len(space.decisions()) // 10),
    ),
}


@final
@dataclass(frozen=True, slots=True)
class Cell:
    """What one cell came to.

    Attributes:
        sampler: Its name.
        decisions: Of the space.
        workers: Processes that shared the search.
        evaluations: Done by all, up to the last that was seen to be done.
        seconds: They took, from the first question on.
        first_half_s: Of one worker's evaluations, the seconds of the first half.
        second_half_s: The seconds of the second half.
        start_mb: Resident memory of a worker before the search.
        peak_mb: Peak resident memory of the largest worker.
    """

    sampler: str
    decisions: int
    workers: int
    evaluations: int
    seconds: float
    first_half_s: float
    second_half_s: float
    start_mb: float
    peak_mb: float

    @property
    def per_second(self) -> float:
        """Evaluations a second."""
        return self.evaluations / self.seconds if self.evaluations else 0.0

    @property
    def grown_bytes(self) -> float:
        """Memory for each evaluation that a worker knows of, and each decision."""
        grown = 2**20 * (self.peak_mb - self.start_mb)
        return grown / self.evaluations / self.decisions if self.evaluations else 0.0


@final
class Cheap(Evaluator):
    """Exits that are right on more images the more channels stage 0 has."""

    def evaluate(self, architecture: Architecture, *, seed: int) -> Outputs:
        """The same logits for the same decisions."""
        whole = ",".join(map(str, architecture.values()))
        labels = np.arange(_IMAGES) % _CLASSES
        logits = np.zeros((2, _IMAGES, _CLASSES), np.float32)
        logits[0, : zlib.crc32(whole.encode()) % _IMAGES, 0] = 1
        logits[1, np.arange(_IMAGES), labels] = 2
        return Outputs(logits, labels.astype(np.int64))


def work(
    folder: Path,
    sampler: str,
    decisions: int,
    limit_s: float,
    start: Barrier,
    said: Connection,
) -> None:
    """One worker: says how far the search is after each of its proposals, until it is ended."""
    import torch

    torch.set_num_threads(1)
    space = FakeSpace(decisions)
    made = SAMPLERS[sampler](space)
    table = LatencyTable.recorded(folder / "table.json")
    start_mb = resident_mb()
    start.wait()

    def tell(progress: SearchProgress) -> None:
        said.send((time.monotonic(), progress.done, start_mb, resident_mb()))

    search(
        space,
        made,
        Cheap(),
        table,
        Budget(mean_ms=1e9),
        trials=None,
        minutes=limit_s / 60,
        folder=folder / "search",
        progress=tell,
    )


def resident_mb() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(
    folder: Path, sampler: str, decisions: int, workers: int, seconds: float, limit_s: float
) -> Cell:
    """Run one cell."""
    context = multiprocessing.get_context("forkserver")
    # Torch takes seconds to import, and its first optimiser as long again.
    context.set_forkserver_preload(["torch._dynamo", "search_scaling"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_fake_table(folder / "table.json")
    start = context.Barrier(workers + 1)
    pipes = [context.Pipe(duplex=False) for _ in range(workers)]
    processes = [
        context.Process(
            target=work,
            args=(folder, sampler, decisions, limit_s, start, sending),
            daemon=True,
        )
        for _, sending in pipes
    ]
    for process in processes:
        process.start()
    for _, sending in pipes:
        sending.close()
    start.wait(timeout=120)
    began = time.monotonic()
    said: list[list[tuple[float, int, float, float]]] = [[] for _ in processes]
    listening = {reading: place for place, (reading, _) in enumerate(pipes)}
    done = False
    while listening:
        # It has its seconds, and if too little was evaluated in them, more of its time.
        left_s = began + (seconds if done else limit_s) - time.monotonic()
        if left_s <= 0:
            break
        for reading in multiprocessing.connection.wait(list(listening), left_s):
            assert isinstance(reading, Connection)
            try:
                said[listening[reading]].append(reading.recv())
            except EOFError:
                del listening[reading]
            else:
                done = done or said[listening[reading]][-1][1] >= _LEAST_EVALUATIONS
    for process in processes:
        process.kill()
        process.join()
    failed = [p.exitcode for p in processes if p.exitcode not in (0, -9)]
    if failed:
        raise SystemExit(f"a worker of {sampler} with {decisions} decisions ended with {failed}")
    shutil.rmtree(folder)
    everything = [message for one in said for message in one]
    times = [message[0] for message in said[0]]
    half = len(times) // 2
    return Cell(
        sampler=sampler,
        decisions=decisions,
        workers=workers,
        evaluations=max((message[1] for message in everything), default=0),
        seconds=max((message[0] for message in everything), default=began + limit_s) - began,
        first_half_s=times[half - 1] - began if half else 0.0,
        second_half_s=times[-1] - times[-half - 1] if half else 0.0,
        start_mb=max((message[2] for message in everything), default=0.0),
        peak_mb=max((message[3] for message in everything), default=0.0),
    )


def plot(path: Path, cells: list[Cell]) -> None:
    """Three panels: by decisions, by workers, and memory."""
    sizes = sorted({cell.decisions for cell in cells})
    middle = sizes[len(sizes) // 2]
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (by_decisions, by_workers, memory) = pyplot.subplots(
        1, 3, figsize=(12, 4), layout="constrained"
    )
    try:
        for sampler in SAMPLERS:
            own = [cell for cell in cells if cell.sampler == sampler and cell.evaluations]
            alone = [cell for cell in own if cell.workers == 1]
            shared = [cell for cell in own if cell.decisions == middle]
            by_decisions.plot(
                [c.decisions for c in alone], [c.per_second for c in alone], "o-", label=sampler
            )
            by_workers.plot([c.workers for c in shared], [c.per_second for c in shared], "o-")
            memory.plot([c.decisions for c in alone], [c.peak_mb for c in alone], "o-")
        for axes, across, up in (
            (by_decisions, "decisions (one worker)", "evaluations a second"),
            (by_workers, f"workers ({middle:,} decisions)", "evaluations a second"),
            (memory, "decisions (one worker)", "peak resident memory (MB)"),
        ):
            axes.set_xscale("log")
            axes.set_yscale("linear" if axes is memory else "log")
            axes.set_xlabel(across)
            axes.set_ylabel(up)
            axes.grid(alpha=0.3)
        by_workers.minorticks_off()
        by_workers.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
        by_decisions.legend(fontsize="small")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=90)
    finally:
        pyplot.close(figure)
    write_atomically(path, buffer.getvalue())


def claims(cells: Mapping[tuple[str, int, int], Cell], sizes: list[int]) -> list[Claim]:
    """How cost grows, sampler by sampler."""
    made = []
    for sampler in SAMPLERS:
        for small, large in pairwise(sizes):
            one, ten = cells.get((sampler, small, 1)), cells.get((sampler, large, 1))
            if small < 1_000 or one is None or ten is None:
                continue
            if not one.evaluations or not ten.evaluations:
                continue
            claim = (
                f"{sampler}: time of an evaluation with {large:,} decisions over that with "
                f"{small:,}, one worker"
            )
            goal = _GROWTH_GOAL * large / small / 10
            made.append(Claim.at_most(claim, one.per_second / ten.per_second, goal))
        one, two = cells.get((sampler, sizes[0], 1)), cells.get((sampler, sizes[0], 2))
        if one is not None and two is not None and one.evaluations:
            claim = f"{sampler}: evaluations a second of two workers over one, {sizes[0]} decisions"
            made.append(Claim(claim, two.per_second / one.per_second, None, True))
    return made


def not_finished(cells: Mapping[tuple[str, int, int], Cell], limit_s: float) -> dict[str, str]:
    """Which samplers cannot be given how many decisions."""
    found: dict[str, str] = {}
    for (sampler, decisions, workers), cell in sorted(cells.items()):
        if not cell.evaluations and sampler not in found:
            found[sampler] = (
                f"no evaluation in {limit_s:g} s with {decisions:,} decisions and {workers} workers"
            )
    return found


def main() -> None:
    """Measure every cell that is missing, print and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--decisions", type=int, nargs="+", default=[10, 100, 1_000, 10_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--seconds", type=float, default=1.5, help="of searching, in each cell")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds, of each cell")
    parser.add_argument(
        "--folder", type=Path, default=Path(".cache/search_scaling"), help="of what is done"
    )
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # the workers inherit it
    done_folder = arguments.folder / f"{arguments.seconds:g}-{arguments.limit:g}-seconds"
    cells: dict[tuple[str, int, int], Cell] = {}
    for sampler in arguments.samplers:
        for decisions in sorted(arguments.decisions):
            for workers in sorted(arguments.workers):
                if not all(
                    cell.evaluations
                    for cell in cells.values()
                    if cell.sampler == sampler and cell.decisions <= decisions
                ):
                    continue
                path = done_folder / f"{sampler.replace(', ', '-')}-{decisions}-{workers}.json"
                if not path.exists():
                    cell = measure(
                        arguments.folder / "cell", sampler, decisions, workers,
                        arguments.seconds, arguments.limit,
                    )  # fmt: skip
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_atomically(path, msgspec.json.encode(cell))
                cell = msgspec.json.decode(path.read_bytes(), type=Cell)
                cells[sampler, decisions, workers] = cell
                print(
                    f"{sampler:14} {decisions:6} decisions {workers} workers "
                    f"{cell.per_second:8.2f}/s {cell.peak_mb:6.0f} MB",
                    file=sys.stderr,
                    flush=True,
                )
    print_table(cells, arguments.workers)
    plot(arguments.result.with_suffix(".png"), list(cells.values()))
    figures: dict[str, Any] = {
        "hardware_threads": os.cpu_count(),
        "note": f"{os.cpu_count()} hardware threads: more workers than that take turns",
        "cannot": not_finished(cells, arguments.limit),
        "cells": [
            {**msgspec.to_builtins(cell), "per_second": cell.per_second,
             "grown_bytes_per_evaluation_and_decision": cell.grown_bytes}
            for cell in cells.values()
        ],
    }  # fmt: skip
    write_result(
        arguments.result,
        purpose="what a search itself costs, by decisions and by workers on one journal",
        claims=claims(cells, sorted(arguments.decisions)),
        figures=figures,
    )


def print_table(cells: Mapping[tuple[str, int, int], Cell], workers: list[int]) -> None:
    """One row for each sampler and number of decisions."""
    rows: dict[tuple[str, int], list[Cell]] = {}
    for (sampler, decisions, _), cell in cells.items():
        rows.setdefault((sampler, decisions), []).append(cell)
    console.table(
        ["sampler", "decisions", *(f"{count} workers, 1/s" for count in workers), "peak MB"],
        [
            [
                sampler,
                f"{decisions:,}",
                *(shown(cells.get((sampler, decisions, count))) for count in workers),
                f"{max(cell.peak_mb for cell in row):.0f}",
            ]
            for (sampler, decisions), row in rows.items()
        ],
    )


def shown(cell: Cell | None) -> str:
    """Evaluations a second, as the table has them."""
    if cell is None:
        return "not tried"
    return f"{cell.per_second:.3g}" if cell.evaluations else "none in time"


if __name__ == "__main__":
    main()
