"""What quantised ExecuTorch stages hand on: the integers that they compute with."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["hand_on_quantized"]

_QUANTIZED = torch.ops.quantized_decomposed  # filled when torchao is imported


def hand_on_quantized(before: torch.fx.GraphModule, after: torch.fx.GraphModule) -> list[bool]:
    """Let a carry cross as int8 where one stage rounds what it hands on and the next rounds it too.

    Where both saw the same values the second rounding goes; where the next stage joins the carry
    with channels of its own, their common scale is another one, and it stays. What is read in
    float32 crosses in float32: XNNPACK would take its reader for an operator on integers.

    Args:
        before: A quantised stage, whose first output is the logits; changed in place.
        after: The quantised stage that follows; changed in place.

    Returns:
        Of each tensor that crosses, whether it is int8 now.
    """
    graph: Any = before.graph
    end = graph.output_node()
    logits, *carries = end.args[0]
    inputs = [node for node in after.graph.nodes if node.op == "placeholder"]
    crossing = []
    for place, (given, taken) in enumerate(zip(carries, inputs, strict=True)):
        rounds = given.target is _QUANTIZED.dequantize_per_tensor.default
        crossing.append(rounds and all(map(_takes_rounded, taken.users)))
        if crossing[-1]:
            carries[place] = given.args[0]
            _take(after.graph, taken, given.args[1:])
    end.args = ((logits, *carries),)
    graph.eliminate_dead_code()
    for module in (before, after):
        module.recompile()
    return crossing


def _takes_rounded(reader: Any) -> bool:
    return reader.op == "output" or reader.target is _QUANTIZED.quantize_per_tensor.default


def _take(graph: Any, taken: Any, scale: tuple[Any, ...]) -> None:
    readers = list(taken.users)
    with graph.inserting_after(taken):
        real = graph.call_function(_QUANTIZED.dequantize_per_tensor.default, (taken, *scale))
    for reader in readers:
        if reader.args[1:] == scale:
            for behind in list(reader.users):
                behind.args = (taken, *scale)
            graph.erase_node(reader)
        else:
            reader.replace_input_with(taken, real)
    if not real.users:
        graph.erase_node(real)
