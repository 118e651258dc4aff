"""Whole predictions of several programs, taken in turns."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, final

from offramp.latency import Latency

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from offramp import DynamicClassifier
    from offramp_search.data import ImageSet

__all__ = ["Measured", "measure_interleaved"]

_WARMUP_IMAGES = 20
_IMAGES_PER_TURN = 50


@final
@dataclass(frozen=True, slots=True)
class Measured:
    """What one program answered, and how long each image took.

    Attributes:
        correct: Per image, whether the answer was the label.
        exits: Per image, the exit taken.
        samples_ms: Per image, the wall-clock time of ``predict``.
    """

    correct: tuple[bool, ...]
    exits: tuple[int, ...]
    samples_ms: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return sum(self.correct) / len(self.correct)

    @property
    def latency(self) -> Latency:
        """The samples as a latency."""
        return Latency(self.samples_ms, _WARMUP_IMAGES)

    def exit_shares(self, num_exits: int) -> tuple[float, ...]:
        """Share of the images that left at each exit."""
        return tuple(self.exits.count(exit) / len(self.exits) for exit in range(num_exits))


def measure_interleaved(
    classifiers: Mapping[str, DynamicClassifier],
    data: ImageSet,
    *,
    progress: Callable[[int, int | None], None] | None = None,
) -> dict[str, Measured]:
    """Predict every image with every classifier, in turns of a few images.

    All of them meet the same disturbances of the machine, so that their ratio is worth more than
    the times themselves; who comes first changes from turn to turn. A turn is some images long,
    because networks that alternate push each other out of the cache, the larger ones most.

    Args:
        classifiers: Loaded ones.
        data: Images of the input's size.
        progress: Called with (images done, images).
    """
    names = list(classifiers)
    for index in range(min(_WARMUP_IMAGES, len(data))):
        for classifier in classifiers.values():
            classifier.predict(data.images[index])
    correct: dict[str, list[bool]] = {name: [] for name in names}
    exits: dict[str, list[int]] = {name: [] for name in names}
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn, start in enumerate(range(0, len(data), _IMAGES_PER_TURN)):
        images = data.images[start : start + _IMAGES_PER_TURN]
        labels = data.labels[start : start + _IMAGES_PER_TURN].tolist()
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            predict = classifiers[name].predict
            for image, label in zip(images, labels, strict=True):
                began = perf_counter()
                prediction = predict(image)
                samples[name].append(1e3 * (perf_counter() - began))
                correct[name].append(prediction.index == label)
                exits[name].append(prediction.exit)
        if progress is not None:
            progress(start + len(images), len(data))
    return {
        name: Measured(tuple(correct[name]), tuple(exits[name]), tuple(samples[name]))
        for name in names
    }
