"""The interface of what classifies images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

from offramp.classifier._many import predict_many
from offramp.classifier._options import check_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Unpack

    from offramp.bundle import InputSpec
    from offramp.classifier._options import PredictOptions
    from offramp.classifier._prediction import Prediction
    from offramp.images import ImageLike

__all__ = ["Classifier"]


class Classifier(ABC):
    """Answers images; any thread may call it.

    Close it, or use it in a ``with`` statement, to free the program.
    """

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """The names of the classes."""

    @property
    @abstractmethod
    def input_spec(self) -> InputSpec:
        """How an image becomes the input."""

    @property
    @abstractmethod
    def workers(self) -> int:
        """How many images it can predict at the same time."""

    @abstractmethod
    def predict(self, image: ImageLike, **options: Unpack[PredictOptions]) -> Prediction:
        """Classify one image; the options are those of ``DynamicClassifier.predict``.

        Raises:
            ImageError: The image cannot be used.
            ClosedError: The classifier is closed.
            ProgramError: The runtime failed, or the program's logits are not finite.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the program; may be called more than once."""

    def predict_many(
        self,
        images: Iterable[ImageLike],
        *,
        workers: int | None = None,
        **options: Unpack[PredictOptions],
    ) -> Iterator[Prediction]:
        """Classify many images, several at the same time.

        Images are taken from the iterable as they are needed, in the thread that iterates over the
        predictions; at most ``2 * workers`` are held, so neither side needs to fit into memory.

        Args:
            images: Each as ``predict`` takes it; a generator will do.
            workers: How many threads work, at most as many as the classifier has ``workers``;
                ``None`` for as many.
            options: As for ``predict``. A deadline counts from when an image's turn comes.

        Returns:
            The predictions, in the order of the images.

        Raises:
            ImageFailedError: One image failed; it says which, and its ``__cause__`` is what
                ``predict`` raised. All predictions before it have been handed out.
            ClosedError: The classifier is closed.
            ValueError: More workers than the classifier has, or a wrong option.
        """
        workers = self.workers if workers is None else workers
        if not 1 <= workers <= self.workers:
            raise ValueError(
                f"workers is {workers}, expected 1 to {self.workers}; "
                f"load the bundle with workers={workers} to have more copies of the program"
                if workers > 0
                else f"workers is {workers}, expected at least 1"
            )
        check_options(self.labels, options)
        return predict_many(lambda image: self.predict(image, **options), images, workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
