"""A patch of the library is checked where it can't harm: on a copy of the package, which another process
imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffprof.analyzers.syncs.class_source import class_of
from diffprof.model.errors import DiffprofError
from diffprof.model.library_patch import FilePatch, PatchCheck, Ran
from diffprof.model.report import Report, to_json
from diffprof.tuning.library.edits import PACKAGE

LIMIT_SECONDS = 3600.0


def checked(
    report: Report | None, patches: Sequence[FilePatch], folder: Path, cases: Sequence[str] | None = None
) -> PatchCheck:
    """What pipelines of the corpus give and wait for with the patched package, beside the package as it is.

    report: whose target is scanned in both, too. folder: of the package. cases: names of the corpus; None:
    all that run the changed files. Raises DiffprofError where a process fails.
    """
    files = [patch.file for patch in patches]
    job = {"files": files, "report": None, "cases": cases, "schedulers": _schedulers(patches)}
    with tempfile.TemporaryDirectory() as scratch:
        if report is not None and report.recording.target.kind not in ("object", "trace"):
            stored = Path(scratch) / "report.json"
            stored.write_bytes(to_json(report))
            job["report"] = str(stored)
        before = _child(_copy(folder, {}, Path(scratch) / "before"), job)
        texts = {patch.file: patch.after for patch in patches}
        after = _child(_copy(folder, texts, Path(scratch) / "after"), job)
    pipelines = tuple(
        _ran(name, was, after["pipelines"].get(name, {"error": "it no longer runs the changed files"}))
        for name, was in before["pipelines"].items()
    )
    one, other = before["target"], after["target"]
    if one is None or other is None:
        return PatchCheck(pipelines)
    timed = one["ms"] is not None and other["ms"] is not None
    return PatchCheck(pipelines, (one["waits"], other["waits"]), (one["ms"], other["ms"]) if timed else None)


def _schedulers(patches: Sequence[FilePatch]) -> list[str]:
    """Classes of the changed files that are schedulers."""
    import ast

    names = []
    for patch in patches:
        for node in ast.parse(patch.after).body if "/schedulers/" in patch.file else ():
            if isinstance(node, ast.ClassDef):
                source = class_of(node.name, patch.file, patch.after)
                names += [node.name] if {"step", "set_timesteps"} <= source.methods.keys() else []
    return names


def _ran(name: str, was: Mapping, now: Mapping) -> Ran:  # type: ignore[type-arg]
    error = was.get("error") or now.get("error") or ""
    if error:
        return Ran(name, error=error, bit_equal=False)
    same = was["digest"] == now["digest"] and bool(was["digest"])
    return Ran(name, (was["waits"], now["waits"]), (was["here"], now["here"]), same)


def _copy(folder: Path, texts: Mapping[str, str], scratch: Path) -> Path:
    """A folder to import the package from: links to its files, but for those with these texts.

    It is named as installed packages are, so that sites in it count as those of a library.
    """
    place = scratch / "site-packages"
    _linked(folder, place / PACKAGE, {file.partition("/")[2]: text for file, text in texts.items()})
    return place


def _linked(folder: Path, place: Path, texts: Mapping[str, str]) -> None:
    place.mkdir(parents=True)
    for each in folder.iterdir():
        below = {
            file.partition("/")[2]: t for file, t in texts.items() if file.partition("/")[0] == each.name
        }
        if each.is_dir() and below:
            _linked(each, place / each.name, below)
        elif each.name in texts:
            (place / each.name).write_text(texts[each.name], encoding="utf-8")
        elif each.name != "__pycache__":
            (place / each.name).symlink_to(each.resolve())


def _child(place: Path, job: Mapping) -> dict:  # type: ignore[type-arg]
    path = os.pathsep.join(filter(None, (str(place), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "diffprof.tuning.library.child"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=LIMIT_SECONDS,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise DiffprofError(
            f"The process with a copy of {PACKAGE} failed: {last}",
            "The patch is not checked: nothing is written.",
        )
    return json.loads(done.stdout)  # type: ignore[no-any-return]
