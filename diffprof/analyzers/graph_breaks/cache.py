"""Results of captures, kept between runs: the same code, configuration and inputs are captured once."""

from __future__ import annotations

import argparse
import contextlib
import copyreg
import functools
import hashlib
import importlib.metadata
import inspect
import platform
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeVar

import msgspec
import platformdirs
import torch
import torch._dynamo

from diffprof.analyzers.graph_breaks.repeats import Structure
from diffprof.model.callsite import importable_path
from diffprof.model.errors import UNREADABLE
from diffprof.model.recording.whole_file import write_whole

FORMAT = 12
"""Raise it when a capture of the same code would say something else."""

KEPT = 500
"""Entries. The oldest are dropped beyond that; one is a few kilobytes."""

_PROTOCOL = 4
"""Of pickle, the last one that gives the bytes of arrays themselves."""

_LONG = 1024
"""Characters from which on a text stands for itself by its hash."""

_COMPILED = "_compiled_call_impl"
"""Where a module keeps what it was compiled to. Captures begin with its Python."""

_UNORDERED = frozenset({"_use_default_values"})
"""Attributes whose lists are made from sets (diffusers/configuration_utils.py): their order says nothing."""

_PACKAGES = (
    *("diffprof", "torch", "diffusers", "transformers", "accelerate", "peft", "torchao"),
    *("numpy", "tokenizers", "sentencepiece"),
)

T = TypeVar("T")


class Uncacheable(Exception):
    """Something in the component can't be named in a way that holds in another process."""


class _Stored(msgspec.Struct):
    files: dict[str, str]
    """Source files that were traced, with their hashes: the entry holds while these do."""
    result: msgspec.Raw


def folder() -> Path:
    """Where results are kept."""
    return Path(platformdirs.user_cache_path("diffprof")) / "graphs"


def key_of(owner: object, *more: object) -> str | None:
    """Hash of a component's structure, configuration and source, of `more`, and of all versions; None where
    the component holds something that can't be compared between processes."""
    try:
        naming = _Lasting()
        parts = [naming.of(owner), *more, naming.settings(), FORMAT, _versions(), _settings()]
        parts += sorted((file, file_hash(file)) for file in naming.files)
    except (Uncacheable, RecursionError):  # what pickle would keep may have no end
        return None
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def lasting(value: object) -> str | None:
    """Hash of a value's structure and the source that it names; None where it can't be compared between
    processes. Of tensors it is the geometry alone."""
    return key_of(value)


class _Lasting(Structure):
    """Names classes and functions by where they are defined. What is not all Python's is told from another
    by what pickle would keep of it: the vocabulary of a tokenizer, the numbers of an array."""

    def __init__(self) -> None:
        super().__init__()
        self.files: set[str] = set()
        self.modules: set[str] = set()

    def name(self, cls: type) -> Any:
        with contextlib.suppress(TypeError, OSError):
            self._note(inspect.getfile(cls), cls.__module__)
        return (cls.__module__, cls.__qualname__)

    def function(self, function: FunctionType) -> Any:
        code = function.__code__
        self._note(code.co_filename, function.__module__)
        return (code.co_filename, code.co_qualname, code.co_firstlineno)

    def of(self, value: object) -> Any:
        if isinstance(value, dict) and _UNORDERED & value.keys():
            value = {k: frozenset(v) if k in _UNORDERED else v for k, v in value.items()}
        if isinstance(value, torch.Generator):
            return ("generator", str(value.device))
        if isinstance(value, bytes | str) and len(value) > _LONG:
            data = value.encode(errors="surrogatepass") if isinstance(value, str) else value
            return (type(value).__name__, hashlib.sha256(data).hexdigest())
        return super().of(value)

    def attributes(self, held: dict[str, object]) -> tuple[object, ...]:
        return super().attributes({name: each for name, each in held.items() if name != _COMPILED})

    def unknown(self, value: object) -> object:
        if isinstance(value, ModuleType):
            self._note(getattr(value, "__file__", None) or "", value.__name__)
            return ("module", value.__name__)
        reduce = copyreg.dispatch_table.get(type(value))
        try:
            made = reduce(value) if reduce is not None else value.__reduce_ex__(_PROTOCOL)
        except Exception:
            raise Uncacheable(type(value).__qualname__) from None
        # A string is the name of a global; what else is iterated over is the content of a container.
        parts = made if isinstance(made, str) else [list(p) if isinstance(p, Iterator) else p for p in made]
        return (self.name(type(value)), self.of(parts), self.attributes(getattr(value, "__dict__", {})))

    def settings(self) -> Any:
        """Plain globals of the modules that are the user's own: what their code may ask beside its arguments,
        as a script's options are."""
        held = {name: vars(sys.modules[name]) for name in sorted(self.modules) if name in sys.modules}
        return self.of(
            {
                (module, name): value
                for module, names in held.items()
                for name, value in sorted(names.items())
                if not name.startswith("__") and _is_plain(value)
            }
        )

    def _note(self, file: str, module: str | None) -> None:
        self.files.add(file)
        if module and importable_path(file)[1]:
            self.modules.add(module)


def _is_plain(value: object) -> bool:
    """Numbers, texts, and containers of these."""
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(k) and _is_plain(v) for k, v in value.items())
    if isinstance(value, argparse.Namespace):
        return _is_plain(vars(value))
    return value is None or isinstance(value, bool | int | float | complex | str | bytes)


def _settings() -> tuple[tuple[str, str], ...]:
    """Dynamo's plain settings, and its sets by the names in them. Its own hash of them is another in every
    process."""
    held = torch._dynamo.config.get_config_copy()
    plain = (bool, int, float, str, type(None))
    found = [(name, repr(value)) for name, value in held.items() if isinstance(value, plain)]
    for name, value in held.items():
        if isinstance(value, set | frozenset):
            found.append((name, repr(sorted(getattr(each, "__qualname__", str(each)) for each in value))))
    return tuple(sorted(found))


@functools.cache
def _versions() -> tuple[str, ...]:
    found = [platform.python_version(), platform.machine()]
    for name in _PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return tuple(found)


def file_hash(file: str) -> str:
    """SHA-256 of a source file; empty for what is no file."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        return ""


def load(key: str | None, kind: type[T]) -> T | None:
    """The result under a key, if there is one and the files that it rests on are unchanged."""
    if key is None:
        return None
    try:
        stored = msgspec.json.decode((folder() / f"{key}.json").read_bytes(), type=_Stored)
        if any(file_hash(file) != seen for file, seen in stored.files.items()):
            return None
        return msgspec.json.decode(stored.result, type=kind)
    except (OSError, *UNREADABLE):
        return None


def store(key: str | None, result: object, files: Iterable[str]) -> None:
    """Keep a result. Where the disk does not take it, it is not kept."""
    if key is None:
        return
    hashes = {file: found for file in sorted(files) if (found := file_hash(file))}
    data = msgspec.json.encode(_Stored(hashes, msgspec.Raw(msgspec.json.encode(result))))
    place = folder() / f"{key}.json"
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, data)
        entries = sorted(place.parent.glob("*.json"), key=lambda p: p.stat().st_mtime)
        for old in entries[:-KEPT]:
            old.unlink(missing_ok=True)
