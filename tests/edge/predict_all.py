"""What this machine makes of a bundle and of photos, as JSON; run as a script, also on boards."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import numpy as np

from offramp import DynamicClassifier
from offramp.bundle import Bundle
from offramp.runtimes import describe_runtime


def predict_all(folder: Path, runtime: str | None) -> dict[str, object]:
    bundle = Bundle.open(folder / "bundle")
    found: dict[str, object] = {"machine": platform.machine(), "numpy": np.__version__}
    for entry in bundle.manifest.programs:
        with DynamicClassifier.load(
            bundle, program=entry.name, runtime=runtime, self_test="always"
        ) as classifier:
            images = [*bundle.vectors().images, *sorted((folder / "photos").iterdir())]
            answers = [classifier.predict(image) for image in images]
        found[entry.name] = [[answer.label, answer.exit] for answer in answers]
        found[f"engine of {entry.name}"] = runtime or describe_runtime(entry)
    return found


if __name__ == "__main__":
    print(json.dumps(predict_all(Path(sys.argv[1]), sys.argv[2] if sys.argv[2:] else None)))
