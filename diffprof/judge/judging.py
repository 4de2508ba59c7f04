"""From a recording to a report: what the rules find in it, priced and sorted."""

from __future__ import annotations

from pathlib import Path

import msgspec

from diffprof.judge.pricing import price
from diffprof.judge.rules import judge
from diffprof.model.finding import sort_key
from diffprof.model.recording import Recording
from diffprof.model.report import Report, Unjudged, decode, read_file

_OF_THE_FILE = ("schema", "recording")


def make_report(recording: Recording) -> Report:
    """Judge a recording, and price what was found."""
    findings, unchecked = judge(recording)
    priced = tuple(sorted(price(findings, recording), key=sort_key))
    return Report(recording=recording, findings=priced, unchecked=unchecked)


def judge_again(report: Report) -> Report:
    """The same report with the judgement of this version's rules."""
    fresh = make_report(report.recording)
    return msgspec.structs.replace(report, findings=fresh.findings, unchecked=fresh.unchecked)


def load_judged(path: str | Path) -> Report:
    """As `load_report`, with the judgement of this version's rules in place of the stored one."""
    file, data = read_file(path)
    stored = decode(data, Unjudged, str(file))
    kept = {name: getattr(stored, name) for name in stored.__struct_fields__ if name not in _OF_THE_FILE}
    return msgspec.structs.replace(make_report(stored.recording), path=str(file.parent), **kept)
