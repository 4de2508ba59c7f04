"""From a recording to a report: what the rules find in it, priced and sorted."""

from __future__ import annotations

from pathlib import Path

import msgspec

from diffprof.judge.allowing import allowance_of
from diffprof.judge.planned_edits import with_editable_actions
from diffprof.judge.pricing import price
from diffprof.judge.rules import judge
from diffprof.judge.summary import summarized
from diffprof.model.finding import Finding, sort_key
from diffprof.model.recording import Recording
from diffprof.model.report import Report, Unjudged, decode, read_file

_OF_THE_FILE = ("schema", "recording")
_JUDGEMENT = ("findings", "facts", "allowed", "unchecked", "verdict", "actions", "rest")


def make_report(recording: Recording) -> Report:
    """Judge a recording, and price what was found."""
    found, unchecked = judge(recording)
    priced = [_allowed(each, recording) for each in sorted(price(found, recording), key=sort_key)]
    return summarized(
        Report(
            recording=recording,
            findings=tuple(each for each in priced if not each.fact and not each.allowed),
            facts=tuple(each for each in priced if each.fact),
            allowed=tuple(each for each in priced if each.allowed and not each.fact),
            unchecked=unchecked,
        )
    )


def _allowed(finding: Finding, recording: Recording) -> Finding:
    """The finding with the reason for which it is allowed, where it is."""
    found = allowance_of(finding, recording.allowances or ())
    if found is None:
        return finding
    where = f" ({found.site.file}:{found.site.line})" if found.site else ""
    return msgspec.structs.replace(finding, allowed=f"{found.reason}{where}")


def judge_again(report: Report) -> Report:
    """The same report with the judgement of this version's rules."""
    fresh = make_report(report.recording)
    judgement = {name: getattr(fresh, name) for name in _JUDGEMENT}
    others = tuple(map(judge_again, report.pipelines))
    return with_editable_actions(msgspec.structs.replace(report, **judgement, pipelines=others))


def load_judged(path: str | Path) -> Report:
    """As `load_report`, with the judgement of this version's rules in place of the stored one."""
    file, data = read_file(path)
    return msgspec.structs.replace(_judged(decode(data, Unjudged, str(file))), path=str(file.parent))


def _judged(stored: Unjudged) -> Report:
    kept = {name: getattr(stored, name) for name in stored.__struct_fields__ if name not in _OF_THE_FILE}
    kept["pipelines"] = tuple(map(_judged, stored.pipelines))
    return with_editable_actions(msgspec.structs.replace(make_report(stored.recording), **kept))
