"""What `predict` costs over the bare runs of its stages.

A three-stage ResNet-20 (depth exits, 32×32 images, float32, random weights) is exported to LiteRT.
An image goes through `DynamicClassifier.predict` to the last exit, many times; then each stage is
run on its own, on prepared buffers, with nothing around it but the clock. The two take turns, so
that both meet the same machine. They do so in runs of fifty, because two copies of one network
would push each other out of the cache. The overhead is the ratio of the medians: `predict` over
the sum of the bare stage runs. It is measured twice: with early exits disabled, as in
`policy="last"`, and with a policy that asks every exit and is never sure, the longest way there is.

    .venv/bin/python benchmarks/runtime_overhead.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ai_edge_litert.compiled_model import (
    CompiledModel,
    CpuOptions,
    HardwareAccelerator,
    Options,
)

from offramp import DynamicClassifier
from offramp.bundle import Policy
from offramp.latency import Latency
from offramp_export import export
from offramp_export.targets import LiteRT
from offramp_search.bases import load_base
from offramp_search.report import Claim, write_result
from offramp_search.spaces import StaticTransform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offramp.bundle import Bundle

GOAL_PERCENT = 5.0
RUNS_PER_TURN = 50
RESULT = Path(__file__).parent / "results" / "runtime_overhead.json"


def make_bundle(folder: Path, seed: int) -> Bundle:
    """Export a three-stage ResNet-20 with random weights."""
    torch.manual_seed(seed)
    base = load_base("resnet20", num_classes=10, image_shape=(32, 32))
    space = StaticTransform(
        base.module, image_shape=(32, 32), preprocess=base.preprocess, num_stages=3
    )
    images = np.random.default_rng(seed).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    network = space.build(space.depth_architecture((1 / 3, 2 / 3)))
    result = export(
        list(network.stages),
        images,
        [LiteRT("float32")],
        path=folder / "bundle",
        labels=[str(index) for index in range(10)],
    )
    return result.bundle


class BareStages:
    """The stages of a LiteRT program on chained buffers, with nothing of the SDK in between."""

    def __init__(self, program: bytes, num_stages: int, image: NDArray[np.uint8]) -> None:
        self._model = CompiledModel.from_buffer(
            program,
            options=Options(
                hardware_accelerators=HardwareAccelerator.CPU,
                cpu_options=CpuOptions(num_threads=1),
            ),
        )
        self._calls: list[tuple[int, list[Any], list[Any]]] = []
        carry: list[Any] = []
        for stage in range(num_stages):
            index = self._model.get_signature_index(f"stage_{stage}")
            inputs = carry or self._model.create_input_buffers(index)
            outputs = self._model.create_output_buffers(index)
            self._calls.append((index, inputs, outputs))
            carry = outputs[1:]
        self._calls[0][1][0].write(image.astype(np.float32)[None])

    def time_ms(self) -> list[float]:
        """Wall-clock time of each stage, one after the other, in milliseconds."""
        times = []
        for index, inputs, outputs in self._calls:
            start_ns = time.perf_counter_ns()
            self._model.run_by_index(index, inputs, outputs)
            times.append((time.perf_counter_ns() - start_ns) / 1e6)
        return times


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=40, help=f"of {RUNS_PER_TURN} runs each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()

    image = np.random.default_rng(arguments.seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    claims, figures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(Path(folder), arguments.seed)
        for name, policy in (("no early exit asked", "last"), ("every exit asked", never_sure())):
            predict, bare = measure(bundle, policy, image, arguments.turns)
            percent = 100 * (predict.median_ms / bare.median_ms - 1)
            print(name)
            print(f"  predict     median {predict.median_ms:.3f} ms   p90 {predict.p90_ms:.3f} ms")
            print(f"  bare stages median {bare.median_ms:.3f} ms   p90 {bare.p90_ms:.3f} ms")
            print(f"  overhead    {percent:.2f} % (goal: at most {GOAL_PERCENT} %)")
            claims.append(
                Claim.at_most(
                    f"percent that predict costs over the sum of its bare stage runs, {name}",
                    percent,
                    GOAL_PERCENT,
                )
            )
            figures[name] = {
                "predict_ms": {"median": predict.median_ms, "p90": predict.p90_ms},
                "bare_stages_ms": {"median": bare.median_ms, "p90": bare.p90_ms},
                "predict_over_bare_median": predict.median_ms / bare.median_ms,
                "predict_over_bare_p90": predict.p90_ms / bare.p90_ms,
                "predict_samples_ms": predict.samples_ms,
                "bare_stages_samples_ms": bare.samples_ms,
            }
    write_result(
        arguments.result,
        purpose="What predict costs over the bare runs of its stages",
        claims=claims,
        figures={"turns": arguments.turns, "runs_per_turn": RUNS_PER_TURN, **figures},
    )


def never_sure() -> Policy:
    """A policy that asks every exit and always goes on."""
    return Policy(
        name="never_sure",
        program="litert/float32",
        signal="max_probability",
        temperatures=(20.0, 20.0, 1.0),
        thresholds=(1.0, 1.0, 0.0),
        enabled=(True, True, True),
    )


def measure(
    bundle: Bundle, policy: str | Policy, image: NDArray[np.uint8], turns: int
) -> tuple[Latency, Latency]:
    """Whole predictions and bare stage runs, taking turns."""
    num_stages = len(bundle.manifest.stages)
    bare = BareStages(bundle.read(bundle.program().files[0]), num_stages, image)
    predict_ms: list[float] = []
    bare_ms: list[float] = []
    with DynamicClassifier.load(bundle.path, policy=policy) as classifier:
        assert classifier.predict(image).exit == num_stages - 1
        for turn in range(1 + turns):
            predicted, bared = [], []
            for _ in range(RUNS_PER_TURN):
                start_ns = time.perf_counter_ns()
                classifier.predict(image)
                predicted.append((time.perf_counter_ns() - start_ns) / 1e6)
            for _ in range(RUNS_PER_TURN):
                bared.append(sum(bare.time_ms()))
            if turn:  # the first one warms up
                predict_ms += predicted
                bare_ms += bared
    return Latency(tuple(predict_ms), RUNS_PER_TURN), Latency(tuple(bare_ms), RUNS_PER_TURN)


if __name__ == "__main__":
    main()
