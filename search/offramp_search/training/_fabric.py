"""The processor to train on and its arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["fastest_precision", "open_fabric"]

Precision = Literal["32-true", "bf16-mixed"]


def fastest_precision() -> Precision:
    """``bf16-mixed`` where the hardware multiplies bfloat16, ``32-true`` elsewhere.

    A processor without such instructions takes it too, and is 20 to 30 times slower.
    """
    if torch.cuda.is_available():
        return (
            "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
        )
    # Private in torch; the public query does not tell bfloat16 from plain AVX-512.
    query: Any = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return "bf16-mixed" if query is not None and query() else "32-true"


def open_fabric(precision: Precision | None = None) -> Fabric:
    """One device: CUDA if there is any, the processor otherwise."""
    from lightning_fabric import Fabric

    return Fabric(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=1,
        precision=precision or fastest_precision(),
    )
