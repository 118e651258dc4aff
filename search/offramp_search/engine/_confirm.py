"""The architecture that was found, measured whole; predictions corrected where they are off."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from offramp.errors import InfeasibleBudgetError
from offramp_search.devices import network_key, stages_as_blocks
from offramp_search.engine._answers import read_answers
from offramp_search.engine._tally import best_of
from offramp_search.thresholds import solve_answers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from offramp_search.budget import Budget
    from offramp_search.devices import LatencyTable
    from offramp_search.engine._result import SearchResult, TrialResult
    from offramp_search.spaces import Architecture, Space
    from offramp_search.thresholds import Solution

__all__ = ["Check", "Confirmed", "confirm", "corrected", "measure_whole"]

_TOLERANCE = 0.10
_CHECKS = 5


@final
@dataclass(frozen=True, slots=True)
class Check:
    """One network measured whole, beside what the latency table predicts for it.

    Attributes:
        trial: Its number; ``None`` if it was no trial.
        architecture: Its decisions.
        predicted_ms: Of each stage, from its blocks, in milliseconds.
        measured_ms: Of each stage of the whole network, medians, in milliseconds.
    """

    trial: int | None
    architecture: dict[str, str | int]
    predicted_ms: tuple[float, ...]
    measured_ms: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Of each stage, how many times the prediction it takes."""
        return tuple(
            took / said for took, said in zip(self.measured_ms, self.predicted_ms, strict=True)
        )

    @property
    def off(self) -> float:
        """By which part stage 0 or all stages together are off, whichever is more."""
        first = self.measured_ms[0] / self.predicted_ms[0]
        whole = math.fsum(self.measured_ms) / math.fsum(self.predicted_ms)
        return max(abs(first - 1), abs(whole - 1))


@final
@dataclass(frozen=True, slots=True)
class Confirmed:
    """The outcome of a search after its winner was measured.

    Attributes:
        result: The search's, with the latencies that were measured or corrected, thresholds solved
            for them, and the best architecture by them.
        checks: The networks that were measured, in order; none on a recorded device that does not
            know them.
        correction: For each stage, what predictions were multiplied with.
    """

    result: SearchResult
    checks: tuple[Check, ...]
    correction: tuple[float, ...]

    @property
    def chosen(self) -> Check | None:
        """The check of the best architecture, or ``None`` if that could not be measured."""
        best = self.result.best.architecture
        return next((check for check in self.checks if check.architecture == best), None)


def confirm(
    result: SearchResult,
    space: Space,
    table: LatencyTable,
    budget: Budget,
    *,
    folder: Path,
    image_shape: tuple[int, int],
) -> Confirmed:
    """Measure the best architecture whole, and choose again as long as predictions mislead.

    Its thresholds are solved again for what was measured. If stage 0 or the whole is off by more
    than a tenth, or a limit is broken, every other trial's prediction is multiplied, stage by
    stage, with the geometric mean of measured over predicted of all networks measured so far;
    thresholds are solved again from what the exits answered, and the best is measured in turn.
    After five networks the best of those that were measured and keep the budget is taken; if there
    is none, the next ones are measured until there is.

    Measurements are kept in the latency table, so a run that was killed goes on where it was. A
    recorded device measures nothing: a network it does not know is taken by its prediction.

    Args:
        result: Of ``search``.
        space: The one searched.
        table: The one searched with.
        budget: What is limited.
        folder: The one searched in.
        image_shape: Height and width of the images.

    Raises:
        InfeasibleBudgetError: No trial keeps the budget when it is measured.
        ResumeError: The folder does not hold what the trials answered.
        DeviceError: A network cannot be measured.
    """
    trials = [(trial, network_key(space.blocks(trial.architecture))) for trial in result.trials]
    timed = _Timed(result, budget, folder)
    checks: dict[str, Check] = {}
    while True:
        factors = corrected(tuple(checks.values()), space.num_stages)
        keeping: dict[str, list[TrialResult]] = {}
        for trial, key in trials:
            stage_ms = (
                checks[key].measured_ms
                if key in checks
                else tuple(ms * by for ms, by in zip(trial.stage_ms, factors, strict=True))
            )
            if budget.allows(stage_ms, trial.size_bytes):
                keeping.setdefault(key, []).append(timed.trial(trial, stage_ms))
        if not keeping:
            raise _infeasible(len(trials), tuple(checks.values()), factors, budget)
        everything = [trial for some in keeping.values() for trial in some]
        best = best_of(everything)
        known = [trial for key, some in keeping.items() if key in checks for trial in some]
        if len(checks) >= _CHECKS and known:
            best = best_of(known)
        elif (last := next(reversed(checks.values()), None)) is not None and last.off <= _TOLERANCE:
            # As predicted: no reason to look at others, if it keeps the budget.
            best = next((trial for trial in known if trial.number == last.trial), best)
        key = network_key(space.blocks(best.architecture))
        measured = (
            None
            if key in checks
            else measure_whole(space, table, best.architecture, key, image_shape)
        )
        if measured is None:
            trials_now = tuple(sorted(everything, key=lambda trial: trial.number))
            return Confirmed(
                replace(result, best=best, trials=trials_now), tuple(checks.values()), factors
            )
        predicted = tuple(one.ms for one in table.predict(space.blocks(best.architecture)))
        checks[key] = Check(best.number, dict(best.architecture), predicted, measured)


def measure_whole(
    space: Space,
    table: LatencyTable,
    architecture: Architecture,
    key: str,
    image_shape: tuple[int, int],
) -> tuple[float, ...] | None:
    """Median of each stage in milliseconds; ``None`` if a recorded device does not know it."""
    if table.is_recorded and table.network(key) is None:
        return None
    stages = table.require_network(
        key, lambda: stages_as_blocks(space.build(architecture), image_shape)
    )
    return tuple(stage.median_ms for stage in stages)


def corrected(
    checks: Sequence[Check],
    num_stages: int,
    mean: Callable[[Sequence[float]], float] | None = None,
) -> tuple[float, ...]:
    """What the predicted latency of each stage is to be multiplied with.

    Args:
        checks: Networks measured so far; if none was off by more than a tenth, nothing changes.
        num_stages: Of every network.
        mean: Of the ratios of one stage; the geometric mean by default.
    """
    if all(check.off <= _TOLERANCE for check in checks):
        return (1.0,) * num_stages
    mean = mean or _geometric_mean
    return tuple(mean([check.ratios[stage] for check in checks]) for stage in range(num_stages))


def _geometric_mean(ratios: Sequence[float]) -> float:
    return math.exp(math.fsum(math.log(ratio) for ratio in ratios) / len(ratios))


class _Timed:
    """Trials with other latencies, and the best thresholds for them; each is solved once."""

    def __init__(self, result: SearchResult, budget: Budget, folder: Path) -> None:
        self._signal, self._budget, self._folder = result.best.solution.signal, budget, folder
        self._solved: dict[tuple[int, tuple[float, ...]], Solution] = {}

    def trial(self, trial: TrialResult, stage_ms: tuple[float, ...]) -> TrialResult:
        if stage_ms == trial.stage_ms:
            return trial
        number = trial.number if trial.repeats is None else trial.repeats
        at = number, stage_ms
        if at not in self._solved:
            self._solved[at] = solve_answers(
                read_answers(self._folder, number, stage_ms),
                mean_ms=self._budget.mean_ms,
                signal=self._signal,
            )
        return replace(trial, stage_ms=stage_ms, solution=self._solved[at])


def _infeasible(
    trials: int, checks: Sequence[Check], factors: Sequence[float], budget: Budget
) -> InfeasibleBudgetError:
    """Say what comes closest of the networks that were measured."""
    closest = [
        max(
            (limit.value(check.measured_ms, 0) / limit.at_most, -place)
            for place, limit in enumerate(budget.limits())
        )
        for check in checks
    ]
    (share, place), check = min(zip(closest, checks, strict=True), key=lambda one: one[0])
    limit = budget.limits()[-place]
    by = ", ".join(f"{factor:.3g}" for factor in factors)
    return InfeasibleBudgetError(
        f"none of the {trials} architectures that were evaluated keeps the budget on the device: "
        f"stages take {by} times what the latency table predicts, and the smallest {limit.name} "
        f"of the {len(checks)} measured whole is {share * limit.at_most:.6g} {limit.unit} "
        f"({limit.what}), the limit is {limit.at_most:.6g} {limit.unit}; raise it, or search with "
        "a limit that is lower by as much",
        smallest=share * limit.at_most,
        architecture=check.architecture,
    )
