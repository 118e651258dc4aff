"""The manifest as bytes: one strict parser, one writer, one published schema."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from offramp.bundle._manifest import Manifest
from offramp.bundle._values import check_values
from offramp.errors import ManifestError

__all__ = ["LARGEST_MANIFEST_BYTES", "encode_manifest", "json_schema", "parse_manifest"]

LARGEST_MANIFEST_BYTES = 8 * 2**20
"""Room for thousands of latency samples, and no room to exhaust a phone's memory."""

_decoder = msgspec.json.Decoder(Manifest)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a manifest, version 1.

    It says what types can say; ``Bundle.open`` also refuses manifests that contradict themselves.
    """
    # Defaults are tuples there, which would not equal what a reader of the file gets.
    schema = msgspec.json.decode(msgspec.json.encode(msgspec.json.schema(Manifest)))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Offramp bundle manifest, version 1",
        **schema,
    }


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as indented JSON; the same manifest always gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest, and refuse whatever its schema does not name.

    Raises:
        ManifestError: Too large, not JSON, a key twice, another format version, or a value that
            the schema refuses; the message names the key, the value and what was expected.
    """
    if len(data) > LARGEST_MANIFEST_BYTES:
        raise ManifestError(
            f"manifest.json has {len(data)} bytes, expected at most {LARGEST_MANIFEST_BYTES}"
        )
    raw = _plain(data)
    check_values(raw)
    if not isinstance(raw, dict):
        raise ManifestError(f"manifest.json holds {_short(raw)}, expected an object")
    version = raw.get("format_version")
    if isinstance(version, int) and not isinstance(version, bool) and version > 1:
        raise ManifestError(
            f"manifest.json: key 'format_version' is {version}, expected 1: the bundle was made "
            "for a newer Offramp; upgrade with pip install --upgrade offramp"
        )
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ManifestError(_explain(str(error), raw)) from error


def _plain(data: bytes) -> Any:
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_no_constant
        )
    except ManifestError:
        raise
    # Two parsers may take different ones of two equal keys, so the same bundle would mean one thing
    # here and another on a phone; hence the hook, and this second parser beside msgspec's.
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"manifest.json is not valid JSON: {error}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ManifestError(f"manifest.json: key {key!r} is given twice, expected once")
        result[key] = value
    return result


def _no_constant(name: str) -> Any:
    raise ManifestError(f"manifest.json holds {name}, expected finite numbers only")


def _explain(message: str, raw: Any) -> str:
    reason, _, place = message.partition(" - at `")
    path = place.rstrip("`").removeprefix("$").removeprefix(".")
    if not path:
        return f"manifest.json: {reason}"
    steps = [
        int(index) if index else name for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path)
    ]
    value = raw
    try:
        for step in steps:
            value = value[step]
    except (KeyError, IndexError, TypeError):
        # msgspec writes a dictionary's values as [...], which names no one key.
        return f"manifest.json: key {path!r}: {reason}"
    if reason.startswith("Invalid enum value"):
        reason = f"expected one of {', '.join(map(repr, _choices(steps)))}"
    return f"manifest.json: key {path!r} is {_short(value)}: {reason}"


def _choices(steps: list[int | str]) -> list[Any]:
    """The values that the schema allows at a place, which msgspec's message leaves out."""
    schema = json_schema()
    place = schema
    for step in [*steps, None]:
        while "$ref" in place:
            place = schema["$defs"][place["$ref"].rpartition("/")[2]]
        if step is not None:
            place = place["items"] if isinstance(step, int) else place["properties"][step]
    return list(place["enum"])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
