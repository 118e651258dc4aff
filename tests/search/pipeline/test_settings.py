"""A folder belongs to the settings it was begun with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from offramp.errors import DataError, ResumeError
from offramp_search.demo import demo_settings
from offramp_search.training import Recipe

if TYPE_CHECKING:
    from pathlib import Path


def test_the_same_settings_may_go_on(tmp_path: Path) -> None:
    demo_settings("a", seed=1).bind(tmp_path / "new")
    demo_settings("a", seed=1).bind(tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["settings.json"]


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    settings = demo_settings("a")
    settings.bind(tmp_path)
    with pytest.raises(ResumeError, match=r"other settings \(seed was 0\); choose another --out"):
        replace(settings, seed=1).bind(tmp_path)
    with pytest.raises(ResumeError, match=r"\(final_recipe\)"):
        replace(settings, final_recipe=Recipe(epochs=99)).bind(tmp_path)
    with pytest.raises(ResumeError, match=r", \.\.\.\)"):
        replace(settings, seed=1, trials=3, groups=2, base="b").bind(tmp_path)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ResumeError, match=r"settings\.json is damaged"):
        settings.bind(tmp_path)


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_a_search_takes_some_minutes(minutes: float) -> None:
    with pytest.raises(DataError, match="a search takes some minutes, got"):
        replace(demo_settings("a"), search_minutes=minutes)


def test_heads_are_for_the_static_transform_and_have_channels_for_every_stage() -> None:
    settings = replace(demo_settings("a"), num_stages=3)
    assert replace(settings, exit_head_channels=3).exit_head_channels == 3
    for channels in (-1, 2):
        with pytest.raises(DataError, match=f"each of 3 stages, got {channels}; give 64, say"):
            replace(settings, exit_head_channels=channels)
    with pytest.raises(DataError, match="exits of cells have no heads"):
        replace(settings, space="cell", exit_head_channels=64)


def test_the_quick_demonstration_is_the_same_one_made_small() -> None:
    full, quick = demo_settings("a"), demo_settings("a", quick=True)
    assert full.base == quick.base
    assert full.num_stages == quick.num_stages
    assert quick.trials < full.trials
    assert set(quick.programs) <= set(full.programs)
