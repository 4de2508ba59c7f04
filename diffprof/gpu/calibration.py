"""What `diffprof calibrate` measured on a GPU: stored in the user's data folder, used from then on for that
GPU.

The file is an archive like those of `tables/`: times of single kernels over small grids, and figures of the
sheet. Between the points of a grid what is interpolated is the measured time over the modelled one, so that
the model's tiles and waves stay where they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffprof.model.errors import UsageError

from .tables import KernelTable, packed, unpacked

if TYPE_CHECKING:
    from .specs import GpuSpec

FORM = 1
"""Version of the file; a reader refuses a newer one."""


Times = tuple[tuple[tuple[float, ...], ...], np.ndarray]
"""Axes of a grid, and the microseconds over it."""


@dataclass(frozen=True)
class Calibration:
    """gpu: name of the data sheet. sheet: figures of `GpuSpec` as measured, and `rates`: elements a clock and
    processor by kind of addressing. tables: name -> (axes, microseconds), as in `diffprof.gpu.tables`.
    about: of the device and the run, as text."""

    gpu: str
    sheet: Mapping[str, float] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    tables: Mapping[str, Times] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)


def folder() -> Path:
    """Where calibrations are kept."""
    from platformdirs import user_data_path

    return user_data_path("diffprof") / "calibrations"


def file_of(gpu: str) -> Path:
    return folder() / f"{gpu}.npz"


def save(calibration: Calibration, file: Path) -> None:
    """Write one whole or not at all."""
    head = {
        "form": FORM,
        "gpu": calibration.gpu,
        "sheet": dict(calibration.sheet),
        "rates": dict(calibration.rates),
        "about": dict(calibration.about),
    }
    arrays: dict[str, Any] = {"calibration": np.array(json.dumps(head))}
    for name, (axes, us) in calibration.tables.items():
        for number, axis in enumerate(axes):
            arrays[f"{name}.{number}"] = np.array(axis, dtype=np.int32)
        arrays[f"{name}.us"] = packed(np.log(us))
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    with part.open("wb") as out:
        np.savez_compressed(out, **arrays)
    part.replace(file)
    forget()


def load(file: Path) -> Calibration:
    """Read one. Raises UsageError where the file is none, or a newer version's."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            head = json.loads(str(archive["calibration"]))
            names = [name.removesuffix(".us") for name in archive.files if name.endswith(".us")]
            tables = {name: _table(archive, name) for name in names}
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{str(file)!r} is no calibration: {error}",
            "`diffprof calibrate --export FILE` writes one on the machine that was measured.",
        ) from error
    if head["form"] > FORM:
        raise UsageError(f"{str(file)!r} is of a newer diffprof.", "Upgrade diffprof to read it.")
    return Calibration(head["gpu"], head["sheet"], head["rates"], tables, head["about"])


def _table(archive: Any, name: str) -> tuple[tuple[tuple[float, ...], ...], np.ndarray]:
    us = np.exp(unpacked(archive[f"{name}.us"]))
    return tuple(tuple(map(float, archive[f"{name}.{n}"])) for n in range(us.ndim)), us


def forget() -> None:
    """What was read is read again when it is asked for next."""
    from .specs import load_spec

    load_spec.cache_clear()
    _loaded.cache_clear()
    _table_of.cache_clear()


# --- use ------------------------------------------------------------------------------------------------


@cache
def _loaded(file: Path) -> Calibration:
    return load(file)


@cache
def _table_of(file: Path, name: str) -> KernelTable | None:
    found = _loaded(file).tables.get(name)
    return None if found is None else KernelTable(found[0], np.log(found[1]))


def calibrated(spec: GpuSpec, file: Path | None = None) -> GpuSpec:
    """The sheet with what was measured on such a GPU; itself where nothing was. file: in place of what is
    stored on this machine."""
    file = file or file_of(spec.key)
    if not file.exists():
        return spec
    found = _loaded(file)
    known = {name: value for name, value in found.sheet.items() if hasattr(spec, name)}
    return replace(spec, **known, rates=dict(found.rates), calibration=file)  # type: ignore[arg-type]


def lent_sheet(spec: GpuSpec, file: Path) -> GpuSpec | None:
    """The sheet with what was measured on a GPU, of this kind or another of its architecture; None where it
    is of another architecture. Raises UsageError where the file is no calibration."""
    from .specs import shipped_spec

    mine = calibrated(shipped_spec(_loaded(file).gpu), file)
    if spec.key == mine.key:
        return mine
    if (spec.vendor, spec.capability) != (mine.vendor, mine.capability):
        return None
    return replace(
        shipped_spec(spec.key),
        rates=mine.rates,
        convolution=mine.convolution,
        calibration=file,
        measured_on=mine,
    )


def correction(
    spec: GpuSpec, name: str, point: tuple[float, ...], modelled_us: Callable[..., float]
) -> float | None:
    """Measured time over modelled time of a kernel at a point; None where it was not measured.

    modelled_us: the time without the calibration, by the coordinates of the table.
    """
    table = None if spec.calibration is None else _table_of(spec.calibration, name)
    if table is None:
        return None
    near = table.nearest(*point)
    total = math.log(table.us(*near, trend=modelled_us))
    return math.exp(total - math.log(modelled_us(*near)))
