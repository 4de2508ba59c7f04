"""What a script does to the world while it runs on after a call that was scanned. Its pictures came of a call
that was only simulated, or made for the scan: they must not replace files, nor go to anybody.

What writes files is dropped; what can't be dropped (programs, connections, removed and renamed files) ends
the running on.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from diffprof.model.callsite import stack
from diffprof.model.pipeline import replaced

_REFUSED = (
    *("subprocess.Popen", "os.system", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn"),
    *("os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate"),
    *("socket.connect", "socket.sendto", "sqlite3.connect"),
)
"""Events of Python's audit hooks that reach outside; beside these, those of `shutil` and files opened to be
written."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_NATIVE = {
    "cv2": ("imwrite", "imwritemulti", "VideoWriter"),
    **dict.fromkeys(
        ("imageio", "imageio.v2"), ("imwrite", "imsave", "mimwrite", "mimsave", "volwrite", "get_writer")
    ),
    "imageio.v3": ("imwrite",),
    "soundfile": ("write",),
}
"""Writers of pictures, videos and sound that go by native code or by a program."""

LOADERS = ("huggingface_hub", "diffusers", "transformers")
"""Packages that load models."""
_LOADING = ("from_", "load", "hf_hub_download", "snapshot_download")


class DeedRefused(BaseException):
    """Raised in place of what a script would do outside. Not an Exception, so that scripts let it pass."""


class RunningOn:
    """A script between two calls. watching: whether the script's own code runs; what a scan does itself is
    let pass. refuse: is told where and what the script would do."""

    def __init__(self, file: Path, refuse: Callable[[str], None]) -> None:
        self.file = str(file)
        self.refuse = refuse
        self.watching = False

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """What is written inside is lost; what is done outside while `watching` raises DeedRefused."""
        global _ACTIVE
        _add_hook()
        with writing_nothing():
            before, _ACTIVE = _ACTIVE, self
            try:
                yield
            finally:
                _ACTIVE = before

    def meet(self, event: str, args: tuple[object, ...]) -> None:
        """An event of the audit hooks."""
        if not (self.watching and _reaches_out(event, args)):
            return
        frames = list(stack(2))
        own = next((n for n, f in enumerate(frames) if f.f_code.co_filename == self.file), None)
        if any(_is_a_library_s_own(f.f_code.co_filename, f.f_code.co_name) for f in frames[:own]):
            return
        at = "" if own is None else f" at {self.file}:{frames[own].f_lineno}"
        deed = f"{event}({_said(event, args)})"
        self.refuse(f"{deed}{at}")
        raise DeedRefused(f"{deed}: a script that was scanned does nothing outside after its call")


_ACTIVE: RunningOn | None = None


@functools.cache
def _add_hook() -> None:
    """Once: a hook can't be taken away."""

    def hook(event: str, args: tuple[object, ...]) -> None:
        if _ACTIVE is not None:
            _ACTIVE.meet(event, args)

    sys.addaudithook(hook)


def _reaches_out(event: str, args: tuple[Any, ...]) -> bool:
    if event == "open":
        file, _, flags = args
        writes = isinstance(flags, int) and flags & _WRITING and isinstance(file, str | bytes)
        return bool(writes) and not _is_harmless(Path(os.fsdecode(file)))
    if event.startswith("socket."):
        return event in _REFUSED and not _is_loopback(args[1])
    return event in _REFUSED or event.startswith("shutil.")


def _is_loopback(address: object) -> bool:
    """Of a socket; those that are files are of this machine."""
    if not isinstance(address, tuple):
        return True
    with suppress(ValueError):
        return ip_address(address[0]).is_loopback
    return bool(address[0] in ("localhost", ""))


def _is_a_library_s_own(filename: str, function: str) -> bool:
    """What comes with importing a module, with loading a model or a picture, and with temporary files."""
    if filename == "<frozen importlib._bootstrap>" or filename == tempfile.__file__:
        return True
    return function.startswith(_LOADING) and not set(LOADERS).isdisjoint(Path(filename).parts)


def _said(event: str, args: tuple[object, ...]) -> str:
    """The argument that tells most."""
    place = 1 if event.startswith("socket.") or event == "subprocess.Popen" else 0
    return repr(args[place] if len(args) > place else None)


@contextmanager
def writing_nothing() -> Iterator[None]:
    """What is written to files inside is lost, but for new ones in the folder for temporary files and in
    caches. Tensors that are saved are read all the same."""
    import torch

    tensors: Any = importlib.import_module("safetensors.torch")

    opened, save, serialize = builtins.open, torch.save, tensors.serialize_file

    @functools.wraps(opened)
    def open_(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        writes = not set("wax+").isdisjoint(mode) and isinstance(file, str | bytes | os.PathLike)
        if writes and not _is_harmless(Path(os.fsdecode(file))):
            file, mode = os.devnull, mode.replace("x", "w")
        return opened(file, mode, *args, **kwargs)

    @functools.wraps(save)
    def save_(thing: object, file: object, *args: object, **kwargs: object) -> None:
        named = isinstance(file, str | os.PathLike)
        with open_(file, "wb") if named else nullcontext(file) as stream:
            save(thing, stream, *args, **kwargs)

    def serialize_(values: object, file: Any, *args: object, **kwargs: object) -> None:
        if _is_harmless(Path(file)):
            serialize(values, file, *args, **kwargs)

    with ExitStack() as patches:
        for owner in (builtins, io):
            patches.enter_context(replaced(owner, "open", open_))
        patches.enter_context(replaced(torch, "save", save_))
        patches.enter_context(replaced(tensors, "serialize_file", serialize_))
        for module, name in _native_writers():
            patches.enter_context(replaced(module, name, _NullWriter()))
        yield


def _native_writers() -> Iterator[tuple[object, str]]:
    """Of what is installed."""
    for path, names in _NATIVE.items():
        with suppress(ImportError, OSError):  # not installed, or a library of theirs is not
            module = importlib.import_module(path)
            yield from ((module, name) for name in names if hasattr(module, name))


class _NullWriter:
    """Stands for a writer: takes every call."""

    def __call__(self, *_: object, **__: object) -> _NullWriter:
        return self

    def __getattr__(self, name: str) -> _NullWriter:
        return self

    def __enter__(self) -> _NullWriter:
        return self

    def __exit__(self, *_: object) -> None:
        return


def _is_harmless(file: Path) -> bool:
    """A device, or a new file in a cache or in the folder for temporary files."""
    file = file.absolute()
    if file.is_relative_to(Path(os.devnull).parent):
        return True
    caches = (Path(os.environ.get("HF_HOME") or "~/.cache").expanduser(), Path(tempfile.gettempdir()))
    return not file.exists() and any(file.is_relative_to(cache) for cache in caches)
