"""Where ``torch.export`` gave up: the layer it was in, and the function that it could not trace."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, final

import torch
from torch.overrides import TorchFunctionMode, resolve_name

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Untraceable", "find_untraceable"]


@final
@dataclass(frozen=True, slots=True)
class Untraceable:
    """What cannot be traced.

    Attributes:
        layer: The innermost submodule that was at work; empty for the module itself.
        operator: What torch calls the function that failed, such as ``torch.Tensor.__bool__``;
            ``None`` if it was none of torch's.
    """

    layer: str
    operator: str | None

    def within(self, part: str) -> str:
        """In words, with the layer's name in a submodule."""
        layer = self.layer.removeprefix(part).removeprefix(".")
        where = f"layer {layer!r}" if layer else "forward itself"
        return f"{self.operator} in {where}" if self.operator else where


def find_untraceable(module: nn.Module, example: tuple[Tensor, ...]) -> Untraceable | None:
    """Export a module again, looking on.

    Args:
        module: What was refused.
        example: Its inputs.

    Returns:
        ``None`` if it can be exported.
    """
    layers: list[str] = []
    hooks = []
    for name, part in module.named_modules():
        hooks.append(part.register_forward_pre_hook(partial(_enter, layers, name)))
        hooks.append(part.register_forward_hook(partial(_leave, layers)))
    calls = _Calls()
    try:
        with torch.no_grad(), calls:
            torch.export.export(module, example)
    except Exception:
        return Untraceable(layers[-1] if layers else "", calls.failed)
    finally:
        for hook in hooks:
            hook.remove()
    return None


def _enter(layers: list[str], name: str, *_: object) -> None:
    layers.append(name)


def _leave(layers: list[str], *_: object) -> None:
    layers.pop()


@final
class _Calls(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.failed: str | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return func(*args, **(kwargs or {}))
        except Exception:
            self.failed = self.failed or resolve_name(func) or getattr(func, "__name__", None)
            raise
