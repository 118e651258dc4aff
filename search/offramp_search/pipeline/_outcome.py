"""What a run comes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from offramp_search.report import Claim

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offramp.bundle import Bundle, Certificate
    from offramp_search.budget import Budget
    from offramp_search.engine import Confirmed
    from offramp_search.pipeline._measure import Measured
    from offramp_search.spaces import Architecture

__all__ = ["Outcome", "Row", "make_rows"]


@final
@dataclass(frozen=True, slots=True)
class Row:
    """The static and the dynamic network in one program, measured in one run.

    Attributes:
        program: ``runtime/precision``.
        static: The static network.
        dynamic: The network that was found, under its policy.
        last_exit: The same network without early exits.
        exit_shares: Share of the test images that left at each exit.
        certificate: What the policy was calibrated to.
        smaller: Smaller static networks: share of the base's width -> what it answered.
        equal_share: The narrowest of them that was at least as accurate as the dynamic network on
            the search-validation split; ``None`` if there is none.
    """

    program: str
    static: Measured
    dynamic: Measured
    last_exit: Measured
    exit_shares: tuple[float, ...]
    certificate: Certificate
    smaller: Mapping[float, Measured]
    equal_share: float | None

    @property
    def mean_ratio(self) -> float:
        """Mean latency of the dynamic network over the static one's."""
        return self.dynamic.latency.mean_ms / self.static.latency.mean_ms

    @property
    def median_ratio(self) -> float:
        """Median latency of the dynamic network over the static one's."""
        return self.dynamic.latency.median_ms / self.static.latency.median_ms

    @property
    def exit_drop(self) -> float:
        """What early exits cost on the test split: the quantity the certificate bounds."""
        return self.last_exit.accuracy - self.dynamic.accuracy

    @property
    def drop(self) -> float:
        """Static accuracy minus dynamic accuracy."""
        return self.static.accuracy - self.dynamic.accuracy

    @property
    def mean_speedup(self) -> float:
        """How many times faster than the static network the dynamic one is, in the mean."""
        return self.static.latency.mean_ms / self.dynamic.latency.mean_ms

    @property
    def speedup_over_equal(self) -> float:
        """How many times faster than the smallest static network of equal accuracy.

        Where no smaller one is as accurate that is the static network itself.
        """
        equal = self.static if self.equal_share is None else self.smaller[self.equal_share]
        return equal.latency.mean_ms / self.dynamic.latency.mean_ms

    def claims(self, *, mean_speedup: float, certified_drop: float) -> tuple[Claim, ...]:
        """What the run set out to show for this program.

        Args:
            mean_speedup: The goal for the mean latency.
            certified_drop: The goal for the accuracy that early exits may cost, a fraction.
        """
        claims = [
            Claim.at_least(
                f"static {self.program} mean latency over dynamic {self.program} mean latency",
                self.mean_speedup,
                mean_speedup,
            ),
            Claim.at_most(
                f"accuracy that early exits may cost dynamic {self.program}, certified at "
                f"{self.certificate.confidence:.0%} confidence",
                self.certificate.limit,
                certified_drop,
            ),
            Claim.at_most(
                f"accuracy that early exits cost dynamic {self.program} on the test images",
                self.exit_drop,
                certified_drop,
            ),
            Claim(
                f"accuracy of static {self.program} minus dynamic {self.program} on the test "
                "images",
                self.drop,
                None,
                True,
            ),
        ]
        if self.smaller:
            name = "itself" if self.equal_share is None else f"of {self.equal_share:.0%} width"
            claims.append(
                Claim(
                    f"mean latency of the smallest static network of equal accuracy ({name}) over "
                    f"that of dynamic {self.program}",
                    self.speedup_over_equal,
                    None,
                    True,
                )
            )
        return tuple(claims)


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run comes to.

    Attributes:
        static: The bundle of the static network.
        dynamic: The bundle to ship.
        budget: What was limited.
        static_ms: What the static network takes by the latency table, in the search's precision;
            ``None`` if a recorded table does not say.
        architecture: Of the network that ships.
        confirmed: The search's result, its winner measured whole; ``None`` if the architecture was
            given.
        rows: One per program that runs here.
        curves: Per program the ``(mean_ms, accuracy)`` that other thresholds would give on the
            calibration images, at the measured latency.
    """

    static: Bundle
    dynamic: Bundle
    budget: Budget
    static_ms: float | None
    architecture: Architecture
    confirmed: Confirmed | None
    rows: tuple[Row, ...]
    curves: Mapping[str, tuple[tuple[float, float], ...]]


def make_rows(
    measured: Mapping[str, Measured],
    dynamic: Bundle,
    programs: tuple[str, ...],
    shares: Sequence[float],
    equal_shares: Mapping[str, float | None],
) -> tuple[Row, ...]:
    """Put what was measured side by side.

    Args:
        measured: As ``measure_once`` returns it.
        dynamic: The bundle to ship.
        programs: One row each.
        shares: Of the smaller static networks.
        equal_shares: Program -> the one of equal accuracy.
    """
    num_exits = len(dynamic.manifest.stages)
    return tuple(
        Row(
            program=program,
            static=measured[f"static {program}"],
            dynamic=measured[f"dynamic {program}"],
            last_exit=measured[f"last exit {program}"],
            exit_shares=measured[f"dynamic {program}"].exit_shares(num_exits),
            certificate=dynamic.policy(program).certificates[0],
            smaller={share: measured[f"{share} {program}"] for share in shares},
            equal_share=equal_shares.get(program),
        )
        for program in programs
    )
