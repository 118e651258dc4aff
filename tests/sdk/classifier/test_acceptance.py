"""What the tests of MediaPipe's image classifier hold it to, on our real programs.

The names are theirs, as far as there is one thing here that does what it does there. Running modes
are not options here but objects, so calls of the wrong mode cannot be written down.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from offramp import Bundle, DynamicClassifier
from offramp.bundle import pack_bundle
from offramp.classifier import LiveClassifier
from offramp.errors import BundleError, ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from offramp import Policy, Prediction

ELSEWHERE = 255  # a grey unlike that of the picture


@pytest.fixture(params=["litert/float32", "litert/int8"])
def classifier(calibrated: Bundle, request: pytest.FixtureRequest) -> Iterator[DynamicClassifier]:
    with DynamicClassifier.load(calibrated, program=request.param, policy="last") as loaded:
        yield loaded


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(8).integers(0, 256, (24, 36, 3), np.uint8)


def _same(first: Prediction, second: Prediction) -> bool:
    return np.array_equal(first.probabilities, second.probabilities)


class TestCreate:
    def test_from_a_model_path(self, calibrated: Bundle) -> None:
        for path in (calibrated.path, str(calibrated.path)):
            with DynamicClassifier.load(path) as loaded:
                assert loaded.labels == calibrated.manifest.labels

    def test_from_a_packed_file(self, calibrated: Bundle, tmp_path: Path) -> None:
        packed = pack_bundle(calibrated, tmp_path / "packed.zip")
        with DynamicClassifier.load(packed.path) as loaded:
            assert loaded.labels == calibrated.manifest.labels

    def test_from_an_open_bundle(self, calibrated: Bundle) -> None:
        with DynamicClassifier.load(Bundle.open(calibrated.path)) as loaded:
            assert loaded.labels == calibrated.manifest.labels

    def test_from_an_invalid_path(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match="missing"):
            DynamicClassifier.load(tmp_path / "missing")

    def test_from_what_is_no_model(self, tmp_path: Path) -> None:
        (tmp_path / "text").write_text("no bundle")
        with pytest.raises(BundleError):
            DynamicClassifier.load(tmp_path / "text")


class TestClassify:
    def test_an_image(self, classifier: DynamicClassifier, picture: NDArray[np.uint8]) -> None:
        answer = classifier.predict(picture)
        scores = [category.score for category in answer.categories]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1)
        assert answer.categories[0].label == answer.label
        assert len(answer.categories) == len(classifier.labels)

    def test_with_a_region_of_interest(
        self, classifier: DynamicClassifier, picture: NDArray[np.uint8]
    ) -> None:
        around = np.full((48, 72, 3), ELSEWHERE, np.uint8)
        around[12:36, 18:54] = picture
        region = (0.25, 0.25, 0.75, 0.75)
        assert _same(
            classifier.predict(around, region_of_interest=region), classifier.predict(picture)
        )
        assert not _same(classifier.predict(around), classifier.predict(picture))

    @pytest.mark.parametrize("turns", [1, 2, 3, -1, 5])
    def test_with_a_rotation(
        self, classifier: DynamicClassifier, picture: NDArray[np.uint8], turns: int
    ) -> None:
        # Turned against the clock; the option turns clockwise.
        turned = np.ascontiguousarray(np.rot90(picture, turns))
        answer = classifier.predict(turned, rotation_degrees=90 * turns)
        assert _same(answer, classifier.predict(picture))

    def test_with_a_region_and_a_rotation(
        self, classifier: DynamicClassifier, picture: NDArray[np.uint8]
    ) -> None:
        """The region is of the image as given: first cut, then turned."""
        around = np.full((72, 48, 3), ELSEWHERE, np.uint8)
        around[:36, 24:] = np.rot90(picture)
        answer = classifier.predict(
            around, region_of_interest=(0.5, 0.0, 1.0, 0.5), rotation_degrees=90
        )
        assert _same(answer, classifier.predict(picture))

    @pytest.mark.parametrize(
        "region",
        [
            (0.5, 0.0, 0.5, 1.0),
            (0.6, 0.0, 0.5, 1.0),
            (0.0, 0.7, 1.0, 0.2),
            (-0.1, 0.0, 1.0, 1.0),
            (0.0, 0.0, 1.0, 1.5),
            (0.0, 0.0, float("nan"), 1.0),
            (0.0, 0.0, 1.0),
        ],
    )
    def test_with_an_invalid_region(
        self, classifier: DynamicClassifier, picture: NDArray[np.uint8], region: Any
    ) -> None:
        with pytest.raises(ValueError, match="region"):
            classifier.predict(picture, region_of_interest=region)

    @pytest.mark.parametrize("degrees", [1, 45, 89, 450 + 1])
    def test_with_an_invalid_rotation(
        self, classifier: DynamicClassifier, picture: NDArray[np.uint8], degrees: int
    ) -> None:
        with pytest.raises(ValueError, match="multiple of 90"):
            classifier.predict(picture, rotation_degrees=degrees)

    def test_a_score_threshold(
        self, classifier: DynamicClassifier, picture: NDArray[np.uint8]
    ) -> None:
        least = classifier.predict(picture).categories[2].score
        listed = classifier.predict(picture, score_threshold=least).categories
        assert len(listed) == 3
        assert all(category.score >= least for category in listed)

    def test_max_results(self, classifier: DynamicClassifier, picture: NDArray[np.uint8]) -> None:
        every = classifier.predict(picture).categories
        assert classifier.predict(picture, max_results=2).categories == every[:2]
        with pytest.raises(ValueError, match="max_results is 0"):
            classifier.predict(picture, max_results=0)

    def test_an_allow_list(self, classifier: DynamicClassifier, picture: NDArray[np.uint8]) -> None:
        allowed = ["elk", "ant"]
        listed = classifier.predict(picture, category_allowlist=allowed).categories
        assert sorted(category.label for category in listed) == ["ant", "elk"]

    def test_a_deny_list(self, classifier: DynamicClassifier, picture: NDArray[np.uint8]) -> None:
        listed = classifier.predict(picture, category_denylist=["elk"]).categories
        assert sorted(category.label for category in listed) == ["ant", "bee", "cat", "dog"]

    def test_both_lists(self, classifier: DynamicClassifier, picture: NDArray[np.uint8]) -> None:
        with pytest.raises(ValueError, match="both"):
            classifier.predict(picture, category_allowlist=["ant"], category_denylist=["ant"])

    def test_an_empty_result(
        self, classifier: DynamicClassifier, picture: NDArray[np.uint8]
    ) -> None:
        assert classifier.predict(picture, score_threshold=1.0).categories == ()

    def test_what_is_no_image(self, classifier: DynamicClassifier, tmp_path: Path) -> None:
        path = tmp_path / "text.jpg"
        path.write_text("no image")
        with pytest.raises(ImageError, match="is no image"):
            classifier.predict(path)

    def test_a_file_and_its_array_are_one(
        self, classifier: DynamicClassifier, picture: NDArray[np.uint8], tmp_path: Path
    ) -> None:
        path = tmp_path / "picture.png"
        Image.fromarray(picture).save(path)
        assert _same(classifier.predict(path), classifier.predict(picture))

    def test_score_calibration(
        self,
        calibrated: Bundle,
        picture: NDArray[np.uint8],
        make_policy: Callable[..., Policy],
    ) -> None:
        """Theirs is a sigmoid per class; ours is the temperature of the exit."""
        scores = []
        for temperature in (0.5, 2.0):
            policy = make_policy(temperatures=(1.0, 1.0, temperature), enabled=(False, False, True))
            with DynamicClassifier.load(
                calibrated, program="litert/int8", policy=policy
            ) as classifier:
                scores.append(classifier.predict(picture).score)
        assert scores[0] > scores[1]


class TestLiveStream:
    def test_results_come_with_their_frame_and_timestamp(
        self, classifier: DynamicClassifier, picture: NDArray[np.uint8]
    ) -> None:
        came: list[tuple[Prediction, Any, int]] = []
        arrived = threading.Semaphore(0)

        def listen(prediction: Prediction, frame: Any, timestamp_ms: int) -> None:
            came.append((prediction, frame, timestamp_ms))
            arrived.release()

        expected = classifier.predict(picture)
        with LiveClassifier(classifier, listen, max_results=3) as live:
            for timestamp_ms in range(0, 300, 30):
                live.submit(picture, timestamp_ms)
                assert arrived.acquire(timeout=20)
        assert [timestamp_ms for _, _, timestamp_ms in came] == list(range(0, 300, 30))
        for prediction, frame, _ in came:
            assert frame is picture
            assert prediction.categories == expected.categories[:3]

    def test_timestamps_out_of_order(
        self, classifier: DynamicClassifier, picture: NDArray[np.uint8]
    ) -> None:
        with LiveClassifier(classifier) as live:
            live.submit(picture, 100)
            with pytest.raises(ValueError, match="timestamp_ms is 0"):
                live.submit(picture, 0)

    def test_an_empty_result(
        self, classifier: DynamicClassifier, picture: NDArray[np.uint8]
    ) -> None:
        arrived = threading.Event()
        with LiveClassifier(classifier, lambda *_: arrived.set(), score_threshold=1.0) as live:
            live.submit(picture, 0)
            assert arrived.wait(20)
            latest = live.latest()
        assert latest is not None
        assert latest[0].categories == ()

    def test_without_a_callback_answers_are_read(
        self, classifier: DynamicClassifier, picture: NDArray[np.uint8]
    ) -> None:
        with LiveClassifier(classifier) as live:
            live.submit(picture, 0)
            while (latest := live.latest()) is None:
                pass
        assert _same(latest[0], classifier.predict(picture))
