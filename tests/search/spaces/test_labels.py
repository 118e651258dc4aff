from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from offramp_search.spaces.static_transform import _labels

STAGES = 3
labels = st.lists(st.integers(0, STAGES), min_size=1, max_size=24).map(bytes)


@given(labels)
def test_channels_are_stored_once_and_by_stage(given: bytes) -> None:
    stored = _labels.stored_by(given, STAGES - 1)
    assert sorted(stored) == [c for c, label in enumerate(given) if label < STAGES]
    assert [given[c] for c in stored] == sorted(given[c] for c in stored)
    assert sum(_labels.counts(given, STAGES)) == len(stored)


@given(labels, labels)
def test_a_channel_is_read_at_the_first_reader_not_before_it(given: bytes, readers: bytes) -> None:
    for before, after in zip(given, given.translate(_labels.read_at(readers, STAGES)), strict=True):
        later = [reader for reader in readers if reader >= before]
        assert after == (min(later) if later else STAGES)


@given(st.lists(st.tuples(st.integers(0, STAGES), st.integers(0, STAGES)), min_size=1))
def test_latest_and_earliest(pairs: list[tuple[int, int]]) -> None:
    first, second = (bytes(column) for column in zip(*pairs, strict=True))
    assert list(_labels.latest(first, second)) == [max(pair) for pair in pairs]
    assert list(_labels.earliest(first, second)) == [min(pair) for pair in pairs]
    assert first.translate(_labels.not_before(2)) == bytes(max(label, 2) for label in first)
