"""SARIF 2.1.0, which code hosts take as alerts.

Format: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

import msgspec

from diffprof.judge.rules import HEADINGS, Rule, all_rules
from diffprof.model.finding import Finding, Severity
from diffprof.model.plain import clean, clean_lines
from diffprof.model.recording import Frame, Site
from diffprof.model.report import Report, slug
from diffprof.views import words
from diffprof.views.verdict import named

SCHEMA_URI = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {Severity.HIGH: "warning", Severity.MEDIUM: "warning", Severity.LOW: "note", Severity.INFO: "note"}


def render_sarif(report: Report) -> str:
    """One run, or one for each pipeline: the rules that found something, a result for each finding, a
    notification for each rule that could not judge."""
    if not report.pipelines:
        return document([_run(report, report.findings)])
    return document([run_of(each, each.findings, named(report, each)) for each in report.each])


def document(runs: list[dict[str, object]]) -> str:
    """A SARIF file of these runs."""
    made = {"$schema": SCHEMA_URI, "version": "2.1.0", "runs": runs}
    return msgspec.json.format(msgspec.json.encode(made), indent=1).decode() + "\n"


def run_of(report: Report, findings: Sequence[Finding], category: str) -> dict[str, object]:
    """The run of one report out of several, with some of its findings. category: tells it from the others."""
    return {**_run(report, findings), "automationDetails": {"id": f"diffprof/{clean(category)}/"}}


def _run(report: Report, findings: Sequence[Finding]) -> dict[str, object]:
    known = {rule.code: rule for rule in all_rules()}
    codes = sorted({finding.rule for finding in findings})
    names = {finding.rule: finding.name for finding in findings}
    recording = report.recording
    return {
        "tool": {
            "driver": {
                "name": "diffprof",
                "version": clean(recording.environment.diffprof),
                "rules": [
                    _rule(known[code]) if code in known else {"id": clean(code), "name": clean(names[code])}
                    for code in codes
                ],
            }
        },
        "invocations": [
            {
                "executionSuccessful": not recording.partial,
                "toolExecutionNotifications": [
                    {
                        "level": "note",
                        "message": {"text": clean(f"{each.rule} {each.name} not checked: {each.why}")},
                    }
                    for each in report.unchecked
                ],
            }
        ],
        "columnKind": "unicodeCodePoints",
        "properties": {"subject": clean(words.subject(recording))},
        "results": [_result(report, finding, codes.index(finding.rule)) for finding in findings],
    }


def _rule(rule: Rule) -> dict[str, object]:
    sections = rule.sections
    text = "\n\n".join(f"{heading}:\n{sections[heading]}" for heading in HEADINGS if heading in sections)
    markdown = "\n\n".join(
        f"**{heading}**\n\n"
        + (f"```python\n{sections[heading]}\n```" if heading == "Example" else sections[heading])
        for heading in HEADINGS
        if heading in sections
    )
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": sections.get("Why it is slow", rule.summary)},
        "help": {"text": text or rule.summary, "markdown": markdown or rule.summary},
        "defaultConfiguration": {"level": "warning"},
        "properties": {"tags": ["performance", rule.analyzer]},
    }


def _result(report: Report, finding: Finding, index: int) -> dict[str, object]:
    message = [
        finding.message,
        f"{words.how_often(finding)}; {words.cost(finding).removesuffix('.')}.",
        finding.advice,
    ]
    result: dict[str, Any] = {
        "ruleId": clean(finding.rule),
        "ruleIndex": index,
        "level": _LEVELS[finding.severity],
        "message": {"text": "\n".join(line for part in message if part for line in clean_lines(part))},
        # Code hosts refuse results without a place; one without a line stands for the whole target.
        "locations": [_location(finding.site) if finding.site else _target_location(report)],
        "partialFingerprints": {"diffprofSite/v1": fingerprint(finding)},
        "properties": {
            "phase": finding.phase,
            "in_loop": finding.in_loop,
            "count": finding.count,
            "per_step": finding.per_step,
            "first_step_only": finding.first_step_only,
            "grade": finding.grade,
            "blocked_ms": finding.blocked_ms,
            "saves_ms": finding.saves_ms,
            "fixes": [clean(fix) for fix in finding.fixes],
        },
    }
    if finding.phase is not None:
        result["properties"]["phase"] = clean(finding.phase)
    if finding.site and finding.site.chain:
        result["relatedLocations"] = [_frame(frame) for frame in finding.site.chain]
    return result


def _uri(file: str) -> str:
    path = PurePath(file)
    return path.as_uri() if path.is_absolute() and file.isprintable() else quote(clean(path.as_posix()))


def _location(site: Site) -> dict[str, object]:
    region: dict[str, object] = {"startLine": max(site.line, 1)}
    code = _marked(site)
    if code:
        region["snippet"] = {"text": code}
    logical = [{"fullyQualifiedName": clean(site.function), "kind": "function"}]
    if site.module:
        logical.append({"fullyQualifiedName": clean(site.module), "kind": "module"})
    return {
        "physicalLocation": {"artifactLocation": {"uri": _uri(site.file)}, "region": region},
        "logicalLocations": logical,
    }


def _frame(frame: Frame) -> dict[str, object]:
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": _uri(frame.file)},
            "region": {"startLine": max(frame.line, 1)},
        },
        "message": {"text": clean(f"called from {frame.function}")},
    }


def _target_location(report: Report) -> dict[str, object]:
    target = report.recording.target
    file = target.spec.rpartition(":")[0] if target.kind == "factory" else target.spec
    uri = _uri(file) if target.kind in ("script", "factory") else slug(target.spec)
    return {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}}


def _marked(site: Site) -> str:
    return next((clean(text.strip()) for number, text in site.excerpt if number == site.line), "")


def fingerprint(finding: Finding) -> str:
    """The same while the code at the site is the same, wherever the line moves."""
    site = finding.site
    place = (site.file, site.function, _marked(site) or str(site.line)) if site else ()
    parts = "\0".join([finding.rule, finding.kind, *place])
    return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()[:32]
