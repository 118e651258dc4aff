"""Filling the layers of a stage from the network of shared weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offramp_search.spaces import _operators as op
from offramp_search.spaces import _steps
from offramp_search.spaces._modules import SummedConvolution

if TYPE_CHECKING:
    from torch import nn

    from offramp_search.spaces._stage import Stage
    from offramp_search.spaces.static_transform._graph import Graph
    from offramp_search.spaces.static_transform._masked import MaskedNetwork

__all__ = ["load_stage"]


def load_stage(
    stage: Stage,
    plan: _steps.StagePlan,
    graph: Graph,
    source: MaskedNetwork,
    index: int,
    features: int,
) -> None:
    """Give a stage the weights of its channels.

    Args:
        stage: Just made.
        plan: What it was made from.
        graph: The base.
        source: Has the weights of all channels.
        index: Which stage it is.
        features: The node that its exit reads.
    """
    for step, module in zip(plan.steps, stage.children(), strict=True):
        if not step.channels:
            continue
        node = step.output[0]
        if node == _steps.LOGITS:
            whole = source.exit(index, features)
            graph.classifier.load(module, whole, step.channels, step.reads)
        elif isinstance(step.operator, op.SummedConvolution):
            assert isinstance(module, SummedConvolution)
            _load_sum(module, step, graph, source)
        else:
            _load(module, node, graph, source, step.channels, step.reads)


def _load_sum(
    module: SummedConvolution, step: _steps.Step, graph: Graph, source: MaskedNetwork
) -> None:
    node = step.output[0]
    if module.norm is not None:
        _load(module.norm, node, graph, source, step.channels, (step.channels,))
        node = graph.nodes[node].operands[0]
    for part, reads in zip(module.parts, step.reads, strict=True):
        _load(part, node, graph, source, step.channels, (reads,))


def _load(
    module: nn.Module,
    node: int,
    graph: Graph,
    source: MaskedNetwork,
    channels: _steps.Channels,
    reads: tuple[_steps.Channels, ...],
) -> None:
    rule = graph.nodes[node].rule
    assert rule is not None
    rule.load(module, source.layer(node), channels, reads)
