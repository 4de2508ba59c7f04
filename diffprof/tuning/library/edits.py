"""The smallest edits of diffusers' files that the waits of a report call for. No file is written."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import libcst as cst
from msgspec.structs import replace

from diffprof.analyzers.syncs.class_source import ClassSource, NoSource, class_of, path_of
from diffprof.analyzers.syncs.line_edits import LineEdit, edited, line_edits
from diffprof.analyzers.syncs.loop_edits import loop_edits
from diffprof.analyzers.syncs.timestep_use import timestep_use
from diffprof.judge.source_edit.choosing import edits_for
from diffprof.judge.source_edit.tree import Edit, Refused, Tree, applied_to, distinct
from diffprof.model.errors import UsageError
from diffprof.model.finding import Finding
from diffprof.model.library_patch import FilePatch
from diffprof.model.recording import Frame, Site, SyncRow
from diffprof.model.report import Report

PACKAGE = "diffusers"
ROOMS = tuple(f"{PACKAGE}/{room}/" for room in ("schedulers", "pipelines", "models"))
"""Where files are edited. In models by kinds that put operations of the device in the place of others:
nothing in them breaks a graph."""

_BEGIN = (
    "# The loop begins with the first timestep: looking for it would make the CPU wait for the GPU.",
    "# See https://github.com/huggingface/diffusers/pull/11696",
)


def package_folder(checkout: Path | None) -> Path:
    """The folder of the package's source: of a checkout, else of the installed one.

    Raises UsageError where a checkout has none.
    """
    if checkout is None:
        found = path_of(f"{PACKAGE}/__init__.py")
        if found is None:
            raise UsageError("diffusers is not installed here.", "Name a checkout with --source.")
        return found.parent
    for folder in (checkout / "src" / PACKAGE, checkout / PACKAGE, checkout):
        if (folder / "schedulers").is_dir():
            return folder
    raise UsageError(f"{checkout} is no checkout of diffusers.", "It has a folder src/diffusers.")


def library_patches(report: Report, folder: Path) -> list[FilePatch]:
    """What to change in the package's files against the waits in the loop, a patch for each file; one that
    changes nothing says why."""
    findings: dict[str, list[Finding]] = {}
    for finding in report.in_loop:
        if finding.site is not None and finding.rule.startswith("SYN"):
            for file, own in _edited_at(finding):
                findings.setdefault(file, []).append(own)
    made = (_patched(report, folder, file, own) for file, own in findings.items() if file.startswith(ROOMS))
    return [patch for patch in made if patch is not None]


def _edited_at(finding: Finding) -> Iterator[tuple[str, Finding]]:
    """Where to edit: a search for the first timestep is spared by the pipeline that calls the loop."""
    assert finding.site is not None
    frames: list[Site | Frame] = [finding.site, *finding.site.chain]
    if any("_init_step_index" in frame.function for frame in frames):
        calls = [f for f in frames if f.function.endswith(".__call__") and "/pipelines/" in f.file]
        for frame in calls[:1]:
            site = replace(
                finding.site, file=frame.file, line=frame.line, function=frame.function, excerpt=()
            )
            yield frame.file, replace(finding, site=site)
        return
    yield finding.site.file, finding


def _patched(report: Report, folder: Path, file: str, findings: Sequence[Finding]) -> FilePatch | None:
    path = folder / file.partition("/")[2]
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    findings = [_moved(finding, file, text) for finding in findings]
    searches = [f for f in findings if f.site is not None and "_init_step_index" in _all_functions(f)]
    if searches and file.startswith(f"{PACKAGE}/pipelines/"):
        return _begun(file, text, searches[0])
    ways = (_by_kinds,) if "/models/" in file else (_by_tree, _by_kinds, _by_lines)
    tries = [way(report, file, text, findings) for way in ways]
    return min(tries, key=lambda each: (len(each.left), len(each.after)))


def _all_functions(finding: Finding) -> str:
    return " ".join(frame.function for frame in finding.site.chain) if finding.site else ""


def _moved(finding: Finding, file: str, text: str) -> Finding:
    """With the line where the same one stands in another version of the file."""
    installed = path_of(file)
    assert finding.site is not None
    old = installed.read_text(encoding="utf-8").splitlines() if installed else []
    new = text.splitlines()
    if old == new or not old:
        return finding
    for kind, first, last, begin, _ in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if first < finding.site.line <= last and kind == "equal":
            return replace(finding, site=replace(finding.site, line=finding.site.line - first + begin))
    return replace(finding, site=replace(finding.site, line=0))


# --- statements ------------------------------------------------------------------------------------------


def _by_tree(report: Report, file: str, text: str, findings: Sequence[Finding]) -> FilePatch:
    """The edits that a user's own file would get."""
    tree = Tree.of(cst.parse_module(text))
    edits: list[Edit] = []
    left = []
    functions = {f.site.function for f in findings if f.site is not None}
    for finding in findings:
        line = finding.site.line if finding.site is not None else 0
        if _called_by(finding, functions):
            continue
        try:
            if computes_with_timestep(file, text, finding):
                raise Refused("the scheduler computes with its timestep, and the host rounds otherwise")
            edits += edits_for(tree, finding, report)
        except Refused as why:
            left.append((line, finding.rule, str(why)))
    chosen = distinct(edits)
    after = applied_to(text.encode(), tree, chosen).decode()
    done = tuple(dict.fromkeys(edit.what for edit in sorted(chosen, key=lambda edit: edit.line)))
    return FilePatch(file, text, after, done, tuple(left))


def computes_with_timestep(file: str, text: str, finding: Finding) -> bool:
    """Whether the class of a finding computes with the timestep that its `step` is given: a host's number and
    a device's are not rounded alike when they meet half precision, which calls in float32 do not show."""
    owner = finding.site.function.rpartition(".")[0] if finding.site is not None else ""
    try:
        use = timestep_use(class_of(owner, file, text).methods)
    except NoSource:
        return False
    return bool(use.computing) or use.inline


def _called_by(finding: Finding, functions: Collection[str]) -> bool:
    """Whether one that is edited as well calls the method, and so hands it what is on the CPU."""
    site = finding.site
    return site is not None and any(
        frame.function in functions and frame.file == site.file and frame.function != site.function
        for frame in site.chain
    )


# --- lines in the middle of a pipeline's or a model's method ---------------------------------------------


def _by_kinds(report: Report, file: str, text: str, findings: Sequence[Finding]) -> FilePatch:
    """The lines that wait, written otherwise."""
    rows = report.recording.syncs or ()
    edits: list[LineEdit] = []
    left = []
    done: list[str] = []
    for finding in findings:
        assert finding.site is not None
        owner, _, method = finding.site.function.partition(".<locals>")[0].rpartition(".")
        try:
            source = class_of(owner, file, text)
            for n in finding.evidence.syncs:
                made = loop_edits(source, source.methods[method], rows[n], finding.site.line)
                if any(edit.text.startswith("_once") for edit in made):
                    raise NoSource("what is kept for the next call would be state of the model")
                edits += made
                done += (
                    f"`{' '.join(e.text.split())}` for `{' '.join(source.text(e.node).split())}`"
                    for e in made
                )
        except (NoSource, KeyError) as why:
            left.append((finding.site.line, finding.rule, str(why)))
    lines = {line for e in edits for line in range(e.node.lineno, (e.node.end_lineno or e.node.lineno) + 1)}
    left = [each for each in left if each[0] not in lines]
    after = edited(text.splitlines(keepends=True), edits)
    return FilePatch(file, text, after, tuple(dict.fromkeys(done)), tuple(left))


# --- expressions in a scheduler's methods ----------------------------------------------------------------


def _by_lines(report: Report, file: str, text: str, findings: Sequence[Finding]) -> FilePatch:
    """Tables on the side where they are indexed, solvers without their check."""
    rows = report.recording.syncs or ()
    edits: list[LineEdit] = []
    left = []
    source: ClassSource | None = None
    for finding in findings:
        assert finding.site is not None
        owner, _, method = finding.site.function.rpartition(".")
        try:
            source = class_of(owner, file, text)
            for n in finding.evidence.syncs:
                row = replace(rows[n], site=finding.site)
                edits += line_edits(source, source.methods[method], row)
                edits += _the_same_elsewhere(source, row)
        except NoSource as why:
            left.append((finding.site.line, finding.rule, str(why)))
    if source is None or not edits or "set_timesteps" not in source.methods:
        return FilePatch(file, text, text, (), tuple(left))
    after = _kept(source, edits, edited(text.splitlines(keepends=True), edits))
    return FilePatch(file, text, after, tuple(dict.fromkeys(_said(edit) for edit in edits)), tuple(left))


def _the_same_elsewhere(source: ClassSource, row: SyncRow) -> Iterator[LineEdit]:
    """Checks of the same solver in other branches of the class, which this call did not take."""
    if row.kind != "library-check":
        return
    for method in source.methods.values():
        for node in ast.walk(method):
            if isinstance(node, ast.Call) and source.text(node.func) == "torch.linalg.solve":
                at = replace(row, site=replace(row.site, line=node.lineno))
                yield from line_edits(source, method, at)


def _said(edit: LineEdit) -> str:
    if edit.keeps:
        return f"`{edit.keeps}` at the end of `set_timesteps`, read in the steps"
    return f"`{edit.text}`, which does not check whether the matrix is singular"


def _kept(source: ClassSource, edits: Sequence[LineEdit], text: str) -> str:
    """What the edits read, set at the end of `set_timesteps`."""
    lines = text.splitlines(keepends=True)
    last = source.methods["set_timesteps"].end_lineno or 0
    keeps = dict.fromkeys(edit.keeps for edit in edits if edit.keeps)
    return "".join([*lines[:last], *(f"        {keep}\n" for keep in keeps), *lines[last:]])


# --- where the loop begins -------------------------------------------------------------------------------


def _begun(file: str, text: str, finding: Finding) -> FilePatch:
    """`scheduler.set_begin_index(0)` before the loop of a pipeline."""
    assert finding.site is not None
    line = finding.site.line
    calls = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef) and n.name == "__call__"]
    call = next((n for n in calls if n.lineno <= line <= (n.end_lineno or 0)), None)
    loop = next((n for n in (call.body if call else ()) if n.lineno <= line <= (n.end_lineno or 0)), None)
    if loop is None or not isinstance(loop, ast.With | ast.For):
        return FilePatch(file, text, text, (), ((line, finding.rule, "the loop was not found"),))
    indent = " " * loop.col_offset
    guarded = 'if hasattr(self.scheduler, "set_begin_index"):'
    added = [*_BEGIN, guarded, "    self.scheduler.set_begin_index(0)"]
    lines = text.splitlines(keepends=True)
    first = loop.lineno - 1
    while lines[first - 1].strip().startswith("#"):
        first -= 1
    block = [f"{indent}{each}\n" for each in added] + ["\n"]
    after = "".join([*lines[:first], *block, *lines[first:]])
    return FilePatch(file, text, after, ("tell the scheduler that the loop begins with the first timestep",))
