"""Everything about one finding, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diffprof.judge.rules import HEADINGS, find_rule
from diffprof.model import units
from diffprof.model.errors import UsageError
from diffprof.model.finding import Finding
from diffprof.model.fix import PlanStep, SourceEdit
from diffprof.model.recording import Recording, SyncRow
from diffprof.model.recording.source_text import shell
from diffprof.views import words
from diffprof.views.tui.finding_list import SEVERITY
from diffprof.views.tui.styles import Writing, bar
from diffprof.views.tuning import safety

_MOST_ROWS = 8
"""Rows of evidence shown."""
_FULL_LINE = 80
"""Characters of a line of a docstring that was filled."""


def finding_page(
    finding: Finding,
    recording: Recording,
    call_ms: float | None,
    steps: Mapping[str, PlanStep] | None = None,
    edits: Sequence[SourceEdit] = (),
) -> Writing:
    """Place, source, cost and what-if, what to write instead, fixes, calls, evidence, the rule's text.

    call_ms: length of the whole call on the timeline, where there is one. steps: the plan's, by their fix.
    edits: the plan's, of the user's own files.
    """
    page = Writing()
    page.flow((SEVERITY[finding.severity], finding.rule), " ", ("strong", finding.name))
    site = finding.site
    if site:
        page.flow(("place", units.place(site)), ("muted", f" in {site.function}" if site.function else ""))
        if site.excerpt:
            page.excerpt(site.excerpt, site.line)
    page.flow(finding.message)
    page.fact("often", words.how_often(finding))
    page.fact(
        "where", ", ".join(part for part in (site.module if site else None, words.phase(finding)) if part)
    )
    page.fact("cost", words.cost(finding))
    _what_if(page, finding, call_ms)
    page.fact("instead", finding.advice)
    page.fact("fixes", ", ".join(finding.fixes))
    edit = next((each for each in edits if each.belongs_to(finding)), None)
    if edit is not None:
        _edit(page, edit)
    for key in finding.fixes:
        if steps and key in steps:
            _fix(page, steps[key], edit.diff if edit is not None else None)
    if site:
        page.calls(site.chain)
    _evidence(page, finding, recording)
    _rule(page, finding.rule)
    return page


def _edit(page: Writing, edit: SourceEdit) -> None:
    """What the user's own source would be, or why it stays."""
    page.heading("Your source")
    if edit.why_not:
        page.flow(f"No edit: {edit.why_not}.", indent=2)
        return
    page.flow(f"{'; '.join(edit.what)} ", ("muted", f"(diffprof fix --patch {shell(edit.file)})"), indent=2)
    page.diff(edit.diff)


def _fix(page: Writing, step: PlanStep, shown: str | None) -> None:
    page.heading(f"Fix {step.fix}")
    page.flow(f"{step.title} ", ("muted", f"({safety(step)}; the plan is tab 6)"), indent=2)
    source_of(page, step, shown)


def source_of(page: Writing, step: PlanStep, shown: str | None = None) -> None:
    """A fix as the diff of the user's own source, unless that is what stands there already, and as code."""
    if step.patch and step.patch != shown:
        page.heading("Diff of your source")
        page.diff(step.patch)
    if step.no_patch and shown is None:
        page.flow(f"No edit of your source: {step.no_patch}.")
    if step.code:
        page.heading("Code")
        page.code(step.code)


def _what_if(page: Writing, finding: Finding, call_ms: float | None) -> None:
    if finding.saves_ms is None or not call_ms:
        return
    share = finding.saves_ms / call_ms
    before = units.milliseconds(call_ms)
    after = units.milliseconds(max(call_ms - finding.saves_ms, 0.0))
    told = f": the call takes {after} instead of {before}" if after != before else f" of the call's {before}"
    page.fact("what-if", ("good", bar(share, 20).rstrip()), f" {share:.2%}{told} ({finding.grade})")


def _evidence(page: Writing, finding: Finding, recording: Recording) -> None:
    rows = [recording.syncs[n] for n in finding.evidence.syncs if n < len(recording.syncs or ())]  # type: ignore[index]
    if not rows:
        return
    page.heading("Evidence")
    for row in rows[:_MOST_ROWS]:
        _sync(page, row)
    if len(rows) > _MOST_ROWS:
        page.flow(("muted", f"and {units.plural(len(rows) - _MOST_ROWS, 'more row')}"), indent=2)


def _sync(page: Writing, row: SyncRow) -> None:
    page.flow(("strong", row.op), f" {row.kind}, {row.count:,} per call", indent=2)
    page.flow(("muted", f"{row.reason}; decided in {row.source}"), indent=2)
    if any(row.by_step):
        page.kept(("muted", "by step "), words.spark(row.by_step), indent=2)
    if row.bytes:
        shape = "x".join(map(str, row.shape)) if row.shape else "scalar"
        page.flow(("muted", f"{units.size(row.bytes)}: {row.dtype or 'unknown type'}, {shape}"), indent=2)
    if row.assumed is not None:
        page.flow(("warn", f"The value is unknown; {row.assumed} stood in for it."), indent=2)
    if row.witnesses:
        page.flow(("muted", f"seen by {', '.join(row.witnesses)}"), indent=2)


def _rule(page: Writing, code: str) -> None:
    try:
        rule = find_rule(code)
    except UsageError:
        return
    page.heading(f"Rule {rule.code} {rule.name}")
    page.flow(rule.summary)
    for heading in HEADINGS:
        if text := rule.sections.get(heading):
            page.heading(heading)
            for paragraph in _paragraphs(text, prose=heading != "Example"):
                page.flow(paragraph, indent=2)


def _paragraphs(text: str, *, prose: bool) -> list[str]:
    """Lines of a rule's page; in prose, a line that goes on after one as long as source lines get is joined
    to it."""
    found: list[str] = []
    last = 0
    for line in text.splitlines():
        if prose and last > _FULL_LINE:
            found[-1] += f" {line}"
        else:
            found.append(line)
        last = len(line)
    return found
