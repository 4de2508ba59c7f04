"""The edits that a report's findings call for, as a part of the report, so that views need not make them.

LibCST takes half a second to import: it is, only where a finding lies in a file of the user's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from diffprof.judge.planned_edits import with_editable_actions
from diffprof.model.callsite import file_of
from diffprof.model.errors import UsageError
from diffprof.model.finding import Finding
from diffprof.model.fix import SourceEdit, SourceEdits
from diffprof.model.report import Report

if TYPE_CHECKING:
    from diffprof.judge.source_edit.patch import UserSource
    from diffprof.judge.source_edit.tree import Edit


def with_source_edits(report: Report) -> Report:
    """The report with the edits of the user's own files, as they are now."""
    own = [f for f in report.findings if f.site is not None and f.site.user_code]
    if not own:
        return replace(report, source=None)
    made = _Made(report, own)
    edits = tuple(made.edit(finding) for finding in own)
    keys = dict.fromkeys(key for finding in own for key in finding.fixes)
    fixes = {key: made.diff_of_fix(key, [f for f in own if key in f.fixes]) for key in keys}
    source = SourceEdits(findings=edits, fixes={key: diff for key, diff in fixes.items() if diff})
    return with_editable_actions(replace(report, source=source))


class _Made:
    """Every finding's edits. sources: files that can be edited; refused: why one can't, or a finding."""

    def __init__(self, report: Report, findings: Sequence[Finding]) -> None:
        from diffprof.judge.source_edit.patch import UserSource

        self.report = report
        self.sources: dict[str, UserSource] = {}
        self.refused: dict[str, str] = {}
        self.edits: dict[int, list[Edit]] = {}
        for finding in findings:
            assert finding.site is not None
            name = finding.site.file
            if name not in self.sources and name not in self.refused:
                try:
                    self.sources[name] = UserSource(report, file_of(name) or Path(name))
                except UsageError as error:
                    self.refused[name] = error.what.rstrip(".")

    def edit(self, finding: Finding) -> SourceEdit:
        """What a finding calls for, alone."""
        from diffprof.judge.source_edit.choosing import edits_for
        from diffprof.judge.source_edit.tree import Refused

        assert finding.site is not None
        name = finding.site.file
        made = SourceEdit(rule=finding.rule, file=name, line=finding.site.line)
        if name in self.refused:
            return self._of_the_scan(finding) or replace(made, why_not=self.refused[name])
        source = self.sources[name]
        try:
            edits = edits_for(source.tree, finding, self.report)
            diff = source.patched(edits).diff
        except Refused as why:
            return replace(made, why_not=str(why))
        except Exception as error:  # whatever it is, it must not cost the scan
            return replace(made, why_not=f"making it failed with {type(error).__name__}: {error}")
        self.edits[id(finding)] = edits
        return replace(made, what=tuple(dict.fromkeys(edit.what for edit in edits)), diff=diff)

    def diff_of_fix(self, key: str, findings: Sequence[Finding]) -> str:
        """Of all findings that a fix is for."""
        here = any(f.site is not None and file_of(f.site.file) is not None for f in findings)
        if self.report.source is not None and not here:
            return self.report.source.fixes.get(key, "")
        return self.diff(findings)

    def _of_the_scan(self, finding: Finding) -> SourceEdit | None:
        """What was made where the file lay, if it can't be found from here."""
        assert finding.site is not None
        if self.report.source is None or file_of(finding.site.file) is not None:
            return None
        return next((e for e in self.report.source.findings if e.belongs_to(finding)), None)

    def diff(self, findings: Sequence[Finding]) -> str:
        """Of all that these findings call for, file by file. Each was asked for alone before."""
        diffs = []
        for name, source in self.sources.items():
            here = [f for f in findings if f.site is not None and f.site.file == name]
            edits = [edit for finding in here for edit in self.edits.get(id(finding), ())]
            if edits:
                diffs.append(source.patched(edits).diff)
        return "".join(diffs)
