"""The side of `rivals.py` that runs in earlyon's own environment; it imports nothing of Offramp.

Reads commands from standard input, one JSON object a line, and answers each with one line. The
trained stages come as exported torch programs; each is a submodule, earlyon's wrapper hooks it and
takes its exit's logits from the output by a feature adapter, as its API provides for modules that
return more than one tensor. So the trunk, the heads and the weights are the same as on the other
side, and wrapper, calibrator and routing are earlyon's own.
"""

from __future__ import annotations

import json
import sys
import time
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

__all__ = ["main"]

warnings.simplefilter("ignore")


def _import_earlyon() -> tuple[Any, Any]:
    from earlyon import EarlyExitConfig, EarlyExitWrapper, ExitPoint
    from earlyon.core import thresholds

    return types.SimpleNamespace(
        Config=EarlyExitConfig, Wrapper=EarlyExitWrapper, Exit=ExitPoint
    ), thresholds


class Chain(nn.Module):
    """The stages, one after the other; each gives its logits and what the next one reads."""

    def __init__(self, stages: list[nn.Module]) -> None:
        super().__init__()
        for place, stage in enumerate(stages):
            self.add_module(f"stage_{place}", stage)
        self.count = len(stages)

    def forward(self, image: Tensor) -> Tensor:
        carry: tuple[Tensor, ...] = (image,)
        for place in range(self.count):
            logits, *rest = self.get_submodule(f"stage_{place}")(*carry)
            carry = tuple(rest)
        return torch.as_tensor(logits)


class Stage(nn.Module):
    """One stage, out of sight of `train` and `eval`, which an exported program refuses."""

    def __init__(self, stage: Any) -> None:
        super().__init__()
        self.held = [stage]

    def forward(self, *carry: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.held[0](*carry))


class Recorded(nn.Module):
    """Answers that were recorded, in place of a stage: the calibrator sees only logits."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, recorded: Tensor) -> tuple[Tensor, Tensor]:
        return recorded[:, self.place], recorded


def wrap(stages: list[nn.Module], shape: tuple[int, ...]) -> Any:
    early, _ = _import_earlyon()
    exits = [early.Exit(f"e{place}", f"stage_{place}", 10) for place in range(len(stages) - 1)]
    config = early.Config(backbone="custom", num_classes=10, exit_points=exits)
    heads = {one.name: nn.Identity() for one in exits}
    adapters = {one.name: (lambda output: output[0]) for one in exits}
    chain = Chain(stages)
    return early.Wrapper(
        chain, heads, nn.Identity(), config, input_shape=shape, feature_adapters=adapters
    ).eval()


def calibrate(model: Any, data: Any, labels: Any, drop: float, grid: Any, share: float) -> Any:
    _, thresholds = _import_earlyon()
    cut = int(len(data) * share)  # temperatures are fitted on images of their own, as it advises

    def loader(part: slice) -> Any:
        return DataLoader(TensorDataset(data[part], labels[part]), batch_size=500)

    return thresholds.calibrate_thresholds(
        model,
        loader(slice(cut, None)),
        target_accuracy_drop=drop,
        grid=grid,
        fit_temperature=cut > 0,
        temperature_loader=loader(slice(cut)) if cut else None,
    )


def load_stages(folder: Path, style: str) -> list[nn.Module]:
    if style == "frozen":
        load: Any = torch.jit.load
        return [Stage(load(str(folder / f"stage_{place}.ts"))) for place in range(4)]
    return [Stage(_eager(folder, place)) for place in range(4)]


def _eager(folder: Path, place: int) -> Any:
    # The shapes are known: checking them at every call would only cost it time.
    return torch.export.load(str(folder / f"stage_{place}.pt2")).module(check_guards=False)


class Worker:
    """One process's state; each command is a method."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model: Any = None
        self.images = np.load(folder / "images.npy", mmap_mode="r")

    def freeze(self) -> bool:
        """Fold the batch norms and drop the interpreter: faster than it advises."""
        carry: tuple[Tensor, ...] = (torch.zeros(1, 32, 32, 3),)
        with torch.inference_mode(False), torch.no_grad():
            for place in range(4):
                traced: Any = torch.jit.trace(  # type: ignore[no-untyped-call]
                    _eager(self.folder, place), carry, check_trace=False
                )
                frozen: Any = torch.jit.freeze(traced.eval())
                frozen.save(str(self.folder / f"stage_{place}.ts"))
                carry = tuple(frozen(*carry)[1:])
        return True

    def load(self, style: str, policy: dict[str, Any] | None, threads: int) -> dict[str, Any]:
        if threads:
            torch.set_num_threads(threads)
        self.model = wrap(load_stages(self.folder, style), (1, 32, 32, 3))
        if policy is not None:
            config = self.model.config
            config.confidence_thresholds = policy["thresholds"]
            config.enabled_exits = policy["enabled"]
            config.temperatures = policy["temperatures"]
        else:
            self.model.config.enabled_exits = [False] * 3
        self.model.config.validate()
        answer = self.run(0, 1)
        return answer | {"resident_mb": _resident_mb()}

    def run(self, start: int, end: int) -> dict[str, Any]:
        times, classes, exits = [], [], []
        for image in np.array(self.images[start:end]):
            began = time.perf_counter_ns()
            result = self.model(torch.from_numpy(image).float()[None], mode="inference")
            index = int(result.prediction.argmax())
            times.append((time.perf_counter_ns() - began) / 1e6)
            classes.append(index)
            exits.append(result.exit_taken)
        return {"ms": times, "classes": classes, "exits": exits}

    def calibrate(self, orders: str, drop: float, grid: list[float] | None, share: float) -> Any:
        recorded = torch.from_numpy(np.load(self.folder / "logits.npy")).transpose(0, 1)
        labels = torch.from_numpy(np.load(self.folder / "labels.npy"))
        stages: list[nn.Module] = [Recorded(place) for place in range(4)]
        found = []
        for order in np.load(self.folder / orders):
            part = torch.from_numpy(order)
            model = wrap(stages, (1, 4, 10))
            result = calibrate(
                model, recorded[part], labels[part], drop, grid and tuple(grid), share
            )
            found.append(
                {
                    "thresholds": result.thresholds,
                    "enabled": result.enabled_exits,
                    # None where none were fitted; the model then has its own, all 1.
                    "temperatures": result.temperatures or dict(model.config.temperatures),
                }
            )
        return found


def _resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    """Answer commands until there are no more."""
    torch.set_grad_enabled(False)
    worker = Worker(Path(sys.argv[1]))
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(worker, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
