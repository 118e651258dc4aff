"""An alarm for exit counts that no longer look like those of the calibration."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["DriftAlarm", "log_bayes_factor"]

_CONCENTRATION = 0.5
_FIRST_SCALE = 8
_SCALES = 24
_LOOKS_LOG2 = 4


def log_bayes_factor(counts: Sequence[int], reference: Sequence[int]) -> float:
    """How much better two distributions explain two samples of categories than one does.

    ``ln D(n) + ln D(m) - ln D(n + m)`` with ``D`` the Dirichlet-multinomial likelihood of a
    sequence, ``ln D(c) = ln G(S a) - ln G(S a + sum c) + sum(ln G(a + c_s) - ln G(a))``, a = 1/2
    (the prior of Jeffreys). If both come from one distribution drawn from that prior, its
    exponential is a martingale in the first sample with mean 1, so it ever reaches ``1 / alpha``
    with a probability of at most ``alpha`` (Ville 1939).

    Args:
        counts: Per category.
        reference: Per category, as many.

    Returns:
        In nats; above 0 speaks for a change.
    """
    if len(counts) != len(reference):
        raise ValueError(f"{len(counts)} counts for {len(reference)} reference counts")
    both = [mine + theirs for mine, theirs in zip(counts, reference, strict=True)]
    return _log_likelihood(counts) + _log_likelihood(reference) - _log_likelihood(both)


def _log_likelihood(counts: Sequence[int]) -> float:
    lgamma, size = math.lgamma, len(counts) * _CONCENTRATION
    result = lgamma(size) - lgamma(size + sum(counts)) - len(counts) * lgamma(_CONCENTRATION)
    for count in counts:
        result += lgamma(count + _CONCENTRATION)
    return result


@final
class DriftAlarm:
    """Compares the exits of a stream with the exit counts of the calibration, for ever.

    Windows of 256, 512, 1024, ... predictions run side by side, each starting anew when it is full,
    so that a change after a long calm is not drowned by what came before: a change that n
    predictions show is seen by the windows of about n. Each window has its own share of ``alpha``:
    ``1 / (j (j + 1))`` for the j-th length, times ``1 / (i (i + 1))`` for the i-th window of that
    length. These add up to less than one, so the chance of any false alarm, ever, is at most
    ``alpha``, on average over the prior of ``log_bayes_factor``.

    Args:
        reference: Exit counts of the calibration; all zero never raises an alarm.
        alpha: The chance of a false alarm, above 0 and below 1.
    """

    def __init__(self, reference: Sequence[int], alpha: float = 0.01) -> None:
        if len(reference) < 1 or min(reference) < 0 or not 0.0 < alpha < 1.0:
            raise ValueError(
                f"reference counts {tuple(reference)} and alpha {alpha}, "
                "expected counts of at least one exit and an alpha between 0 and 1"
            )
        self.reference = tuple(reference)
        self.alpha = alpha
        self.counts = [0] * len(self.reference)
        self.total = 0
        self.alarmed_at: int | None = None
        """How many predictions there had been at the first alarm."""
        self._reference_log = _log_likelihood(self.reference)
        self._starts = [tuple(self.counts)] * _SCALES
        self._windows = [1] * _SCALES

    def add(self, exit: int) -> None:
        """Count one prediction that left at this exit."""
        self.counts[exit] += 1
        self.total += 1
        if not self.total & 15:
            self._look()

    @property
    def alarmed(self) -> bool:
        """Whether there was an alarm since the start."""
        return self.alarmed_at is not None

    @property
    def evidence(self) -> float:
        """How near an alarm is now, in nats, by the window that says most; at 0 it is raised."""
        return max(self._margin(scale) for scale in range(_SCALES))

    @property
    def windows(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Per length, the number of the window and the counts when it started."""
        return tuple(zip(self._windows, self._starts, strict=True))

    def restore(
        self,
        counts: Sequence[int],
        windows: Sequence[tuple[int, Sequence[int]]],
        alarmed_at: int | None,
    ) -> None:
        """Go on where another alarm of the same reference had come to.

        Raises:
            ValueError: The counts do not fit the reference, or a window starts in the future.
        """
        exits = len(self.reference)
        fits = len(counts) == exits and len(windows) == _SCALES
        if not fits or any(
            number < 1
            or len(start) != exits
            or any(before > now for before, now in zip(start, counts, strict=True))
            for number, start in windows
        ):
            raise ValueError(f"the windows of a drift alarm do not fit its {exits} exits")
        self.counts = list(counts)
        self.total = sum(counts)
        self._windows = [number for number, _ in windows]
        self._starts = [tuple(start) for _, start in windows]
        self.alarmed_at = alarmed_at

    def _limit(self, scale: int) -> float:
        shares = (scale + 1) * (scale + 2) * self._windows[scale] * (self._windows[scale] + 1)
        return math.log(shares / self.alpha)

    def _look(self) -> None:
        for scale in range(_SCALES):
            length = 1 << (_FIRST_SCALE + scale)
            if self.total % (length >> _LOOKS_LOG2):
                return  # nor is it time for any longer window
            if self.alarmed_at is None and self._margin(scale) >= 0.0:
                self.alarmed_at = self.total
            if self.total % length == 0:
                self._starts[scale] = tuple(self.counts)
                self._windows[scale] += 1

    def _margin(self, scale: int) -> float:
        """By how much the evidence of a window exceeds its limit."""
        pairs = zip(self.counts, self._starts[scale], strict=True)
        seen = [now - before for now, before in pairs]
        both = [mine + theirs for mine, theirs in zip(seen, self.reference, strict=True)]
        factor = _log_likelihood(seen) + self._reference_log - _log_likelihood(both)
        return factor - self._limit(scale)
