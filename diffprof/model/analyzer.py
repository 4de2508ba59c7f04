"""An analyzer as data: one folder, one subject, one object that says what the folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Protocol

import msgspec

Sections = Mapping[str, Any]
"""Section of a recording -> its rows. `unseen` adds to what the scan says that it did not see."""


class Run(Protocol):
    """What a probe is given: the scan so far."""

    call: Any
    """The pipeline and its call: `pipe`, `args`, `kwargs`, `run()`."""
    device: Any
    settings: dict[str, object]
    progress: Any
    sections: dict[str, Any]
    """What the watched call and earlier analyzers recorded."""
    prepared: dict[str, Any]
    """What each analyzer's `before` returned, by its name."""

    def add(self, sections: Sections, lap: str) -> None:
        """Record sections at once: what a probe adds stays, whatever becomes of the probe. lap: what the scan
        did since the last one, for `Recording.seconds`."""


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """An option of `diffprof scan` that is this analyzer's own.

    setting: its name in `Recording.settings`. kind: of its value; "pairs" are KEY=A,B, any number of times.
    asks: giving it asks for the analyzer.
    """

    setting: str
    flag: str
    help: str
    kind: str = "text"
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    asks: bool = True

    @property
    def name(self) -> str:
        """As an argument in Python: `compile_scope` of `--compile-scope`."""
        return self.flag.lstrip("-").replace("-", "_")


class Column(msgspec.Struct, frozen=True):
    """field: of a row of the section, which is a struct or a mapping."""

    title: str
    field: str
    right: bool = False


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """A section as every view lists it: a table in text and pages, a tab in the viewer."""

    section: str
    title: str
    columns: tuple[Column, ...]
    note: str = ""


class Analyzer(msgspec.Struct, frozen=True, kw_only=True):
    """A subject that a scan looks at.

    name: as it is typed. prefix: of its rules' codes. about: what it finds, a line. package: the folder,
    in which `rules` and `fixes` are modules. probe: "module:function" in the folder, given a `Run` after
    the watched call; returns `Sections`, or None where it added them itself. before: the same, before the
    pipeline's first call; what it returns is `run.prepared[name]`. watched: its evidence comes from the
    watched call itself; times_kernels: from the times of the kernels that this launches. eager: compiled
    parts run uncompiled under its probe. default: looked at unless told otherwise. always: has no probe
    to choose, its evidence is in every scan. in_traces: a profiler's trace holds its evidence.
    """

    name: str
    prefix: str
    about: str
    package: str
    probe: str = ""
    before: str = ""
    watched: bool = False
    times_kernels: bool = False
    eager: bool = True
    default: bool = False
    always: bool = False
    in_traces: bool = False
    options: tuple[Option, ...] = ()
    listing: Listing | None = None

    def part(self, name: str) -> ModuleType | None:
        """A module of the folder, imported; None where the folder has none of that name."""
        path = f"{self.package}.{name}"
        return import_module(path) if find_spec(path) else None

    def run(self, hook: str, run: Run) -> Any:
        """Call one of the hooks, `probe` or `before`."""
        module, _, function = hook.partition(":")
        return getattr(import_module(f"{self.package}.{module}"), function)(run)

    def given(self, settings: Mapping[str, object]) -> dict[str, Any]:
        """Its own settings, of those that were given."""
        names = [option.setting for option in self.options]
        return {name: settings[name] for name in names if settings.get(name) is not None}

    def asked_for(self, settings: Mapping[str, object]) -> bool:
        """Whether an option that was given asks for it."""
        return any(option.asks and settings.get(option.setting) is not None for option in self.options)


def cell(row: object, field: str) -> str:
    """What a listing shows of a row; empty where the row says nothing."""
    value = row.get(field) if isinstance(row, Mapping) else getattr(row, field, None)
    return "" if value is None else f"{value:,}" if isinstance(value, int | float) else str(value)
