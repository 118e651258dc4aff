"""Loading real bundles and predicting with real programs."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from offramp import Bundle, DynamicClassifier, Policy
from offramp.bundle import LatencyEntry, pack_bundle
from offramp.classifier import StageLimits
from offramp.errors import BundleError
from offramp.policy import choose_exits
from offramp.profiling import device_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("program", ["litert/float32", "litert/int8"])
@pytest.mark.parametrize("packed", [False, True])
def test_predictions_are_those_of_the_vectors(
    calibrated: Bundle, tmp_path: Path, program: str, packed: bool
) -> None:
    bundle = pack_bundle(calibrated, tmp_path / "b.zip") if packed else calibrated
    vectors = bundle.vectors()
    policy = bundle.policy(program)
    with DynamicClassifier.load(bundle.path, program=program) as classifier:
        answers = [classifier.predict(image) for image in vectors.images]
    exits = [answer.exit for answer in answers]
    assert exits == list(policy.vector_exits)
    assert exits == choose_exits(policy, vectors.logits[program]).tolist()
    assert len(set(exits)) > 1
    for number, answer in enumerate(answers):
        assert answer.index == vectors.logits[program][answer.exit, number].argmax()
        assert answer.label == bundle.manifest.labels[answer.index]


def test_every_kind_of_image(calibrated: Bundle, tmp_path: Path) -> None:
    array = calibrated.vectors().images[0]
    path = tmp_path / "image.png"
    Image.fromarray(array).save(path)
    with DynamicClassifier.load(str(calibrated.path), policy="last") as classifier:
        expected = classifier.predict(array)
        for image in (path, str(path), path.read_bytes(), Image.fromarray(array)):
            np.testing.assert_array_equal(
                classifier.predict(image).probabilities, expected.probabilities
            )


def test_choices(calibrated: Bundle, make_policy: Callable[..., Policy]) -> None:
    image = calibrated.vectors().images[0]
    with DynamicClassifier.load(calibrated) as classifier:
        assert classifier.policy == calibrated.policy("litert/int8")
        assert classifier.labels == calibrated.manifest.labels
    with DynamicClassifier.load(calibrated, policy="last") as classifier:
        assert classifier.predict(image).exit == 2
    own = make_policy(name="own", thresholds=(0.0, 0.0, 0.0))
    with DynamicClassifier.load(calibrated, policy=own, threads=2) as classifier:
        assert classifier.predict(image).exit == 0
    with pytest.raises(BundleError, match=r"calibrated on litert/int8, the program is litert/flo"):
        DynamicClassifier.load(calibrated, program="litert/float32", policy=own)
    with pytest.raises(BundleError, match="no policy 'best'"):
        DynamicClassifier.load(calibrated, policy="best")


def test_without_a_policy_it_says_what_to_run(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"`offramp calibrate .*policy='last'"):
        DynamicClassifier.load(bundle)


def test_latencies_of_this_device_are_taken_up(calibrated: Bundle) -> None:
    def entry(**changes: Any) -> LatencyEntry:
        values: dict[str, Any] = {
            "program": "litert/int8",
            "device": device_record(),
            "threads": 1,
            "stage_samples_ms": ((1.0,) * 299, (2.0,) * 299, (3.0,) * 298 + (1e6,)),
            "warmup_runs": 1,
            "measured_at": "2026-11-24T00:00:00+00:00",
        }
        return LatencyEntry(**{**values, **changes})

    image = calibrated.vectors().images[0]
    other = calibrated.add_latency(entry(device={"processor": "another"}))
    other = other.add_latency(entry(threads=2)).add_latency(entry(program="litert/float32"))
    # Too few samples to state a 99th percentile.
    other = other.add_latency(entry(stage_samples_ms=((1.0,) * 298, (2.0,) * 298, (1e6,) * 298)))
    with DynamicClassifier.load(other, policy="last") as classifier:
        assert classifier.stage_limits.source == "load"
        assert classifier.predict(image, deadline_ms=60_000).reason == "last_exit"
    with DynamicClassifier.load(other.add_latency(entry()), policy="last") as classifier:
        answer = classifier.predict(image, deadline_ms=60_000)
        assert (answer.reason, answer.exit) == ("deadline", 1)
        assert classifier.stage_limits == StageLimits((1.0, 2.0, 1e6), 0.95, 299, "profile")


def test_nothing_is_printed(calibrated: Bundle) -> None:
    """From the import to the end of the process, whatever the engine has to say."""
    script = f"""
import sys
from offramp import DynamicClassifier
classifier = DynamicClassifier.load({str(calibrated.path)!r})
other = DynamicClassifier.load({str(calibrated.path)!r}, policy="last")
import numpy as np
classifier.predict(np.zeros((12, 12, 3), np.uint8))
other.close()
sys.stderr.write("mine\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert (done.stdout, done.stderr) == ("", "mine\n")


def test_import_is_light() -> None:
    script = """
import sys, offramp
names = {"numpy", "PIL", "msgspec", "ai_edge_litert", "torch"} & set(sys.modules)
offramp.DynamicClassifier, offramp.Bundle, offramp.Prediction
print(sorted(names), "ai_edge_litert" in sys.modules, set(offramp.__all__) <= set(dir(offramp)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "[] False True\n"


def test_unknown_names_of_the_package() -> None:
    import offramp

    assert set(offramp.__all__) == set(offramp._HOMES) | {"__version__"}
    with pytest.raises(AttributeError, match="no attribute 'Dynamic'"):
        offramp.Dynamic  # noqa: B018
