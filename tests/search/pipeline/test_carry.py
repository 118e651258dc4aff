"""How the carry is read: as asked, or as a device says is faster; measured once."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
import pytest
import torch
from torch import nn

from offramp.errors import DataError
from offramp.latency import Latency
from offramp_export.network import Preprocess
from offramp_search.bases import Base
from offramp_search.data import ImageSet, Splits
from offramp_search.devices import Device, LatencyTable
from offramp_search.pipeline import Settings
from offramp_search.pipeline._carry import choose_carry
from offramp_search.pipeline._context import Context
from offramp_search.pipeline._reporter import Reporter

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@final
class MadeUpDevice(Device):
    """Takes so long for each block as it has operators of one kind."""

    def __init__(self, slow: str) -> None:
        self.slow = slow
        self.measured = 0

    def record(self) -> Mapping[str, str]:
        return {"processor": "made up"}

    def measure_signatures(
        self, program: bytes, *, threads: int, runs: int, progress: object = None
    ) -> Mapping[str, Latency]:
        from ai_edge_litert import schema_py_generated as schema

        self.measured += 1
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(program), 0))
        slow = getattr(schema.BuiltinOperator, self.slow)
        codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
        taken = {}
        for signature in model.signatureDefs:
            operators = model.subgraphs[signature.subgraphIndex].operators
            count = sum(codes[operator.opcodeIndex] == slow for operator in operators)
            taken[signature.signatureKey.decode()] = Latency((1e-3 + count,))
        return taken

    def measure(self, *_: object, **__: object) -> tuple[Latency, ...]:
        raise AssertionError("whole bundles are not asked for")


def base() -> Base:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)]
    return Base(name="tiny", module=nn.Sequential(*layers, *head).eval(), preprocess=Preprocess())


def context(folder: Path, lines: list[str], **settings: object) -> Context:
    images = ImageSet(np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1]))
    return Context(
        Settings(source="none", groups=2, **settings),  # type: ignore[arg-type]
        folder,
        Reporter(say=lines.append),
        Splits(train=images, search=images, calibration=images, test=images, labels=("a", "b")),
    )


@pytest.mark.parametrize(("slow", "faster"), [("CONCATENATION", "sum"), ("ADD", "concatenate")])
def test_the_device_decides_once(slow: str, faster: str, tmp_path: Path) -> None:
    device = MadeUpDevice(slow)
    lines: list[str] = []
    asked = context(tmp_path, lines, carry="fastest")
    table = LatencyTable(tmp_path / "latency", device)
    assert choose_carry(asked, base(), table) == faster
    assert lines[0].startswith(f"carry: {faster}; blocks of ")
    measured = device.measured
    # A run that goes on, even after its table is lost, does not measure again.
    table = LatencyTable(tmp_path / "elsewhere", device)
    assert choose_carry(asked, base(), table) == faster
    assert device.measured == measured
    (tmp_path / "carry.json").write_text("{}")
    with pytest.raises(DataError, match=r"carry.json is damaged .*; delete it"):
        choose_carry(asked, base(), table)


def test_what_is_asked_for_is_not_measured(tmp_path: Path) -> None:
    device = MadeUpDevice("ADD")
    table = LatencyTable(tmp_path / "latency", device)
    for carry in ("concatenate", "sum"):
        assert choose_carry(context(tmp_path, [], carry=carry), base(), table) == carry
    cells = context(tmp_path, [], carry="fastest", space="cell")
    assert choose_carry(cells, base(), table) == "concatenate"
    assert device.measured == 0
