"""``offramp export`` on a factory in the folder where it is started."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from offramp.bundle import Bundle

if TYPE_CHECKING:
    from collections.abc import Callable

FACTORY = """
import torch
from torch import nn
from offramp_export import Preprocess

class Stage(nn.Module):
    def __init__(self, first, last, classes):
        super().__init__()
        self.pre = Preprocess() if first else nn.Identity()
        self.layer = nn.Conv2d(3 if first else 4, 4, 3, 2, 1)
        self.exit = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
        self.last = last

    def forward(self, x):
        x = torch.relu(self.layer(self.pre(x)))
        return (self.exit(x),) if self.last else (self.exit(x), x)

def build(classes):
    return [Stage(True, False, int(classes)), Stage(False, True, int(classes))]

def number():
    return 7

class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3, 2, 1)
        self.early = nn.Linear(4, 2)
        self.late = nn.Linear(4, 2)

    def forward(self, x):
        x = torch.relu(self.body(x)).mean((2, 3))
        self.early(x)
        return self.late(torch.relu(x - 0.1))

def whole():
    return Whole()
"""


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    (tmp_path / "nets_of_mine.py").write_text(FACTORY)
    (tmp_path / "labels.txt").write_text("ant\nbee\n\n")
    (tmp_path / "photos" / "ant").mkdir(parents=True)
    for number in range(3):
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / "ant" / f"{number}.png")
    return tmp_path


@pytest.fixture
def offramp(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).with_name("offramp")), "export", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


COMMON = ("--out", "bundle", "--labels", "labels.txt", "--images", "photos", "--size", "16x12")


def test_a_factory_becomes_a_bundle(
    folder: Path, offramp: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = offramp(
        "--from",
        "nets_of_mine:build",
        *COMMON,
        "--factory-arg",
        "classes=2",
        "--vectors",
        "2",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (parity,) = json.loads(done.stdout)["parity"]
    assert parity["program"] == "litert/float32"
    assert [exit["label_agreement"] for exit in parity["exits"]] == [1.0, 1.0]
    bundle = Bundle.open(folder / "bundle")
    assert bundle.manifest.labels == ("ant", "bee")
    assert (bundle.manifest.input.height, bundle.manifest.input.width) == (16, 12)
    assert bundle.vectors().images.shape == (2, 16, 12, 3)


def test_a_report_says_what_was_found_out(
    folder: Path, offramp: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    policy: dict[str, object] = {"name": "careful", "program": "any", "signal": "margin"}
    policy |= {"temperatures": [1, 1], "thresholds": [0.1, 0], "enabled": [True, True]}
    (folder / "policy.json").write_text(json.dumps(policy))
    arguments = ("--from", "nets_of_mine:build", "--factory-arg", "classes=2", *COMMON)
    more = ("--policy", "policy.json", "--delegated-share", "1", "--report", "report.json")
    done = offramp(*arguments, *more, "--vectors", "2")
    assert done.returncode == 0, done.stderr
    data = json.loads((folder / "report.json").read_text())
    (program,) = data["programs"]
    # All images lie in a folder that is called after a label.
    first = program["parity"]["exits"][0]
    assert first["accuracy"] == first["torch_accuracy"] is not None
    assert program["parity"]["policy_agreement"] == 1.0
    assert [stage["delegation"]["left"] for stage in program["stages"]] == [{}, {}]
    assert "same under careful" in done.stdout
    table = done.stdout.partition("What each stage takes")[2].splitlines()
    rows = [line.split() for line in table if "litert/float32" in line]
    assert [row[1] for row in rows] == ["0", "1"]
    for row, stage in zip(rows, program["stages"], strict=True):
        assert row[2] == f"{stage['weight_bytes'] / 1000:.1f}"
        assert row[4] == f"{stage['peak_activation_bytes'] / 1000:.1f}"
        assert row[6] == "100%"


def test_one_network_is_cut_at_named_exits_with_its_weights(
    folder: Path, offramp: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"body": ((4, 3, 3, 3), (4,)), "early": ((2, 4), (2,)), "late": ((2, 4), (2,))}
    weights = {
        f"{name}.{kind}": torch.randn(shape, generator=generator)
        for name, both in shapes.items()
        for kind, shape in zip(("weight", "bias"), both, strict=True)
    }
    save_file(weights, folder / "whole.safetensors")
    arguments = ("--from", "nets_of_mine:whole", *COMMON, "--mean", "0,0,0", "--std", "1,1,1")
    exits = ("--exit", "early", "--exit", "late", "--vectors", "2")
    done = offramp(*arguments, *exits, "--weights", "whole.safetensors")
    assert done.returncode == 0, done.stderr
    bundle = Bundle.open(folder / "bundle")
    assert [stage.carry_shapes for stage in bundle.manifest.stages] == [((1, 4),), ()]
    vectors = bundle.vectors()
    pixels = torch.from_numpy(vectors.images.astype(np.float32)).permute(0, 3, 1, 2) / 255
    body = functional.conv2d(pixels, weights["body.weight"], weights["body.bias"], 2, 1)
    pooled = body.relu().mean((2, 3))
    early = functional.linear(pooled, weights["early.weight"], weights["early.bias"])
    np.testing.assert_allclose(vectors.logits["litert/float32"][0], early.numpy(), atol=1e-5)
    del weights["late.bias"]
    save_file(weights, folder / "whole.safetensors")
    done = offramp(*arguments, *exits, "--weights", "whole.safetensors", "--overwrite")
    assert done.returncode == 2
    assert "whole.safetensors lacks late.bias" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nets_of_mine:number", *COMMON), "returned int, expected a sequence of stages"),
        (("nets_of_mine:missing", *COMMON), "has no function 'missing'"),
        (("nets_of_mine:build", *COMMON, "--target", "litert/int4"), "unknown target"),
        (("nets_of_mine:build", *COMMON, "--mean", "1,1,1"), "normalises the image itself"),
        (("nets_of_mine:whole", *COMMON), "--mean is missing"),
        (("nets_of_mine:whole", *COMMON, "--mean", "1,1", "--std", "1,1,1"), "three numbers"),
        (
            (
                *("nets_of_mine:build", *COMMON, "--delegated-share", "0.9"),
                *("--target", "coreml/float16"),
            ),
            "judges LiteRT and ExecuTorch",
        ),
        (("nets_of_mine:build", *COMMON, "--policy", "labels.txt"), "is not a policy"),
        (("nets_of_mine:build", *COMMON, "--report", "no/where.json"), "there is no folder no"),
        (
            ("nets_of_mine:whole", *COMMON, "--weights", "none.safetensors"),
            "no readable safetensors",
        ),
    ],
)
def test_mistakes_are_one_sentence(
    offramp: Callable[..., subprocess.CompletedProcess[str]],
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    done = offramp(
        "--from", *arguments, *(("--factory-arg", "classes=2") if "build" in arguments[0] else ())
    )
    assert done.returncode in (1, 2)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
