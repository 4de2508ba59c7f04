"""A report, and a file of the user's -> the file as it should be, as a diff first."""

from __future__ import annotations

import ast
import difflib
import hashlib
import os
import re
import sysconfig
import tempfile
import warnings
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import libcst as cst
from libcst.codemod import CodemodContext
from libcst.codemod.visitors import AddImportsVisitor

from diffprof.judge.source_edit.choosing import edits_for, setup_edits
from diffprof.judge.source_edit.tree import Edit, Refused, Tree, applied, applied_to, distinct
from diffprof.model.errors import DiffprofError, UsageError
from diffprof.model.finding import Finding
from diffprof.model.fix import Plan
from diffprof.model.recording.source_text import shell
from diffprof.model.report import Report

INSTALLED = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class Patch:
    """What an edit of a file does. done: line and words of each change; left: findings there that no edit is
    safe for, with what to do instead."""

    file: Path
    before: bytes
    after: bytes
    done: tuple[tuple[int, str], ...] = ()
    left: tuple[str, ...] = ()
    edited: frozenset[int] = frozenset()
    """The findings, as indexes into the report's, that the edits are for."""

    @property
    def diff(self) -> str:
        """Unified; empty where nothing changes. Bytes that are no UTF-8 are replaced."""
        return self.diff_bytes.decode("utf-8", "replace")

    @property
    def diff_bytes(self) -> bytes:
        """Unified, in the file's own encoding, as `git apply` takes it."""
        name = os.fsencode(_typed(self.file))
        old, new = (text.splitlines(keepends=True) for text in (self.before, self.after))
        lines = difflib.diff_bytes(difflib.unified_diff, old, new, b"a/" + name, b"b/" + name)
        return b"".join(
            line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n" for line in lines
        )


def _typed(file: Path) -> str:
    """The file as it is named from the working directory, where `git apply` and `patch -p1` look for it."""
    if file.is_absolute() and file.is_relative_to(Path.cwd()):
        file = file.relative_to(Path.cwd())
    return file.as_posix().lstrip("/")


def make_patch(
    report: Report,
    plan: Plan,
    file: Path,
    asked: Container[str] = (),
    dropped: Mapping[int, str] | None = None,
) -> Patch:
    """The edits of one file that the report's findings in it call for, and, in the file that makes the
    pipeline, the plan's selected steps that are statements on it.

    asked: keys of fixes that are written untried, though they may change the output. dropped: findings, as
    indexes, that are not to be edited -> why.

    Raises UsageError for a file that is no user's source, that the run knows nothing of, that changed since
    the scan, or that does not parse.
    """
    source = UserSource(report, file)
    edits: list[Edit] = []
    refused: dict[int, str] = dict(dropped or {})
    elsewhere: set[int] = set()
    edited: set[int] = set()
    for n, finding in enumerate(report.findings):
        try:
            if not lies_in(finding, file):
                elsewhere.add(n)
            elif n not in refused:
                edits += edits_for(source.tree, finding, report)
                edited.add(n)
        except Refused as why:
            refused[n] = str(why)
    left = _left(report, refused, {edit.line for edit in edits})
    imports: list[str] = []
    if _is_target(report, file):
        open_ = elsewhere | set(refused)
        steps = [step for step in plan.selected if not step.findings or open_ & set(step.findings)]
        made, why_not = setup_edits(source.tree, report, steps, imports, asked)
        edits += made
        left += [f"fix {words}" for words in why_not]
    patch = source.patched(edits, imports)
    return replace(patch, left=tuple(left), edited=frozenset(edited))


def _left(report: Report, refused: Mapping[int, str], edited: set[int]) -> list[str]:
    """Findings that are not edited, in words; not those of a line that changes for another one."""
    places = {n: (report.findings[n].site, report.findings[n]) for n in refused}
    return [
        f"line {site.line}, {finding.rule} {finding.name}: {refused[n]}"
        for n, (site, finding) in places.items()
        if site is not None and site.line not in edited
    ]


class UserSource:
    """A file of the user's as the scan saw it, parsed.

    Raises UsageError for one that may not be edited, or does not parse.
    """

    def __init__(self, report: Report, file: Path) -> None:
        self.file = file
        self.before = _checked(report, file)
        self.tree = _parsed(file, self.before)

    def patched(self, edits: Iterable[Edit], imports: Sequence[str] = ()) -> Patch:
        """What these edits make of the file.

        Raises DiffprofError if that would be no Python: nothing is written then.
        """
        chosen = distinct(edits)
        if imports:
            after = _with_imports(applied(self.tree, chosen), imports).bytes
        else:
            after = applied_to(self.before, self.tree, chosen)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in the user's strings
            try:
                ast.parse(after)
            except SyntaxError as error:
                raise DiffprofError(
                    f"The edits of {self.file} leave no valid Python (line {error.lineno}: {error.msg}).",
                    "Nothing was written. This is a fault of diffprof: please report it.",
                ) from error
        done = sorted({(edit.line, edit.what) for edit in chosen})
        return Patch(self.file, self.before, after, tuple(done))


def _parsed(file: Path, source: bytes) -> Tree:
    try:
        return Tree.of(cst.parse_module(source))
    except (cst.ParserSyntaxError, UnicodeDecodeError, LookupError) as error:
        raise UsageError(f"{file} does not parse: {error}", "Mend it, and scan again.") from error


def write_patch(patch: Patch) -> Path:
    """Write the edited file; returns the backup, `FILE.orig` or the next free `FILE.orig.N`.

    Behind a symbolic link it is the file itself that is written.

    Raises UsageError for a read-only file, and one that changed since the diff was made; DiffprofError when
    the disk does not take it. The file is then as it was.
    """
    file = patch.file.resolve()
    if not file.stat().st_mode & 0o222 or not os.access(file, os.W_OK):
        raise UsageError(f"{patch.file} is read-only.", "Make it writable, or apply the diff by hand.")
    if file.read_bytes() != patch.before:
        raise UsageError(f"{patch.file} changed since its diff was made.", "Scan again, then patch.")
    backup = file.with_name(f"{file.name}.orig")
    number = 1
    while backup.exists():
        number += 1
        backup = file.with_name(f"{file.name}.orig.{number}")
    part: Path | None = None
    try:
        backup.write_bytes(patch.before)
        handle, name = tempfile.mkstemp(prefix=f"{file.name}.", dir=file.parent)
        part = Path(name)
        with os.fdopen(handle, "wb") as stream:
            stream.write(patch.after)
        part.chmod(file.stat().st_mode)
        part.replace(file)
    except OSError as error:
        if part is not None:
            part.unlink(missing_ok=True)
        raise DiffprofError(
            f"{patch.file} could not be written: {error.strerror or error}.", "Apply the diff by hand."
        ) from error
    return backup


# --- which file ------------------------------------------------------------------------------------------


def _checked(report: Report, file: Path) -> bytes:
    library = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
    installed = any(part in INSTALLED for part in file.resolve().parts)
    if installed or any(file.resolve().is_relative_to(folder) for folder in library):
        raise UsageError(
            f"{file} belongs to an installed package or to Python, and those are never edited.",
            "Fixes of library code are in optimized.py: `diffprof fix --apply`.",
        )
    known = _known(report)
    try:
        before = file.read_bytes()
    except OSError as error:
        named = file.as_posix() in known
        hint = "The run names it so; give the path where it lies from here." if named else "Check the path."
        raise UsageError(f"{file} can't be read: {error.strerror or error}.", hint) from error
    name = next((each for each in known if _same(each, file)), None)
    if name is None:
        places = ", ".join(sorted(known)) or "none"
        raise UsageError(
            f"The run knows nothing of {file}: no finding lies in it.",
            f"Files of yours that it has findings in: {places}.",
        )
    stored = report.recording.sources.get(name)
    if stored is None:
        raise UsageError(f"The run did not store what {file} looked like.", "Scan again, then patch.")
    if hashlib.sha256(before).hexdigest() != stored:
        raise UsageError(
            f"{file} changed since the scan, so the lines of its findings may have moved.",
            f"Scan again: `diffprof scan {shell(report.recording.target.spec)}`, then patch.",
        )
    return before


def _known(report: Report) -> set[str]:
    return set(report.recording.sources) | {
        f.site.file for f in report.findings if f.site and f.site.user_code
    }


def _same(name: str, file: Path) -> bool:
    """Whether a site's file, as it is named from where the scan ran, is this one."""
    here = file.resolve()
    return Path(name).resolve() == here or here.parts[-len(Path(name).parts) :] == Path(name).parts


def lies_in(finding: Finding, file: Path) -> bool:
    """Whether a finding's site is in this file, which is the user's."""
    return finding.site is not None and finding.site.user_code and _same(finding.site.file, file)


def _is_target(report: Report, file: Path) -> bool:
    target = report.recording.target
    path = target.spec.rpartition(":")[0] if target.kind == "factory" else target.spec
    return target.kind in ("factory", "script") and _same(path, file)


# --- imports ---------------------------------------------------------------------------------------------


def _with_imports(module: cst.Module, imports: Sequence[str]) -> cst.Module:
    context = CodemodContext()
    for line in imports:
        if plain := re.fullmatch(r"import ([\w.]+)", line):
            AddImportsVisitor.add_needed_import(context, plain[1])
        elif named := re.fullmatch(r"from ([\w.]+) import (.+)", line):
            for name in named[2].split(","):
                AddImportsVisitor.add_needed_import(context, named[1], name.strip())
    return AddImportsVisitor(context).transform_module(module)
