"""What was there before: a file of known findings, so that only new ones fail.

A finding is known by its rule, file, function and the text of its line, whether it is in the loop, and how
many there are of it; the number of the line may move.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from diffprof.judge.checked import Known
from diffprof.judge.comparing import place_key
from diffprof.model.errors import UNREADABLE, DiffprofError, UsageError
from diffprof.model.finding import Finding
from diffprof.model.recording.whole_file import write_whole
from diffprof.model.report import Report, as_json

SCHEMA = 1
DEFAULT_FILE = "diffprof-baseline.json"


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """targets: `name on device` -> what is known there."""

    schema: int = SCHEMA
    targets: dict[str, tuple[Known, ...]] = {}

    def new(self, target: str, findings: Sequence[Finding]) -> tuple[Finding, ...]:
        """Those that are not known: of a target that is not in the file, those known of no target."""
        left = Counter(self._known(target))
        found = []
        for finding in findings:
            key = place_key(finding)
            if left[key] > 0:
                left[key] -= 1
            else:
                found.append(finding)
        return tuple(found)

    def gone(self, target: str, findings: Sequence[Finding]) -> tuple[Known, ...]:
        """What is known of a target and not there any more."""
        there = {place_key(finding) for finding in findings}
        return tuple(each for each in self.targets.get(target, ()) if each.key not in there)

    def with_target(self, target: str, findings: Iterable[Finding]) -> Baseline:
        """With what is found now in place of what was known of a target."""
        return msgspec.structs.replace(self, targets={**self.targets, target: known(findings)})

    def _known(self, target: str) -> Mapping[tuple[str, ...], int]:
        if target in self.targets:
            return {each.key: each.count for each in self.targets[target]}
        most: dict[tuple[str, ...], int] = {}
        for each in (known for entries in self.targets.values() for known in entries):
            most[each.key] = max(most.get(each.key, 0), each.count)
        return most


def known(findings: Iterable[Finding]) -> tuple[Known, ...]:
    """Findings as entries, in a fixed order."""
    counts = Counter(place_key(finding) for finding in findings)
    return tuple(
        sorted(
            Known(
                rule=rule, kind=kind, in_loop=loop == "True", file=file, function=name, source=code, count=n
            )
            for (rule, kind, loop, file, name, code), n in counts.items()
        )
    )


def target_name(report: Report, name: str = "") -> str:
    """The key of a report's target: its name, or what was scanned, and where."""
    return f"{name or report.recording.target.spec} on {report.recording.device.spec}"


def baseline_of(reports: Mapping[str, Report]) -> Baseline:
    """Of reports by the names of their targets; "" stands for what was scanned."""
    return Baseline(
        targets={target_name(report, name): known(report.findings) for name, report in reports.items()}
    )


def as_text(baseline: Baseline) -> str:
    return as_json(msgspec.structs.replace(baseline, targets=dict(sorted(baseline.targets.items())))).decode()


def load_baseline(file: str | Path, *, missing_is_empty: bool = False) -> Baseline:
    """Raises UsageError for a file that is not there, is no baseline, or is of a newer schema."""
    try:
        found = msgspec.json.decode(Path(file).read_bytes(), type=Baseline)
    except FileNotFoundError as error:
        if missing_is_empty:
            return Baseline()
        raise UsageError(f"There is no baseline {file}.", "Write it: add --update.") from error
    except (OSError, *UNREADABLE) as error:
        raise UsageError(f"{file} is no baseline: {error}.", "Write it anew: add --update.") from error
    if found.schema > SCHEMA:
        raise UsageError(
            f"{file} has schema {found.schema}; this diffprof reads up to {SCHEMA}.",
            "It was written by a newer diffprof: `pip install --upgrade diffprof`.",
        )
    return found


def save_baseline(baseline: Baseline, file: str | Path) -> None:
    """Raises DiffprofError when the disk does not take it."""
    try:
        write_whole(Path(file), as_text(baseline).encode())
    except OSError as error:
        raise DiffprofError(f"{file} could not be written: {error.strerror or error}.") from error
