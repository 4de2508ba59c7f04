"""Whether a run's target may be built without asking: building it runs the code that the report names, and a
report may be somebody else's. Needs no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from diffprof.model.errors import UsageError
from diffprof.model.plain import clean
from diffprof.model.report import Report


def doubts(report: Report, own_traces: Path) -> tuple[str, ...]:
    """Why the user is asked before the target is built, a sentence each; empty for a run of their own whose
    file is still the one that was scanned."""
    elsewhere = () if report.path is None else from_elsewhere(Path(report.path), own_traces)
    return (*elsewhere, *_of_another_file(report))


def from_elsewhere(run: Path, own_traces: Path) -> tuple[str, ...]:
    """Why a stored run may be somebody else's; empty for one among the user's own."""
    try:
        if run.resolve().is_relative_to(own_traces.resolve()):
            return ()
    except OSError:
        pass  # what can't be looked at is not known to be the user's own
    return (f"The run {clean(run)} lies outside of {clean(own_traces)}: it may be somebody else's.",)


def _of_another_file(report: Report) -> tuple[str, ...]:
    target = report.recording.target
    if target.kind not in ("factory", "script"):
        return ()
    name = target.spec.rpartition(":")[0] if target.kind == "factory" else target.spec
    recorded = report.recording.sources.get(name)
    if recorded is None:
        return (f"The run does not say what was in {clean(name)} when it was scanned.",)
    try:
        now = hashlib.sha256(Path(name).expanduser().read_bytes()).hexdigest()
    except (OSError, ValueError):
        return ()  # it is not there, and is not run
    return () if now == recorded else (f"{clean(name)} is not the file that was scanned: it has changed.",)


def what_is_run(report: Report) -> str:
    """What building the target means, for the question."""
    target = report.recording.target
    arguments = " ".join(["", "--", *target.args]) if target.args else ""
    code = {
        "factory": ", which runs the code of that file",
        "script": ", which runs that script",
        "checkpoint": ", which loads its models and what code comes with them",
    }.get(target.kind, " by the options of the report")
    return f"Applying fixes builds {clean(target.spec)}{clean(arguments)} on this machine{code}."


def refusal(report: Report, why: tuple[str, ...]) -> UsageError:
    """Where nobody can be asked."""
    return UsageError(
        "\n".join([*why, what_is_run(report)]),
        "Look at what the report names first. --yes says that it may be run; "
        "`diffprof scan` makes a run of your own.",
    )
