"""The stored edits of the user's own files beside a plan's steps. Needs neither torch nor LibCST."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from msgspec.structs import replace

from diffprof.model.callsite import file_of
from diffprof.model.fix import PlanStep, SourceEdit
from diffprof.model.report import Report


def edits_now(report: Report) -> tuple[SourceEdit, ...]:
    """The edits that the report holds; of a file that changed since the scan the reason in their place."""
    if report.source is None:
        return ()
    changed = {
        file: why for file in {e.file for e in report.source.findings} if (why := _changed(report, file))
    }
    return tuple(
        replace(edit, what=(), diff="", why_not=changed[edit.file]) if edit.file in changed else edit
        for edit in report.source.findings
    )


def with_editable_actions(report: Report) -> Report:
    """The report, whose actions say `patch` only where an edit of the user's own file was made."""
    if report.source is None:
        return report
    edits = [edit for edit in report.source.findings if edit.diff]
    return replace(
        report,
        actions=tuple(
            replace(
                action,
                patch=action.patch
                and any(edit.belongs_to(report.findings[n]) for edit in edits for n in action.findings),
            )
            for action in report.actions
        ),
    )


def _changed(report: Report, file: str) -> str | None:
    """A file that is not here can't be compared: its edits are those of the scan."""
    try:
        place = file_of(file)
        now = hashlib.sha256(place.read_bytes()).hexdigest() if place is not None else None
    except (OSError, ValueError):
        return None
    if now is None:
        return None
    if now == report.recording.sources.get(file):
        return None
    return f"{file} changed since the scan, so the lines of its findings may have moved: scan again"


def with_patches(
    steps: Sequence[PlanStep], report: Report, edits: Sequence[SourceEdit]
) -> tuple[PlanStep, ...]:
    """The steps, each with the diff that its findings in the user's own files call for, or why none."""
    if report.source is None:
        return tuple(steps)
    found = []
    for step in steps:
        findings = [report.findings[n] for n in step.findings]
        own = [edit for edit in edits if any(edit.belongs_to(finding) for finding in findings)]
        why = "; ".join(dict.fromkeys(edit.why_not for edit in own if edit.why_not))
        patch = report.source.fixes.get(step.fix) if any(edit.diff for edit in own) else None
        found.append(replace(step, patch=patch, no_patch=why or None))
    return tuple(found)
