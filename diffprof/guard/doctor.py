"""What this machine has of what the commands use, and what would bring the rest."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

RANGED = ("torch", "diffusers", "transformers", "accelerate", "peft", "torchao")
EXTRAS = {
    "mcp": ("mcp", "diffprof mcp"),
    "prometheus-client": ("prometheus", "watch(prometheus=True)"),
    "opentelemetry-api": ("otel", "watch(opentelemetry=True)"),
}
"""Distribution -> (extra, what needs it)."""
ADMIN_ONLY = "RmProfilingAdminOnly: 1"
PARAMETERS = Path("/proc/driver/nvidia/params")
DRIVER = Path("/proc/driver/nvidia/version")


class Sign(NamedTuple):
    """One line. state: ok, missing (a command does not work), or note (it works less well). cure: what to do;
    empty: nothing."""

    what: str
    state: str
    found: str
    needed_for: str = ""
    cure: str = ""


def examine(traces: Path) -> Iterator[Sign]:
    """All of it, in the order of importance."""
    yield _python()
    yield from _packages()
    yield from _gpu()
    yield _compiler()
    yield from _folders(traces)
    yield from _tools()
    yield from _extras()


def _python() -> Sign:
    version = platform.python_version()
    good = (3, 11) <= sys.version_info < (3, 14)
    cure = "" if good else "Use Python 3.11 to 3.13."
    return Sign("Python", "ok" if good else "note", version, "all", cure)


def _packages() -> Iterator[Sign]:
    """diffprof's own requirements, and whether what is there meets them."""
    wanted = {}
    for line in importlib.metadata.requires("diffprof") or ():
        requirement = Requirement(line)
        if requirement.marker is None:
            wanted[requirement.name] = requirement
    for name in RANGED:
        asked = wanted.get(name, Requirement(name))
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Sign(name, "missing", "not installed", "scan, fix", f"pip install '{asked}'")
            continue
        good = asked.specifier.contains(version.partition("+")[0], prereleases=True)
        cure = "" if good else f"pip install '{asked}': other versions were not tried."
        yield Sign(name, "ok" if good else "note", version, "scan, fix", cure)


def _gpu() -> Iterator[Sign]:
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    what = "measured times; without one a GPU is simulated"
    if torch.version.cuda is None:
        yield Sign(
            "GPU",
            "note",
            "PyTorch's CPU build",
            what,
            "With a GPU: pip install torch, without the CPU index.",
        )
        return
    from diffprof.devices.cuda_runtime import RUNTIME

    if not RUNTIME.count():
        driver = "no driver" if not DRIVER.exists() else "PyTorch does not see it"
        yield Sign(
            "GPU", "note", driver, what, "nvidia-smi has to list it; in a container run with --gpus all."
        )
        return
    for index in range(RUNTIME.count()):
        facts = RUNTIME.properties(index)
        yield Sign(f"GPU {index}", "ok", f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB", what)
    yield _cupti()
    yield _counters()


def _cupti() -> Sign:
    from torch.profiler import ProfilerActivity, supported_activities

    good = ProfilerActivity.CUDA in supported_activities()
    cure = "" if good else "Install a PyTorch that was built with Kineto and CUPTI (the wheels are)."
    return Sign(
        "CUPTI", "ok" if good else "missing", "there" if good else "absent", "scan, record on cuda", cure
    )


def _counters() -> Sign:
    """Timelines need no right; hardware counters do, which other tools read."""
    locked = PARAMETERS.exists() and ADMIN_ONLY in PARAMETERS.read_text(encoding="utf-8", errors="replace")
    cure = "Only for ncu: modprobe nvidia NVreg_RestrictProfilingToAdminUsers=0." if locked else ""
    return Sign(
        "counters", "note" if locked else "ok", "for root alone" if locked else "open", "no command", cure
    )


def _compiler() -> Sign:
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    cure = "" if found else "apt install g++ (torch.compile's backend needs it)."
    return Sign("C++ compiler", "ok" if found else "note", found or "none", "fix --apply, with compile", cure)


def _folders(traces: Path) -> Iterator[Sign]:
    from platformdirs import user_cache_path

    yield _writable(
        "traces", traces, "all that stores a run", "Name another with --traces or DIFFPROF_TRACES."
    )
    cache = Path(user_cache_path("diffprof"))
    sign = _writable("cache", cache, "graph breaks, quantization", "Set XDG_CACHE_HOME.")
    size = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()) if cache.is_dir() else 0
    yield sign._replace(found=f"{sign.found}, {size / 2**20:.1f} MiB")


def _writable(what: str, folder: Path, needed_for: str, cure: str) -> Sign:
    place = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    try:
        with tempfile.TemporaryFile(dir=place):
            return Sign(what, "ok", str(folder), needed_for)
    except OSError as error:
        return Sign(what, "missing", f"{folder}: {error.strerror}", needed_for, cure)


def _tools() -> Iterator[Sign]:
    for name, needed_for, cure in (
        ("git", "compare --git, check --against", "apt install git"),
        ("uv", "check --with, faster", "pip install uv (pip does it too)"),
    ):
        found = shutil.which(name)
        yield Sign(name, "ok" if found else "note", found or "none", needed_for, "" if found else cure)
    good = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    cure = "" if good else "Run it in a terminal; `diffprof show --format html` needs none."
    yield Sign("terminal", "ok" if good else "note", os.environ.get("TERM", "none"), "view", cure)


def _extras() -> Iterator[Sign]:
    for name, (extra, needed_for) in EXTRAS.items():
        try:
            yield Sign(name, "ok", importlib.metadata.version(name), needed_for)
        except importlib.metadata.PackageNotFoundError:
            yield Sign(name, "note", "none", needed_for, f"pip install 'diffprof[{extra}]'")
