"""ALW: an allowance that allows nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diffprof.judge.allowing import covers, names
from diffprof.judge.rules import all_rules, rule
from diffprof.model.finding import Finding, Severity, Unchecked
from diffprof.model.recording import Allowance, Recording


@rule("ALW001", "unused-allowance", needs=("allowances",), of_findings=True)
def unused_allowance(
    recording: Recording, findings: Sequence[Finding], unchecked: Sequence[Unchecked]
) -> Iterator[Finding]:
    """Something is allowed that is not there any more.

    What it does:
    Reports a comment `# diffprof: allow SYN001 ...`, a `with diffprof.allowed(...)` or an entry of `allow` in
    the configuration that allowed no finding of this call. Not reported: an allowance of rules that were not
    checked.

    Why it is slow:
    It is not slow yet. But the next wait at that place would be allowed too, and nobody would hear of it.

    Example:
    height, width = image.shape  # diffprof: allow SYN001 the decoder needs the length

    Use instead:
    Take the allowance out. Where another call than the scanned one needs it, scan that one as well:
    `diffprof check` reports only what none of its targets needs.

    Fix safety:
    Exact: nothing that runs is changed.
    """
    open_rules = {each.rule for each in unchecked}
    for allowance in recording.allowances or ():
        if any(covers(allowance, finding) for finding in findings):
            continue
        meant = [r for r in all_rules() if any(names(word, r.code, r.name) for word in allowance.rules)]
        if meant and allowance.reason and all(each.code in open_rules for each in meant):
            continue
        yield Finding(
            rule="ALW001",
            name="unused-allowance",
            kind=kind_of(allowance),
            message=_message(allowance, known=bool(meant)),
            grade=recording.device.grade,
            severity=Severity.INFO,
            site=allowance.site,
            standing=True,
            advice=_advice(allowance, known=bool(meant)),
        )


def kind_of(allowance: Allowance) -> str:
    """What tells the findings of two allowances apart that are written at one place."""
    where = _where(allowance) if allowance.by == "configuration" else ""
    return f"allowance: {', '.join(allowance.rules)}{where}"


def _message(allowance: Allowance, *, known: bool) -> str:
    what = ", ".join(allowance.rules)
    if not allowance.rules or not known:
        return f"What is allowed here, {what or 'no rule'}, is the code or name of no rule."
    if not allowance.reason:
        return f"{what} is not allowed here: the reason is missing."
    where = "" if allowance.site and allowance.by != "configuration" else _where(allowance)
    return f"{what} is allowed{where or ' here'}, and was not found in this call."


def _where(allowance: Allowance) -> str:
    parts = [part for part in (allowance.file, allowance.function) if part]
    return f" in {', '.join(parts)}" if parts else ""


def _advice(allowance: Allowance, *, known: bool) -> str:
    if not known:
        return "Name a rule of `diffprof rules`."
    if not allowance.reason:
        return f"Write why: # diffprof: allow {', '.join(allowance.rules)} the reason"
    return "Take it out."
