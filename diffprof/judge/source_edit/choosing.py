"""Which edits a finding calls for, and why there is none where there is none."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterable, Iterator, Sequence

import libcst as cst
from libcst import matchers as m

from diffprof.judge.recipes import recipes
from diffprof.judge.rules import EditKind, find_rule
from diffprof.judge.source_edit.construction import Construction
from diffprof.judge.source_edit.indexes import index_on_host
from diffprof.judge.source_edit.logging_edits import SAYS, without_said, without_said_name, without_wait
from diffprof.judge.source_edit.outputs import model_output
from diffprof.judge.source_edit.tables import keep_on_host
from diffprof.judge.source_edit.tree import Edit, Refused, Tree
from diffprof.judge.source_edit.uploads import create_in_place, fill, hoist, stack_scalars
from diffprof.judge.waits import readers
from diffprof.model.finding import Finding
from diffprof.model.fix import Code, Outcome, PlanStep, Safety, Status
from diffprof.model.recording import SyncRow
from diffprof.model.report import Report


def edits_for(tree: Tree, finding: Finding, report: Report) -> list[Edit]:
    """The edits of one finding.

    Raises Refused, with the reason, where none is safe.
    """
    assert finding.site is not None
    why = ""
    for attempt in _attempts(tree, finding, report):
        try:
            edits = list(attempt())
        except Refused as refused:
            why = str(refused)  # of several the last: it is of the edit that fits best
            continue
        if edits:
            return edits
    raise Refused(why or _no_edit(tree, finding))


def _rows(report: Report, finding: Finding) -> list[SyncRow]:
    rows = report.recording.syncs or ()
    return [rows[n] for n in finding.evidence.syncs if n < len(rows)]


def _half(report: Report) -> str | None:
    """The half precision that the denoiser runs in, if it does."""
    kinds = [each.dtype for each in report.recording.target.components if each.role == "denoiser"]
    return next((kind for kind in kinds if kind in ("float16", "bfloat16")), None)


def _attempts(tree: Tree, finding: Finding, report: Report) -> Iterator[Callable[[], Iterable[Edit]]]:
    """The edits that may fit; those that say more about why they don't come later."""
    assert finding.site is not None
    line, edit = finding.site.line, find_rule(finding.rule).edit
    rows = _rows(report, finding)
    read = finding.in_loop and edit in (EditKind.READ, EditKind.SCALARS)
    if edit is EditKind.WAIT and finding.in_loop:
        yield lambda: without_wait(tree, line)
    if read or edit is EditKind.SAID:
        yield lambda: without_said(tree, line)
        yield lambda: without_said_name(tree, line)
    if read and edit is EditKind.SCALARS:
        yield lambda: stack_scalars(tree, line)
    if read:
        table = any(row.owner_device == "cpu" for row in rows)
        yield lambda: index_on_host(tree, line, table=table)
    for row in rows:
        if row.owner and row.owner_device == "device" and not row.owner.endswith(".timesteps"):
            attribute = row.owner.rpartition(".")[2]
            yield functools.partial(keep_on_host, tree, line, attribute, half=_half(report))
    if edit is EditKind.UPLOAD:
        yield from _uploads(tree, finding, report, rows)
    if edit is EditKind.OUTPUT:
        yield lambda: model_output(tree, line)


def _uploads(
    tree: Tree, finding: Finding, report: Report, rows: Sequence[SyncRow]
) -> Iterator[Callable[[], Iterable[Edit]]]:
    assert finding.site is not None
    line = finding.site.line
    read = readers(report.recording, finding.site.file, tree.code(tree.statement(line)))
    for row in () if finding.in_loop else read:
        attribute = (row.owner or "").rpartition(".")[2]
        if attribute != "timesteps":
            yield functools.partial(keep_on_host, tree, row.site.line, attribute, half=_half(report))
    scalar = any(row.shape == () for row in rows)
    yield lambda: create_in_place(tree, line)
    yield lambda: fill(tree, line, scalar=scalar)
    if finding.in_loop and not any(row.constant is False for row in rows):
        yield lambda: hoist(tree, line)


# --- why not ---------------------------------------------------------------------------------------------


def _no_edit(tree: Tree, finding: Finding) -> str:
    """Why nothing at a finding's line is edited, from what stands there."""
    assert finding.site is not None
    statement = tree.statement(finding.site.line)
    if isinstance(tree.parents.get(statement), cst.SimpleStatementSuite):  # `if x: y` in one line
        statement = tree.around(statement, cst.BaseCompoundStatement)
    rule = find_rule(finding.rule)
    if rule.no_edit:
        return rule.no_edit
    if rule.edit is EditKind.BRANCH:
        return _why_read(tree, statement)
    if rule.edit is None:
        return f"{finding.name} is about how the pipeline is set up or run, not about a line of source"
    if not finding.in_loop:
        return "it is outside the loop, and what it is for can't be told from the line"
    if rule.edit is not EditKind.UPLOAD:
        return _why_read(tree, statement)
    return "where the data comes from, and whether it changes from step to step, can't be told from the line"


def _why_read(tree: Tree, statement: cst.CSTNode | None) -> str:
    if isinstance(statement, cst.If | cst.While):
        word = "if" if isinstance(statement, cst.If) else "while"
        shown = tree.code(statement.test)
        return (
            f"what follows depends on `{word} {shown}`, which the device computes: only you know if it may go"
        )
    if isinstance(statement, cst.Return):
        return "the value is returned, and who uses it can't be told"
    if isinstance(statement, cst.Assert):
        return "an assertion on a value of the device: only you know if it may go"
    if isinstance(statement, cst.Expr) and m.matches(statement.value, m.Call()):
        call = statement.value
        assert isinstance(call, cst.Call)
        if m.matches(call, SAYS):
            return "it is said outside the loop"
        return f"`{tree.code(call.func)}` gets the value, and what becomes of it can't be told"
    if isinstance(statement, cst.Assign):
        target = tree.code(statement.targets[0].target)
        return f"`{target}` gets the value, and what it is for can't be told from the line"
    return "what the value is for can't be told from the line"


# --- where the pipeline is made --------------------------------------------------------------------------


def _was_kept(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.stays


def setup_edits(
    tree: Tree, report: Report, steps: Iterable[PlanStep], imports: list[str], asked: Container[str] = ()
) -> tuple[list[Edit], list[str]]:
    """Edits of the plan's steps that are statements on the pipeline, and why the others are none.

    A step that was tried and not kept is none, nor one that may change the output, unless it was tried and
    kept, or asked for. imports: takes the import statements that they need.
    """
    bodies, left = _statements(report, steps, asked)
    if not bodies:
        return [], left
    names = ", ".join(fix for fix, _ in bodies)
    try:
        target = report.recording.target
        factory = target.spec.rpartition(":")[2] if target.kind == "factory" else ""
        construction = Construction(tree, target.pipeline, factory)
    except Refused as refused:
        return [], [*left, f"{names}: {refused}"]
    edits: list[Edit] = []
    statements: list[str] = []
    for fix, code in bodies:
        try:
            typed = construction.loaded_in(code.optimize)
        except Refused as refused:
            left.append(f"{fix}: {refused}")
            continue
        edits += typed or []
        if typed is None:
            statements.append(code.optimize.strip("\n"))
        if typed != []:
            imports += code.imports
    try:
        edits += construction.followed_by("\n".join(statements) + "\n") if statements else []
    except Refused as refused:
        left.append(f"{names}: {refused}")
    return edits, left


def _statements(
    report: Report, steps: Iterable[PlanStep], asked: Container[str]
) -> tuple[list[tuple[str, Code]], list[str]]:
    """(fix, its code) of the steps that are statements on the pipeline alone, and why the others are none."""
    known = recipes()
    tried = {outcome.fix: outcome for outcome in report.outcomes or ()}
    bodies: list[tuple[str, Code]] = []
    elsewhere: list[str] = []
    untried: list[str] = []
    left = []
    for step in steps:
        code = known[step.fix].code(report.recording, [report.findings[n] for n in step.findings])
        outcome = tried.get(step.fix)
        if not isinstance(code, Code):
            continue
        if outcome is not None and outcome.status in (Status.UNDONE, Status.UNCHECKED, Status.FAILED):
            left.append(f"{step.fix}: it was tried and {outcome.status}: {outcome.why.rstrip('.')}")
        elif code.definitions or code.call or code.around:
            elsewhere.append(step.fix)
        elif not (step.safety is Safety.EXACT or step.fix in asked or _was_kept(outcome)):
            untried.append(step.fix)
        else:
            bodies.append((step.fix, code))
    if elsewhere:
        left.append(
            f"{', '.join(elsewhere)}: more than statements on the pipeline; `diffprof fix --apply` writes "
            "what helps to optimized.py"
        )
    if untried:
        left.append(
            f"{', '.join(untried)}: it may change the output, and was not tried; `diffprof fix --apply` "
            "tries it, and --select writes it as it is"
        )
    return bodies, left
