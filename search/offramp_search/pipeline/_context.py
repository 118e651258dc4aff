"""What every step needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import msgspec

from offramp._files import write_atomically
from offramp.errors import ResumeError
from offramp_search.data import Splits, load_data, take_stratified

if TYPE_CHECKING:
    from pathlib import Path

    from offramp_search.data import ImageSet
    from offramp_search.pipeline._reporter import Reporter
    from offramp_search.pipeline._settings import Settings

__all__ = ["Context", "bind_data", "load_splits"]


@final
@dataclass(frozen=True, slots=True)
class Context:
    """What every step needs.

    Attributes:
        settings: What decides the outcome.
        folder: Where each step leaves its file.
        reporter: Who is told.
        splits: The images.
    """

    settings: Settings
    folder: Path
    reporter: Reporter
    splits: Splits

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.splits.train.image_shape


def load_splits(settings: Settings, cache: Path) -> Splits:
    """Read and split the images, and keep no more of each split than the settings ask for."""
    splits = load_data(
        settings.source,
        folder_cache=cache,
        seed=settings.seed,
        image_shape=settings.image_shape,
    )
    if settings.base_weights is not None:
        splits = splits.for_pretrained(seed=settings.seed)
    return replace(
        splits,
        train=_limit(splits.train, settings.train_images, settings.seed),
        search=_limit(splits.search, settings.search_images, settings.seed),
        calibration=_limit(splits.calibration, settings.calibration_images, settings.seed),
        test=_limit(splits.test, settings.test_images, settings.seed),
    )


def bind_data(splits: Splits, folder: Path) -> None:
    """Make sure that a run goes on with the images it began with.

    Raises:
        ResumeError: The folder holds a run on other images.
    """
    path = folder / "data.json"
    mine = {
        name: getattr(splits, name).sha256 for name in ("train", "search", "calibration", "test")
    }
    if not path.exists():
        write_atomically(path, msgspec.json.format(msgspec.json.encode(mine), indent=2))
        return
    try:
        theirs = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except msgspec.DecodeError as error:
        raise ResumeError(f"{path} is damaged ({error}); delete the folder") from error
    if theirs != mine:
        raise ResumeError(
            f"{folder} holds a run on other images than the source has now; choose another --out, "
            f"or delete it"
        )


def _limit(images: ImageSet, count: int | None, seed: int) -> ImageSet:
    return images if count is None else take_stratified(images, count, seed=seed)
