"""What the first load of a program costs on a machine, beside later ones.

The first load tries the program in a process of its own and compares its answers; `in_process` does
without that process; later loads find that it passed. All three take turns, each first one with an
empty cache. The memory is the largest that a process of its own has had resident.

    .venv/bin/python benchmarks/first_load.py --bundle BUNDLE
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from offramp.bundle import Bundle
from offramp.runtimes import open_runtime

if TYPE_CHECKING:
    from offramp.runtimes import SelfTest

__all__ = ["main"]

RESULT = Path(__file__).parent / "results" / "first_load.json"
TURNS = 20
WAYS: tuple[tuple[str, SelfTest, bool], ...] = (
    ("first", "first", True),
    ("later", "first", False),
    ("first, in_process", "in_process", True),
)


def main() -> None:
    """Measure every LiteRT program of a bundle, print and write what its loads took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    from offramp_search.report import Claim, write_result

    bundle = Bundle.open(arguments.bundle)
    names = [entry.name for entry in bundle.manifest.programs if entry.runtime == "litert"]
    samples: dict[str, dict[str, list[float]]] = {
        name: {way: [] for way, _, _ in WAYS} for name in names
    }
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        for turn in range(TURNS + 1):
            for name in names:
                for way, when, empties in WAYS:
                    if empties:
                        shutil.rmtree(Path(cache) / "offramp", ignore_errors=True)
                    began = time.perf_counter()
                    open_runtime(bundle, name, self_test=when).close()
                    # The very first load brings the engine itself into memory.
                    if turn:
                        samples[name][way].append(1e3 * (time.perf_counter() - began))
    figures: dict[str, dict[str, dict[str, Any]]] = {
        name: {
            way: {
                "median_ms": float(np.median(taken)),
                "p90_ms": float(np.quantile(taken, 0.9)),
                "samples_ms": taken,
            }
            for way, taken in ways.items()
        }
        for name, ways in samples.items()
    }
    resident_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    claims = []
    for name, ways in figures.items():
        for way, one in ways.items():
            print(f"{name:16}{way:20}{one['median_ms']:9.1f} ms{one['p90_ms']:9.1f} ms (p90)")
            claims.append(Claim(f"{name}: {way} load, median ms", one["median_ms"], None, True))
    claims.append(Claim.at_most("resident MB of a process of its own", resident_mb, 60.0))
    print(f"a process of its own: {resident_mb:.0f} MB resident")
    write_result(
        arguments.result,
        purpose="What the first load of a program costs, beside later ones",
        claims=claims,
        figures={"turns": TURNS, "programs": figures, "resident_mb": resident_mb},
        command=["first_load.py", "--bundle", "BUNDLE"],
    )


if __name__ == "__main__":
    main()
