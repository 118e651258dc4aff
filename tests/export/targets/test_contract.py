"""All targets pass the same suite, on their real converters and runtimes."""

from __future__ import annotations

from functools import cache

from offramp_export.targets import CoreML, ExecuTorch, LiteRT, Target
from offramp_export.testing import TargetCase, TargetContract


@cache
def _case(target: Target) -> TargetCase:
    return TargetCase.make(target)


class TestLiteRTFloat32(TargetContract):
    def case(self) -> TargetCase:
        return _case(LiteRT())


class TestLiteRTInt8(TargetContract):
    def case(self) -> TargetCase:
        return _case(LiteRT("int8"))


class TestLiteRTInt16x8(TargetContract):
    def case(self) -> TargetCase:
        return _case(LiteRT("int16x8"))


class TestLiteRTFloatThenInt8(TargetContract):
    def case(self) -> TargetCase:
        return _case(LiteRT(("float32", "int8", "int8")))


class TestLiteRTThreeWidths(TargetContract):
    def case(self) -> TargetCase:
        return _case(LiteRT(("int8", "int16x8", "float16")))


class TestLiteRTFloat16(TargetContract):
    def case(self) -> TargetCase:
        return _case(LiteRT("float16"))


class TestLiteRTDynamicInt8(TargetContract):
    def case(self) -> TargetCase:
        return _case(LiteRT("dynamic_int8"))


class TestExecuTorch(TargetContract):
    def case(self) -> TargetCase:
        return _case(ExecuTorch())


class TestExecuTorchInt8(TargetContract):
    def case(self) -> TargetCase:
        return _case(ExecuTorch("int8"))


class TestExecuTorchPortable(TargetContract):
    def case(self) -> TargetCase:
        return _case(ExecuTorch(kernels="portable"))


class TestCoreML(TargetContract):
    def case(self) -> TargetCase:
        return _case(CoreML())


class TestCoreMLInParts(TargetContract):
    def case(self) -> TargetCase:
        return _case(CoreML(deployment_target="iOS16"))


class TestCoreMLWeightInt8(TargetContract):
    def case(self) -> TargetCase:
        return _case(CoreML("weight_int8"))


class TestCoreMLPaletteInParts(TargetContract):
    def case(self) -> TargetCase:
        return _case(CoreML("palette6", "iOS17"))


class TestCoreMLFloat32(TargetContract):
    def case(self) -> TargetCase:
        return _case(CoreML("float32"))


class TestCoreMLInt8(TargetContract):
    def case(self) -> TargetCase:
        return _case(CoreML("int8"))
