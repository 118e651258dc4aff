"""Blocks keep their names, their layout and their answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offramp.errors import ExportError
from offramp_export.blocks import convert_blocks


class _Join(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([torch.relu(self.layer(x)) + y, y], 1)


class _Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(torch.flatten(self.pool(x), 1))
        return logits


BLOCKS: dict[str, tuple[nn.Module, list[tuple[int, ...]]]] = {
    "conv 3→6, 5×7, stride 2": (nn.Conv2d(3, 6, 3, stride=2, padding=1), [(1, 3, 5, 7)]),
    "join": (_Join(), [(1, 4, 6, 6), (1, 4, 6, 6)]),
    "head": (_Head(), [(1, 4, 6, 6)]),
    "linear": (nn.Linear(8, 5), [(1, 8)]),
    "same head": (_Head(), [(1, 4, 6, 6)]),
}


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_every_block_is_a_signature_of_its_own(precision: str) -> None:
    from ai_edge_litert.interpreter import Interpreter

    program = convert_blocks(BLOCKS, precision=precision)  # type: ignore[arg-type]
    interpreter = Interpreter(model_content=program, num_threads=1)
    assert list(interpreter.get_signature_list()) == list(BLOCKS)
    assert all(module.training for module, _ in BLOCKS.values()), "the modules were changed"
    for name, (module, shapes) in BLOCKS.items():
        runner = interpreter.get_signature_runner(name)
        inputs = [torch.randn(shape) for shape in shapes]
        fed = {f"args_{index}": _channel_last(value) for index, value in enumerate(inputs)}
        details = runner.get_input_details()
        assert {key: tuple(entry["shape"]) for key, entry in details.items()} == {
            key: value.shape for key, value in fed.items()
        }
        wanted = np.int8 if precision == "int8" else np.float32
        assert all(entry["dtype"] == wanted for entry in details.values())
        if precision == "float32":
            with torch.no_grad():
                expected = _channel_last(module(*inputs))
            np.testing.assert_allclose(runner(**fed)["output_0"], expected, atol=1e-5)


def test_faults_name_the_block() -> None:
    with pytest.raises(ExportError, match="block 'wrong' does not run"):
        convert_blocks({"wrong": (nn.Linear(8, 5), [(1, 9)])}, precision="float32")
    with pytest.raises(ExportError, match="no blocks"):
        convert_blocks({}, precision="float32")
    with pytest.raises(ExportError, match="no precision 'int4'"):
        convert_blocks(BLOCKS, precision="int4")  # type: ignore[arg-type]


def _channel_last(value: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return (value.permute(0, 2, 3, 1) if value.ndim == 4 else value).contiguous().numpy()


class _Summed(nn.Module):
    """Hands on a map that a later concatenation wants in a scale of its own, and one more."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        carry = torch.relu(self.first(x) + self.second(y))
        return torch.cat([carry, 100 * y], 1), carry


def test_an_output_that_is_read_in_another_scale_too_can_be_run() -> None:
    from ai_edge_litert import schema_py_generated as schema

    program = convert_blocks({"sum": (_Summed(), [(1, 4, 6, 6)] * 2)}, precision="int8")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(program), 0))
    outputs = {int(tensor) for tensor in model.subgraphs[0].outputs}
    assert {int(entry.tensorIndex) for entry in model.signatureDefs[0].outputs} == outputs
