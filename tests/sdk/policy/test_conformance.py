"""This binding passes the vectors of the exit rule, which are what their script makes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp.bundle import InputSpec, Policy
from offramp.classifier import DynamicClassifier
from offramp.policy import choose_exits, make_decider, probabilities, signal_values, top_class
from offramp.testing import FakeRuntime

CONFORMANCE = Path(__file__).resolve().parents[3] / "sdk" / "conformance"
CASES = json.loads((CONFORMANCE / "exits.json").read_text())["cases"]


def _policy(case: dict[str, Any]) -> Policy:
    return Policy(
        name="default",
        program="litert/float32",
        signal=case["signal"],
        temperatures=tuple(case["temperatures"]),
        thresholds=tuple(case["thresholds"]),
        enabled=tuple(case["enabled"]),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_case(case: dict[str, Any]) -> None:
    policy = _policy(case)
    logits = np.array(case["logits"], dtype=np.float32)
    np.testing.assert_array_equal(logits.astype(np.float64), case["logits"])
    signals = [
        float(signal_values(probabilities(row, temperature), policy.signal))
        for row, temperature in zip(logits, policy.temperatures, strict=True)
    ]
    np.testing.assert_allclose(signals, case["signals"], rtol=0, atol=1e-14)
    # The forms of the rule: for a batch, between two stages, and in a whole prediction.
    assert choose_exits(policy, logits[:, None]).tolist() == [case["exit"]]
    deciders = [make_decider(policy, exit, logits.shape[1]) for exit in range(len(logits))]
    for rows in (logits, logits.tolist()):
        sure = [
            decider is not None and decider.decide(row)
            for decider, row in zip(deciders, rows, strict=True)
        ]
        assert sure.index(True) == case["exit"]
        assert top_class(rows[case["exit"]]) == case["index"]
    runtime = FakeRuntime(logits[:, None])
    with DynamicClassifier(
        runtime,
        labels=[str(index) for index in range(logits.shape[1])],
        input_spec=InputSpec(height=8, width=8),
        policy=policy,
    ) as classifier:
        prediction = classifier.predict(runtime.image(0))
    assert (prediction.exit, prediction.index) == (case["exit"], case["index"])


def test_the_vectors_tell_rules_apart() -> None:
    """A strict comparison, float32, or a threshold for a disabled exit would fail some case."""

    def wrong(case: dict[str, Any], rule: str) -> int:
        for exit, signal in enumerate(case["signals"][:-1]):
            threshold = case["thresholds"][exit]
            enabled = case["enabled"][exit]
            answers = {
                "strict": enabled and signal > threshold,
                "single": enabled and np.float32(signal) >= np.float32(threshold),
                "no switch": signal >= threshold,
            }
            if answers[rule]:
                return exit
        return len(case["signals"]) - 1

    for rule in ("strict", "single", "no switch"):
        assert sum(wrong(case, rule) != case["exit"] for case in CASES) >= 2, rule


def test_the_script_makes_this_file(tmp_path: Path) -> None:
    script = CONFORMANCE / "make_exits.py"
    made = tmp_path / "exits.json"
    subprocess.run([sys.executable, script, "--out", made], check=True, timeout=120)
    assert made.read_text() == (CONFORMANCE / "exits.json").read_text()
