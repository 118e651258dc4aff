"""Run the command line in this process, through its real entry point."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from offramp.cli import run
from offramp.profiling import collect_logits
from offramp.runtimes import open_runtime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from offramp.bundle import Bundle


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, parsed; nothing else may be on it."""
        return json.loads(self.out)


@pytest.fixture
def offramp(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """``offramp(*arguments)`` as a shell would run it."""

    def call(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["offramp", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            run()
        out, err = capfd.readouterr()
        code = left.value.code
        return Ran(code if isinstance(code, int) else 0 if code is None else 1, out, err)

    return call


@pytest.fixture
def photos(tmp_path: Path, bundle: Bundle) -> Path:
    """Images that the int8 program's last exit gets right, except a few, in folders by label."""
    rng = np.random.default_rng(3)
    # Flat colours with little noise: the random network is not of one mind about these.
    colours = rng.integers(0, 256, (120, 1, 1, 3))
    images = np.clip(colours + rng.integers(-40, 40, (120, 12, 12, 3)), 0, 255).astype(np.uint8)
    with open_runtime(bundle, "litert/int8") as runtime:
        labels = collect_logits(runtime, images)[-1].argmax(axis=-1)
    folder = tmp_path / "photos"
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        named = bundle.manifest.labels[(label + (number % 10 == 0)) % 5]
        (folder / named).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / named / f"{number:03}.png")
    return folder
