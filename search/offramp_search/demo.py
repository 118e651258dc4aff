"""The whole way on real images, in less than ten minutes on two cores."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from offramp._files import write_atomically
from offramp_search.pipeline import Reporter, Settings, as_figures, plot_outcome, run_pipeline
from offramp_search.report import write_result
from offramp_search.training import Recipe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from offramp_search.pipeline import Outcome

__all__ = ["GOALS", "demo_settings", "run_demo"]

GOALS = {"mean_speedup": 1.5, "certified_drop": 0.01}
"""What the demonstration sets out to show, for each program against its own static network."""

_IMAGES_TO_KEEP = 6


def demo_settings(source: str, *, seed: int = 0, quick: bool = False) -> Settings:
    """The preset of the demonstration.

    Args:
        source: The images; see ``offramp_search.data.open_source``.
        seed: Of everything.
        quick: Sizes that show that every step works, and nothing else.
    """
    full = Settings(
        source=source,
        base="vgg_small",
        num_stages=2,
        groups=4,
        # What is shown is what the search finds by itself.
        landmarks=False,
        trials=30,
        mean_share=0.2,
        train_images=10_000,
        search_images=1_500,
        calibration_images=8_000,
        test_images=4_000,
        # Half of what the certificate could ask for: an exit that is nearly as good as the last
        # would otherwise answer every image.
        limit=0.005,
        base_recipe=Recipe(
            epochs=4, batch_size=64, schedule="one_cycle", learning_rate=0.1, horizontal_flip=True
        ),
        shared_recipe=Recipe(epochs=1, batch_size=64, learning_rate=0.02),
        final_recipe=Recipe(epochs=2, batch_size=64, learning_rate=0.02),
        programs=("litert/float32", "litert/int8", "executorch/float32", "coreml/float16"),
        seed=seed,
    )
    if not quick:
        return full
    return replace(
        full,
        groups=2,
        trials=3,
        latency_runs=10,
        mean_share=0.9,
        train_images=600,
        search_images=100,
        calibration_images=600,
        test_images=100,
        limit=0.05,
        smaller_shares=(0.5,),
        base_recipe=Recipe(epochs=1, batch_size=32),
        shared_recipe=Recipe(epochs=1, batch_size=64),
        final_recipe=Recipe(epochs=1, batch_size=64),
        programs=("litert/float32", "litert/int8"),
    )


def run_demo(
    source: str,
    folder: Path,
    *,
    cache: Path,
    seed: int = 0,
    quick: bool = False,
    result: Path | None = None,
    reporter: Reporter | None = None,
    command: Sequence[str] | None = None,
) -> Outcome:
    """Run the demonstration; what is there already is not done again.

    Leaves ``dynamic.bundle``, ``demo.json``, ``demo.png`` and a few test images in the folder.

    Args:
        source: The images.
        folder: Where everything is kept.
        cache: Where downloaded images are kept.
        seed: Of everything.
        quick: See ``demo_settings``.
        result: Where the result is written too.
        reporter: Who is told how it goes.
        command: What the result says it was made with.
    """
    outcome = run_pipeline(
        demo_settings(source, seed=seed, quick=quick), folder, cache=cache, reporter=reporter
    )
    claims = [claim for row in outcome.rows for claim in row.claims(**GOALS)]
    for path in filter(None, (folder / "demo.json", result)):
        write_result(
            path,
            purpose="An early-exit network against the static one it was made from, measured by "
            "really stopping early, one image at a time, on one thread",
            claims=claims,
            figures=as_figures(outcome),
            command=command,
        )
    plot_outcome(outcome, folder / "demo.png")
    keep_images(outcome, folder / "images")
    return outcome


def keep_images(outcome: Outcome, folder: Path) -> tuple[Path, ...]:
    """Leave the bundle's own test images as files, for ``offramp predict``."""
    import io

    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, image in enumerate(outcome.dynamic.vectors().images[:_IMAGES_TO_KEEP]):
        content = io.BytesIO()
        Image.fromarray(image).save(content, format="PNG")
        paths.append(folder / f"{index}.png")
        write_atomically(paths[-1], content.getvalue())
    return tuple(paths)
