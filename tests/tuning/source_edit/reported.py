"""Reports with findings at the lines of a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from diffprof.judge.rules import find_rule
from diffprof.model.finding import Evidence, Finding
from diffprof.model.recording import SyncRow, TargetInfo
from diffprof.model.report import Report
from tests.builders import make_finding, make_recording, make_report, make_site, make_sync

Mark = tuple[str, str, dict[str, Any]]
"""(rule, text that its line has, facts of the wait and of the finding)."""
_OF_FINDINGS = ("in_loop", "fixes")


def reported(file: Path, marks: Sequence[Mark], *, target: bool = False) -> Report:
    """A report with these findings in the file. target: the file is the script that was scanned."""
    lines = file.read_bytes().decode("utf-8", "replace").splitlines()
    rows: list[SyncRow] = []
    findings: list[Finding] = []
    for rule, text, facts in marks:
        line = next(n for n, each in enumerate(lines, 1) if text in each)
        site = make_site(file=str(file), line=line, user_code=True)
        own = {name: facts[name] for name in _OF_FINDINGS if name in facts}
        rows.append(make_sync(site=site, **{k: v for k, v in facts.items() if k not in _OF_FINDINGS}))
        evidence = Evidence(syncs=(len(rows) - 1,))
        name = find_rule(rule).name
        findings.append(make_finding(rule, name, site=site, advice="Mend it.", evidence=evidence, **own))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    recording = make_recording(*rows, sources={str(file): digest})
    if target:
        info = TargetInfo(spec=str(file), kind="script", pipeline="StableDiffusionXLPipeline")
        recording = replace(recording, target=info)
    return make_report(*findings, recording=recording)
