"""What a promise limits, as numbers of images, and the test of it.

Whatever is promised, an image contributes a number that depends on the exit it leaves at, and the
promise is about the mean of these numbers, over all images or over each of several groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

import numpy as np

from offramp.calibration._betting import certifies, smallest_limit
from offramp.calibration._binomial import certifies_rate, smallest_rate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offramp.bundle import CertificateKind

    Values = NDArray[np.int64] | NDArray[np.float64]

__all__ = ["Quantity"]

# A limit that bisection may start from: the largest of which the bet is defined.
_ALL_BUT_ONE = 1.0 - 1e-9


@final
@dataclass(frozen=True, slots=True, eq=False)
class Quantity:
    """One promise about data.

    Several groups need no correction: the promise is broken only if it is broken in some group,
    and it is certified only if that group's own test says so (an intersection-union test; Berger
    1982, Technometrics 24).

    Attributes:
        kind: Of the certificate.
        limit: The largest mean, in the unit of the table.
        table: ``(exits, images)``, at most 1: what an image contributes if it leaves at an exit.
        groups: ``all`` images; those that leave ``early``; or ``(images,)`` int64, the group of
            each, each tested by itself.
        exact: Whether the table holds only 0 and 1, so that the exact binomial test applies;
            otherwise one bets.
        free: Whether leaving at the last exit contributes 0 by definition.
        faster_is_safer: Whether leaving earlier never adds to it.
        scale: Milliseconds, or whatever the unit of the certificate is, for 1 in the table.
        offset: The same for 0 in the table.
    """

    kind: CertificateKind
    limit: float
    table: Values
    groups: Literal["all", "early"] | NDArray[np.int64] = "all"
    exact: bool = False
    free: bool = False
    faster_is_safer: bool = False
    scale: float = 1.0
    offset: float = 0.0

    def take(self, images: NDArray[np.int64]) -> Quantity:
        """The same of some of the images, in their order."""
        groups = self.groups if isinstance(self.groups, str) else self.groups[images]
        return Quantity(
            kind=self.kind,
            limit=self.limit,
            table=self.table[:, images],
            groups=groups,
            exact=self.exact,
            free=self.free,
            faster_is_safer=self.faster_is_safer,
            scale=self.scale,
            offset=self.offset,
        )

    def parts(self, exits: NDArray[np.int64]) -> list[Values]:
        """What the images of each group contribute, groups without images left out.

        Args:
            exits: ``(images,)`` int64, where each leaves.
        """
        values: Values = self.table[exits, np.arange(len(exits))]
        if isinstance(self.groups, str):
            early = exits < len(self.table) - 1
            chosen = [values] if self.groups == "all" else [values[early]]
        else:
            chosen = [values[self.groups == group] for group in np.unique(self.groups)]
        return [part for part in chosen if part.size]

    def certified(self, exits: NDArray[np.int64], confidence: float) -> bool:
        """Whether the images show that the promise is kept."""
        if self.limit >= 1.0:
            return True  # nothing in the table is larger
        parts = self.parts(exits)
        if self.exact:
            return all(
                certifies_rate(int(part.sum()), part.size, self.limit, confidence) for part in parts
            )
        return all(certifies(part, self.limit, confidence) for part in parts)

    def refuted(self, exits: NDArray[np.int64], confidence: float) -> bool:
        """Whether the images show that the promise is broken, in some group at least.

        Unlike certifying, this takes a share of the risk for each group: any of them will do.
        """
        if self.limit >= 1.0:
            return False
        parts = self.parts(exits)
        level = 1.0 - (1.0 - confidence) / max(1, len(parts))
        if self.exact:
            return any(
                certifies_rate(part.size - int(part.sum()), part.size, 1.0 - self.limit, level)
                for part in parts
            )
        return any(certifies(-part, -self.limit, level) for part in parts)

    def observed(self, exits: NDArray[np.int64]) -> float:
        """The mean of the worst group, in the certificate's unit; 0 if no image is concerned."""
        means = [float(part.mean()) for part in self.parts(exits)]
        return self.offset + self.scale * max(means, default=0.0)

    def smallest(self, exits: NDArray[np.int64], confidence: float) -> float:
        """The smallest limit that the images would certify, in the certificate's unit."""
        limits = [self._smallest(part, confidence) for part in self.parts(exits)]
        return self.offset + self.scale * max(limits, default=0.0)

    def margin(self, exits: NDArray[np.int64]) -> float:
        """How many standard errors the worst group is below the limit."""
        worst = np.inf
        for part in self.parts(exits):
            # As if one more image had been seen halfway off: without it, a few images that are
            # all alike would look certain.
            mean = float(part.mean())
            variance = (float(part.var()) * part.size + 0.25) / (part.size + 1)
            worst = min(worst, (self.limit - mean) / (variance / part.size) ** 0.5)
        return float(worst)

    def _smallest(self, part: Values, confidence: float) -> float:
        if self.exact:
            return smallest_rate(int(part.sum()), part.size, confidence)
        if not certifies(part, _ALL_BUT_ONE, confidence):
            return 1.0
        return smallest_limit(part, _ALL_BUT_ONE, confidence)
