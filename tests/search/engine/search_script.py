"""A search in a process of its own: ``search_script.py FOLDER TRIALS SECONDS_PER_TRIAL``."""

from __future__ import annotations

import sys
from pathlib import Path

from offramp_search.budget import Budget
from offramp_search.devices import LatencyTable
from offramp_search.engine import search
from offramp_search.samplers import ReinforceSampler
from offramp_search.testing import FakeEvaluator, FakeSpace

if __name__ == "__main__":
    folder, trials, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    search(
        FakeSpace(),
        ReinforceSampler(5),
        FakeEvaluator(seconds=seconds),
        LatencyTable.recorded(folder.parent / "table.json"),
        Budget(mean_ms=1.2),
        trials=trials,
        folder=folder,
    )
