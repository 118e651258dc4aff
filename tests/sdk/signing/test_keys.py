"""Bundles signed with keys: what opens, and what does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from offramp import DynamicClassifier
from offramp.bundle import Bundle, Policy, pack_bundle
from offramp.errors import IntegrityError, SignatureError
from offramp.signing import KeySigner, TrustedKey, signature_path

if TYPE_CHECKING:
    from collections.abc import Callable

    MakeKey = Callable[..., Any]

PROGRAM = "litert/int8.tflite"


@pytest.fixture
def key(make_key: MakeKey) -> Any:
    return make_key("signer")


@pytest.fixture
def signed(bundle: Bundle, key: Any) -> Bundle:
    KeySigner(key.private).sign(bundle)
    return bundle


def test_a_signed_bundle_opens(signed: Bundle, key: Any) -> None:
    opened = Bundle.open(signed.path, trust=TrustedKey(key.public))
    assert opened.manifest == signed.manifest
    assert signature_path(signed.path) == signed.path.with_name("bundle.sig")
    # Nothing of it is inside, so that nothing unlisted has to be.
    Bundle.open(signed.path)


def test_a_classifier_can_insist_on_it(
    bundle: Bundle, key: Any, make_policy: Callable[..., Policy]
) -> None:
    bundle = bundle.add_policy(make_policy())
    trust = TrustedKey(key.public)
    with pytest.raises(SignatureError, match="has no signature at"):
        DynamicClassifier.load(bundle.path, trust=trust)
    KeySigner(key.private).sign(bundle)
    with DynamicClassifier.load(bundle.path, trust=trust) as classifier:
        assert classifier.predict(bundle.vectors().images[0]).label in bundle.manifest.labels
    with pytest.raises(ValueError, match=r"say whom to trust to Bundle\.open"):
        DynamicClassifier.load(bundle, trust=trust)


def test_folder_and_zip_have_one_signature(signed: Bundle, key: Any, tmp_path: Path) -> None:
    packed = pack_bundle(signed, tmp_path / "packed.zip")
    trust = TrustedKey(key.public)
    beside = signature_path(signed.path)
    assert Bundle.open(packed.path, trust=trust, signature=beside).manifest == signed.manifest
    assert signature_path(packed.path).name == "packed.zip.sig"
    KeySigner(key.private).sign(packed)
    Bundle.open(signed.path, trust=trust, signature=signature_path(packed.path))


def test_a_bundle_may_be_moved(signed: Bundle, key: Any, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "other-name"
    moved.parent.mkdir()
    signature = shutil.move(signature_path(signed.path), tmp_path / "elsewhere" / "other-name.sig")
    signed.path.rename(moved)
    assert Path(signature) == signature_path(moved)
    Bundle.open(moved, trust=TrustedKey(key.public))
    (tmp_path / "current").symlink_to(moved)
    Bundle.open(tmp_path / "current", trust=TrustedKey(key.public))


def test_a_bundle_named_by_the_folder_one_is_in(
    signed: Bundle, key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(signed.path)
    Bundle.open(".", trust=TrustedKey(key.public))


@pytest.mark.parametrize("curve", ["SECP256R1", "SECP384R1", "SECP521R1"])
def test_curves(bundle: Bundle, make_key: MakeKey, curve: str) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    pair = make_key("other", getattr(ec, curve)())
    KeySigner(pair.private).sign(bundle)
    Bundle.open(bundle.path, trust=TrustedKey(pair.public))


def test_a_key_with_a_password(bundle: Bundle, make_key: MakeKey) -> None:
    pair = make_key("locked", password=b"open sesame")
    with pytest.raises(SignatureError, match="cannot be signed"):
        KeySigner(pair.private).sign(bundle)
    with pytest.raises(SignatureError, match="cannot be signed"):
        KeySigner(pair.private, password="wrong").sign(bundle)
    assert not signature_path(bundle.path).exists()
    KeySigner(pair.private, password="open sesame").sign(bundle)
    Bundle.open(bundle.path, trust=TrustedKey(pair.public))


def test_no_signature(bundle: Bundle, key: Any) -> None:
    with pytest.raises(SignatureError, match=r"has no signature at .*bundle\.sig; expected one"):
        Bundle.open(bundle.path, trust=TrustedKey(key.public))
    with pytest.raises(ValueError, match="nobody to trust"):
        Bundle.open(bundle.path, signature="bundle.sig")


def test_the_key_of_somebody_else(signed: Bundle, make_key: MakeKey) -> None:
    with pytest.raises(SignatureError, match="made with another key than the trusted one"):
        Bundle.open(signed.path, trust=TrustedKey(make_key("other").public))


def test_a_hint_that_names_the_trusted_key(signed: Bundle, make_key: MakeKey) -> None:
    """What a signature says of its key is a hint, and changes nothing."""
    import hashlib

    other = make_key("other")
    path = signature_path(signed.path)
    data = json.loads(path.read_text())
    data["verificationMaterial"]["publicKey"]["hint"] = hashlib.sha256(
        other.public.read_bytes()
    ).hexdigest()
    path.write_text(json.dumps(data))
    with pytest.raises(SignatureError, match="not made with the trusted key, or was changed"):
        Bundle.open(signed.path, trust=TrustedKey(other.public))


def test_a_signature_without_a_hint_prints_nothing(
    signed: Bundle, key: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    path = signature_path(signed.path)
    data = json.loads(path.read_text())
    data["verificationMaterial"]["publicKey"]["hint"] = ""
    path.write_text(json.dumps(data))
    Bundle.open(signed.path, trust=TrustedKey(key.public))
    assert capfd.readouterr().out == ""


def _flip_program(path: Path) -> None:
    data = bytearray((path / PROGRAM).read_bytes())
    data[len(data) // 2] ^= 1
    (path / PROGRAM).write_bytes(data)


def _other_threshold(path: Path) -> None:
    text = (path / "manifest.json").read_text()
    assert '"thresholds": [0.5, 0.5, 0.0]' in " ".join(text.split()).replace("[ ", "[").replace(
        " ]", "]"
    )
    (path / "manifest.json").write_text(text.replace("0.5", "0.4", 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_flip_program, r"litert/int8\.tflite was changed"),
        (_other_threshold, r"manifest\.json was changed"),
        (lambda path: (path / "manifest.json").write_text("{}"), r"manifest\.json was changed"),
        (lambda path: (path / "extra.tflite").write_bytes(b""), r"extra\.tflite is not signed"),
        (lambda path: (path / ".gitignore").write_bytes(b""), r"\.gitignore is not signed"),
        (lambda path: (path / PROGRAM).unlink(), r"int8\.tflite is missing"),
        (
            lambda path: (path / PROGRAM).rename(path / "litert" / "other.tflite"),
            r"other\.tflite is not signed; litert/int8\.tflite is missing",
        ),
    ],
)
def test_changed_after_it_was_signed(
    bundle: Bundle,
    key: Any,
    make_policy: Callable[..., Policy],
    change: Callable[[Path], object],
    message: str,
) -> None:
    bundle = bundle.add_policy(make_policy())
    KeySigner(key.private).sign(bundle)
    Bundle.open(bundle.path, trust=TrustedKey(key.public))
    change(bundle.path)
    with pytest.raises(SignatureError, match=f"{message}.*; get it anew, or sign it again"):
        Bundle.open(bundle.path, trust=TrustedKey(key.public))


def test_a_whole_bundle_forged_with_its_hashes(
    signed: Bundle, key: Any, make_policy: Callable[..., Policy]
) -> None:
    """Hashes in a manifest protect from accidents; only a signature protects from people."""
    signed.add_policy(make_policy(thresholds=(0.0, 0.0, 0.0)))
    Bundle.open(signed.path)
    with pytest.raises(SignatureError, match=r"manifest\.json was changed"):
        Bundle.open(signed.path, trust=TrustedKey(key.public))


def test_a_link_is_refused_before_it_is_hashed(signed: Bundle, key: Any, tmp_path: Path) -> None:
    (signed.path / PROGRAM).rename(tmp_path / "moved")
    (signed.path / PROGRAM).symlink_to(tmp_path / "moved")
    with pytest.raises(IntegrityError, match="is a link"):
        Bundle.open(signed.path, trust=TrustedKey(key.public))


def test_a_file_exchanged_between_check_and_use(signed: Bundle, key: Any) -> None:
    opened = Bundle.open(signed.path, trust=TrustedKey(key.public))
    _flip_program(signed.path)
    with pytest.raises(IntegrityError, match="SHA-256"):
        opened.read(opened.program("litert/int8").files[0])
    with pytest.raises(IntegrityError, match="SHA-256"):
        KeySigner(key.private).sign(opened)


def test_nothing_is_parsed_before_the_signature_is_verified(
    signed: Bundle, key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from offramp.bundle import _bundle

    def parse(data: bytes) -> object:
        raise AssertionError("parsed")

    monkeypatch.setattr(_bundle, "parse_manifest", parse)
    _flip_program(signed.path)
    with pytest.raises(SignatureError, match="was changed"):
        Bundle.open(signed.path, trust=TrustedKey(key.public))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"mediaType": 1}',
        b"[" * 100_000,
        b'{"verificationMaterial": {}}',
        b"x" * (2**22 + 1),
    ],
    ids=lambda content: repr(content[:20]),
)
def test_signatures_that_are_none(signed: Bundle, key: Any, content: bytes) -> None:
    signature_path(signed.path).write_bytes(content)
    with pytest.raises(SignatureError, match=r"is refused, by its signature|expected a signature"):
        Bundle.open(signed.path, trust=TrustedKey(key.public))


def test_damaged_signatures_never_verify_and_never_crash(signed: Bundle, key: Any) -> None:
    import numpy as np

    from offramp.testing import mutations

    path = signature_path(signed.path)
    sound = path.read_bytes()
    trust = TrustedKey(key.public)
    digests, opened = signed.digests(), 0
    for damaged in mutations((sound,), np.random.default_rng(3), 400):
        path.write_bytes(damaged)
        try:
            trust.verify(digests, path, signed.path)
        except SignatureError:
            continue
        opened += 1
    # What does verify was damaged where nobody looks, such as between two keys.
    assert opened <= 40
    assert damaged != sound


def test_a_signature_that_is_no_file(signed: Bundle, key: Any) -> None:
    path = signature_path(signed.path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(SignatureError, match="has no signature"):
        Bundle.open(signed.path, trust=TrustedKey(key.public))


def test_keys_that_are_none(bundle: Bundle, signed: Bundle, key: Any, tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no key")
    with pytest.raises(SignatureError, match="cannot be signed"):
        KeySigner(tmp_path / "no.pem").sign(bundle)
    with pytest.raises(SignatureError, match=r"cannot be signed: there is no file .*none\.pem"):
        KeySigner(tmp_path / "none.pem").sign(bundle)
    with pytest.raises(SignatureError, match="is refused"):
        Bundle.open(signed.path, trust=TrustedKey(tmp_path / "no.pem"))
    with pytest.raises(SignatureError, match=r"there is no file .*none\.pub"):
        Bundle.open(signed.path, trust=TrustedKey(tmp_path / "none.pub"))
    with pytest.raises(SignatureError, match="is refused"):
        Bundle.open(signed.path, trust=TrustedKey(key.private))


def test_a_signature_does_not_go_into_the_bundle(bundle: Bundle, key: Any) -> None:
    with pytest.raises(SignatureError, match="lies inside the bundle"):
        KeySigner(key.private).sign(bundle, bundle.path / "model.sig")
    Bundle.open(bundle.path)


def test_other_tools_of_the_standard_agree(bundle: Bundle, key: Any, tmp_path: Path) -> None:
    """Ours verifies with the reference tool, and its signature opens here."""
    tool = [sys.executable, "-m", "model_signing"]

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*tool, *map(str, words)], capture_output=True, text=True)

    ours = KeySigner(key.private).sign(bundle)
    verify = ("verify", "key", "--signature", ours, "--public_key", key.public)
    done = run(*verify, bundle.path)
    assert done.returncode == 0, done.stdout + done.stderr
    theirs = tmp_path / "theirs.sig"
    done = run("sign", "key", "--signature", theirs, "--private_key", key.private, bundle.path)
    assert done.returncode == 0, done.stdout + done.stderr
    Bundle.open(bundle.path, trust=TrustedKey(key.public), signature=theirs)
    _flip_program(bundle.path)
    assert run(*verify, bundle.path).returncode != 0
