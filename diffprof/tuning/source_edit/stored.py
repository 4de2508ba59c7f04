"""The edits that a report's findings call for, as a part of the report, so that views need not make them.

LibCST takes half a second to import: it is, only where a finding lies in a file of the user's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from diffprof.errors import UsageError
from diffprof.finding import Finding
from diffprof.fix import SourceEdit, SourceEdits
from diffprof.report import Report

if TYPE_CHECKING:
    from diffprof.tuning.source_edit.patch import Source
    from diffprof.tuning.source_edit.tree import Edit


def with_source_edits(report: Report) -> Report:
    """The report with the edits of the user's own files, as they are now."""
    own = [f for f in report.findings if f.site is not None and f.site.user_code]
    if not own:
        return replace(report, source=None)
    if report.source is not None and not any(Path(f.site.file).is_file() for f in own if f.site):
        return report  # looked at from another folder: what the scan made of them stands
    made = _Made(report, own)
    keys = dict.fromkeys(key for finding in own for key in finding.fixes)
    fixes = {key: made.diff([f for f in own if key in f.fixes]) for key in keys}
    return replace(
        report,
        source=SourceEdits(
            findings=tuple(made.edit(finding) for finding in own),
            fixes={key: diff for key, diff in fixes.items() if diff},
        ),
    )


class _Made:
    """Every finding's edits. sources: files that can be edited; refused: why one can't, or a finding."""

    def __init__(self, report: Report, findings: Sequence[Finding]) -> None:
        from diffprof.tuning.source_edit.choosing import edits_for
        from diffprof.tuning.source_edit.patch import Source
        from diffprof.tuning.source_edit.tree import Refused

        self.sources: dict[str, Source] = {}
        self.edits: dict[int, list[Edit]] = {}
        self.refused: dict[int, str] = {}
        whole: dict[str, str] = {}
        for finding in findings:
            assert finding.site is not None
            name = finding.site.file
            try:
                if name not in self.sources and name not in whole:
                    self.sources[name] = Source(report, Path(name))
                if name in self.sources:
                    self.edits[id(finding)] = edits_for(self.sources[name].tree, finding, report)
            except UsageError as error:
                whole[name] = error.what
            except Refused as why:
                self.refused[id(finding)] = str(why)
            if name in whole:
                self.refused[id(finding)] = whole[name]

    def edit(self, finding: Finding) -> SourceEdit:
        assert finding.site is not None
        what = dict.fromkeys(edit.what for edit in self.edits.get(id(finding), ()))
        return SourceEdit(
            rule=finding.rule,
            file=finding.site.file,
            line=finding.site.line,
            what=tuple(what),
            diff=self.diff([finding]),
            why_not=self.refused.get(id(finding), ""),
        )

    def diff(self, findings: Sequence[Finding]) -> str:
        """Of all that these findings call for, file by file."""
        diffs = []
        for name, source in self.sources.items():
            here = [f for f in findings if f.site is not None and f.site.file == name]
            edits = [edit for finding in here for edit in self.edits.get(id(finding), ())]
            diffs.append(source.patched(edits).diff if edits else "")
        return "".join(diffs)
