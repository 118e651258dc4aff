"""What is known of the time until each exit answers, with upper confidence limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from offramp.bundle import LatencyEntry
from offramp.calibration._binomial import fewest_samples, order_statistic
from offramp.errors import CalibrationError, ShapeError
from offramp.latency import Latency

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    LatencyLike = LatencyEntry | Sequence[Latency] | Sequence[float] | NDArray[np.float64]

__all__ = ["ExitLatency", "LatencyLike", "read_latency", "student_quantile"]

# Runs one after the other are alike, so their spread says too little; means of batches are less so.
_MOST_BATCHES = 20
_BATCH_RUNS = 5
_FEWEST_RUNS = 50
_INTERVALS = 2_000
_BISECTIONS = 60


@final
@dataclass(frozen=True, slots=True, eq=False)
class ExitLatency:
    """The time of each stage: samples, or numbers taken as exact.

    Attributes:
        stages_ms: Per stage ``(runs,)`` float64; one value each if they are exact.
        measured: Whether they are samples.
        device: The record of the device they were measured on; empty if it is not known.
    """

    stages_ms: tuple[NDArray[np.float64], ...]
    measured: bool
    device: Mapping[str, str]

    def mean_ms(self) -> NDArray[np.float64]:
        """``(exits,)`` float64, the mean time until each exit answers, as seen."""
        return np.cumsum([stage.mean() for stage in self.stages_ms])

    def mean_limits_ms(self, confidence: float) -> NDArray[np.float64]:
        """Upper confidence limits of the means, of all exits together.

        Student's t on the means of up to twenty batches of consecutive runs (Law and Kelton,
        Simulation Modeling and Analysis, section 9.5.3), Bonferroni over the stages. It is
        approximate: no bound on a mean is free of assumptions when a single run may take any time.

        Raises:
            CalibrationError: There are too few runs.
        """
        if not self.measured:
            return self.mean_ms()
        level = 1.0 - (1.0 - confidence) / len(self.stages_ms)
        limits = []
        for number, runs in enumerate(self.stages_ms):
            if runs.size < _FEWEST_RUNS:
                raise CalibrationError(
                    f"{runs.size} runs of stage {number} cannot bound its mean latency; measure "
                    f"at least {_FEWEST_RUNS}"
                )
            batches = min(_MOST_BATCHES, runs.size // _BATCH_RUNS)
            length = runs.size // batches
            means = runs[: batches * length].reshape(batches, length).mean(axis=1)
            spread = float(means.std(ddof=1)) / math.sqrt(batches)
            limits.append(float(runs.mean()) + student_quantile(level, batches - 1) * spread)
        return np.cumsum(limits)

    def quantile_ms(self, quantile: float) -> NDArray[np.float64]:
        """``(exits,)`` float64, the quantile of the time until each exit answers, as seen."""
        whole = np.sort(self._whole_ms(), axis=1)
        result: NDArray[np.float64] = whole[:, math.ceil(quantile * whole.shape[1]) - 1]
        return result

    def quantile_limits_ms(self, quantile: float, confidence: float) -> NDArray[np.float64]:
        """Upper confidence limits of the quantiles, from order statistics: no assumption on shape.

        Each limit holds with the confidence by itself. An exit is chosen by walking from the first
        on until one is too slow, and the first exit that is truly too slow passes with at most
        that probability, so no correction for the number of exits is due.

        Raises:
            ShapeError: The runs of the stages are not passes through the whole program.
            CalibrationError: There are too few runs.
        """
        if not self.measured:
            return self.mean_ms()
        whole = np.sort(self._whole_ms(), axis=1)
        place = order_statistic(whole.shape[1], quantile, confidence)
        if place is None:
            needed = fewest_samples(1.0 - quantile, confidence)
            raise CalibrationError(
                f"{whole.shape[1]} runs cannot bound the {100 * quantile:.4g} % quantile of the "
                f"latency with {100 * confidence:.4g} % confidence; measure at least {needed}"
            )
        result: NDArray[np.float64] = whole[:, place]
        return result

    def _whole_ms(self) -> NDArray[np.float64]:
        counts = {runs.size for runs in self.stages_ms}
        if len(counts) != 1:
            raise ShapeError(
                f"the stages were run {sorted(counts)} times; a quantile needs the same passes "
                "through all stages, run by run"
            )
        return np.cumsum(np.stack(self.stages_ms), axis=0)


def read_latency(latency: LatencyLike, exits: int) -> ExitLatency:
    """Check what ``calibrate`` was given.

    Args:
        latency: A measurement of the bundle; or one entry per stage, measured or, as a number of
            milliseconds, exact; or ``(stages, runs)`` samples.
        exits: How many there should be.

    Raises:
        ShapeError: It is for another number of stages.
        CalibrationError: A time is not finite or not positive.
    """
    device: Mapping[str, str] = {}
    stages: list[NDArray[np.float64]]
    if isinstance(latency, LatencyEntry):
        device = latency.device
        stages = [np.array(samples, dtype=np.float64) for samples in latency.stage_samples_ms]
    else:
        stages = [
            np.atleast_1d(
                np.array(stage.samples_ms if isinstance(stage, Latency) else stage, np.float64)
            )
            for stage in latency
        ]
    if len(stages) != exits or any(stage.ndim != 1 or not stage.size for stage in stages):
        raise ShapeError(
            f"latency must have one entry for each of the {exits} stages, got {len(stages)}"
        )
    if not all(np.isfinite(stage).all() and (stage > 0.0).all() for stage in stages):
        raise CalibrationError("latencies must be finite and above 0, in milliseconds")
    return ExitLatency(tuple(stages), any(stage.size > 1 for stage in stages), device)


def student_quantile(probability: float, degrees: int) -> float:
    """A quantile of Student's t distribution, for a probability of at least one half.

    With ``t = sqrt(degrees) tan(u)`` the density becomes ``cos(u) ** (degrees - 1)``, which
    Simpson's rule integrates to 12 digits.
    """
    scale = math.exp(
        math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(math.pi) / 2
    )
    weights = np.full(_INTERVALS + 1, 2.0)
    weights[1::2] = 4.0
    weights[[0, -1]] = 1.0

    def below(angle: float) -> float:
        steps = np.linspace(0.0, angle, _INTERVALS + 1)
        area = float((weights * np.cos(steps) ** (degrees - 1)).sum()) * angle / _INTERVALS / 3.0
        return 0.5 + scale * area

    low, high = 0.0, math.pi / 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        if below(middle) < probability:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(high)
