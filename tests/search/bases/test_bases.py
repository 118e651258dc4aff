from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from offramp.errors import DataError, MissingExtraError
from offramp_search.bases import BASES, load_base

if TYPE_CHECKING:
    from pathlib import Path

CONVOLUTIONS_AND_LINEAR = {
    "resnet20": 20,
    "resnet32": 32,
    "resnet44": 44,
    "resnet56": 56,
    "resnet110": 110,
    "vgg16_bn": 14,
    "vgg_small": 5,
    "mobilenet_v2": 53,
}


@pytest.mark.parametrize("name", BASES)
def test_bases_have_their_layers(name: str) -> None:
    base = load_base(name, num_classes=7, image_shape=(32, 32))
    layers = [m for m in base.module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == CONVOLUTIONS_AND_LINEAR[name]
    with torch.no_grad():
        images = base.preprocess(torch.zeros(2, 32, 32, 3))
        assert base.module.eval()(images).shape == (2, 7)


def test_mobilenet_strides_follow_the_image() -> None:
    for size, expected in ((32, 4), (224, 7)):
        base = load_base("mobilenet_v2", num_classes=2, image_shape=(size, size))
        features = base.module.get_submodule("features")
        with torch.no_grad():
            assert features.eval()(torch.zeros(1, 3, size, size)).shape[-1] == expected


def test_pretrained_resnet20_is_as_good_as_it_says(data_folder: Path) -> None:
    from pyarrow import parquet  # type: ignore[import-untyped]

    base = load_base(
        "resnet20",
        num_classes=10,
        image_shape=(32, 32),
        weights=data_folder / "pretrained" / "resnet20_cifar10.safetensors",
    )
    rows = parquet.read_table(data_folder / "cifar10" / "test.parquet").slice(0, 500).to_pydict()
    images = np.stack([np.asarray(Image.open(io.BytesIO(i["bytes"]))) for i in rows["image"]])
    with torch.no_grad():
        logits = base.module.eval()(base.preprocess(torch.from_numpy(images).float()))
    accuracy = (logits.argmax(1).numpy() == np.array(rows["label"])).mean()
    # 91.73 % on all 10,000; two standard deviations on 500 are 2.5 points.
    assert abs(accuracy - 0.9173) < 0.025


def test_weights_must_fit(tmp_path: Path) -> None:
    state = load_base("vgg_small", num_classes=3, image_shape=(32, 32)).module.state_dict()
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    loaded = load_base("vgg_small", num_classes=3, image_shape=(32, 32), weights=path)
    assert torch.equal(loaded.module.state_dict()["classifier.weight"], state["classifier.weight"])

    def load(name: str = "vgg_small", classes: int = 3, weights: Path = path) -> None:
        load_base(name, num_classes=classes, image_shape=(32, 32), weights=weights)

    with pytest.raises(DataError, match=r"classifier\.weight has shape \(3, 256\), expected \(4,"):
        load(classes=4)
    with pytest.raises(DataError, match="tensors are missing"):
        load(name="resnet20")
    with pytest.raises(DataError, match="no weights at"):
        load(weights=tmp_path / "none.safetensors")
    with pytest.raises(DataError, match=r"must be a \.safetensors file"):
        load(weights=tmp_path / "weights.pth")
    path.write_bytes(b"not a tensor in sight")
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        load()


def test_factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\n"
        "from offramp_export.network import Preprocess\n"
        "def plain(classes): return nn.Linear(2, classes)\n"
        "def own(classes): return nn.Linear(2, classes), Preprocess((0, 0, 0), (1, 1, 1))\n"
        "def wrong(classes): return classes\n"
    )

    def load(name: str) -> torch.Tensor:
        base = load_base(name, num_classes=5, image_shape=(8, 8))
        assert isinstance(base.module, nn.Linear)
        assert base.module.out_features == 5
        return base.preprocess.offset

    assert load("my_networks:plain").abs().sum() > 0
    assert load("my_networks:own").abs().sum() == 0
    with pytest.raises(DataError, match="returned int"):
        load("my_networks:wrong")
    with pytest.raises(DataError, match="has no function 'none'"):
        load("my_networks:none")
    with pytest.raises(DataError, match="there is no module 'no_such_networks'"):
        load("no_such_networks:plain")
    with pytest.raises(DataError, match="There is no base 'alexnet'"):
        load("alexnet")


def test_timm_says_the_pip_line_or_the_model_it_lacks() -> None:
    with pytest.raises((MissingExtraError, DataError), match=r"pip install|no model|beside this"):
        load_base("timm:no_such_model", num_classes=5, image_shape=(8, 8))
