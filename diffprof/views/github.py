"""Workflow annotations for GitHub Actions.

Format: https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands
"""

from __future__ import annotations

from diffprof.model import units
from diffprof.model.finding import Finding
from diffprof.model.plain import clean
from diffprof.model.report import Report
from diffprof.views import words
from diffprof.views.verdict import verdict


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: object) -> str:
    return _data(clean(text)).replace(":", "%3A").replace(",", "%2C")


def render_github(report: Report) -> str:
    """The verdict as a notice, then a line for each finding: warnings in the loop, notices outside it.

    Only the user's own files can be annotated; a finding in a library names its place in the message.
    """
    top = verdict(report)
    lines = [annotation("notice", {"title": "diffprof"}, [top.headline, top.why, top.next])]
    lines += map(annotated, report.all_findings)
    return "".join(f"{line}\n" for line in lines)


def annotation(level: str, properties: dict[str, object], message: list[str]) -> str:
    """One workflow command. level: notice, warning or error."""
    named = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{level} {named}::" + "%0A".join(_data(clean(part)) for part in message if part)


def annotated(finding: Finding, level: str = "") -> str:
    """The annotation of one finding. level: notice, warning or error; empty: as it is in the loop or not."""
    level = level or ("warning" if finding.in_loop else "notice")
    title = f"{finding.rule} {finding.name}"
    site = finding.site
    where: dict[str, object] = {"file": site.file, "line": site.line} if site and site.user_code else {}
    message = [
        f"{units.place(site)}: {finding.message}" if site and not site.user_code else finding.message,
        f"{words.how_often(finding)}; {words.cost(finding)}",
        finding.advice,
    ]
    return annotation(level, {**where, "title": title}, message)
