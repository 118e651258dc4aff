"""What the LiteRT runtime refuses, and that it stays quiet; the rest is in the contract."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import pytest

from offramp.bundle import Bundle, ProgramStage, Quantization, TensorEntry
from offramp.errors import BundleError, ProgramError
from offramp.runtimes import LiteRTEngine, LiteRTRuntime, open_runtime
from offramp.runtimes._edges import image_writer, list_reader, logits_reader
from offramp.runtimes._quiet import Said, capture_stderr

if TYPE_CHECKING:
    from pathlib import Path

replace = msgspec.structs.replace


def test_handed_through_outputs_share_their_inputs_buffer(programs: Any) -> None:
    signatures = LiteRTEngine(programs.data["float32"], threads=1).signatures()
    assert [signature.name for signature in signatures] == ["stage_0", "stage_1", "stage_2"]
    assert signatures[1].same_as_input == (None, None, 1)
    assert signatures[0].same_as_input == (None, None, None)


@pytest.mark.parametrize("cut", [0.0, 0.01, 0.25, 0.5, 0.75, 0.9])
def test_truncated_programs_are_refused(programs: Any, cut: float) -> None:
    data = programs.data["float32"]
    with pytest.raises(ProgramError, match="LiteRT could not load the program: "):
        LiteRTRuntime(data[: int(len(data) * cut)], programs.stages["float32"])


def test_programs_with_flipped_bits_raise_or_run(programs: Any, tmp_path: Path) -> None:
    """In a process of its own: what the engine does to itself must not take the tests along."""
    chance = random.Random(0)
    data = bytearray(programs.data["float32"])
    for number in range(24):
        changed = bytearray(data)
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (tmp_path / f"{number}.tflite").write_bytes(changed)
    (tmp_path / "stages.json").write_bytes(msgspec.json.encode(programs.stages["float32"]))
    script = f"""
import msgspec, numpy as np
from pathlib import Path
from offramp.bundle import ProgramStage
from offramp.errors import OfframpError
from offramp.runtimes import LiteRTRuntime
folder = Path({str(tmp_path)!r})
stages = msgspec.json.decode((folder / "stages.json").read_bytes(), type=tuple[ProgramStage, ...])
for path in sorted(folder.glob("*.tflite")):
    try:
        LiteRTRuntime(path.read_bytes(), stages).close()
    except OfframpError:
        pass
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "done\n", done.stderr


def _changed(stages: tuple[ProgramStage, ...], **changes: Any) -> tuple[ProgramStage, ...]:
    first, *rest = stages
    logits = replace(first.outputs[0], **changes)
    return (replace(first, outputs=(logits, *first.outputs[1:])), *rest)


@pytest.mark.parametrize(
    ("precision", "changes", "message"),
    [
        (
            "float32",
            {"shape": (1, 6)},
            r"output 0 of stage_0 is float32 \(1, 5\).*\(1, 6\)",
        ),
        ("float32", {"dtype": "int8"}, "lists int8"),
        ("float32", {"quantization": Quantization(scale=1.0, zero_point=0)}, r"with \(1.0, 0\)"),
        ("int8", {"quantization": None}, "with None"),
        ("int8", {"quantization": Quantization(scale=0.5, zero_point=0)}, r"with \(0.5, 0\)"),
    ],
)
def test_programs_that_are_not_what_the_manifest_says(
    programs: Any, precision: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProgramError, match=message):
        LiteRTRuntime(programs.data[precision], _changed(programs.stages[precision], **changes))


def test_other_numbers_of_stages_and_tensors(programs: Any) -> None:
    data, stages = programs.data["float32"], programs.stages["float32"]
    with pytest.raises(ProgramError, match=r"has the signatures .*'stage_2'\], expected"):
        LiteRTRuntime(data, stages[:2])
    with pytest.raises(ProgramError, match=r"expected \[.*'stage_3'\]"):
        LiteRTRuntime(data, (*stages, stages[-1]))
    fewer = replace(stages[0], outputs=stages[0].outputs[:2])
    with pytest.raises(ProgramError, match="1 inputs and 3 outputs, the manifest lists 1 and 2"):
        LiteRTRuntime(data, (fewer, *stages[1:]))


def test_threads(programs: Any) -> None:
    with LiteRTRuntime(programs.data["float32"], programs.stages["float32"], threads=2) as runtime:
        runtime.start(programs.images[0])
        np.testing.assert_allclose(runtime.run(0), programs.logits["float32"][0, 0], atol=1e-5)
    with pytest.raises(ValueError, match="threads is 0"):
        LiteRTRuntime(programs.data["float32"], programs.stages["float32"], threads=0)


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point"),
    [
        ("int8", 1.0, -128),
        ("int8", 1.0, 0),
        ("int8", 0.7, 10),
        ("uint8", 1.0, 0),
        ("uint8", 2, 3),
        ("int16", 1.0, 0),
        ("int16", 0.01, 0),
    ],
)
def test_images_are_quantised_by_the_inputs_scale(
    dtype: Literal["int8", "int16", "uint8"], scale: float, zero_point: int
) -> None:
    bounds = np.iinfo(dtype)
    quantization = Quantization(scale=scale, zero_point=zero_point)
    entry = TensorEntry(shape=(1, 16, 16, 3), dtype=dtype, quantization=quantization)
    image = np.arange(768).reshape(16, 16, 3).astype(np.uint8)
    stored = np.empty((16, 16, 3), dtype)
    image_writer(entry, stored)(image)
    expected = np.clip(np.rint(image / scale) + zero_point, bounds.min, bounds.max)
    np.testing.assert_array_equal(stored, expected)


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint8"])
def test_logits_are_read_by_their_scale(dtype: Literal["int8", "int16", "uint8"]) -> None:
    bounds = np.iinfo(dtype)
    stored = np.array([[bounds.min, 3, 7, bounds.max]], dtype)
    quantization = Quantization(scale=0.25, zero_point=3)
    entry = TensorEntry(shape=(1, 4), dtype=dtype, quantization=quantization)
    read, listed = logits_reader(stored, entry), list_reader(stored, entry)
    first = read()
    np.testing.assert_array_equal(first, (stored[0].astype(np.float64) - 3) / 4)
    assert first.dtype == np.float32
    assert listed() == first.tolist()
    stored[0, 1] = 5
    assert (read()[1], listed()[1], first[1]) == (0.5, 0.5, 0.0)


def test_open_runtime(bundle: Bundle, programs: Any) -> None:
    with open_runtime(bundle, "litert/int8") as runtime:
        runtime.start(programs.images[3])
        np.testing.assert_allclose(runtime.run(0), programs.logits["int8"][0, 3], atol=0.02)
    with pytest.raises(BundleError, match="no program 'x'"):
        open_runtime(bundle, "x")


def test_stderr_of_others_is_only_late(capfd: pytest.CaptureFixture[str]) -> None:
    with capture_stderr() as said:
        os.write(2, b"INFO: chatter\nWARNING: [x.cc:1] chatter\nanother thread's\n")
        os.write(2, b"ERROR: not chatter\n")
        assert capfd.readouterr().err == ""
    assert capfd.readouterr().err == "another thread's\nERROR: not chatter\n"
    assert said.complaints() == ["another thread's", "ERROR: not chatter"]


def test_stderr_goes_into_the_error(capfd: pytest.CaptureFixture[str]) -> None:
    said: list[Said] = []

    def fail() -> None:
        with capture_stderr() as mine:
            said.append(mine)
            os.write(2, b"ERROR: why\n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert said[0].text == "ERROR: why\n"
    assert capfd.readouterr().err == ""


def test_stderr_is_whole_after_many_threads(capfd: pytest.CaptureFixture[str]) -> None:
    before = os.fstat(2)

    def work() -> None:
        for _ in range(50):
            with capture_stderr(), capture_stderr():
                os.write(2, b"INFO: chatter\n")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.path.samestat(before, os.fstat(2))
    os.write(2, b"still here\n")
    assert capfd.readouterr().err == "still here\n"


def test_without_stderr(programs: Any) -> None:
    """A daemon may have closed it."""
    script = """
import os
os.close(2)
from offramp.runtimes._quiet import Said, capture_stderr
with capture_stderr() as said:
    pass
print("fine", said.text == "")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "fine True\n"
