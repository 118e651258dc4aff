"""Photos without classes choose the network; labels train, certify and ship it."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Protocol

import pytest

from offramp import Bundle, DynamicClassifier

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    class Offramp(Protocol):
        def __call__(self, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]: ...


_FACTORY = """
from torch import nn

def make(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, num_classes),
    )
"""
_SMALL = (
    *("--base", "my_network:make", "--epochs", "1", "--shared-epochs", "1", "--trials", "2"),
    *("--groups", "2", "--export", "litert/float32", "--budget-mean-ms", "50"),
    *("--limit", "0.05", "--image-size", "16", "--json"),
)


@pytest.mark.slow
def test_two_commands_from_photos_to_a_certificate(
    images: Path, tmp_path: Path, offramp: Offramp
) -> None:
    (tmp_path / "my_network.py").write_text(_FACTORY)
    photos = tmp_path / "photos"
    photos.mkdir()
    for label in images.iterdir():
        for path in sorted(label.iterdir())[:60]:
            shutil.copy(path, photos / f"{label.name}-{path.name}")

    searched = offramp(
        *("search", "--data", "photos", "--objective", "jigsaw", "--method", "random"),
        *("--out", "runs/photos", *_SMALL),
        folder=tmp_path,
    )
    assert searched.returncode == 0, searched.stderr
    assert "no label is looked at" in searched.stderr
    assert "nothing was trained; go on with offramp search" in searched.stderr
    found = tmp_path / "runs" / "photos" / "label-free" / "architecture.json"
    architecture = json.loads(found.read_text())
    assert json.loads(searched.stdout) == {"architecture": architecture}
    assert not list((tmp_path / "runs" / "photos").glob("*.bundle"))

    built = offramp(
        *("search", "--data", str(images), "--architecture", str(found)),
        *("--out", "runs/mine", *_SMALL),
        folder=tmp_path,
    )
    assert built.returncode == 0, built.stderr
    result = json.loads(built.stdout)
    assert result["architecture"] == architecture
    assert result["search"] is None

    path = tmp_path / "runs" / "mine" / "dynamic.bundle"
    bundle = Bundle.open(path)
    (certificate,) = bundle.policy("litert/float32").certificates
    assert (certificate.limit, certificate.confidence) == (0.05, 0.95)
    assert certificate.images_certified > 0
    photo = next(images.glob("red/*.png"))
    with DynamicClassifier.load(path) as classifier:
        prediction = classifier.predict(photo)
    assert prediction.label in ("blue", "green", "red")
    assert prediction.exit in (0, 1)
    verified = offramp("verify", str(path), folder=tmp_path)
    assert verified.returncode == 0, verified.stdout
