"""Static int8 for XNNPACK, on the graphs that torch.export made of the stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from offramp.errors import ConversionError
from offramp_export._first_line import first_line
from offramp_export._require import require
from offramp_export.targets._executorch_clamp import bound_again, pass_as_relu
from offramp_export.targets._executorch_image import keep_image_exact
from offramp_export.targets._executorch_subsample import share_scales, subsample_by_convolution

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["quantize_programs"]

_DEQUANTIZE = "quantized_decomposed.dequantize_per_tensor"


def quantize_programs(programs: Mapping[str, Any], images: NDArray[np.uint8]) -> dict[str, Any]:
    """Quantise the programs of a network's stages.

    A stage is calibrated on what the float stage before it hands on; weights have a scale per
    output channel.

    Args:
        programs: Name -> exported program of a stage, in the order of the stages.
        images: ``(images, height, width, 3)`` uint8.

    Returns:
        The same names, each with an exported program whose edges are still float32.

    Raises:
        ConversionError: The quantiser refused a stage.
    """
    require("torchao")
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    settings = get_symmetric_quantization_config(is_per_channel=True)
    carries: list[tuple[Tensor, ...]] = [
        (torch.from_numpy(image[None].astype(np.float32)),) for image in images
    ]
    quantized: dict[str, Any] = {}
    for name, program in programs.items():
        module = program.module()
        subsample_by_convolution(module)
        exact = keep_image_exact(module) if not quantized else None
        pass_as_relu(module)
        with torch.no_grad():
            handed_on = [tuple(module(*carry))[1:] for carry in carries]
        try:
            observed = prepare_pt2e(module, XNNPACKQuantizer().set_global(settings))
            if exact is not None:
                exact.fix(observed)
            bound_again(observed)
            share_scales(observed)
            with torch.no_grad():
                for carry in carries:
                    observed(*carry)
                converted = convert_pt2e(observed)
                _separate_readers(converted)
                quantized[name] = torch.export.export(converted, carries[0])
        except Exception as error:
            raise ConversionError(
                f"ExecuTorch's quantiser refused {name}: {first_line(error)}; replace the operator "
                "it names, or leave executorch/int8 out of the targets"
            ) from error
        carries = handed_on
    return quantized


def _separate_readers(module: torch.fx.GraphModule) -> None:
    """Give every reader of a dequantised tensor a dequantisation of its own.

    Where a tensor is read channel-last by one operator and handed on channel-first, XNNPACK's
    lowering puts a transpose behind the dequantisation and gives it to all that read the
    dequantisation, also to those that it has marked as channel-last already. What they return is
    then transposed twice and has the wrong shape when it runs (executorch 1.5.1,
    ``ChannelsLastTaggedReshapePass.insert_copy_q_dq``; of that pass's branch for dynamic ranges the
    like was mended in https://github.com/pytorch/executorch/pull/21637).
    """
    graph = module.graph
    for node in list(graph.nodes):
        if not str(node.target).startswith(_DEQUANTIZE):
            continue
        for reader in list(node.users)[1:]:
            with graph.inserting_before(reader):
                reader.replace_input_with(node, graph.node_copy(node))
    module.recompile()
