"""Two processes make the same bytes of the same network, in every format."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from offramp.bundle import Bundle

SCRIPT = Path(__file__).with_name("export_all.py")


def test_bundles_are_equal_to_the_byte(tmp_path: Path) -> None:
    # Whatever depends on the order of a set, on time, or on where the bundle is, differs here.
    folders = [tmp_path / "one", tmp_path / "another" / "place"]
    processes = []
    for seed, folder in enumerate(folders, start=1):
        folder.mkdir(parents=True)
        processes.append(
            subprocess.Popen(
                [sys.executable, str(SCRIPT), str(folder)],
                env=os.environ | {"PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    for process in processes:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
    once, again = (
        {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        for folder in folders
    )
    assert once.keys() == again.keys()
    assert [path for path, content in once.items() if content != again[path]] == []
    for entry in Bundle.open(folders[0] / "bundle").manifest.programs:
        assert entry.exporter["torch"]
        assert len(entry.exporter) >= 2, "the converter's version is recorded beside torch's"
