"""All targets of the configuration, each on each of its devices, held against what may be there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from diffprof.guard.assertions import over_memory
from diffprof.guard.baseline import Baseline, baseline_of, target_name
from diffprof.guard.configuration import (
    DEFAULT_GATE,
    Configuration,
    TargetSettings,
    analyzers_of,
    named_options,
)
from diffprof.judge.allowing import covers
from diffprof.judge.checked import CheckStatus, TargetCheck
from diffprof.judge.comparing import compare
from diffprof.judge.gate import IN_LOOP, parse_gate
from diffprof.model.errors import DiffprofError, UsageError
from diffprof.model.finding import Finding
from diffprof.model.recording import Allowance
from diffprof.model.report import Report, load_report, save_report, slug

UNUSED = "ALW001"
"""Rule of an allowance that allows nothing."""


class CheckJob(msgspec.Struct, frozen=True, kw_only=True):
    """One target on one device, to be scanned."""

    name: str
    target: TargetSettings
    device: str | None

    @property
    def folder(self) -> str:
        """Name of the folder of its report."""
        return slug(f"{self.name}-{self.device or 'default'}")


def jobs_of(configuration: Configuration, names: Sequence[str] = ()) -> Iterator[CheckJob]:
    """In the order of the configuration. names: of targets; empty: all.

    Raises UsageError without targets and for a name that none has.
    """
    known = configuration.targets
    if not known:
        raise UsageError("The configuration names no targets.", "`diffprof init` writes one.")
    for name in names:
        if name not in known:
            raise UsageError(f"There is no target {name!r}.", f"The configuration has {', '.join(known)}.")
    for name, target in known.items():
        if not names or name in names:
            for device in configuration.devices_of(target):
                yield CheckJob(name=name, target=target, device=device)


def scan_job(configuration: Configuration, job: CheckJob, **more: Any) -> Report:
    """Scan a target as the configuration says. more: for `diffprof.scan`."""
    from diffprof.scanning.scan import scan

    own = {name: configuration.of(job.target, name) for name in ("host", "compile_scope", "vary")}
    given = {name: value for name, value in own.items() if value is not None}
    return scan(
        job.target.target or job.name,
        device=job.device,
        args=job.target.args,
        analyzers=analyzers_of(configuration.of(job.target, "analyzers")),
        allow=configuration.allowances(job.target),
        **given,
        **named_options(job.target),
        **more,
    )


def check(
    configuration: Configuration,
    jobs: Sequence[CheckJob],
    baseline: Baseline,
    reports: Path,
    *,
    scanned: Callable[[CheckJob], Report] | None = None,
    against: Path | None = None,
) -> tuple[TargetCheck, ...]:
    """Scan every job and hold it against its gate, its limit of memory and the baseline.

    reports: folder for the reports, one of each job, written anew. scanned: makes a job's report. against:
    such a folder of another revision or environment: only what is new against it fails, and the difference is
    told.
    """
    make = scanned or (lambda job: scan_job(configuration, job))
    found = []
    for job in jobs:
        try:
            report = save_report(make(job), reports / job.folder)
        except DiffprofError as error:
            partial: Report | None = getattr(error, "report", None)
            found.append(_failed(job, str(error), partial))
            continue
        found.append(_judged(configuration, job, report, baseline, _other(against, job)))
    return _with_unused(found)


def updated(baseline: Baseline, found: Sequence[TargetCheck]) -> Baseline:
    """The baseline with what the gates name now; targets that did not run keep what they had."""
    for each in found:
        if each.report is not None and each.status is not CheckStatus.FAILED:
            now = [each.report.findings[n] for n in each.named]
            baseline = baseline.with_target(target_name(each.report, each.name), now)
    return baseline


def accepted(each: TargetCheck) -> TargetCheck:
    """What it found counts as known, but for what no baseline holds."""
    unused = tuple(finding for finding in each.new if finding.rule == UNUSED)
    left = each.status is not CheckStatus.FOUND or unused or each.said
    return msgspec.structs.replace(
        each,
        new=unused,
        known=len(each.named),
        gone=(),
        status=each.status if left else CheckStatus.CLEAN,
    )


def _failed(job: CheckJob, why: str, report: Report | None) -> TargetCheck:
    return TargetCheck(
        name=job.name, device=job.device or "", status=CheckStatus.FAILED, said=(why,), report=report
    )


def _other(folder: Path | None, job: CheckJob) -> Report | None:
    """The report of the same job elsewhere; None where it was not there."""
    if folder is None or not (folder / job.folder).is_dir():
        return None
    return load_report(folder / job.folder)


def _judged(
    configuration: Configuration, job: CheckJob, report: Report, baseline: Baseline, other: Report | None
) -> TargetCheck:
    words = configuration.of(job.target, "fail_on")
    gate = parse_gate(DEFAULT_GATE if words is None else words, option="fail-on")
    name = target_name(report, job.name)
    hits = gate.hits(report)
    found = {id(finding) for finding in hits}
    new = baseline.new(name, hits)
    if other is not None:
        new = baseline_of({job.name: other}).new(name, new)
    said = [f"{each.rule} {each.name} was not checked: {each.why}." for each in gate.unjudged(report)]
    said += [f"{each.what} was not scanned: {each.why}." for each in gate.not_reached(report)]
    if gate.in_loop and not report.recording.target.steps:
        said.append(f"{IN_LOOP} was not judged: no denoising loop was seen.")
    unjudged = bool(said)
    over = _over(report, configuration.of(job.target, "max_memory"))
    status = CheckStatus.FOUND if new or over else CheckStatus.UNJUDGED if unjudged else CheckStatus.CLEAN
    return TargetCheck(
        name=job.name,
        device=report.recording.device.spec,
        status=status,
        report=report,
        named=tuple(n for n, finding in enumerate(report.findings) if id(finding) in found),
        new=new,
        known=len(hits) - len(new),
        gone=baseline.gone(name, report.findings),
        said=(*over, *said),
        against=compare(other, report) if other is not None else None,
    )


def _over(report: Report, most: str | int | None) -> tuple[str, ...]:
    """How far each pipeline is over the memory that it may take."""
    if most is None:
        return ()
    return tuple(over for _, over in over_memory(report, most))


# --- allowances over all targets ---------------------------------------------------------------------------


def _with_unused(found: Sequence[TargetCheck]) -> tuple[TargetCheck, ...]:
    """An allowance that no target needs fails the first target that it was found with."""
    needed = {_key(each) for checked in found if checked.report for each in _needed(checked.report)}
    told: set[tuple[str, str]] = set()
    result = []
    for checked in found:
        unused = []
        for finding in checked.report.findings if checked.report else ():
            key = (finding.kind, finding.where)
            if finding.rule == UNUSED and key not in needed and key not in told:
                told.add(key)
                unused.append(finding)
        result.append(_failing(checked, unused) if unused else checked)
    return tuple(result)


def _failing(checked: TargetCheck, unused: Sequence[Finding]) -> TargetCheck:
    status = (
        CheckStatus.FOUND if checked.status in (CheckStatus.CLEAN, CheckStatus.UNJUDGED) else checked.status
    )
    return msgspec.structs.replace(checked, new=(*checked.new, *unused), status=status)


def _needed(report: Report) -> Iterator[Allowance]:
    for allowance in report.recording.allowances or ():
        if any(covers(allowance, finding) for finding in report.allowed):
            yield allowance


def _key(allowance: Allowance) -> tuple[str, str]:
    """As (kind, where) of the finding that it is unused."""
    from diffprof.analyzers.allowances.rules import kind_of

    site = allowance.site
    where = "the whole call" if site is None else f"{site.file}:{site.line}" if site.line else site.file
    return kind_of(allowance), where
