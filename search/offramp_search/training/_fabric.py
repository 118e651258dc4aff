"""The processors to train on and their arithmetic."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, final

import torch

from offramp.errors import DeviceError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Hardware", "fastest_precision", "open_fabric"]

Precision = Literal["32-true", "bf16-mixed"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What networks are trained on.

    Attributes:
        accelerator: ``auto`` is CUDA if there is any, the processor otherwise.
        devices: Over so many the images of every step are shared, and gradients averaged: so many
            GPUs, or so many processes on the processor.
        precision: The arithmetic; ``None`` takes ``fastest_precision()``.
    """

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    precision: Precision | None = None

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise ValueError(f"devices must be at least 1, got {self.devices}")

    @property
    def kind(self) -> Literal["cpu", "cuda"]:
        """What ``auto`` comes to on this machine."""
        if self.accelerator == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.accelerator

    @property
    def arithmetic(self) -> Precision:
        """The precision that is asked for, or the fastest there is."""
        return self.precision or fastest_precision(self.kind)

    @property
    def is_slow(self) -> bool:
        """Whether bfloat16 is asked for where the hardware does not multiply it."""
        return self.precision == "bf16-mixed" and fastest_precision(self.kind) != "bf16-mixed"

    def check(self) -> None:
        """Make sure that this machine has it.

        Raises:
            DeviceError: It has not, or not so many.
        """
        if self.kind == "cuda" and not torch.cuda.is_available():
            raise DeviceError(
                "torch finds no CUDA device on this machine; train on the processor (accelerator "
                "cpu), or install a CUDA build of torch"
            )
        there = torch.cuda.device_count() if self.kind == "cuda" else _processors()
        if self.devices > there:
            raise DeviceError(
                f"asked to train on {self.devices} {self.kind} devices, but this machine has "
                f"{there}{'' if self.kind == 'cuda' else ' (one for each processor core)'}; "
                f"ask for {there} at most"
            )


def fastest_precision(kind: Literal["cpu", "cuda"] | None = None) -> Precision:
    """``bf16-mixed`` where the hardware multiplies bfloat16, ``32-true`` elsewhere.

    A processor without such instructions takes it too, and is 20 to 30 times slower.

    Args:
        kind: Of which hardware; ``None`` is CUDA if there is any, the processor otherwise.
    """
    if kind == "cuda" or (kind is None and torch.cuda.is_available()):
        return (
            "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
        )
    # Private in torch; the public query does not tell bfloat16 from plain AVX-512.
    query: Any = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return "bf16-mixed" if query is not None and query() else "32-true"


def open_fabric(hardware: Hardware) -> Fabric:
    """This process's part of the hardware: all of it, or one device of those that share the work.

    Of several, each is opened by a process of its own, which finds its number in ``LOCAL_RANK``.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    hardware.check()
    if hardware.devices == 1:
        return Fabric(accelerator=hardware.kind, devices=1, precision=hardware.arithmetic)
    return Fabric(
        accelerator=hardware.kind,
        devices=hardware.devices,
        precision=hardware.arithmetic,
        # A network that holds many architectures leaves out, in every step, what the one that is
        # selected does not have. Statistics of batch normalisation are averaged once an epoch.
        strategy=DDPStrategy(find_unused_parameters=True, forward_sync_buffers=False),
        # Named, or a job scheduler's variables would be taken for its order to start processes.
        plugins=[LightningEnvironment()],
    )


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
