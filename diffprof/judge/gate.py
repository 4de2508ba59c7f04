"""`--fail-on`: which findings make a command exit with 1."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches

from diffprof.judge.rules import all_rules
from diffprof.model.errors import UsageError
from diffprof.model.finding import Finding, Unchecked
from diffprof.model.recording import NOT_REACHED, Unseen
from diffprof.model.report import Report

IN_LOOP = "in-loop"


@dataclass(frozen=True)
class Gate:
    """codes: rules whose findings fail; in_loop: everything that makes the CPU wait in the denoising loop
    fails."""

    codes: frozenset[str] = frozenset()
    in_loop: bool = False
    words: tuple[tuple[str, frozenset[str]], ...] = field(default=(), compare=False)
    """Each as it was typed, with the rules that it stands for."""

    def __bool__(self) -> bool:
        return bool(self.codes) or self.in_loop

    def hits(self, report: Report) -> tuple[Finding, ...]:
        """The findings that fail. Where it can't be told what is in the loop, as in a trace without steps,
        all waits count as in it."""
        waits = _wait_rules() if self.in_loop else frozenset()
        target = report.recording.target
        anywhere = target.kind == "trace" and target.steps is None
        return tuple(
            f
            for f in report.all_findings
            if f.rule in self.codes or (f.rule in waits and (f.in_loop or anywhere))
        )

    @property
    def about(self) -> tuple[str, ...]:
        """The codes of the rules that it names; empty if it names none."""
        return tuple(sorted(self.codes | _wait_rules() if self.in_loop else self.codes))

    def unjudged(self, report: Report) -> tuple[Unchecked, ...]:
        """Rules that the gate rests on and that had no evidence."""
        rules = self.codes | _wait_rules() if self.in_loop else self.codes
        rows = [row for each in report.each for row in each.unchecked if row.rule in rules]
        return tuple(dict.fromkeys(rows))

    def not_reached(self, report: Report) -> tuple[Unseen, ...]:
        """Pipelines of a script that was left before it called them: nothing is known of their calls."""
        return tuple(row for row in report.recording.unseen if row.kind == NOT_REACHED) if self else ()

    def blind(self, report: Report) -> tuple[str, ...]:
        """The words none of whose rules could be checked: on these the gate would pass whatever there is."""
        unchecked = [{row.rule for row in each.unchecked} for each in report.each]
        return tuple(word for word, rules in self.words if any(rules <= these for these in unchecked))


def _wait_rules() -> frozenset[str]:
    """The rules on waits of the CPU. Only they are meant by `in-loop`: nearly every finding on kernels is in
    the loop, where the time goes, and does not block it."""
    return frozenset(rule.code for rule in all_rules() if rule.analyzer == "syncs")


def parse_gate(text: str, *, option: str = "--fail-on") -> Gate:
    """Codes, names, code prefixes (`SYN`) and `in-loop`, separated by commas.

    Raises UsageError for anything that names no rule, with the nearest that do.
    """
    rules = all_rules()
    codes: set[str] = set()
    words: list[tuple[str, frozenset[str]]] = []
    in_loop = False
    for part in filter(None, (part.strip() for part in text.split(","))):
        key = part.lower()
        if key == IN_LOOP:
            in_loop = True
            words.append((part, _wait_rules()))
            continue
        found = {r.code for r in rules if key == r.name or r.code.lower().startswith(key)}
        if not found:
            known = [IN_LOOP, *(r.code for r in rules), *(r.name for r in rules)]
            near = get_close_matches(part, known, n=3, cutoff=0.4)
            near = near or get_close_matches(part.upper(), known, n=3, cutoff=0.4)
            hint = f"Did you mean {', '.join(near)}? " if near else ""
            raise UsageError(
                f"{option}: no rule is called {part!r}.",
                f"{hint}It takes codes, names, prefixes such as {rules[0].code[:3] if rules else 'SYN'}, "
                f"and {IN_LOOP}; `diffprof rules` lists them.",
            )
        codes |= found
        words.append((part, frozenset(found)))
    return Gate(frozenset(codes), in_loop, tuple(words))
