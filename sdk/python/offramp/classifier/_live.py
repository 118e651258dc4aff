"""A stream of frames, of which the newest counts."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Self, final

from offramp.classifier._options import check_options
from offramp.classifier._stillness import difference, thumbnail
from offramp.errors import ClosedError
from offramp.images import load_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Unpack

    import numpy as np
    from numpy.typing import NDArray

    from offramp.classifier._base import Classifier
    from offramp.classifier._options import PredictOptions
    from offramp.classifier._prediction import Prediction
    from offramp.images import ImageLike

__all__ = ["LiveClassifier", "LiveCounts"]


@final
@dataclass(frozen=True, slots=True)
class LiveCounts:
    """What became of the frames so far.

    Attributes:
        submitted: Frames given to ``submit``.
        answered: Frames answered, reused answers included.
        reused: Frames answered with the last answer.
        dropped: Frames that a newer one replaced, or that were still waiting at ``close``.
        failed: Frames that raised.
    """

    submitted: int = 0
    answered: int = 0
    reused: int = 0
    dropped: int = 0
    failed: int = 0


@final
class LiveClassifier:
    """Classifies a live stream in a thread of its own, and drops frames rather than queue them.

    At most one frame waits while another is classified; a newer one takes its place. So ``submit``
    never blocks, an answer is never older than two predictions, and memory stays flat however
    fast the frames come. Read answers with ``latest``, or have them given to a callback::

        with LiveClassifier(classifier, lambda answer, frame, ms: print(answer.label)) as live:
            for number, frame in enumerate(camera):
                live.submit(frame, timestamp_ms=40 * number)

    A certificate covers the answers that a policy gives to images. It does not cover a reused
    answer: nobody has tested how often a scene that hardly changes has changed its class.

    Args:
        classifier: Whatever answers the frames; it is not closed with the stream, and others may
            use it meanwhile.
        on_result: Called with the prediction, the frame and its timestamp, in the stream's thread;
            the next frame waits until it returns.
        on_error: Called with what ``predict`` or ``on_result`` raised and the frame's timestamp;
            the stream goes on. Without it the stream ends, and the next ``submit``, ``latest`` or
            ``close`` raises it.
        reuse_below: Give the last answer again, with the reason ``reused``, to a frame that
            differs from the last one classified by less than this in each of 16 × 16 blocks, in
            steps of 0 to 255 of any colour; ``None`` classifies every frame. Frames are
            then decoded before ``predict`` is called, so that neither its ``total_ms`` nor a
            deadline counts that.
        reuse_for_ms: Classify anew after so many milliseconds of timestamps, however still.
        options: As for ``Classifier.predict``, for every frame.
    """

    def __init__(
        self,
        classifier: Classifier,
        on_result: Callable[[Prediction, ImageLike, int], None] | None = None,
        *,
        on_error: Callable[[Exception, int], None] | None = None,
        reuse_below: float | None = None,
        reuse_for_ms: float = 1_000.0,
        **options: Unpack[PredictOptions],
    ) -> None:
        for name, value in (("reuse_below", reuse_below), ("reuse_for_ms", reuse_for_ms)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}, expected a number above 0")
        check_options(classifier.labels, options)
        self._classifier = classifier
        self._on_result = on_result
        self._on_error = on_error
        self._reuse_below = reuse_below
        self._reuse_for_ms = reuse_for_ms
        self._options = options
        self._region = options.get("region_of_interest")
        self._rotation = options.get("rotation_degrees", 0)
        self._changed = threading.Condition()
        self._pending: tuple[ImageLike, int] | None = None
        self._latest: tuple[Prediction, int] | None = None
        self._last_ms: int | None = None
        self._failure: Exception | None = None
        self._closed = False
        self._process = os.getpid()
        self._submitted = self._answered = self._reused = self._dropped = self._failed = 0
        # What the last answer that was not reused belongs to.
        self._seen: tuple[NDArray[np.float32], int, Prediction] | None = None
        self._thread = threading.Thread(target=self._work, name="offramp-live", daemon=True)
        self._thread.start()

    def submit(self, frame: ImageLike, timestamp_ms: int) -> None:
        """Offer a frame; returns at once.

        Args:
            frame: As ``predict`` takes it. An array must not be written to until its answer, or a
                later one, has come: copy what the camera will overwrite.
            timestamp_ms: When it was taken, in milliseconds on any clock; larger than that of the
                frame before.

        Raises:
            ValueError: The timestamp is not larger than the last one.
            ClosedError: The stream is closed.
            Exception: What ended the stream, if there is no ``on_error``.
        """
        self._check_process()
        with self._changed:
            self._check()
            if self._last_ms is not None and timestamp_ms <= self._last_ms:
                raise ValueError(
                    f"timestamp_ms is {timestamp_ms}, expected more than the last frame's "
                    f"{self._last_ms}"
                )
            self._last_ms = timestamp_ms
            self._submitted += 1
            if self._pending is not None:
                self._dropped += 1
            self._pending = frame, timestamp_ms
            self._changed.notify_all()

    def latest(self) -> tuple[Prediction, int] | None:
        """The newest answer and its frame's timestamp; ``None`` before the first.

        Raises:
            ClosedError: The stream is closed.
            Exception: What ended the stream, if there is no ``on_error``.
        """
        self._check_process()
        with self._changed:
            self._check()
            return self._latest

    @property
    def counts(self) -> LiveCounts:
        """What became of the frames so far; also after ``close``."""
        with self._changed:
            return LiveCounts(
                self._submitted, self._answered, self._reused, self._dropped, self._failed
            )

    def close(self) -> None:
        """Finish the frame in work, drop the one waiting, and end the thread.

        May be called more than once, and from a callback.

        Raises:
            Exception: What ended the stream, if there is no ``on_error`` and nobody was told yet.
        """
        if os.getpid() != self._process:
            return  # the thread is the parent's
        with self._changed:
            self._closed = True
            if self._pending is not None:
                self._pending = None
                self._dropped += 1
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        with self._changed:
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except Exception:
            # What the block itself raised says more.
            if kind is None:
                raise

    def _check_process(self) -> None:
        # Before any lock: the parent's thread may have held it at the fork.
        if os.getpid() != self._process:
            raise ClosedError(
                "this stream was started before this process was forked, and its thread did not "
                "come along; make a new LiveClassifier in this process"
            )

    def _check(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if self._closed or not self._thread.is_alive():
            raise ClosedError("this stream is closed; make a new LiveClassifier")

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._pending is None:
                    if self._closed:
                        return
                    self._changed.wait()
                frame, timestamp_ms = self._pending
                self._pending = None
            try:
                self._answer(frame, timestamp_ms)
            # Raised again in the thread of whoever uses the stream, or given to on_error.
            except Exception as error:
                if not self._goes_on_after(error, timestamp_ms):
                    return

    def _goes_on_after(self, error: Exception, timestamp_ms: int) -> bool:
        with self._changed:
            self._failed += 1
        if self._on_error is not None:
            try:
                self._on_error(error, timestamp_ms)
            except Exception as second:
                error = second
            else:
                return True
        with self._changed:
            self._failure = error
            self._closed = True
        return False

    def _answer(self, frame: ImageLike, timestamp_ms: int) -> None:
        prediction = self._predict(frame, timestamp_ms)
        with self._changed:
            self._answered += 1
            self._reused += prediction.reason == "reused"
            self._latest = prediction, timestamp_ms
        if self._on_result is not None:
            self._on_result(prediction, frame, timestamp_ms)

    def _predict(self, frame: ImageLike, timestamp_ms: int) -> Prediction:
        if self._reuse_below is None:
            return self._classifier.predict(frame, **self._options)
        began = perf_counter()
        array = load_image(
            frame,
            self._classifier.input_spec,
            region=self._region,
            rotation_degrees=self._rotation,
        )
        small = thumbnail(array)
        if self._seen is not None:
            seen, seen_ms, answer = self._seen
            if (
                timestamp_ms - seen_ms < self._reuse_for_ms
                and difference(seen, small) < self._reuse_below
            ):
                return answer.reused(1e3 * (perf_counter() - began))
        # It has been cut out and turned already.
        options: PredictOptions = {**self._options, "region_of_interest": None}
        options["rotation_degrees"] = 0
        answer = self._classifier.predict(array, **options)
        self._seen = small, timestamp_ms, answer
        return answer
