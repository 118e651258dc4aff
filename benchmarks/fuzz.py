"""Damaged manifests, zips, LiteRT programs and images: refused in words, or used; nothing else.

Each input goes to a worker process that feeds it to the SDK as a user would and says what became
of it. A worker that dies is counted as a crash by its signal and one that is silent for too long as
a hang; its input is kept, and the next worker goes on. An error that is not one of ours counts as a
fault as well. Mutations are seeded: the same seed gives the same inputs.

A changed program never reaches LiteRT in a bundle, since its SHA-256 is compared first. The
programs here go past that: the manifest lists the hash of the very file, as its maker would. The
bundle is then loaded and asked for an answer as by any user, so a program that is new is tried in a
process of its own first; the worker is the process that must survive. How those processes ended is
counted too. A worker takes many inputs, and damage to the heap may show later than it was done; so
the input at which one dies is not always the one to blame, and the counts are those of workers
lost.

    .venv/bin/python benchmarks/fuzz.py --bundle BUNDLE [--count 10000] [--workers 2]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, final

import msgspec
import numpy as np

from offramp.bundle import Bundle, InputSpec, describe_file, pack_bundle, write_bundle
from offramp.classifier import DynamicClassifier
from offramp.errors import OfframpError
from offramp.images import load_image
from offramp.testing import mutations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["TARGETS", "Fuzzer", "json_mutations", "main", "seeds"]

RESULTS = Path(__file__).parent / "results"
TARGETS = ("manifest", "zip", "litert", "image")
TIMEOUT_S = 100.0  # a program may take thirty seconds before it is given up, and has two chances
_SLICE_S = 0.5
_MOST_WORD_BYTES = 300
# How the process ended in which a program was tried.
_ISOLATED = re.compile(r"in a process of its own, which (was ended by \w+|did not end|ended)")


def seeds(target: str, bundle: Bundle) -> tuple[bytes, ...]:
    """Sound inputs of a target, to be damaged."""
    if target == "manifest":
        return ((bundle.path / "manifest.json").read_bytes(),)
    if target == "zip":
        with tempfile.TemporaryDirectory() as folder:
            return (pack_bundle(bundle, Path(folder) / "bundle.zip").path.read_bytes(),)
    if target == "litert":
        programs = [program for program in bundle.manifest.programs if program.runtime == "litert"]
        return tuple(bundle.read(program.files[0]) for program in programs)
    return tuple(_images())


def _images() -> Iterator[bytes]:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (24, 31, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, options in (
        ("JPEG", {"exif": exif}),
        ("JPEG", {"progressive": True}),
        ("PNG", {"exif": exif}),
        ("PNG", {}),
        ("BMP", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
    ):
        mode = "RGBA" if name in ("PNG", "WEBP") else "RGB"
        file = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(file, name, **options)
        yield file.getvalue()
    for mode in ("P", "L", "1", "LA", "I;16"):
        file = io.BytesIO()
        if mode == "I;16":
            Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 200).save(file, "PNG")
        else:
            Image.fromarray(pixels).convert(mode).save(file, "PNG")
        yield file.getvalue()


def json_mutations(seed: bytes, generator: np.random.Generator, count: int) -> Iterator[bytes]:
    """A manifest that is JSON still: values exchanged, moved, repeated or taken away."""
    odd: list[Any] = [
        *(None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**30, -0.0, 1e308, 5e-324, 0.1),
        *("", "x" * 300, "\u0000", "\ud7ff", "..", "/", "a/b", [], {}, [[]], {"": {}}, [None]),
    ]
    for _ in range(count):
        whole = json.loads(seed)
        for _ in range(int(generator.integers(1, 4))):
            places: list[tuple[Any, Any]] = []
            waiting: list[Any] = [whole]
            while waiting:
                node = waiting.pop()
                keys = list(node) if isinstance(node, dict) else list(range(len(node)))
                places += [(node, key) for key in keys]
                waiting += [node[key] for key in keys if isinstance(node[key], dict | list)]
            if not places:
                break
            node, key = places[generator.integers(len(places))]
            other, other_key = places[generator.integers(len(places))]
            match int(generator.integers(5)):
                case 0:
                    node[key] = odd[generator.integers(len(odd))]
                case 1:
                    node[key] = json.loads(json.dumps(other[other_key]))
                case 2:
                    del node[key]
                case 3 if isinstance(node, list):
                    node.insert(key, json.loads(json.dumps(node[key])))
                case 3:
                    node[f"{key}_"] = node[key]
                case _ if isinstance(node[key], int | float):
                    factor, more = generator.choice((-1, 2, 0.5)), generator.choice((0, 1))
                    node[key] = node[key] * factor + more
                case _:
                    node[key] = [node[key]]
        yield json.dumps(whole).encode()


def inputs(
    target: str, bundle: Bundle, generator: np.random.Generator, count: int
) -> Iterator[bytes]:
    """All damaged inputs of a target."""
    sound = seeds(target, bundle)
    if target != "manifest":
        yield from mutations(sound, generator, count)
        return
    yield from mutations(sound, generator, count // 2)
    yield from json_mutations(sound[0], generator, count - count // 2)


def _judge(target: str, bundle: Bundle) -> Callable[[bytes], None]:
    """A function that does to one input what the SDK does, in the worker."""
    folder = Path(tempfile.mkdtemp())
    if target == "image":
        spec = InputSpec(height=32, width=32)
        return lambda data: _discard(load_image(data, spec))
    if target == "manifest":
        shutil.copytree(bundle.path, folder / "bundle")

        def manifest(data: bytes) -> None:
            (folder / "bundle" / "manifest.json").write_bytes(data)
            Bundle.open(folder / "bundle").vectors()

        return manifest
    if target == "zip":

        def packed(data: bytes) -> None:
            (folder / "bundle.zip").write_bytes(data)
            Bundle.open(folder / "bundle.zip").vectors()

        return packed

    # What one input leaves there would spare the next one its test.
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    return lambda data: _load(bundle, data, folder)


def _load(bundle: Bundle, program: bytes, folder: Path) -> None:
    """Load bundles that hold a program under its own right hash, and ask for an answer."""
    manifest, vectors = bundle.manifest, bundle.read(bundle.manifest.vectors)
    errors: list[OfframpError] = []
    entries = [entry for entry in manifest.programs if entry.runtime == "litert"]
    for entry in entries:
        # Quantised or not is told by the file alone, so it meets the manifest of both.
        (file,) = entry.files
        changed = msgspec.structs.replace(entry, files=(describe_file(file.path, program),))
        others = [other for other in manifest.programs if other is not entry]
        files = {one.path: bundle.read(one) for other in others for one in other.files}
        files |= {file.path: program, manifest.vectors.path: vectors}
        programs = (changed, *others)
        shutil.rmtree(folder / "bundle", ignore_errors=True)
        write_bundle(folder / "bundle", msgspec.structs.replace(manifest, programs=programs), files)
        try:
            with DynamicClassifier.load(
                folder / "bundle", program=entry.name, policy="last"
            ) as classifier:
                classifier.predict(bundle.vectors().images[0])
        except OfframpError as error:
            errors.append(error)
    if len(errors) == len(entries):
        raise min(errors, key=lambda error: _ISOLATED.search(str(error)) is None)


def _discard(_: object) -> None:
    return None


def work(target: str, bundle: Bundle) -> None:
    """Answer inputs on standard input until there are no more."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    judge = _judge(target, bundle)
    while len(head := sys.stdin.buffer.read(4)) == 4:
        data = sys.stdin.buffer.read(struct.unpack("<I", head)[0])
        try:
            judge(data)
            word = "used"
        except OfframpError as error:
            tried = _ISOLATED.search(str(error))
            word = f"refused {type(error).__name__}" + (f": process {tried[1]}" if tried else "")
        # Whatever else comes out is what is looked for here.
        except BaseException as error:
            word = f"fault {type(error).__name__}: {error}"
        told = word.encode()[:_MOST_WORD_BYTES]
        answers.write(struct.pack("<I", len(told)) + told)


@final
class Fuzzer:
    """Feeds inputs to workers, and starts another one whenever one dies or hangs.

    Args:
        target: One of ``TARGETS``.
        bundle: What the inputs are made from.
        kept: Where inputs go that crash, hang, or raise what is not ours.
    """

    def __init__(self, target: str, bundle: Bundle, kept: Path) -> None:
        self._words = [sys.executable, __file__, "work", target, str(bundle.path)]
        self._kept = kept
        self._target = target
        self._worker: subprocess.Popen[bytes] | None = None

    def feed(self, data: bytes, name: str) -> str:
        """Give one input to the worker.

        Returns:
            ``used``, ``refused ERROR``, ``fault ERROR: ...``, ``crash SIGNAL`` or ``hang``.
        """
        worker = self._worker or subprocess.Popen(
            self._words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._worker = worker
        assert worker.stdin is not None
        assert worker.stdout is not None
        word = ""
        with contextlib.suppress(BrokenPipeError):
            worker.stdin.write(struct.pack("<I", len(data)) + data)
            worker.stdin.flush()
            if not _answers(worker.stdout):
                word = "hang"
            elif len(head := worker.stdout.read(4)) == 4:
                word = worker.stdout.read(struct.unpack("<I", head)[0]).decode("utf-8", "replace")
        if word in ("", "hang"):
            if word:
                worker.kill()
            self.close()
            word = word or f"crash {-worker.returncode}"
        if word.partition(" ")[0] in ("crash", "hang", "fault"):
            self._kept.mkdir(parents=True, exist_ok=True)
            (self._kept / f"{self._target}-{name}").write_bytes(data)
        return word

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            assert self._worker.stdin is not None
            assert self._worker.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                self._worker.stdin.close()
            self._worker.stdout.close()
            self._worker.wait()
            self._worker = None


def _answers(stdout: IO[bytes]) -> bool:
    """Whether there is something to read in time; time in which all stood still is not counted."""
    waited_s = 0.0
    while waited_s < TIMEOUT_S:
        began = time.monotonic()
        if select.select([stdout], [], [], _SLICE_S)[0]:
            return True
        waited_s += min(time.monotonic() - began, 2 * _SLICE_S)
    return False


def run(
    target: str, bundle: Bundle, seed: int, count: int, kept: Path, workers: int = 1
) -> dict[str, Any]:
    """Feed ``count`` damaged inputs, dealt out to workers, and count what became of them."""
    began = time.monotonic()

    def share(worker: int) -> Counter[str]:
        words: Counter[str] = Counter()
        fuzzer = Fuzzer(target, bundle, kept)
        said = time.monotonic()
        for number, data in enumerate(inputs(target, bundle, np.random.default_rng(seed), count)):
            if number % workers != worker:
                continue
            words[fuzzer.feed(data, f"{seed}-{number}")] += 1
            if time.monotonic() - said > 30:
                said = time.monotonic()
                told = f"{target}: {number + 1} of {count}, {dict(_outcomes(words))}"
                print(told, file=sys.stderr, flush=True)
        fuzzer.close()
        return words

    with ThreadPoolExecutor(workers) as pool:
        words = sum(pool.map(share, range(workers)), Counter[str]())
    return {
        "inputs": words.total(),
        "outcomes": dict(_outcomes(words)),
        "details": dict(words.most_common(40)),
        "seconds": time.monotonic() - began,
    }


def _outcomes(words: Counter[str]) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    for word, number in words.items():
        outcomes[word.partition(" ")[0]] += number
    return outcomes


def main() -> None:
    """Fuzz every target, print and write what became of the inputs."""
    if sys.argv[1:2] == ["work"]:
        work(sys.argv[2], Bundle.open(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True, help="a small one: speed counts")
    parser.add_argument("--count", type=int, default=10_000, help="inputs for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--workers", type=int, default=1, help="inputs fed at the same time")
    parser.add_argument("--kept", type=Path, default=Path(".cache/fuzz"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    from offramp_search.report import Claim, write_result

    bundle, workers = Bundle.open(arguments.bundle), arguments.workers
    for target in arguments.target or TARGETS:
        figure = run(target, bundle, arguments.seed, arguments.count, arguments.kept, workers)
        outcomes = figure["outcomes"]
        print(f"{target}: {figure['inputs']} inputs, {outcomes}")
        claims = [Claim.at_least(f"{target}: inputs", figure["inputs"], 10_000)]
        claims += [
            Claim.at_most(f"{target}: {name}", outcomes.get(word, 0), 0)
            for word, name in (
                ("crash", "crashes of the process"),
                ("hang", f"inputs that took more than {TIMEOUT_S:.0f} seconds"),
                ("fault", "errors that are not ours"),
            )
        ]
        write_result(
            arguments.results / f"fuzz_{target}.json",
            purpose=f"What damaged inputs do to the SDK: {target}",
            claims=claims,
            figures={"seed": arguments.seed, **figure},
            command=[
                *("fuzz.py", "--bundle", "BUNDLE", "--target", target),
                *("--workers", str(workers)),
            ],
        )


if __name__ == "__main__":
    main()
