"""Make the vectors of the exit rule: logits and a policy, and which exit must then answer.

The answers come from the rule as docs/bundle.md states it, in plain floats; none of the SDK's code
takes part. Every comparison is then judged once more in decimals of 60 digits, so that no case
hangs on how a language rounds an exponential: each signal is at least 1e-11 away from its
threshold, or equal to it by rounding that all languages share.

    .venv/bin/python sdk/conformance/make_exits.py
"""

from __future__ import annotations

import argparse
import decimal
import json
import math
import random
import struct
from decimal import Decimal
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "exits.json"
LARGEST = "max_probability"
SIGNALS = (LARGEST, "margin", "entropy")
CLEAR = Decimal("1e-11")

Case = dict[str, Any]


def single(value: float) -> float:
    """The float32 nearest to a value."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def probabilities(logits: list[float], temperature: float) -> list[float]:
    """Softmax in float64."""
    scaled = [value / temperature for value in logits]
    largest = max(scaled)
    powers = [math.exp(value - largest) for value in scaled]
    total = sum(powers)
    return [power / total for power in powers]


def signal_value(probability: list[float], signal: str) -> float:
    """How sure an exit is."""
    if signal == LARGEST:
        return max(probability)
    if signal == "margin":
        second, largest = sorted(probability)[-2:]
        return largest - second
    entropy = -sum(p * math.log(p) for p in probability if p > 0)
    return min(1.0, max(0.0, 1.0 - entropy / math.log(len(probability))))


def exact_signal(logits: list[float], temperature: float, signal: str) -> Decimal:
    """The same without rounding, for all that can be told in 60 digits."""
    with decimal.localcontext(decimal.Context(prec=60)):
        largest = Decimal(max(logits))
        powers = [((Decimal(value) - largest) / Decimal(temperature)).exp() for value in logits]
        total = sum(powers)
        shares = sorted(power / total for power in powers)
        if signal == LARGEST:
            return shares[-1]
        if signal == "margin":
            return shares[-1] - shares[-2]
        entropy = -sum(share * share.ln() for share in shares if share > 0)
        return 1 - entropy / Decimal(len(shares)).ln()


def make_case(
    name: str,
    signal: str,
    logits: list[list[float]],
    thresholds: list[float],
    *,
    temperatures: list[float] | None = None,
    enabled: list[bool] | None = None,
    exact: bool = False,
) -> Case:
    """A case with its answer.

    Args:
        name: What it shows.
        signal: Of the policy.
        logits: Per exit.
        thresholds: Per exit but the last.
        temperatures: Per exit but the last; 1 by default.
        enabled: Per exit but the last; all by default.
        exact: A signal is meant to equal its threshold.
    """
    last = len(logits) - 1
    rounded = [[single(value) for value in row] for row in logits]
    temperatures = [*(temperatures or [1.0] * last), 1.0]
    enabled = [*(enabled or [True] * last), True]
    values = [
        signal_value(probabilities(row, temperature), signal)
        for row, temperature in zip(rounded, temperatures, strict=True)
    ]
    chosen = last
    for exit in range(last):
        if enabled[exit] and not exact:
            distance = exact_signal(rounded[exit], temperatures[exit], signal)
            assert abs(distance - Decimal(thresholds[exit])) > CLEAR, name
        if enabled[exit] and values[exit] >= thresholds[exit]:
            chosen = exit
            break
    return {
        "name": name,
        "signal": signal,
        "temperatures": temperatures,
        "thresholds": [*thresholds, 0.0],
        "enabled": enabled,
        "logits": rounded,
        "signals": values,
        "exit": chosen,
        "index": rounded[chosen].index(max(rounded[chosen])),
    }


def edges() -> list[Case]:
    """Where a rule that looks right goes wrong."""
    rest = [0.0, 1.0, 2.0]
    cases = [
        make_case("the last exit always answers", LARGEST, [[0.0, 0.1]], []),
        make_case("never sure", LARGEST, [rest, rest, [2.0, 1.0, 0.0]], [0.99, 0.99]),
        make_case("the first sure exit answers", LARGEST, [rest, [9.0, 0, 0], rest], [0.9, 0.9]),
        make_case("a later exit is not asked", LARGEST, [[9.0, 0, 0], rest], [0.9]),
        make_case(
            "a disabled exit does not answer",
            LARGEST,
            [[200.0, 0, 0], rest],
            [0.0],
            enabled=[False],
        ),
        make_case(
            "the last exit answers even if nothing is enabled",
            "margin",
            [[200.0, 0, 0], [200.0, 0, 0], rest],
            [0.0, 0.0],
            enabled=[False, False],
        ),
        make_case(
            "a threshold of 0 is always reached",
            "entropy",
            [[1.0, 1.0, 1.0], rest],
            [0.0],
            exact=True,
        ),
        make_case(
            "a temperature turns a yes into a no",
            LARGEST,
            [[4.0, 0, 0], rest],
            [0.9],
            temperatures=[2.0],
        ),
        make_case(
            "a temperature turns a no into a yes",
            LARGEST,
            [[2.0, 0, 0], rest],
            [0.9],
            temperatures=[0.5],
        ),
        make_case("logits far from zero", LARGEST, [[1e30, -1e30, 0.0], rest], [0.999999]),
        make_case("large negative logits", "margin", [[-1e5, -1e5 - 8, -1e5 - 16], rest], [0.99]),
    ]
    for signal in SIGNALS:
        cases += [
            make_case(
                f"saturated, threshold 1: {signal}",
                signal,
                [[800.0, 0, -800.0], rest],
                [1.0],
                exact=True,
            ),
            make_case(
                f"not quite saturated, threshold 1: {signal}",
                signal,
                [[20.0, 0, -3.0], rest],
                [1.0],
            ),
        ]
    cases += [
        make_case(
            "a lead of 37 rounds to certainty", LARGEST, [[37.0, 0.0], [0, 1.0]], [1.0], exact=True
        ),
        make_case("a lead of 36 does not", LARGEST, [[36.0, 0.0], [0, 1.0]], [1.0], exact=True),
        make_case(
            "two equal logits reach one half", LARGEST, [[3.0, 3.0], [0, 1.0]], [0.5], exact=True
        ),
        make_case(
            "four equal logits reach a quarter",
            LARGEST,
            [[-7.5] * 4, [0.0] * 4],
            [0.25],
            exact=True,
        ),
        make_case("equal largest logits have no margin", "margin", [[5.0, 1.0, 5.0], rest], [1e-6]),
        make_case(
            "no margin reaches a threshold of 0",
            "margin",
            [[5.0, 1.0, 5.0], rest],
            [0.0],
            exact=True,
        ),
        make_case("of equal classes the first", LARGEST, [[1.0, 7.0, 7.0, 0.0], [0.0] * 4], [0.4]),
        make_case(
            "of equal ones the first, at the last exit",
            "margin",
            [[0.0] * 4, [2.0, 9.0, 9.0, 9.0]],
            [0.9],
        ),
    ]
    return cases


def near(source: random.Random) -> list[Case]:
    """Thresholds a hair above and below the signal."""
    cases = []
    for signal in SIGNALS:
        for classes in (2, 3, 10):
            logits = [round(source.uniform(-4, 6), 3) for _ in range(classes)]
            after = [round(source.uniform(-4, 6), 3) for _ in range(classes)]
            temperature = round(source.uniform(0.5, 3), 3)
            exact = exact_signal([single(value) for value in logits], temperature, signal)
            for step in ("1e-10", "1e-6"):
                for sign, word in ((1, "above"), (-1, "below")):
                    cases.append(
                        make_case(
                            f"threshold {step} {word} the signal: {signal}, {classes} classes",
                            signal,
                            [logits, after],
                            [float(exact + sign * Decimal(step))],
                            temperatures=[temperature],
                        )
                    )
    return cases


def drawn(source: random.Random) -> list[Case]:
    """Random policies and logits, more classes among them than fit into a quick path."""
    cases = []
    for number in range(90):
        exits = source.choice((2, 3, 4))
        classes = 100 if number % 45 == 44 else source.choice((2, 5, 10))
        spread = source.choice((1.0, 4.0, 12.0))
        cases.append(
            make_case(
                f"drawn {number}",
                SIGNALS[number % 3],
                [[round(source.gauss(0, spread), 3) for _ in range(classes)] for _ in range(exits)],
                [round(source.uniform(0.05, 1), 4) for _ in range(exits - 1)],
                temperatures=[round(source.uniform(0.3, 3), 3) for _ in range(exits - 1)],
                enabled=[source.random() < 0.8 for _ in range(exits - 1)],
            )
        )
    return cases


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULT)
    out: Path = parser.parse_args().out
    source = random.Random(20261124)
    cases = [*edges(), *near(source), *drawn(source)]
    lines = ",\n".join(json.dumps(case) for case in cases)
    out.write_text(f'{{"format_version": 1,\n"cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
