"""``offramp predict --monitor`` and ``offramp monitor``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from offramp.monitoring import Monitor, encode_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from offramp.bundle import Bundle, Policy


@pytest.fixture
def images(photos: Path) -> list[Path]:
    return sorted(photos.rglob("*.png"))[:5]


def test_predictions_are_added_to_the_file(
    offramp: Callable[..., Any], bundle: Bundle, images: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "monitor.json"
    for run in (1, 2):
        done = offramp("predict", bundle.path, *images, "--policy", "last", "--monitor", file)
        assert done.code == 0, done.err
        shown = offramp("monitor", file, "--json")
        assert shown.code == 0, shown.err
        assert shown.json["predictions"] == 5 * run
        assert shown.json["exit_shares"] == [0, 0, 1]
    both = offramp("monitor", file, file, "--json")
    assert both.json["predictions"] == 20
    text = offramp("monitor", file, "--prometheus").out
    (family,) = [
        family
        for family in text_string_to_metric_families(text)
        if family.name == "offramp_predictions"
    ]
    assert [sample.value for sample in family.samples] == [10]
    table = offramp("monitor", file)
    assert "10 predictions, 0.0% cut by a deadline" in table.out
    assert "Shadow runs:" in table.out


def test_an_alarm_is_an_exit_code(
    offramp: Callable[..., Any], make_policy: Callable[..., Policy], tmp_path: Path, answer: Any
) -> None:
    monitor = Monitor(3, [make_policy(exit_counts=(900, 90, 10))])
    for _ in range(64):
        monitor.record(answer)
    file = tmp_path / "monitor.json"
    file.write_bytes(encode_state(monitor.state()))
    done = offramp("monitor", file)
    assert done.code == 1
    assert "Drift of default: ALARM after 16 predictions" in done.out
    assert "calibrated 90.0% 9.0% 1.0%" in done.out


@pytest.fixture
def answer() -> Any:
    class Answer:
        exit, index, reason, policy = 2, 0, "last_exit", "default"
        stage_ms, total_ms = (0.1, 0.1, 0.1), 0.3

        def evidence(self) -> tuple[list[float], float]:
            return [0.0, 0.0], 1.0

    return Answer()


def test_what_is_no_state(
    offramp: Callable[..., Any], bundle: Bundle, images: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "monitor.json"
    file.write_text("{}")
    for command in (("monitor", file), ("predict", bundle.path, images[0], "--monitor", file)):
        done = offramp(*command, *(() if command[0] == "monitor" else ("--policy", "last")))
        assert done.code == 2
        assert "is no state of a monitor" in done.err
    assert offramp("monitor", tmp_path / "none.json").code == 2
    file.write_bytes(encode_state(Monitor(2).state()))
    done = offramp("predict", bundle.path, images[0], "--policy", "last", "--monitor", file)
    assert done.code == 2
    assert "written for another bundle" in done.err
    assert offramp("monitor", file, "--json", "--prometheus").code == 2
