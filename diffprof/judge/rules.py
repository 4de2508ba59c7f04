"""The rule registry. A rule is one generator function: it reads a recording and yields findings.

Its docstring is the rule's page, with fixed headings; the same text is what `diffprof explain`, the TUI
and the README's table show.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum

import msgspec

from diffprof.judge.registry import analyzers, find_analyzer, owner
from diffprof.model.analyzer import Analyzer
from diffprof.model.errors import UsageError
from diffprof.model.finding import Finding, Unchecked, sort_key
from diffprof.model.recording import Recording

HEADINGS = ("What it does", "Why it is slow", "Example", "Use instead", "Fix safety")

Check = Callable[..., Iterator[Finding]]
"""Takes the recording; with `of_findings`, what the other rules found and could not check as well."""


class EditKind(StrEnum):
    """What a rule's line of source is tried to be changed to (`judge/source_edit`)."""

    READ = "read"
    """The value comes from where the CPU has it, or is not printed."""
    SCALARS = "scalars"
    """As a read; scalars of the device are stacked there."""
    UPLOAD = "upload"
    """The tensor is made on the device, filled there, or sent before the loop."""
    WAIT = "wait"
    """The wait that is asked for in the loop goes."""
    SAID = "said"
    """What is printed or logged goes."""
    OUTPUT = "output"
    """A model gives a tuple, not its output class."""
    BRANCH = "branch"
    """None: what the line does with the value says why."""


class Rule(msgspec.Struct, frozen=True):
    """One registered rule. code: `SYN001`; name: the bad pattern in kebab case; analyzer: by name; needs: the
    sections of the recording it reads. edit: of the source; no_edit: why there is none, where none fits."""

    code: str
    name: str
    analyzer: str
    needs: tuple[str, ...]
    check: Check
    edit: EditKind | None = None
    no_edit: str = ""
    of_findings: bool = False
    """Whether it judges what the other rules found, after them."""

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.check) or ""

    @property
    def summary(self) -> str:
        """The first line of the rule's page."""
        return self.doc.split("\n", 1)[0]

    @property
    def sections(self) -> dict[str, str]:
        """Heading -> text, in the fixed order."""
        found: dict[str, str] = {}
        heading = None
        lines: list[str] = []
        for line in [*self.doc.splitlines(), "\0"]:
            title = line.strip().removesuffix(":")
            if line == "\0" or (title in HEADINGS and not line.startswith(" ")):
                if heading:
                    found[heading] = inspect.cleandoc("\n" + "\n".join(lines)).strip("\n")
                heading, lines = title, []
            else:
                lines.append(line)
        return found


class NoEvidence(Exception):
    """Raised by a rule whose sections hold too little to judge by; the message says what is missing."""


_REGISTRY: dict[str, Rule] = {}


def rule(
    code: str,
    name: str,
    *,
    needs: Iterable[str],
    edit: EditKind | None = None,
    no_edit: str = "",
    of_findings: bool = False,
) -> Callable[[Check], Check]:
    """Register a generator function as a rule.

    Raises ValueError for a code that is taken.
    """

    def register(check: Check) -> Check:
        if code in _REGISTRY:
            raise ValueError(f"rule code {code} is taken by {_REGISTRY[code].name}")
        analyzer = owner(check.__module__).name
        _REGISTRY[code] = Rule(code, name, analyzer, tuple(needs), check, edit, no_edit, of_findings)
        return check

    return register


def all_rules() -> tuple[Rule, ...]:
    """Every rule, by code."""
    for analyzer in analyzers():
        analyzer.part("rules")
    return tuple(_REGISTRY[code] for code in sorted(_REGISTRY))


def find_rule(key: str) -> Rule:
    """The rule with this code or name.

    Raises UsageError naming the nearest known ones.
    """
    wanted = key.strip().lower()
    rules = all_rules()
    for candidate in rules:
        if wanted in (candidate.code.lower(), candidate.name):
            return candidate
    from difflib import get_close_matches

    names = [r.code for r in rules] + [r.name for r in rules]
    near = get_close_matches(key, names, n=3, cutoff=0.4)
    hint = f"Did you mean {', '.join(near)}? " if near else ""
    raise UsageError(f"There is no rule {key!r}.", f"{hint}`diffprof rules` lists all of them.")


def judge(recording: Recording) -> tuple[tuple[Finding, ...], tuple[Unchecked, ...]]:
    """Run every rule over a recording; sorted findings, and the rules that had no evidence."""
    findings: list[Finding] = []
    unchecked: list[Unchecked] = []
    for each in sorted(all_rules(), key=lambda rule: rule.of_findings):
        missing = [section for section in each.needs if recording.section(section) is None]
        if missing:
            why = _why_missing(recording, missing, find_analyzer(each.analyzer))
            unchecked.append(Unchecked(rule=each.code, name=each.name, why=why))
            continue
        try:
            others = (tuple(findings), tuple(unchecked)) if each.of_findings else ()
            findings.extend(each.check(recording, *others))
        except NoEvidence as lack:
            unchecked.append(Unchecked(rule=each.code, name=each.name, why=str(lack)))
    return tuple(sorted(findings, key=sort_key)), tuple(unchecked)


def _why_missing(recording: Recording, missing: list[str], analyzer: Analyzer) -> str:
    """What a rule lacks, and what would bring it."""
    names = ", ".join(section.replace("_", " ") for section in missing)
    if recording.target.kind == "trace":
        if analyzer.in_traces:
            return f"{names} not in this trace"
        return "a trace does not tell: scan the pipeline itself"
    if recording.device.kind == "cpu" and "timeline" in missing:
        return f"a CPU has no device beside it ({names} not recorded): scan on cuda or sim:a100-80gb"
    if not (analyzer.default or analyzer.always):
        return f"{names} not recorded (add --analyzers {analyzer.name})"
    return f"{names} not recorded"
