"""One function over many images, by several threads, in order and in bounded memory."""

from __future__ import annotations

import contextlib
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from offramp.errors import ClosedError, ImageFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["predict_many"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def predict_many(
    call: Callable[[Item], Answer], items: Iterable[Item], workers: int
) -> Iterator[Answer]:
    """Apply a function to items, several at the same time.

    Threads fetch from one queue and put into another, which costs a tenth of an executor's
    futures: a prediction may take no longer than those do.

    Args:
        call: Called by ``workers`` threads.
        items: Taken by the thread that iterates over the answers, at most ``2 * workers`` ahead.
        workers: Threads.

    Yields:
        The answers, in the order of the items.

    Raises:
        ImageFailedError: The function raised; the answers before it have been yielded.
        ClosedError: The function raised it.
    """
    tasks: SimpleQueue[tuple[int, Item] | None] = SimpleQueue()
    results: SimpleQueue[tuple[int, Answer | None, Exception | None]] = SimpleQueue()

    def work() -> None:
        while (task := tasks.get()) is not None:
            index, item = task
            try:
                results.put((index, call(item), None))
            # Whatever it is, it is raised again where the answers are read.
            except Exception as error:
                results.put((index, None, error))

    threads = [
        threading.Thread(target=work, name=f"offramp-{number}", daemon=True)
        for number in range(workers)
    ]
    for thread in threads:
        thread.start()
    waiting: dict[int, tuple[Answer | None, Exception | None]] = {}
    given = taken = 0
    source = iter(items)
    ended: Exception | None = None
    try:
        while True:
            while ended is None and given - taken < 2 * workers:
                try:
                    item = next(source)
                # A source that fails ends too, once everything before has been answered.
                except Exception as error:
                    ended = error
                else:
                    tasks.put((given, item))
                    given += 1
            if taken == given:
                if isinstance(ended, StopIteration):
                    return
                assert ended is not None
                raise ended
            while taken not in waiting:
                index, answer, failure = results.get()
                waiting[index] = answer, failure
            answer, failure = waiting.pop(taken)
            if failure is not None:
                if isinstance(failure, ClosedError):
                    raise failure
                raise ImageFailedError(f"image {taken}: {failure}", index=taken) from failure
            taken += 1
            yield answer  # type: ignore[misc]  # it is None only with an error
    finally:
        # What nobody will read need not be computed.
        with contextlib.suppress(Empty):
            while True:
                tasks.get_nowait()
        for _ in threads:
            tasks.put(None)
        for thread in threads:
            thread.join()
