"""Optional packages: one helper, one message."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from offramp.errors import MissingExtraError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["require"]


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional package, or say which pip line brings it.

    Args:
        module: The module to import, such as ``"torch"``.
        extra: The extra of Offramp that contains it.

    Raises:
        MissingExtraError: The package is not installed. A package that is installed but fails to
            import raises its own error, so that a broken installation is not mistaken for a
            missing one.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingExtraError(
            f"This needs the package {module.partition('.')[0]!r}, which is not installed; "
            f'run: pip install "offramp[{extra}]"'
        ) from error
