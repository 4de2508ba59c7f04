"""Calibrations of GPUs: measured here, taken from a file, written to one."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffprof.devices import sheet_of
from diffprof.gpu import calibration
from diffprof.gpu.calibration import Calibration, file_of, folder, load, save
from diffprof.gpu.specs import GpuSpec, load_spec
from diffprof.model.errors import UsageError

if TYPE_CHECKING:
    from diffprof.devices import Device


def calibrate(
    device: str, seconds: float, *, short: bool = False, say: Callable[[str], None] = lambda what: None
) -> Sequence[str]:
    """Measure a CUDA device for at most so many seconds, and store it. Gives lines that say what was found.

    short: tiny grids. Raises UsageError where there is no such device, or no data sheet of it.
    """
    from diffprof.gpu.this_host import this_host

    found = measured(device, seconds, short=short, say=say)
    save(found, file_of(found.gpu))
    if short:
        return tuple(_lines(found))
    say("this machine's CPU")
    host = f"An operation takes this machine's CPU {this_host().op_us:.3g} us; `--host this` prices by it."
    return (*_lines(found), host)


def measured(
    device: str, seconds: float, *, short: bool = False, say: Callable[[str], None] = lambda what: None
) -> Calibration:
    """The same without storing it."""
    from diffprof.devices import resolve_device
    from diffprof.devices.calibrating import REHEARSAL, CalibrationGrid, Measuring
    from diffprof.devices.stopwatches import EventRunner, HostRunner

    where = resolve_device(device)
    spec = _sheet(where, short)
    end = time.monotonic() + seconds
    runner = EventRunner(where.index) if where.kind == "cuda" else HostRunner()  # type: ignore[attr-defined]
    with where.active() as place:
        return Measuring(
            spec=spec,
            device=place,
            runner=runner,
            grid=REHEARSAL if short else CalibrationGrid(),
            synchronize=where.synchronize,
            left_s=lambda: end - time.monotonic(),
            say=say,
            clock_ghz=lambda: _clock_ghz(getattr(where, "index", 0)),
        ).run()


def _clock_ghz(index: int) -> float | None:
    """Of the processors, as the driver says; None where its tool is not there."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, f"--id={index}", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    return float(answer) / 1e3 if answer.isdecimal() else None


def _sheet(device: Device, short: bool) -> GpuSpec:
    info = device.info()
    if info.kind != "cuda":
        if short:
            return load_spec("a100-80gb")
        raise UsageError(
            f"{info.spec} is no GPU: there is nothing to calibrate.",
            "Run it on the machine with the GPU, and bring the file of --export here with --from.",
        )
    return sheet_of(info.spec)


def take(source: Path) -> Sequence[str]:
    """Store another machine's. Raises UsageError where the file is none, or of a GPU without a sheet."""
    found = load(source)
    load_spec(found.gpu)
    save(found, file_of(found.gpu))
    return tuple(_lines(found))


def export(target: Path, gpu: str | None = None) -> Sequence[str]:
    """Write a stored one to a file. Raises UsageError where none is stored, or several and none is named."""
    name = _stored(gpu)
    save(load(file_of(name)), target)
    takes = f"`diffprof calibrate --from {target.name}` takes it elsewhere"
    return (f"{target}: {load_spec(name).name}; {takes}.",)


def forget(gpu: str | None = None) -> Sequence[str]:
    """Remove a stored one."""
    name = _stored(gpu)
    file_of(name).unlink()
    calibration.forget()
    return (f"{load_spec(name).name} is priced by the shipped tables and the model again.",)


def _stored(gpu: str | None) -> str:
    there = sorted(file.stem for file in folder().glob("*.npz"))
    if gpu is not None:
        there = [name for name in there if name == load_spec(gpu).key]
    if not there:
        raise UsageError("No calibration is stored here.", "Run `diffprof calibrate` where the GPU is.")
    if len(there) > 1:
        raise UsageError("Several calibrations are stored.", f"Name one with --gpu: {', '.join(there)}.")
    return there[0]


def _lines(found: Calibration) -> Iterator[str]:
    spec = load_spec(found.gpu)
    about = found.about
    yield f"{spec.name}, measured {about.get('measured', '')[:10]} with torch {about.get('torch', '?')}."
    points = sum(us.size for _, us in found.tables.values())
    yield f"{points} kernels in {len(found.tables)} tables: {', '.join(sorted(found.tables)) or 'none'}."
    for name, value in found.sheet.items():
        yield f"{name}: {value:.4g}"
    yield f"A repeat is off by {about.get('repeat', 'none')} in the middle."
    yield f"Stored in {file_of(found.gpu)}; used for sim:{found.gpu} from now on."
