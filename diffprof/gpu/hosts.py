"""What the host takes: a sheet a machine, apart from the GPU's.

`this` is the machine that runs diffprof, measured once in about three seconds and remembered.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from diffprof.model.errors import UsageError

_FOLDER = Path(__file__).with_name("hosts")

DEFAULT = "cloud"
THIS = "this"


@dataclass(frozen=True)
class HostSheet:
    """One machine's CPU, as far as PyTorch's eager mode is concerned. Microseconds.

    op_us: to issue one eager operation: Python, dispatch, launch. module_us: one module call around it.
    """

    key: str
    name: str
    op_us: float
    module_us: float
    source: str


def host_names() -> tuple[str, ...]:
    """Names that `--host` accepts, beside `this`."""
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.toml")))


@cache
def load_host(name: str = DEFAULT) -> HostSheet:
    """The sheet of a named host, or of this machine. Raises UsageError naming the known ones."""
    key = name.strip().lower()
    if key == THIS:
        from .this_host import this_host

        return this_host()
    if key not in host_names():
        raise UsageError(
            f"There is no host {name!r}.",
            f"Known ones: {', '.join(host_names())}; {THIS!r} measures this machine.",
        )
    data = tomllib.loads((_FOLDER / f"{key}.toml").read_text(encoding="utf-8"))
    return HostSheet(key, data["name"], data["op_us"], data["module_us"], data["source"])


_chosen = [DEFAULT]
"""The last one holds, in every thread: what is simulated may be called from any."""


def chosen_host() -> HostSheet:
    """The host that simulated calls are issued by, where none is named."""
    return load_host(_chosen[-1])


@contextmanager
def on_host(name: str | None) -> Iterator[None]:
    """Simulated calls are issued by this host while open; None: by the one that is chosen already.

    Raises UsageError for an unknown one.
    """
    if name is not None:
        load_host(name)
    _chosen.append(name.strip().lower() if name is not None else _chosen[-1])
    try:
        yield
    finally:
        _chosen.pop()
