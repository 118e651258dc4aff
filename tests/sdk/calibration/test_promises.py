"""Every kind of promise: what is certified is kept on the images, and nothing is relaxed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offramp.calibration import Promises, calibrate, images_needed, split_images
from offramp.errors import CalibrationError, TooFewImagesError
from offramp.policy import choose_exits, probabilities, signal_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offramp.bundle import Policy
    from offramp.calibration import CalibrationReport

CLASSES = 6
STAGES = (1.0, 1.0, 1.0, 1.0)


def network(
    rng: np.random.Generator, images: int, strength: tuple[float, ...] = (2.5, 4.0, 5.5, 6.5)
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    labels = rng.integers(0, CLASSES, images)
    hardness = rng.gamma(2.0, 1.0, images)
    logits = rng.normal(size=(len(strength), images, CLASSES))
    for exit, power in enumerate(strength):
        logits[exit, np.arange(images), labels] += power - hardness
    return logits.astype(np.float32), labels


@pytest.fixture
def data(rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return network(rng, 6_000)


@pytest.fixture
def samples(rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.gamma(400.0, 1 / 400.0, (4, 2_000))


def run(data: Any, promises: Promises, **arguments: Any) -> CalibrationReport:
    logits, labels = data
    return calibrate(logits, labels, program="litert/int8", promises=promises, **arguments)


def held_out(data: Any, report: CalibrationReport) -> tuple[Any, Any, Any]:
    """Exits, whether they are right and whether the last is, on the certification images."""
    logits, labels = data
    images = split_images(labels.size, report.promises).certify
    exits = choose_exits(report.certified(), logits[:, images])
    right = logits[:, images].argmax(axis=-1) == labels[images]
    return exits, right[exits, np.arange(images.size)], right[-1]


def test_the_drop_of_those_that_leave_early(data: Any) -> None:
    report = run(data, Promises(early_exit_drop=0.03))
    (certificate,) = report.certificates
    exits, right, last = held_out(data, report)
    early = exits < 3
    assert early.mean() > 0.3
    assert certificate.observed == pytest.approx(last[early].mean() - right[early].mean())
    assert certificate.observed <= certificate.upper_bound <= 0.03
    # The mean over all images may be within a limit that those who left early break.
    overall = run(data, Promises(accuracy_drop=0.03)).certified()
    assert overall.exit_shares[-1] < report.certified().exit_shares[-1]


def test_the_drop_in_every_class(data: Any) -> None:
    logits, labels = data
    # One class that the early exits cannot tell.
    logits = logits.copy()
    hard = np.flatnonzero(labels == 2)
    logits[:3, hard] = np.random.default_rng(0).normal(size=(3, hard.size, CLASSES)) * 3
    report = run((logits, labels), Promises(class_drop=0.05))
    overall = run((logits, labels), Promises(accuracy_drop=0.05))
    (certificate,) = report.certificates
    worst = max(report.classes, key=lambda one: one.drop)
    assert worst.index == 2
    assert certificate.observed == pytest.approx(worst.drop)
    assert worst.drop <= 0.05 < max(one.drop for one in overall.classes)
    assert [one.index for one in report.classes] == list(range(CLASSES))
    assert sum(one.images for one in report.classes) == 4_200


def test_disagreement_needs_no_labels_and_bounds_the_drop(data: Any) -> None:
    logits, labels = data
    report = run((logits, None), Promises(disagreement=0.03))
    policy = report.certified()
    (certificate,) = report.certificates
    images = split_images(labels.size, report.promises).certify
    exits = choose_exits(policy, logits[:, images])
    answers = logits[:, images].argmax(axis=-1)
    unlike = answers[exits, np.arange(images.size)] != answers[-1]
    assert certificate.observed == pytest.approx(unlike.mean())
    assert certificate.kind == "disagreement"
    assert policy.exit_shares[-1] < 0.7
    assert policy.accuracy is None
    assert report.classes == ()
    labelled = run(data, Promises(disagreement=0.03))
    _, right, last = held_out(data, labelled)
    assert last.mean() - right.mean() <= labelled.certificates[0].observed


def test_a_mean_latency_by_itself_spends_no_accuracy_it_need_not(data: Any) -> None:
    """Under a looser budget images leave later, and under one that allows all, never early."""
    shares = []
    for budget in (2.0, 3.0, 4.5):
        report = run(data, Promises(mean_ms=budget), latency=STAGES)
        (certificate,) = report.certificates
        exits, _, _ = held_out(data, report)
        assert certificate.observed == pytest.approx((exits + 1.0).mean())
        assert certificate.observed <= certificate.upper_bound <= budget
        shares.append(report.certified().exit_shares[-1])
    assert shares[0] < shares[1] < shares[2] == 1.0


def test_measured_latencies_cost_certainty(data: Any, samples: Any) -> None:
    exact = run(data, Promises(mean_ms=3.0), latency=STAGES).certificates[0]
    measured = run(data, Promises(mean_ms=3.0), latency=samples).certificates[0]
    assert all(a > b for a, b in zip(measured.exit_ms, exact.exit_ms, strict=True))
    assert measured.confidence == exact.confidence == 0.95


def test_accuracy_and_latency_at_once(data: Any) -> None:
    report = run(data, Promises(accuracy_drop=0.02, mean_ms=3.2), latency=STAGES)
    kinds = {certificate.kind: certificate for certificate in report.certificates}
    assert kinds.keys() == {"accuracy_drop", "mean_latency"}
    exits, right, last = held_out(data, report)
    assert last.mean() - right.mean() <= 0.02
    assert (exits + 1.0).mean() <= 3.2
    assert kinds["mean_latency"].upper_bound <= 3.2


def test_what_cannot_be_had_together_is_not_had(data: Any) -> None:
    promises = Promises(accuracy_drop=0.005, mean_ms=1.5)
    report = run(data, promises, latency=STAGES)
    assert (report.feasible, report.policy, report.certificates) == (False, None, ())
    accurate, quick = report.alternatives
    assert (accurate.kept, quick.kept) == (("accuracy_drop",), ("mean_ms",))
    assert accurate.policy is not None
    assert accurate.policy.certificates[0].upper_bound <= 0.005
    assert accurate.nearest["mean_ms"] > 1.5
    assert quick.policy is not None
    assert quick.policy.certificates[0].upper_bound <= 1.5
    assert quick.nearest["accuracy_drop"] > 0.005
    with pytest.raises(CalibrationError, match=r"accuracy_drop of 0.50% and mean_ms of 1.5 ms"):
        report.certified()
    # What it names can be asked for.
    nearest = Promises(accuracy_drop=0.005, mean_ms=accurate.nearest["mean_ms"] * 1.05)
    assert run(data, nearest, latency=STAGES).feasible


def test_a_hard_cap_runs_no_stage_that_could_be_late(data: Any, samples: Any) -> None:
    promises = Promises(accuracy_drop=0.1, tail_ms=3.3)
    report = run(data, promises, latency=samples)
    policy = report.certified()
    assert (policy.enabled[2], policy.thresholds[2]) == (True, 0.0)
    assert policy.exit_shares[3] == 0.0
    exits, right, last = held_out(data, report)
    assert exits.max() == 2
    drop, tail = report.certificates
    assert drop.observed == pytest.approx(last.mean() - right.mean())
    assert tail.kind == "tail_latency"
    assert tail.quantile == 0.99
    assert tail.observed <= tail.upper_bound <= 3.3
    assert tail.exit_ms[3] > 3.3
    assert any("stages behind stage 2" in warning for warning in report.warnings)


def test_a_hard_cap_that_costs_too_much_is_refused(data: Any, samples: Any) -> None:
    report = run(data, Promises(accuracy_drop=0.005, tail_ms=2.3), latency=samples)
    capped, accurate = report.alternatives
    assert not report.feasible
    assert (capped.kept, accurate.kept) == (("tail_ms",), ("accuracy_drop",))
    assert capped.nearest["accuracy_drop"] > 0.005
    assert accurate.nearest["tail_ms"] > 4.0
    assert capped.policy is not None
    assert capped.policy.exit_shares[2:] == (0.0, 0.0)
    assert accurate.policy is not None
    assert accurate.policy.exit_shares[3] > 0.0


def test_a_tail_below_the_first_stage_names_the_smallest(data: Any, samples: Any) -> None:
    report = run(data, Promises(accuracy_drop=0.5, tail_ms=0.5), latency=samples)
    slow, accurate = report.alternatives
    assert not report.feasible
    assert slow.policy is None
    assert slow.nearest["tail_ms"] > 1.0
    assert accurate.kept == ("accuracy_drop",)


def test_a_soft_cap_lets_a_few_images_go_on(data: Any, samples: Any) -> None:
    promises = Promises(tail_ms=3.4, quantile=0.9, cap="soft")
    report = run(data, promises, latency=samples)
    policy = report.certified()
    assert 0.0 < policy.exit_shares[3] < 0.05
    # Only the promised share may be late, so the hard cap stops more of them.
    hard = run(data, Promises(tail_ms=3.4, quantile=0.9), latency=samples).certified()
    assert hard.exit_shares[3] == 0.0


def test_a_tail_that_all_stages_keep_needs_no_cap(data: Any, samples: Any) -> None:
    for cap in ("hard", "soft"):
        promises = Promises(accuracy_drop=0.02, tail_ms=9.0, cap=cap)
        policy = run(data, promises, latency=samples).certified()
        alone = run(data, Promises(accuracy_drop=0.02), latency=samples).certified()
        assert policy.exit_shares[3] == pytest.approx(alone.exit_shares[3], abs=0.05)


def test_unsure_answers_are_withheld(data: Any) -> None:
    logits, labels = data
    report = run(data, Promises(accuracy_drop=0.02, selective_error=0.03))
    policy = report.certified()
    assert policy.abstain_below is not None
    parts = split_images(labels.size, report.promises)
    images = parts.abstention
    exits = choose_exits(policy, logits[:, images])
    sure = np.array(
        [
            signal_values(
                probabilities(logits[exit, image], policy.temperatures[exit]), policy.signal
            )
            for exit, image in zip(exits, images, strict=True)
        ]
    )
    given = sure >= policy.abstain_below
    answers = logits[exits, images].argmax(axis=-1)
    wrong = answers[given] != labels[images][given]
    (certificate,) = [c for c in report.certificates if c.kind == "selective_error"]
    assert certificate.images_certified == given.sum()
    assert certificate.observed == pytest.approx(wrong.mean())
    assert certificate.observed <= certificate.upper_bound <= 0.03
    assert 0.5 < given.mean() < 1.0
    assert (answers != labels[images]).mean() > 0.05
    # A network that is right often enough withholds nothing.
    everything = run(data, Promises(selective_error=0.4)).certified()
    assert everything.abstain_below == 0.0


def test_an_error_that_no_signal_can_tell_is_refused(rng: np.random.Generator) -> None:
    logits, labels = network(rng, 6_000)
    guessed = np.random.default_rng(1).integers(0, CLASSES, labels.size)
    logits = np.zeros_like(logits)
    logits[:, np.arange(labels.size), guessed] = rng.uniform(1, 9, labels.size)
    report = run((logits, labels), Promises(accuracy_drop=0.02, selective_error=0.05))
    (other,) = report.alternatives
    assert not report.feasible
    assert other.kept == ("accuracy_drop",)
    assert other.nearest["selective_error"] > 0.5
    assert other.policy is not None
    assert other.policy.abstain_below is None


def test_the_cost_aware_path_needs_to_know_the_cost(data: Any) -> None:
    promises = Promises(accuracy_drop=0.02)
    with pytest.raises(CalibrationError, match=r"the cost-aware path needs the latency"):
        run(data, promises, path="cost_aware")
    policy = run(data, promises, path="cost_aware", latency=STAGES).certified()
    assert policy.exit_shares[-1] < 0.7
    assert len(set(policy.thresholds[:3])) > 1


def test_few_signals_are_told(rng: np.random.Generator) -> None:
    logits, labels = network(rng, 3_000)
    coarse = np.round(logits.clip(-1, 1))
    report = run((coarse, labels), Promises(accuracy_drop=0.05))
    assert report.exits[0].distinct_signals < 50
    assert sum("only set coarsely" in one or "coarsely" in one for one in report.warnings) == 3


def test_the_exits_are_reported_with_intervals(data: Any) -> None:
    report = run(data, Promises(accuracy_drop=0.02))
    policy = report.certified()
    exits, right, last = held_out(data, report)
    for exit in report.exits:
        here = exits == exit.exit
        assert exit.images == policy.exit_counts[exit.exit] == here.sum()
        assert exit.share_low <= exit.share <= exit.share_high
        if here.any():
            assert exit.drop == pytest.approx(last[here].mean() - right[here].mean())
    assert report.exits[-1].disagreement == 0.0


def test_the_report_is_json(data: Any, samples: Any) -> None:
    feasible = run(data, Promises(accuracy_drop=0.02, tail_ms=3.3), latency=samples)
    read = json.loads(feasible.to_json())
    assert read["promises"]["tail_ms"] == 3.3
    assert read["feasible"] is feasible.feasible
    assert {"policy", "alternatives", "exits", "classes", "minimum_samples"} <= read.keys()


@pytest.mark.parametrize(
    ("promises", "arguments", "message"),
    [
        (Promises(accuracy_drop=0.02), {"labels": None}, "accuracy_drop cannot.*without labels"),
        (Promises(selective_error=0.1), {"labels": None}, "selective_error cannot"),
        (Promises(mean_ms=3.0), {}, "mean_ms needs the latency"),
        (Promises(tail_ms=3.0, mean_ms=2.0), {}, "mean_ms and tail_ms needs the latency"),
        (Promises(accuracy_drop=0.02), {"path": "shortest"}, "unknown path 'shortest'"),
    ],
)
def test_what_a_promise_needs(
    data: Any, promises: Promises, arguments: dict[str, Any], message: str
) -> None:
    logits, labels = data
    given: dict[str, Any] = {"logits": logits, "labels": labels, "program": "litert/int8"}
    with pytest.raises(CalibrationError, match=message):
        calibrate(**given | {"promises": promises} | arguments)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "nothing is promised"),
        ({"mean_ms": 0.0}, "mean_ms must be a time above 0"),
        ({"tail_ms": float("nan")}, "tail_ms must be a time above 0"),
        ({"tail_ms": 3.0, "quantile": 1.0}, "quantile must be above 0"),
        ({"tail_ms": 3.0, "cap": "firm"}, "unknown cap 'firm'"),
        ({"class_drop": -0.1}, "class_drop must be above 0"),
    ],
)
def test_what_is_no_promise(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        Promises(**wrong)


@pytest.mark.parametrize(
    ("promises", "classes", "needed"),
    [
        (Promises(accuracy_drop=0.01), None, 568),
        (Promises(disagreement=0.01), None, 427),
        (Promises(class_drop=0.02), 10, 2_828),
        (Promises(mean_ms=3.0), None, 2),
    ],
)
def test_the_number_of_images_is_known_beforehand(
    promises: Promises, classes: int | None, needed: int
) -> None:
    assert images_needed(promises, classes=classes) == needed
    split_images(needed, promises, classes=classes)
    if needed > 2:
        with pytest.raises(TooFewImagesError):
            split_images(needed - 1, promises, classes=classes)


def test_withholding_takes_images_of_its_own() -> None:
    promises = Promises(accuracy_drop=0.05, selective_error=0.05)
    parts = split_images(images_needed(promises), promises)
    assert not set(parts.abstention) & set(parts.certify)
    assert len(parts.abstention) >= 72
    with pytest.raises(TooFewImagesError, match="for the signal to abstain below"):
        split_images(50, promises)


def test_a_class_that_is_too_rare_is_named(data: Any) -> None:
    logits, labels = data
    keep = np.flatnonzero((labels != 3) | (np.arange(labels.size) < 100))
    with pytest.raises(TooFewImagesError, match=r"class 3 has .* of every class"):
        run((logits[:, keep], labels[keep]), Promises(class_drop=0.05))


def test_the_float_network_as_reference_counts_what_the_program_lost(data: Any) -> None:
    logits, labels = data
    better = logits[-1].copy()
    better[:300] = 20 * np.eye(CLASSES, dtype=np.float32)[labels[:300]]
    promises = Promises(disagreement=0.03, reference="float")
    report = run(data, promises, reference_logits=better)
    alone = run(data, Promises(disagreement=0.03))
    assert report.certificates[0].reference == "float"
    assert report.certified().exit_shares[-1] > alone.certified().exit_shares[-1]


def test_policies_can_be_written_into_a_bundle(
    bundle: Any, make_policy: Any, rng: np.random.Generator
) -> None:
    logits, labels = network(rng, 3_000, strength=(4.0, 6.0, 8.0))
    for name, limit in (("saver", 0.05), ("accurate", 0.01)):
        report = calibrate(
            logits,
            labels,
            program="litert/int8",
            promises=Promises(accuracy_drop=limit, mean_ms=9.0, tail_ms=9.0, selective_error=0.3),
            latency=rng.gamma(400.0, 1 / 400.0, (3, 2_000)),
            name=name,
        )
        policy: Policy = report.certified()
        bundle = bundle.add_policy(policy)
    assert [policy.name for policy in bundle.manifest.policies] == ["saver", "accurate"]
    assert len(bundle.policy("litert/int8", "saver").certificates) == 4
