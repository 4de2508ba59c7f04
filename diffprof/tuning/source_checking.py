"""A patch is checked before it is written: its file's target is scanned with the edits, and those that
removed nothing are taken back."""

from __future__ import annotations

import contextlib
import difflib
import importlib.machinery
import linecache
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffprof.judge.source_edit.patch import Patch, lies_in, make_patch
from diffprof.model.errors import DiffprofError, UsageError
from diffprof.model.finding import Finding
from diffprof.model.fix import Plan
from diffprof.model.report import Report, from_json, to_json

LIMIT_SECONDS = 600.0
"""CPU time of the scan of a patched file."""

IDLE = "edited, it is still found: the edit was taken back"

Scan = Callable[[Patch | None], Report]
"""Scans the report's target with a patch in the place of its file; None: as it is."""


@dataclass(frozen=True)
class CheckedPatch:
    """patch: what is left of the edits. unchecked: why no scan says what they do; empty where one does."""

    patch: Patch
    unchecked: str = ""


def checked_patch(
    report: Report, plan: Plan, file: Path, asked: Container[str] = (), scan: Scan | None = None
) -> CheckedPatch:
    """The edits of a file that do what they are for. scan: injected in tests.

    Raises what `make_patch` raises.
    """
    patch = make_patch(report, plan, file, asked)
    if not patch.edited:
        return CheckedPatch(patch)
    scan = scan or (lambda patched: scanned_with(report, patched))
    dropped: dict[int, str] = {}
    try:
        before = report if report.recording.device.kind == "sim" else scan(None)
        while patch.edited and (idle := removes_nothing(report, before, scan(patch), patch)):
            dropped |= dict.fromkeys(idle, IDLE)
            patch = make_patch(report, plan, file, asked, dropped)
    except DiffprofError as error:
        return CheckedPatch(patch, error.what.rstrip("."))
    return CheckedPatch(patch)


def removes_nothing(report: Report, before: Report, after: Report, patch: Patch) -> set[int]:
    """The findings (indexes into the report's) whose edits changed nothing: found as often where their lines
    are now. All of them, where the loop waits as often as before and one of them is a wait in it."""
    moved = _moved(patch)
    found = {
        n
        for n in patch.edited
        if 0
        < _count(before, report.findings[n], {_line(report.findings[n])}, patch.file)
        <= _count(after, report.findings[n], moved(_line(report.findings[n])), patch.file)
    }
    waits = {n for n in patch.edited if report.findings[n].in_loop and report.findings[n].rule[:3] == "SYN"}
    if waits and _in_loop(after) >= _in_loop(before):
        return found | waits
    return found


def _line(finding: Finding) -> int:
    return finding.site.line if finding.site is not None else 0


def _count(report: Report, like: Finding, lines: Container[int], file: Path) -> int:
    """How often a call meets the findings of this rule on these lines."""
    rows = report.recording.syncs or ()
    own = [
        each
        for each in report.findings
        if each.rule == like.rule and lies_in(each, file) and _line(each) in lines
    ]
    return sum(sum(rows[n].count for n in each.evidence.syncs) or 1 for each in own)


def _in_loop(report: Report) -> int:
    return sum(row.count for row in report.recording.syncs or () if row.in_loop)


def _moved(patch: Patch) -> Callable[[int], set[int]]:
    """A line of the file as it was -> those that stand in its place."""
    old, new = patch.before.splitlines(), patch.after.splitlines()
    blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()

    def moved(line: int) -> set[int]:
        for kind, first, last, begin, end in blocks:
            if first < line <= last:
                return {line - first + begin} if kind == "equal" else set(range(begin + 1, end + 1))
        return set()

    return moved


# --- the scan -------------------------------------------------------------------------------------------


def scanned_with(report: Report, patch: Patch | None) -> Report:
    """The report's target scanned on a simulated GPU, in a child process, with the patched source in the
    place of the file, which is not written.

    Raises UsageError for a target that can't be built again, DiffprofError where the scan fails.
    """
    from diffprof.analyzers.graph_breaks.child import ChildJob, Send, can_fork, run_in_children
    from diffprof.scanning.scan import scan_target
    from diffprof.tuning.engine import rebuilt

    if not can_fork():
        raise UsageError(
            "The patched file is scanned in a forked child process, which this system does not have.",
            "--keep-unchecked writes the edits as they are.",
        )
    target, options = rebuilt(report)
    device = report.recording.device

    def work(send: Send) -> None:
        with in_place(patch) if patch is not None else contextlib.nullcontext():
            spec = device.spec if device.kind == "sim" else "sim"
            found = scan_target(target, device=spec, options=options, analyzers=report.recording.analyzers)
        send(to_json(found))

    job = ChildJob("patched file", work)
    run_in_children([job], at_once=1, limit_seconds=LIMIT_SECONDS)
    if not job.received:
        raise DiffprofError(
            f"The scan with the edits failed: {job.failure or 'it sent nothing'}.",
            "--keep-unchecked writes the edits as they are.",
        )
    return from_json(job.received[-1])


@contextlib.contextmanager
def in_place(patch: Patch) -> Iterator[None]:
    """Inside, whatever imports or reads the file as Python source gets the patched one. No bytecode of the
    file is used or written."""
    loader, path = importlib.machinery.SourceFileLoader, Path
    get_data, path_stats, read_bytes = loader.get_data, loader.path_stats, path.read_bytes
    file = patch.file.resolve()

    def is_it(name: Any) -> bool:
        return Path(name).name == file.name and Path(name).resolve() == file

    def patched_data(self: Any, name: str) -> bytes:
        return patch.after if is_it(name) else get_data(self, name)

    def patched_stats(self: Any, name: str) -> object:
        if is_it(name):
            raise OSError("its bytecode is that of the file as it was")
        return path_stats(self, name)

    def patched_bytes(self: Path) -> bytes:
        return patch.after if is_it(self) else read_bytes(self)

    lines = patch.after.decode("utf-8", "replace").splitlines(keepends=True)
    names = {str(patch.file), str(patch.file.absolute()), str(file)}
    for name in names:
        linecache.cache[name] = (len(patch.after), None, lines, name)
    try:
        loader.get_data, loader.path_stats = patched_data, patched_stats  # type: ignore[method-assign,assignment]
        path.read_bytes = patched_bytes  # type: ignore[method-assign]
        yield
    finally:
        loader.get_data, loader.path_stats = get_data, path_stats  # type: ignore[method-assign]
        path.read_bytes = read_bytes  # type: ignore[method-assign]
        for name in names:
            linecache.cache.pop(name, None)
