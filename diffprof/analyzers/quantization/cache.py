"""Timings of earlier scans, by shape, scheme, device and library versions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path

import msgspec

from diffprof.analyzers.quantization.inventory import Key
from diffprof.model.errors import UNREADABLE
from diffprof.model.recording import SchemeTiming
from diffprof.model.recording.whole_file import write_whole

VERSION = 2
"""Of the way in which times are taken; a change makes older entries void."""


def default_path() -> Path:
    """`quantization.json` in the user's cache folder."""
    from platformdirs import user_cache_path

    return user_cache_path("diffprof") / "quantization.json"


def machine(device_name: str, details: Mapping[str, object]) -> str:
    """What timings depend on besides the shape: device, threads, torch, torchao."""
    facts = {"device": device_name, "method": VERSION, **details}
    for package in ("torch", "torchao"):
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = None
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


class TimingCache:
    """A file of timings. Unreadable or foreign content counts as empty; failing to write is no error."""

    def __init__(self, path: Path, on: str) -> None:
        self.path = path
        self.on = on
        self._entries = _read(path)

    def get(self, key: Key, scheme: str, mode: str) -> SchemeTiming | None:
        """A stored timing, marked as cached."""
        entry = self._entries.get(self._name(key, scheme, mode))
        if entry is None:
            return None
        try:
            return msgspec.structs.replace(msgspec.convert(entry, SchemeTiming), cached=True)
        except msgspec.ValidationError:
            return None

    def put(self, key: Key, timing: SchemeTiming) -> None:
        """Keep a timing for the next scan."""
        plain = msgspec.structs.replace(timing, cached=False, sqnr_db=None)
        self._entries[self._name(key, timing.scheme, timing.mode)] = msgspec.to_builtins(plain)

    def save(self) -> None:
        """Write the file whole, beside what another scan stored meanwhile."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            merged = {**_read(self.path), **self._entries}
            write_whole(self.path, msgspec.json.encode(merged))
        except OSError:
            return

    def _name(self, key: Key, scheme: str, mode: str) -> str:
        bias = "bias" if key.bias else "plain"
        shape = f"{key.m}x{key.in_features}x{key.out_features}"
        return f"{self.on}/{key.kind}/{shape}/{key.dtype}/{bias}/{scheme}/{mode}"


def _read(path: Path) -> dict[str, object]:
    try:
        found = msgspec.json.decode(path.read_bytes())
    except (OSError, *UNREADABLE):
        return {}
    return found if isinstance(found, dict) else {}
