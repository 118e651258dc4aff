"""The part of ``offramp search`` that looks at no label."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offramp.cli import console

if TYPE_CHECKING:
    from pathlib import Path

    from offramp_search.engine import Engine
    from offramp_search.pipeline import Reporter, Settings

__all__ = ["search_without_labels"]


def search_without_labels(
    settings: Settings,
    out: Path,
    cache: Path,
    reporter: Reporter,
    engine: Engine,
    train_data: str | None,
    *,
    as_json: bool,
) -> Settings | None:
    """Search without labels; the settings to go on with, or nothing if there are no labels."""
    from dataclasses import replace

    from offramp.errors import DataError
    from offramp_search.data import is_unlabelled, open_source
    from offramp_search.pipeline import search_label_free

    if settings.architecture is not None:
        raise DataError("an --architecture needs no search; leave out --objective and --method")
    settings.hardware.check()
    for source in (settings.source, train_data):
        if source is not None:
            open_source(source, folder_cache=cache)  # a misspelt one is refused before all else
    labelled = train_data in (None, settings.source) and not is_unlabelled(settings.source)
    found = search_label_free(
        settings,
        out / "label-free",
        cache=cache,
        reporter=reporter,
        labelled=labelled,
        engine=engine,
    )
    source = settings.source if labelled else train_data
    if source is None:
        path = out / "label-free" / "architecture.json"
        reporter.say(
            "the images have no labels, so nothing was trained; go on with offramp search "
            f"--data LABELLED --architecture {path}, or give --train-data LABELLED here"
        )
        console.emit(as_json, {"architecture": dict(found)}, lambda: print(path))
        return None
    return replace(
        settings,
        source=source,
        architecture=dict(found),
        method="s2dnas",
        objective="labels",
        evaluator="shared",
    )
