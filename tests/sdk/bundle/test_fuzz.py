"""A seeded short run of `benchmarks/fuzz.py`: no crash, no hang, no error that is not ours."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from offramp.testing import mutations

if TYPE_CHECKING:
    from offramp.bundle import Bundle

_PATH = Path(__file__).resolve().parents[3] / "benchmarks" / "fuzz.py"
_SPEC = importlib.util.spec_from_file_location("fuzz", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
fuzz = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fuzz)


@pytest.mark.parametrize("target", ["manifest", "zip", "image"])
def test_damaged_inputs_are_refused_in_words(bundle: Bundle, tmp_path: Path, target: str) -> None:
    figure = fuzz.run(target, bundle, 11, 400, tmp_path / "kept")
    assert figure["inputs"] == 400
    assert figure["outcomes"].keys() <= {"used", "refused"}, figure["details"]
    assert figure["outcomes"]["refused"] > 200


def test_damaged_programs_end_their_own_process_at_most(bundle: Bundle, tmp_path: Path) -> None:
    """Under their own right hash, loaded and asked as by any user."""
    figure = fuzz.run("litert", bundle, 11, 80, tmp_path / "kept")
    assert figure["outcomes"].keys() <= {"used", "refused"}, figure["details"]
    assert figure["outcomes"]["refused"] > 40


def test_a_lost_worker_is_noticed_and_replaced(bundle: Bundle, tmp_path: Path) -> None:
    fuzzer = fuzz.Fuzzer("image", bundle, tmp_path / "kept")
    sound = fuzz.seeds("image", bundle)[0]
    assert fuzzer.feed(sound, "1") == "used"
    fuzzer._worker.kill()
    fuzzer._worker.wait()
    assert fuzzer.feed(sound, "2") == "crash 9"
    assert (tmp_path / "kept" / "image-2").read_bytes() == sound
    assert fuzzer.feed(sound, "3") == "used"
    assert fuzzer.feed(b"no image", "4") == "refused ImageError"
    fuzzer.close()


def test_mutations_repeat_and_differ(bundle: Bundle) -> None:
    seeds = fuzz.seeds("zip", bundle)
    first = list(mutations(seeds, np.random.default_rng(1), 300))
    assert first == list(mutations(seeds, np.random.default_rng(1), 300))
    assert first != list(mutations(seeds, np.random.default_rng(2), 300))
    assert len(first) == 300
    assert sum(data == seeds[0] for data in first) < 20
    assert len(set(first)) > 280
