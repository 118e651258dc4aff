"""Everything that decides the outcome of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, final

import msgspec

from offramp._files import write_atomically
from offramp.errors import DataError, ResumeError
from offramp_search.pipeline._samplers import Method  # noqa: TC001 - msgspec reads it
from offramp_search.training import Hardware, Recipe

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Settings"]

_NAMED = 3


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to search, on what, and how much work to put into it.

    Attributes:
        method: One that ``offramp methods`` lists.
        objective: What architectures are compared by: labels, or a task that needs none.
        evaluator: Whether all architectures share one network, or each is trained on its own (for
            objectives without labels).
        source: The images; see ``offramp_search.data.open_source``.
        image_shape: Height and width to bring them to; ``None`` keeps their own.
        base: The static network to start from; see ``offramp_search.bases.load_base``.
        base_weights: A ``.safetensors`` file; ``None`` trains the base first. Such weights are
            taken to have seen every training image, so thresholds are certified on one half of
            the test images and figures are reported on the other.
        num_stages: Stages of the network to find.
        groups: The largest number of parts a layer is cut into.
        vector_width: Channels the device computes at a time; see ``StaticTransform``.
        tie: Whether all layers that write maps of one shape are cut alike; see
            ``StaticTransform``.
        exit_grid: Rows and columns, at most, of what an early exit reads of its map; see
            ``StaticTransform``.
        exit_head_channels: Channels of the convolution that early exits begin with, 0 for none; see
            ``StaticTransform``.
        exit_places: Places, at most, to move early exits to; see ``StaticTransform``.
        carry: How convolutions read the carry: joined, summed over, or whichever blocks of the
            space measure ``fastest`` with; see ``StaticTransform``.
        space: ``static_transform`` of the base, or ``cell``: new networks of cells, of which each
            is trained by ``shared_recipe`` to be compared, and the one found by ``base_recipe``.
            The base is their teacher, and what the result is compared with.
        cell_blocks: Blocks of a cell at most; see ``Cell``.
        cell_filters: Of the cells of the first level.
        cells_per_level: Cells of stride one on each level.
        landmarks: Whether the search begins with what anybody would try; see ``Space``.
        trials: Architectures to try.
        search_minutes: Wall-clock time to search for instead; ``trials`` is then only what pnas and
            ddpnas plan for. A search that was stopped goes on with the minutes it has left.
        architecture: Build this one instead of searching: decision name -> choice.
        mean_share: The budget's mean latency as a share of the static network's measured one;
            used when ``mean_ms`` is not given.
        mean_ms: Budget: mean latency per image.
        worst_ms: Budget: latency of an image that runs through every stage.
        size_bytes: Budget: size of the parameters.
        latency_precision: Of the programs whose latency counts in the search.
        latency_runs: Runs of each block in the latency table.
        base_recipe: How to train the static network.
        shared_recipe: How to train the network that holds all architectures.
        final_recipe: How to train the network that was found.
        hardware: What to train on. Architectures that are each trained on their own to be compared
            take one device of it.
        train_images: Images to train on at most.
        search_images: Images to compare architectures on at most.
        calibration_images: Images to certify thresholds on at most.
        test_images: Images to report on at most.
        smaller_shares: Static networks to set beside the one that is found, each a share of the
            base's width, trained as it is. 1 is the base itself, trained on.
        programs: What to export, ``runtime/precision`` each.
        limit: The largest drop of accuracy that early exits may cost, a fraction.
        confidence: Of the certificate.
        seed: Of everything.
    """

    method: Method | Literal["unnas"] = "s2dnas"
    objective: Literal["labels", "rotation", "colorization", "jigsaw"] = "labels"
    evaluator: Literal["shared", "fine-tune"] = "shared"
    source: str
    image_shape: tuple[int, int] | None = None
    base: str = "vgg_small"
    base_weights: str | None = None
    num_stages: int = 2
    groups: int = 8
    vector_width: int = 1
    tie: bool = False
    exit_grid: int = 1
    exit_head_channels: int = 0
    exit_places: int = 0
    carry: Literal["concatenate", "sum", "fastest"] = "concatenate"
    space: Literal["static_transform", "cell"] = "static_transform"
    cell_blocks: int = 5
    cell_filters: int = 16
    cells_per_level: int = 1
    landmarks: bool = True
    trials: int = 50
    search_minutes: float | None = None
    architecture: dict[str, str | int] | None = None
    mean_share: float | None = 0.5
    mean_ms: float | None = None
    worst_ms: float | None = None
    size_bytes: int | None = None
    latency_precision: Literal["float32", "int8"] = "float32"
    latency_runs: int = 30
    base_recipe: Recipe = field(default_factory=lambda: Recipe(epochs=10))
    shared_recipe: Recipe = field(default_factory=lambda: Recipe(epochs=2))
    final_recipe: Recipe = field(default_factory=lambda: Recipe(epochs=10))
    hardware: Hardware = field(default_factory=Hardware)
    train_images: int | None = None
    search_images: int | None = 5_000
    calibration_images: int | None = None
    test_images: int | None = None
    smaller_shares: tuple[float, ...] = ()
    programs: tuple[str, ...] = ("litert/float32", "litert/int8")
    limit: float = 0.01
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.search_minutes is not None and not 0 < self.search_minutes < math.inf:
            raise DataError(
                f"a search takes some minutes, got {self.search_minutes}; give a number above 0, "
                "or leave it out to search for a number of trials"
            )
        if self.space == "cell" and self.smaller_shares:
            raise DataError(
                "smaller static networks are cut from the base's layers, which the space of cells "
                "does not have; leave them out, or search the static transform"
            )
        if self.space == "cell" and self.objective != "labels" and self.method != "unnas":
            raise DataError(
                f"without labels cells are searched by --method unnas alone, got {self.method}; "
                "choose it, leave --space cell out, or search with labels"
            )
        if self.exit_head_channels and not self.exit_head_channels >= self.num_stages:
            raise DataError(
                f"exit_head_channels must be 0, or at least one for each of {self.num_stages} "
                f"stages, got {self.exit_head_channels}; give 64, say"
            )
        if self.space == "cell" and self.exit_head_channels:
            raise DataError(
                "exits of cells have no heads; leave exit_head_channels out, or search the static "
                "transform"
            )
        if self.method == "unnas" and self.exit_places:
            raise DataError(
                "unnas relaxes how layers are cut, not where exits hang; leave exit_places out, or "
                "choose another method"
            )
        if self.objective == "labels" and self.method == "unnas":
            raise DataError("unnas searches without labels; choose another objective than labels")
        if self.objective == "labels" and self.evaluator == "fine-tune":
            raise DataError(
                "with labels architectures share one network; give an objective without labels to "
                "train each on its own"
            )
        for share in self.smaller_shares:
            if not 0 < share <= 1 or share * self.groups % 1:
                raise DataError(
                    f"a smaller static network of {share:g} of the width cannot be cut from layers "
                    f"in {self.groups} groups; give multiples of 1/{self.groups} up to 1"
                )

    def bind(self, folder: Path) -> None:
        """Make a folder the place of this run, or make sure that it is.

        Raises:
            ResumeError: The folder holds a run with other settings.
        """
        path = folder / "settings.json"
        mine = msgspec.json.format(msgspec.json.encode(self), indent=2)
        if path.exists():
            theirs = path.read_bytes()
            if theirs != mine:
                raise ResumeError(
                    f"{folder} holds a run with other settings ({_difference(theirs, mine)}); "
                    f"choose another --out, or delete it"
                )
            return
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, mine)


def _difference(theirs: bytes, mine: bytes) -> str:
    try:
        old, new = msgspec.json.decode(theirs), msgspec.json.decode(mine)
        changed = [key for key in {**new, **old} if old.get(key) != new.get(key)]
    except (msgspec.DecodeError, AttributeError):
        return "settings.json is damaged"
    named = [
        f"{key} was {old.get(key)!r}" if isinstance(new.get(key), str | int | float) else key
        for key in changed[:_NAMED]
    ]
    return ", ".join([*named, "..."] if len(changed) > _NAMED else named)
