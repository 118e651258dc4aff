"""What is listed, and what part of the image is looked at: on scripted and on real programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from offramp import DynamicClassifier
from offramp.errors import BundleError
from offramp.images import load_image
from offramp.testing import FakeRuntime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from offramp import Bundle, Policy, Prediction

# One image: bee before ant before cat.
LOGITS = np.log(np.array([[[0.3, 0.6, 0.1]]]))


def _labels(prediction: Prediction) -> list[str]:
    return [category.label for category in prediction.categories]


@pytest.mark.parametrize(
    ("options", "listed"),
    [
        ({}, ["bee", "ant", "cat"]),
        ({"category_allowlist": ["cat", "ant"]}, ["ant", "cat"]),
        ({"category_allowlist": {"cat": 1}}, ["cat"]),
        ({"category_denylist": ["bee"]}, ["ant", "cat"]),
        ({"category_denylist": []}, ["bee", "ant", "cat"]),
        ({"category_denylist": ("ant", "bee", "cat")}, []),
        ({"category_allowlist": ["ant", "cat"], "max_results": 1}, ["ant"]),
        ({"category_allowlist": ["ant", "cat"], "score_threshold": 0.5}, []),
        ({"category_denylist": ["bee"], "score_threshold": 0.2}, ["ant"]),
        ({"score_threshold": -1.0, "max_results": 2}, ["bee", "ant"]),
    ],
)
def test_lists_filter_categories_and_not_the_answer(
    make_classifier: Callable[..., DynamicClassifier], options: dict[str, Any], listed: list[str]
) -> None:
    fake = FakeRuntime(LOGITS)
    answer = make_classifier(fake).predict(fake.image(0), **options)
    assert _labels(answer) == listed
    assert (answer.label, answer.index) == ("bee", 1)
    assert answer.score == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"category_allowlist": ["ant"], "category_denylist": ["bee"]}, "both"),
        ({"category_allowlist": []}, "category_allowlist is empty"),
        ({"category_allowlist": ["bees"]}, r"names 'bees', which is no label; did you mean 'bee'"),
        ({"category_denylist": ["zzz"]}, r"'zzz', which is no label; the labels are 'ant', 'bee'"),
        ({"category_allowlist": "ant"}, r"is the string 'ant', expected a list: \['ant'\]"),
        ({"region_of_interest": (0.5, 0.0, 0.5, 1.0)}, "left < right"),
        ({"region_of_interest": (0.0, 0.0, 1.0, 1.1)}, "<= 1"),
        ({"rotation_degrees": 45}, "rotation_degrees is 45, expected a multiple of 90"),
    ],
)
def test_options_that_make_no_sense(
    make_classifier: Callable[..., DynamicClassifier], options: dict[str, Any], message: str
) -> None:
    fake = FakeRuntime(LOGITS)
    classifier = make_classifier(fake)
    with pytest.raises(ValueError, match=message):
        classifier.predict(fake.image(0), **options)
    with pytest.raises(ValueError, match=message):
        classifier.predict_many([], **options)


def test_a_region_is_cut_turned_and_then_resized(calibrated: Bundle) -> None:
    """Against Pillow, step by step, on a real program."""
    array = np.random.default_rng(4).integers(0, 256, (40, 60, 3), np.uint8)
    part = Image.fromarray(array[10:20, 15:45]).transpose(Image.Transpose.ROTATE_270)
    with DynamicClassifier.load(calibrated, policy="last") as classifier:
        options: dict[str, Any] = {
            "region_of_interest": (0.25, 0.25, 0.75, 0.5),
            "rotation_degrees": 90,
        }
        expected = classifier.predict(part)
        whole = classifier.predict(array)
        assert not np.array_equal(whole.probabilities, expected.probabilities)
        for image in (array, Image.fromarray(array)):
            got = classifier.predict(image, **options)
            np.testing.assert_array_equal(got.probabilities, expected.probabilities)
        loaded = load_image(part, calibrated.manifest.input)
        np.testing.assert_array_equal(
            classifier.predict(loaded).probabilities, expected.probabilities
        )


def test_abstention_withholds_the_categories(
    make_classifier: Callable[..., DynamicClassifier], make_policy: Callable[..., Policy]
) -> None:
    fake = FakeRuntime(LOGITS)
    for least, withheld in ((0.59, False), (0.61, True)):
        policy = make_policy(
            temperatures=(1.0,), thresholds=(0.0,), enabled=(True,), abstain_below=least
        )
        answer = make_classifier(fake, policy=policy).predict(fake.image(0))
        assert answer.abstained == withheld
        assert answer.label == "bee", "what the answer would have been stays readable"
        assert (answer.categories == ()) == withheld
        assert ("abstained=True" in repr(answer)) == withheld
    assert not make_classifier(fake).predict(fake.image(0)).abstained


def test_abstention_on_a_real_program(bundle: Bundle, make_policy: Callable[..., Policy]) -> None:
    images = bundle.vectors().images
    with DynamicClassifier.load(bundle, program="litert/int8", policy="last") as classifier:
        scores = [classifier.predict(image).score for image in images]
    policy = make_policy(enabled=(False, False, True), abstain_below=float(np.median(scores)))
    with DynamicClassifier.load(bundle, program="litert/int8", policy=policy) as classifier:
        answers = [classifier.predict(image) for image in images]
    assert [answer.abstained for answer in answers] == (
        np.array(scores) < np.median(scores)
    ).tolist()
    assert 0 < sum(answer.abstained for answer in answers) < len(images)


def test_a_prediction_may_choose_its_policy(calibrated: Bundle) -> None:
    images = calibrated.vectors().images
    with DynamicClassifier.load(calibrated, policy="default") as classifier:
        assert [classifier.predict(image, policy="saver").exit for image in images] == [0] * 8
        assert [classifier.predict(image, policy="last").exit for image in images] == [2] * 8
        for name in ("default", "saver", "last"):
            assert classifier.predict(images[0], policy=name).policy == name
        mixed = [classifier.predict(image) for image in images]
        assert {answer.policy for answer in mixed} == {"default"}
        assert len({answer.exit for answer in mixed}) > 1
        with pytest.raises(BundleError, match=r"no policy 'best'.*default, saver, last"):
            classifier.predict(images[0], policy="best")
        assert classifier.find_policy("saver").name == "saver"
        with pytest.raises(BundleError, match="'last' is no policy"):
            classifier.find_policy("last")


def test_images_of_every_kind_take_every_option(calibrated: Bundle, tmp_path: Path) -> None:
    array = np.random.default_rng(5).integers(0, 256, (30, 20, 3), np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(array).save(path)
    with DynamicClassifier.load(calibrated) as classifier:
        answers = [
            classifier.predict(
                image,
                max_results=1,
                category_denylist=["ant"],
                region_of_interest=(0.1, 0.1, 0.9, 0.6),
                rotation_degrees=-90,
            )
            for image in (array, path, str(path), path.read_bytes(), Image.fromarray(array))
        ]
    for answer in answers:
        assert answer.categories == answers[0].categories
        assert len(answer.categories) == 1
        assert answer.categories[0].label != "ant"
