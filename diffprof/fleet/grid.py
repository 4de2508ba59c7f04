"""What a sweep goes over: axes whose every combination is a row, and the runs that give them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from diffprof import __version__
from diffprof.guard.configuration import FILE, load_configuration
from diffprof.model.errors import UsageError

NONE = ""
"""A value of an axis: the target's own, or no fix."""


class Grid(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Axes of a sweep; each has at least one value. size: `HEIGHTxWIDTH`, or one number for both, pixels.
    steps: None, the target's own. scheduler: a class of diffusers. fix: keys of fixes, several joined by `+`.

    call: other arguments of every call. price: of a GPU hour, for all devices or by device.
    """

    targets: tuple[str, ...]
    device: tuple[str, ...] = ("a100-80gb",)
    mode: tuple[str, ...] = ("eager",)
    batch: tuple[int, ...] = (1,)
    size: tuple[str, ...] = (NONE,)
    steps: tuple[int | None, ...] = (None,)
    scheduler: tuple[str, ...] = (NONE,)
    fix: tuple[str, ...] = (NONE,)
    dtype: str | None = None
    call: dict[str, Any] = msgspec.field(name="set", default_factory=dict)
    price: float | dict[str, float] | None = None


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a pipeline, with the devices, modes and steps that it is priced for."""

    target: str
    batch: int
    size: str
    scheduler: str
    fix: str
    dtype: str | None
    call: dict[str, Any]
    steps: tuple[int | None, ...]
    devices: tuple[str, ...]
    modes: tuple[str, ...]
    price: float | dict[str, float] | None = None

    @property
    def run(self) -> str:
        """Names the run: equal where all that goes into it is."""
        told = [self.target, self.batch, self.size, self.scheduler, self.fix, self.dtype, self.call]
        return _digest([*told, content(self.target), versions()])

    def cells(self) -> Iterator[tuple[str, str, int | None, str]]:
        """(device, mode, steps, key of its row)."""
        run = self.run
        for device, mode, steps in product(self.devices, self.modes, self.steps):
            yield device, mode, steps, _digest([run, device, mode, steps, self.price])

    @property
    def pixels(self) -> tuple[int | None, int | None]:
        """Height and width."""
        return pixels(self.size)

    def without(self, keys: set[str]) -> Case | None:
        """The same for what is not among these rows; None where nothing is left."""
        left = [cell for cell in self.cells() if cell[3] not in keys]
        if not left:
            return None
        return msgspec.structs.replace(
            self,
            devices=tuple(dict.fromkeys(cell[0] for cell in left)),
            modes=tuple(dict.fromkeys(cell[1] for cell in left)),
            steps=tuple(dict.fromkeys(cell[2] for cell in left)),
        )

    def __str__(self) -> str:
        own = [f"{name}={value}" for name, value in self.call.items()]
        told = [f"batch {self.batch}", self.size, self.scheduler, self.fix, self.dtype, *own]
        priced = "" if self.price is None else f"at {self.price}"
        return " ".join([self.target, *filter(None, [*told, priced])])


def cases(grid: Grid, devices: Sequence[str]) -> list[Case]:
    """The runs of a grid. devices: names of data sheets."""
    axes = product(grid.targets, grid.scheduler, grid.fix, grid.size, grid.batch)
    return [
        Case(
            target=target,
            batch=batch,
            size=size,
            scheduler=scheduler,
            fix=fix,
            dtype=grid.dtype,
            call=grid.call,
            steps=tuple(dict.fromkeys(grid.steps)),
            devices=tuple(devices),
            modes=grid.mode,
            price=grid.price,
        )
        for target, scheduler, fix, size, batch in axes
    ]


def merged(listed: Sequence[Case]) -> list[Case]:
    """Each run once, for all devices, modes and steps that any of these cases has it priced for."""
    found: dict[str, Case] = {}
    for case in listed:
        known = found.setdefault(str(case), case)
        found[str(case)] = msgspec.structs.replace(
            known,
            **{
                axis: tuple(dict.fromkeys((*getattr(known, axis), *getattr(case, axis))))
                for axis in ("devices", "modes", "steps")
            },
        )
    return list(found.values())


def pixels(size: str) -> tuple[int | None, int | None]:
    """(height, width) of `768x1024` or `1024`; None where it is empty. Raises UsageError."""
    if not size:
        return None, None
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", size)
    if found is None:
        raise UsageError(f"--size {size!r} is no size.", "Write height and width in pixels: 768x1024.")
    height = int(found.group(1))
    return height, int(found.group(2) or height)


def grids_of(folder: Path) -> list[Grid]:
    """`[tool.diffprof.sweep]` of the nearest pyproject.toml with [tool.diffprof]: one or a list.

    Raises UsageError where there is none, or it can't be read.
    """
    configuration = load_configuration(folder)
    section = configuration.sweep
    if section is None:
        raise UsageError(
            "No target is given, and no pyproject.toml here or above has [tool.diffprof.sweep].",
            "Name targets: diffprof sweep sdxl,flux --batch 1,2,4",
        )
    listed = section if isinstance(section, list) else [section]
    try:
        return [msgspec.convert(_plural(each), Grid) for each in listed]
    except msgspec.ValidationError as error:
        known = ", ".join(field.encode_name for field in msgspec.structs.fields(Grid))
        where = Path(configuration.root, FILE)
        raise UsageError(f"{where}: [tool.diffprof.sweep]: {error}.", f"It takes {known}.") from error


def _plural(section: Mapping[str, object]) -> dict[str, object]:
    """One value of an axis may stand for itself."""
    axes = {
        field.encode_name for field in msgspec.structs.fields(Grid) if str(field.type).startswith("tuple")
    }
    return {
        key: [value] if key in axes and not isinstance(value, list) else value
        for key, value in section.items()
    }


@cache
def versions() -> tuple[str, str, str]:
    """Of diffprof, torch and diffusers."""
    return __version__, importlib.metadata.version("torch"), importlib.metadata.version("diffusers")


@cache
def content(target: str) -> str:
    """What a target's own file or folder of configurations holds; empty for one by name."""
    path = Path(target.rpartition(":")[0] or target).expanduser()
    files = [path] if path.is_file() else sorted(path.glob("**/*.json")) if path.is_dir() else []
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest() if files else ""


def _digest(told: object) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:24]
