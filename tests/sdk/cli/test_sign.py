"""``offramp sign``, and ``offramp verify`` with somebody to trust."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from offramp.signing import signature_path

pytest.importorskip("model_signing", reason="the extra signing is not installed")

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from offramp.bundle import Bundle


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """As the documentation makes one."""
    path = tmp_path / "key.pem"
    curve = ("-name", "prime256v1", "-genkey", "-noout")
    try:
        subprocess.run(["openssl", "ecparam", *curve, "-out", path], check=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl command here")
    subprocess.run(
        ["openssl", "ec", "-in", path, "-pubout", "-out", tmp_path / "key.pub"],
        check=True,
        capture_output=True,
    )
    return path


def test_sign_and_verify(bundle: Bundle, key: Path, offramp: Callable[..., Any]) -> None:
    done = offramp("sign", bundle.path, "--key", key, "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json["signature"] == str(signature_path(bundle.path))
    assert "manifest.json" in done.json["files"]
    trusted = ("--trusted-key", key.with_suffix(".pub"))
    done = offramp("verify", bundle.path, *trusted)
    assert done.code == 0, done.err
    assert done.out.startswith("signature: ok\n")
    assert offramp("verify", bundle.path, *trusted, "--json").json["signed"] is True
    assert offramp("verify", bundle.path, "--json").json["signed"] is False
    (bundle.path / "extra").write_bytes(b"")
    done = offramp("verify", bundle.path, *trusted)
    assert done.code == 2
    assert "extra is not signed" in done.err
    assert done.err.count("\n") == 1


def test_a_signature_elsewhere(
    bundle: Bundle, key: Path, tmp_path: Path, offramp: Callable[..., Any]
) -> None:
    place = tmp_path / "elsewhere.sig"
    done = offramp("sign", bundle.path, "--key", key, "--signature", place)
    assert (done.code, done.out) == (0, "Signed 4 files: elsewhere.sig\n")
    trusted = ("--trusted-key", key.with_suffix(".pub"))
    assert offramp("verify", bundle.path, *trusted, "--signature", place).code == 0
    done = offramp("verify", bundle.path, *trusted)
    assert done.code == 2
    assert "has no signature at" in done.err


_COMMANDS = (
    ("inspect",),
    ("profile", "--runs", "2", "--save"),
    ("predict", "IMAGE", "--policy", "last"),
    ("bench", "FOLDER"),
    ("calibrate", "FOLDER"),
)


@pytest.mark.parametrize("words", _COMMANDS, ids=lambda words: words[0])
def test_every_command_can_insist_on_a_signature(
    bundle: Bundle, key: Path, tmp_path: Path, offramp: Callable[..., Any], words: tuple[str, ...]
) -> None:
    image = tmp_path / "images" / "image.png"
    image.parent.mkdir()
    Image.fromarray(bundle.vectors().images[0]).save(image)
    places = {"IMAGE": str(image), "FOLDER": str(image.parent)}
    command, *options = (places.get(word, word) for word in words)
    options += ["--trusted-key", str(key.with_suffix(".pub"))]
    before = (bundle.path / "manifest.json").read_bytes()
    done = offramp(command, bundle.path, *options)
    assert done.code == 2
    assert "has no signature at" in done.err
    assert (bundle.path / "manifest.json").read_bytes() == before
    offramp("sign", bundle.path, "--key", key)
    done = offramp(command, bundle.path, *options)
    if command in ("bench", "calibrate"):
        # Beyond the signature it is the images that are missing something.
        assert "sign" not in done.err
        return
    assert done.code == 0, done.err
    assert ("its signature no longer fits" in done.out) == ("--save" in options)


def test_calibrating_says_that_the_signature_is_gone(
    bundle: Bundle, key: Path, tmp_path: Path, offramp: Callable[..., Any]
) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, 2000)
    logits = np.float32(8) * (np.arange(5) == labels[:, None])[None].repeat(3, 0)
    np.save(tmp_path / "logits.npy", logits.astype(np.float32))
    np.save(tmp_path / "labels.npy", labels)
    saved = ("--logits", tmp_path / "logits.npy", "--labels", tmp_path / "labels.npy")
    offramp("sign", bundle.path, "--key", key)
    trusted = ("--trusted-key", key.with_suffix(".pub"))
    done = offramp("calibrate", bundle.path, *saved, "--program", "litert/int8", *trusted)
    assert done.code == 0, done.err
    assert "its signature no longer fits" in done.out
    done = offramp("inspect", bundle.path, *trusted)
    assert (done.code, "manifest.json" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("verify", ["--signature", "x"], "takes --trusted-key or"),
        ("verify", ["--trusted-key", "x", "--trusted-certificate", "y"], "not both"),
        ("sign", ["--key", "x", "--chain", "y"], "takes --certificate"),
        ("sign", ["--key", "x", "--certificate", "y", "--password", "z"], "not be encrypted"),
        ("sign", ["--key", "nowhere.pem"], "there is no file nowhere.pem"),
        ("sign", [], "--key"),
    ],
)
def test_options_that_do_not_fit(
    bundle: Bundle,
    offramp: Callable[..., Any],
    command: str,
    options: list[str],
    message: str,
) -> None:
    done = offramp(command, bundle.path, *options)
    assert done.code == 2
    assert message in " ".join(done.err.replace("│", " ").split())
