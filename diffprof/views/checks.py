"""What became of all targets of a check: for a screen, for a pull request, for the tools of code hosts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

from diffprof.judge.checked import CheckStatus, TargetCheck, exit_code
from diffprof.judge.comparing import Direction, shown
from diffprof.judge.figures import call_ms
from diffprof.model import units
from diffprof.model.errors import ExitCode
from diffprof.model.finding import Finding, Severity
from diffprof.model.plain import clean
from diffprof.model.recording import steady_per_step
from diffprof.model.report import as_json
from diffprof.views import concise, words
from diffprof.views.github import annotated, annotation
from diffprof.views.markdown_text import LIMIT, code, prose, table
from diffprof.views.page import Page
from diffprof.views.sarif import document, fingerprint, run_of

MARK = "<!-- diffprof check -->"
"""First line of the comment on a pull request, by which it is found again."""
MOST_LISTED = 50
MOST_ANNOTATIONS = 10
"""A step's annotations of one level that GitHub shows."""

COLUMNS = ("target", "device", "waits a step", "new", "known", "allowed", "memory", "a call", "result")


def render_checks(
    found: Sequence[TargetCheck], form: str, *, columns: int | None = None, colour: bool = False
) -> str:
    """In one of FORMS, ending in a newline."""
    if form == "text":
        return _text(found, columns, colour)
    return _FORMS[form](found)


def outcome(found: Sequence[TargetCheck]) -> str:
    """All of it in a sentence."""
    bad = [each for each in found if each.status is not CheckStatus.CLEAN]
    if not bad:
        return f"{units.plural(len(found), 'scan')}: nothing new was found."
    counts = [(sum(each.status is status for each in bad), word) for status, word in _RESULTS.items()]
    parts = [f"{count} {word}" for count, word in counts if count]
    new = sum(len(each.new) for each in found)
    return f"{', '.join(parts)} of {units.plural(len(found), 'scan')}; {units.plural(new, 'new finding')}."


_RESULTS = {CheckStatus.FAILED: "did not run", CheckStatus.FOUND: "found", CheckStatus.UNJUDGED: "not judged"}


def _row(each: TargetCheck) -> tuple[str, ...]:
    report = each.report
    if report is None:
        return (each.name, each.device, "", "", "", "", "", "", _result(each))
    recording = report.recording
    waits = None if recording.syncs is None else steady_per_step(r for r in recording.syncs if r.in_loop)
    memory = recording.memory.peak_bytes if recording.memory else None
    return (
        each.name,
        each.device,
        "" if waits is None else units.number(waits),
        str(len(each.new)),
        str(each.known),
        str(len(report.allowed)),
        "" if memory is None else units.size(memory),
        "" if (time := call_ms(recording)) is None else units.duration(time),
        _result(each),
    )


def _result(each: TargetCheck) -> str:
    return "clean" if each.status is CheckStatus.CLEAN else _RESULTS[each.status]


# --- text --------------------------------------------------------------------------------------------------


def _text(found: Sequence[TargetCheck], columns: int | None, colour: bool) -> str:
    page = Page(columns, colour=colour)
    for each in found:
        for line in _told(each):
            page.raw(line)
    for each in found:
        for line in _changes(each):
            page.flow(line)
    page.blank()
    page.table(COLUMNS, [_row(each) for each in found])
    page.flow(("bold", outcome(found)))
    return page.text()


def _told(each: TargetCheck) -> Iterator[str]:
    for finding in each.new:
        yield from concise.with_source(finding).splitlines()
        yield ""
    for said in each.said:
        first, *rest = said.splitlines() or [""]
        yield f"{each.name}: {first}"
        yield from (f"  {line}" for line in rest)
    for known in each.gone:
        yield (
            f"{each.name}: gone: {known.rule} in {known.file} {known.function} ({known.source}); "
            "--update takes it out of the baseline"
        )


def _changes(each: TargetCheck) -> Iterator[str]:
    """What is other than elsewhere, where it was held against another revision or environment."""
    if each.against is not None:
        yield f"{each.name} on {each.device}: {each.against.headline}"
        for figure in each.against.figures:
            if figure.direction in _ARROWS:
                one, other = shown(figure.before, figure.unit), shown(figure.after, figure.unit)
                yield f"  {figure.name}: {one} -> {other}"
        yield from (f"  gone: {concise.line(finding)}" for finding in each.against.went)
        yield from (f"  appeared: {concise.line(finding)}" for finding in each.against.appeared)
        yield from (f"  {note}" for note in each.against.not_comparable)


# --- for pull requests -------------------------------------------------------------------------------------


def _markdown(found: Sequence[TargetCheck]) -> str:
    """A comment: the outcome, what changed by target, and what is new and gone."""
    good = exit_code(found) is ExitCode.CLEAN
    parts = [f"{MARK}\n### diffprof: {'' if good else ':warning: '}{prose(outcome(found))}\n\n"]
    compared = [each for each in found if each.against is not None]
    parts.append(_difference(compared) if compared else table(COLUMNS, map(_row, found)))
    fresh = [(each, finding) for each in found for finding in each.new]
    gone = [(each, finding) for each in compared if each.against for finding in each.against.went]
    parts += _group("New", fresh)
    parts += _group("Gone", gone)
    told = [f"- {prose(each.name)}: {prose(said.splitlines()[0])}\n" for each in found for said in each.said]
    if told:
        parts.append(f"\n**Also**\n\n{''.join(told[:MOST_LISTED])}")
    text = "".join(parts)
    return text if len(text) <= LIMIT else f"{text[: LIMIT - 40].rpartition(chr(10))[0]}\n\n_Cut to fit._\n"


def _group(title: str, findings: Sequence[tuple[TargetCheck, Finding]]) -> list[str]:
    if not findings:
        return []
    lines = [f"\n**{title}** ({len(findings)})\n\n"]
    for each, finding in findings[:MOST_LISTED]:
        lines.append(
            f"- {code(units.place(finding.site))} **{prose(finding.rule)} {prose(finding.name)}** "
            f"({prose(each.name)}, {prose(words.how_often(finding))}): {prose(clean(finding.message))}"
            + (f" _Instead: {prose(clean(finding.advice))}_" if title == "New" and finding.advice else "")
            + "\n"
        )
    left = len(findings) - MOST_LISTED
    return [*lines, f"- and {left} more\n"] if left > 0 else lines


_ARROWS = {Direction.WORSE: " :red_circle:", Direction.BETTER: " :green_circle:"}


def _difference(found: Sequence[TargetCheck]) -> str:
    """A row a target, a column a figure, before -> after."""
    names = list(dict.fromkeys(f.name for each in found if each.against for f in each.against.figures))
    rows = []
    for each in found:
        figures = {f.name: f for f in each.against.figures} if each.against else {}
        cells = []
        for name in names:
            figure = figures.get(name)
            if figure is None:
                cells.append("")
                continue
            one, other = shown(figure.before, figure.unit), shown(figure.after, figure.unit)
            grade = f" ({figure.grade})" if figure.grade else ""
            same = one if one == other else f"{one} → {other}"
            cells.append(f"{same}{grade}{_ARROWS.get(figure.direction, '')}")
        rows.append((each.name, each.device, *cells, str(len(each.new)), _result(each)))
    return table(("target", "device", *names, "new", "result"), rows)


def _github(found: Sequence[TargetCheck]) -> str:
    """Annotations of what is new alone, errors; the rest is a notice. GitHub shows ten of a level."""
    fresh = _distinct(found)
    lines = [annotated(finding, "error") for finding in fresh[:MOST_ANNOTATIONS]]
    if len(fresh) > MOST_ANNOTATIONS:
        rest = f"{len(fresh) - MOST_ANNOTATIONS} more new findings are in the log and in the comment."
        lines.append(annotation("notice", {"title": "diffprof"}, [rest]))
    for each in found:
        lines += [annotation("error", {"title": f"diffprof: {each.name}"}, [said]) for said in each.said]
    lines.append(annotation("notice", {"title": "diffprof"}, [outcome(found)]))
    return "".join(f"{line}\n" for line in lines)


def _distinct(found: Sequence[TargetCheck]) -> list[Finding]:
    """What is new, once a place: several targets may run through one line. In the loop first."""
    seen: dict[tuple[str, ...], Finding] = {}
    for each in found:
        for finding in each.new:
            seen.setdefault((finding.rule, finding.kind, units.place(finding.site)), finding)
    return sorted(seen.values(), key=lambda finding: not finding.in_loop)


def _sarif(found: Sequence[TargetCheck]) -> str:
    runs = [run_of(each.report, each.new, f"{each.name}-{each.device}") for each in found if each.report]
    return document(runs)


def _concise(found: Sequence[TargetCheck]) -> str:
    lines = [concise.line(finding) for finding in _distinct(found)]
    lines += [f"{clean(each.name)}: {clean(said)}" for each in found for said in each.said]
    return "".join(f"{line}\n" for line in [*lines, outcome(found)])


# --- for other tools ---------------------------------------------------------------------------------------

_LEVELS = {
    Severity.HIGH: "critical",
    Severity.MEDIUM: "major",
    Severity.LOW: "minor",
    Severity.INFO: "info",
}


def _codequality(found: Sequence[TargetCheck]) -> str:
    """GitLab's report: https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format"""
    rows = [
        {
            "description": clean(f"{finding.rule} {finding.name}: {finding.message}"),
            "check_name": finding.rule,
            "fingerprint": fingerprint(finding),
            "severity": _LEVELS[finding.severity],
            "location": {
                "path": clean(finding.site.file) if finding.site else "pyproject.toml",
                "lines": {"begin": max(finding.site.line, 1) if finding.site else 1},
            },
        }
        for finding in _distinct(found)
    ]
    return as_json(rows).decode()


def _junit(found: Sequence[TargetCheck]) -> str:
    """A test case a target and device."""
    suite = ElementTree.Element("testsuite", name="diffprof check", tests=str(len(found)))
    for each in found:
        case = ElementTree.SubElement(suite, "testcase", classname="diffprof", name=_case(each))
        recording = each.report.recording if each.report else None
        case.set("time", f"{sum(recording.seconds.values()):.3f}" if recording else "0")
        if each.status is not CheckStatus.CLEAN:
            tag = "error" if each.status is CheckStatus.FAILED else "failure"
            told = "\n".join(clean(line) for line in _told(each))
            ElementTree.SubElement(case, tag, message=_result(each)).text = told
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    ElementTree.indent(suite)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(suite, encoding="unicode")}\n'


def _case(each: TargetCheck) -> str:
    return clean(f"{each.name} on {each.device}" if each.device else each.name)


def _badge(found: Sequence[TargetCheck]) -> str:
    """An endpoint badge: https://shields.io/badges/endpoint-badge"""
    good = exit_code(found) is ExitCode.CLEAN
    new = sum(len(each.new) for each in found)
    failed = any(each.status in (CheckStatus.FAILED, CheckStatus.UNJUDGED) for each in found)
    message = "no new waits" if good else "not checked" if failed else units.plural(new, "new finding")
    return as_json(
        {
            "schemaVersion": 1,
            "label": "diffprof",
            "message": message,
            "color": "brightgreen" if good else "lightgrey" if failed else "red",
        }
    ).decode()


def _json(found: Sequence[TargetCheck]) -> str:
    return as_json({"status": int(exit_code(found)), "outcome": outcome(found), "checks": found}).decode()


_FORMS: dict[str, Callable[[Sequence[TargetCheck]], Any]] = {
    "json": _json,
    "markdown": _markdown,
    "github": _github,
    "concise": _concise,
    "sarif": _sarif,
    "junit": _junit,
    "codequality": _codequality,
    "badge": _badge,
}
FORMS = ("text", *_FORMS)
OWN = frozenset({"text", "json", "concise"})
"""Forms for whoever ran the check; the others are made to be sent."""
