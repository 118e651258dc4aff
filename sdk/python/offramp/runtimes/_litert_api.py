"""LiteRT's C interface: the few functions and structs that a program on the processor needs.

The Python wrapper of the same package holds the interpreter's lock while a stage runs, so threads
would take turns; it loads a second copy of the engine, and twice the memory. The structs here are
those that LiteRT declares stable (``litert_model_types.h``, ``litert_environment_options.h``).
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
import sys
from ctypes import POINTER, byref, c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, final

from offramp.errors import MissingExtraError, ProgramError
from offramp.runtimes._quiet import capture_stderr

__all__ = [
    "DTYPES",
    "PACKAGE",
    "PROCESSOR",
    "Quantization",
    "TensorType",
    "call",
    "environment",
    "library",
]

PACKAGE = "ai-edge-litert"
"""What brings the engine."""

DTYPES = {1: "float32", 3: "uint8", 7: "int16", 9: "int8", 10: "float16"}
"""LiteRT's element types that a bundle may hold -> numpy's names."""

PROCESSOR = 1
"""``kLiteRtHwAcceleratorCpu``: kernels that run on the processor."""

_ONLY_ERRORS = 3  # kLiteRtLogSeverityError
_ACCELERATORS, _LOG_SEVERITY = 24, 25  # tags of options of the environment
_INTEGER = 2  # kLiteRtAnyTypeInt
_TESTED = re.compile(r"2\.3\.")
_LARGEST_RANK = 8
_LIBRARIES = {"linux": "libLiteRt.so", "darwin": "libLiteRt.dylib"}


@final
class _Any(ctypes.Structure):
    _fields_: ClassVar = [("type", c_int), ("value", c_int64)]


@final
class _Option(ctypes.Structure):
    _fields_: ClassVar = [("tag", c_int), ("value", _Any)]


@final
class _Layout(ctypes.Structure):
    _fields_: ClassVar = [
        ("rank", c_uint32, 7),
        ("has_strides", c_uint32, 1),
        ("dimensions", c_int32 * _LARGEST_RANK),
        ("strides", c_uint32 * _LARGEST_RANK),
    ]


@final
class TensorType(ctypes.Structure):
    """Element type and shape of a tensor."""

    _fields_: ClassVar = [("element_type", c_int), ("layout", _Layout)]

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes, outermost first."""
        return tuple(self.layout.dimensions[: self.layout.rank])


@final
class Quantization(ctypes.Structure):
    """One scale and zero point for a whole tensor."""

    _fields_: ClassVar = [("scale", ctypes.c_float), ("zero_point", c_int64)]


_HANDLE = POINTER(c_void_p)
# What a wrong argument would do to the process is nothing that Python could catch.
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "LiteRtCreateEnvironment": (c_int, POINTER(_Option), _HANDLE),
    "LiteRtCreateModelFromBuffer": (c_void_p, c_void_p, c_size_t, _HANDLE),
    "LiteRtCreateOptions": (_HANDLE,),
    "LiteRtSetOptionsHardwareAccelerators": (c_void_p, c_int),
    "LiteRtCreateOpaqueOptions": (c_char_p, c_void_p, c_void_p, _HANDLE),
    "LiteRtAddOpaqueOptions": (c_void_p, c_void_p),
    "LiteRtCreateCompiledModel": (c_void_p, c_void_p, c_void_p, _HANDLE),
    "LiteRtGetNumModelSignatures": (c_void_p, POINTER(c_size_t)),
    "LiteRtGetModelSignature": (c_void_p, c_size_t, _HANDLE),
    "LiteRtGetSignatureKey": (c_void_p, POINTER(c_char_p)),
    "LiteRtGetNumSignatureInputs": (c_void_p, POINTER(c_size_t)),
    "LiteRtGetNumSignatureOutputs": (c_void_p, POINTER(c_size_t)),
    "LiteRtGetSignatureInputTensorByIndex": (c_void_p, c_size_t, _HANDLE),
    "LiteRtGetSignatureOutputTensorByIndex": (c_void_p, c_size_t, _HANDLE),
    "LiteRtGetRankedTensorType": (c_void_p, POINTER(TensorType)),
    "LiteRtGetTensorIndex": (c_void_p, POINTER(c_uint32)),
    "LiteRtGetPerTensorQuantization": (c_void_p, POINTER(Quantization)),
    "LiteRtCreateTensorBufferFromHostMemory": (
        POINTER(TensorType),
        c_void_p,
        c_size_t,
        c_void_p,
        _HANDLE,
    ),
    "LiteRtRunCompiledModel": (c_void_p, c_size_t, c_size_t, _HANDLE, c_size_t, _HANDLE),
    "LiteRtDestroyTensorBuffer": (c_void_p,),
    "LiteRtDestroyOptions": (c_void_p,),
    "LiteRtDestroyCompiledModel": (c_void_p,),
    "LiteRtDestroyModel": (c_void_p,),
}


@functools.cache
def library() -> Any:
    """The engine, loaded once.

    Raises:
        MissingExtraError: The package is not installed.
        ProgramError: It is of a version, or this is a system, that was never tried.
    """
    found = importlib.util.find_spec("ai_edge_litert")
    if found is None or found.origin is None:
        raise MissingExtraError(
            "This needs the package 'ai-edge-litert', which is not installed; "
            'run: pip install "ai-edge-litert>=2.3,<2.4"'
        )
    installed = version(PACKAGE)
    if _TESTED.match(installed) is None:
        raise ProgramError(
            f"ai-edge-litert {installed} is installed, expected 2.3, whose interface this release "
            'was made for; run: pip install "ai-edge-litert>=2.3,<2.4"'
        )
    if sys.platform not in _LIBRARIES:
        raise ProgramError(
            f"LiteRT programs run on Linux and macOS, this is {sys.platform}; use one of those"
        )
    loaded = ctypes.CDLL(str(Path(found.origin).with_name(_LIBRARIES[sys.platform])))
    for name, arguments in _SIGNATURES.items():
        getattr(loaded, name).argtypes = arguments
    return loaded


def call(name: str, *arguments: Any) -> None:
    """Call a function of the engine; a status that is not 0 becomes a ``RuntimeError``.

    Args:
        name: The function's, without ``LiteRt``.
        arguments: What it takes.
    """
    status = getattr(library(), f"LiteRt{name}")(*arguments)
    if status:
        raise RuntimeError(f"{name} gave status {status}")


@functools.cache
def environment() -> c_void_p:
    """The one environment of the process, with nothing but the processor, and quiet.

    It is never destroyed: the system takes its memory back when the process ends.
    """
    options = (_Option * 2)(
        _Option(_ACCELERATORS, _Any(_INTEGER, PROCESSOR)),
        _Option(_LOG_SEVERITY, _Any(_INTEGER, _ONLY_ERRORS)),
    )
    handle = c_void_p()
    with capture_stderr():
        call("CreateEnvironment", len(options), options, byref(handle))
    return handle
