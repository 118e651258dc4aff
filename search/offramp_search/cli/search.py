"""The command ``offramp search``."""

# ruff: noqa: TC001 - typer reads the annotations at run time
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from offramp_search.cli._label_free import search_without_labels
from offramp_search.cli._options import CacheOption, DataOption, JsonOption, SeedOption
from offramp_search.cli._output import emit, make_reporter

if TYPE_CHECKING:
    from offramp_search.engine import Engine

__all__ = ["search"]


def search(
    out: Annotated[Path, typer.Option("--out", help="Where every step leaves its file.")],
    data: DataOption,
    method: Annotated[
        Literal["s2dnas", "pnas", "ddpnas", "unnas", "evolution", "tpe", "nsga2", "random"],
        typer.Option("--method", help="See offramp methods."),
    ] = "s2dnas",
    objective: Annotated[
        Literal["labels", "rotation", "colorization", "jigsaw"] | None,
        typer.Option(
            "--objective",
            help="What architectures are compared by. All but labels look at no label while they "
            "search. Without it jigsaw for --method unnas, and labels for the others.",
            show_default=False,
        ),
    ] = None,
    train_data: Annotated[
        str | None,
        typer.Option(
            "--train-data",
            help="Labelled images to train and certify what is found on, if --data has no labels: "
            "without it the search leaves architecture.json and stops.",
            show_default=False,
        ),
    ] = None,
    evaluator: Annotated[
        Literal["shared", "fine-tune"],
        typer.Option(
            help="One network of shared weights for all architectures, or, with an objective other "
            "than labels, --shared-epochs of training for each."
        ),
    ] = "shared",
    base: Annotated[
        str,
        typer.Option(
            "--base",
            help="The static network to start from: vgg_small, vgg16_bn, resnet20 to resnet110, "
            "mobilenet_v2, MODULE:FACTORY or timm:NAME.",
        ),
    ] = "vgg_small",
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            help="Trained weights of the base, safetensors; taken to have seen every training "
            "image. Without them the base is trained first.",
            show_default=False,
        ),
    ] = None,
    budget_mean_ms: Annotated[
        float | None,
        typer.Option(
            help="Mean latency per image. Without any budget it is half of what the static "
            "network is measured to take.",
            show_default=False,
        ),
    ] = None,
    budget_worst_ms: Annotated[
        float | None,
        typer.Option(help="Latency of an image that runs every stage.", show_default=False),
    ] = None,
    budget_size_bytes: Annotated[
        int | None, typer.Option(help="Size of the parameters.", show_default=False)
    ] = None,
    stages: Annotated[int, typer.Option(min=2, max=16, help="Stages of the network.")] = 2,
    groups: Annotated[int, typer.Option(min=2, help="Parts a layer is cut into, at most.")] = 8,
    vector_width: Annotated[
        int,
        typer.Option(
            min=1,
            help="Cut layers into multiples of so many channels: 8 for phones in float32, 16 in "
            "int8, 32 and 16 for AVX-512.",
        ),
    ] = 1,
    exit_grid: Annotated[
        int,
        typer.Option(
            min=1,
            help="Let early exits read the averages of so many rows and columns of their map, at "
            "most.",
        ),
    ] = 1,
    exit_head_channels: Annotated[
        int,
        typer.Option(
            min=0,
            help="Let early exits begin with a convolution of so many channels, such as 64: far "
            "better ones on early maps, for a few percent of the time. 0 is a classifier alone.",
        ),
    ] = 0,
    exit_places: Annotated[
        int,
        typer.Option(
            min=0,
            help="Let early exits hang at so many places of the base, at most, such as the ends "
            "of residual blocks, with all channels there are; 0 leaves it to the cuts of layers.",
        ),
    ] = 0,
    landmarks: Annotated[
        bool,
        typer.Option(
            help="Begin with architectures that anybody would try: exits at different depths, and "
            "thin stages of equal width. Without them methods can be compared by what they find "
            "themselves.",
        ),
    ] = True,
    tie: Annotated[
        bool,
        typer.Option(
            "--tie",
            help="Cut all layers that write maps of one shape alike: far fewer decisions, and "
            "blocks to measure, for deep networks and short searches.",
        ),
    ] = False,
    carry: Annotated[
        Literal["concatenate", "sum", "fastest"],
        typer.Option(
            help="How convolutions read the carry: joined with their stage's own channels, or by a "
            "sum over one convolution for each; fastest measures some blocks both ways.",
        ),
    ] = "concatenate",
    space: Annotated[
        Literal["static_transform", "cell"],
        typer.Option(
            "--space",
            help="Split the base's channels over stages, or build new networks of cells, each "
            "trained for --shared-epochs to be compared; the base is then their teacher.",
        ),
    ] = "static_transform",
    cell_blocks: Annotated[
        int, typer.Option(min=1, help="Blocks of a cell, at most (--space cell).")
    ] = 5,
    cell_filters: Annotated[
        int, typer.Option(min=1, help="Channels of the first cells (--space cell).")
    ] = 16,
    cells_per_level: Annotated[
        int, typer.Option(min=1, help="Cells before maps are halved (--space cell).")
    ] = 1,
    trials: Annotated[int, typer.Option(min=1, help="Architectures to try.")] = 50,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Search for so long instead, by the clock; --trials is then only what pnas and "
            "ddpnas plan for.",
            show_default=False,
        ),
    ] = None,
    architecture: Annotated[
        Path | None,
        typer.Option(
            help="Build this architecture instead of searching: a JSON file, decision: choice.",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[
        int, typer.Option(min=1, help="Of the network that is found, and of the base.")
    ] = 10,
    shared_epochs: Annotated[
        int, typer.Option(min=1, help="Of the network that holds all architectures.")
    ] = 2,
    accelerator: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(help="What to train on; auto is CUDA if there is any, else the processor."),
    ] = "auto",
    devices: Annotated[
        int,
        typer.Option(
            min=1,
            help="Share the images of every training step among so many GPUs, or processes on the "
            "processor.",
        ),
    ] = 1,
    train_precision: Annotated[
        Literal["32-true", "bf16-mixed"] | None,
        typer.Option(
            help="The arithmetic of training. Without it bf16-mixed where the hardware multiplies "
            "bfloat16, 32-true elsewhere.",
            show_default=False,
        ),
    ] = None,
    train_images: Annotated[
        int | None, typer.Option(min=1, help="Train on so many at most.", show_default=False)
    ] = None,
    smaller: Annotated[
        str,
        typer.Option(
            "--smaller",
            help="Set smaller static networks beside the result, trained alike: shares of the "
            "base's width, multiples of 1/groups, separated by commas. 1 is the base itself, "
            "trained on.",
        ),
    ] = "",
    image_size: Annotated[
        int | None,
        typer.Option(
            min=8, help="Side to bring the images to; their own without it.", show_default=False
        ),
    ] = None,
    precision: Annotated[
        Literal["float32", "int8"],
        typer.Option(help="The LiteRT precision whose latency the budget counts."),
    ] = "float32",
    export: Annotated[
        str, typer.Option("--export", help="Programs to export, separated by commas.")
    ] = "litert/float32,litert/int8",
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(
            "--engine",
            help="Where architectures are evaluated: on this machine, or on a Ray cluster "
            "(extra cluster).",
        ),
    ] = "local",
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            help="Architectures evaluated at once. With one the same seed finds the same; with "
            "more it also depends on which is done first.",
        ),
    ] = 1,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="Of a running Ray cluster, such as auto or ray://HOST:10001; without it one is "
            "started on this machine.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        float, typer.Option(help="Accuracy that early exits may cost, a fraction.")
    ] = 0.01,
    confidence: Annotated[float, typer.Option(help="Of the certificate.")] = 0.95,
    seed: SeedOption = 0,
    cache: CacheOption = Path(".cache"),
    as_json: JsonOption = False,
) -> None:
    """Search a multi-stage network under a latency budget, and export it with a certificate.

    What is in the --out folder already is not done again: a search that was stopped goes on.
    """
    from offramp_export.targets import parse_target
    from offramp_search.pipeline import Settings, plot_outcome, run_pipeline
    from offramp_search.training import Hardware, Recipe

    programs = tuple(name.strip() for name in export.split(",") if name.strip())
    for program in programs:
        parse_target(program)
    for name, value in (
        ("--budget-mean-ms", budget_mean_ms),
        ("--budget-worst-ms", budget_worst_ms),
        ("--budget-size-bytes", budget_size_bytes),
    ):
        if value is not None and not value > 0:
            raise typer.BadParameter(f"{name} must be above 0, got {value}")
    no_budget = budget_mean_ms is None and budget_worst_ms is None and budget_size_bytes is None
    recipe = Recipe(epochs=epochs, horizontal_flip=True, pad_crop=2)
    objective = objective or ("jigsaw" if method == "unnas" else "labels")
    settings = Settings(
        method=method,
        objective=objective,
        evaluator=evaluator,
        source=data,
        image_shape=None if image_size is None else (image_size, image_size),
        base=base,
        base_weights=None if weights is None else str(weights),
        num_stages=stages,
        groups=groups,
        vector_width=vector_width,
        tie=tie,
        exit_grid=exit_grid,
        exit_head_channels=exit_head_channels,
        exit_places=exit_places,
        landmarks=landmarks,
        carry=carry,
        space=space,
        cell_blocks=cell_blocks,
        cell_filters=cell_filters,
        cells_per_level=cells_per_level,
        trials=trials,
        search_minutes=minutes,
        architecture=None if architecture is None else _read_architecture(architecture),
        mean_share=0.5 if no_budget else None,
        mean_ms=budget_mean_ms,
        worst_ms=budget_worst_ms,
        size_bytes=budget_size_bytes,
        latency_precision=precision,
        base_recipe=recipe,
        shared_recipe=(
            Recipe(epochs=shared_epochs, learning_rate=0.02)
            if space == "static_transform"
            else Recipe(epochs=shared_epochs)
        ),
        final_recipe=Recipe(epochs=epochs, learning_rate=0.02, horizontal_flip=True, pad_crop=2),
        hardware=Hardware(accelerator=accelerator, devices=devices, precision=train_precision),
        train_images=train_images,
        smaller_shares=_read_shares(smaller),
        programs=programs,
        limit=limit,
        confidence=confidence,
        seed=seed,
    )
    reporter = make_reporter()
    workplace = _make_engine(engine, workers, ray_address)
    if objective != "labels":
        found = search_without_labels(
            settings, out, cache, reporter, workplace, train_data, as_json=as_json
        )
        if found is None:
            return
        settings = found
    elif train_data is not None:
        raise typer.BadParameter(
            "--train-data is for searches without labels; give an --objective other than labels"
        )
    outcome = run_pipeline(settings, out, cache=cache, reporter=reporter, engine=workplace)
    plot_outcome(outcome, out / "result.png")
    emit(as_json, outcome, [f"plot: {out / 'result.png'}"])


def _make_engine(name: str, workers: int, ray_address: str | None) -> Engine:
    from offramp_search.engine import LocalEngine, RayEngine

    if name == "ray":
        return RayEngine(workers, address=ray_address)
    if ray_address is not None:
        raise typer.BadParameter("--ray-address goes with --engine ray")
    return LocalEngine(workers)


def _read_shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(share) for share in text.split(",") if share.strip())
    except ValueError:
        raise typer.BadParameter(
            f"--smaller takes numbers such as 0.25,0.5, got {text!r}"
        ) from None


def _read_architecture(path: Path) -> dict[str, str | int]:
    import msgspec

    from offramp.errors import DataError

    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str | int])
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(
            f"{path} holds no architecture ({error}); expected a JSON object of decisions and "
            f"choices, such as the one in result.json of a search"
        ) from error
