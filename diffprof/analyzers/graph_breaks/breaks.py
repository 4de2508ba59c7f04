"""From Dynamo's messages to distinct breaks: one row a cause and line."""

from __future__ import annotations

import functools
import json
import linecache
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffprof.analyzers.graph_breaks.capture import Graph, in_accelerate_hook, site_place
from diffprof.analyzers.graph_breaks.component import CaptureResult
from diffprof.model.callsite import Place, importable_path, is_machinery, make_site, source_line
from diffprof.model.recording import ComplexRow, Frame, Grade, GraphBreakRow, Site

_URL_CODE = re.compile(r"/gb/gb(\d+)\.html")
_CONSEQUENCE = "*** While handling this graph break, another graph break occurred: ***"
_TORCH_MODULE = "torch/nn/modules/module.py"
_DIFFUSERS_HOOKS = "diffusers/hooks/"
_HOOK_METHODS = {"pre_forward", "post_forward", "new_forward"}
"""What diffusers calls of a hook (`diffusers/hooks/hooks.py`, ModelHook)."""

_SHOWN_MODULES = 20

USER_ERROR = "may result in an error when running in eager"
"""Dynamo's hint where the code itself would raise (`torch/_dynamo/graph_break_hints.py`)."""


@dataclass(frozen=True)
class Message:
    """One of Dynamo's messages, taken apart."""

    cause: str
    code: str | None
    explanation: str
    hints: tuple[str, ...]
    context: str


def read_message(reason: str) -> Message:
    """Take a break's message apart. Of a chain of breaks, the first is the cause."""
    text = reason.partition(_CONSEQUENCE)[0]
    intro, found, rest = text.partition(":\n\n")
    if found and ("graph break" in intro.lower()) and "\n" not in intro.strip():
        text = rest
    body = text.partition("\n\n For more details about this graph break")[0]
    title, _, body = body.strip().partition("\n")
    fields: dict[str, list[str]] = {"Explanation": [], "Hint": [], "Developer debug context": []}
    current: list[str] | None = None
    for line in body.split("\n"):
        name, colon, value = line.strip().partition(": ")
        if line.startswith("  ") and not line.startswith("   ") and (name.rstrip(":") in fields):
            current = fields[name.rstrip(":")]
            current.append(value if colon else "")
        elif current is not None:
            current[-1] += "\n" + line
    title = title.strip()
    code = _URL_CODE.search(text)
    return Message(
        cause=title,
        code=f"GB{code[1]}" if code else code_of(title),
        explanation=_tidy(fields["Explanation"][:1]),
        hints=tuple(_tidy([hint]) for hint in fields["Hint"]),
        context=_tidy(fields["Developer debug context"][:1]),
    )


def _tidy(parts: list[str]) -> str:
    """One paragraph; what Dynamo sets off by an empty line (source excerpts) is left out."""
    text = textwrap.dedent("\n".join(parts)).strip()
    return " ".join(text.partition("\n\n")[0].split())


@functools.cache
def registry() -> Mapping[str, str]:
    """Title -> `GB####`, of the installed torch; empty where it ships none."""
    import torch._dynamo

    file = Path(torch._dynamo.__file__).with_name("graph_break_registry.json")
    try:
        entries = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return {entry["Gb_type"]: code for code, versions in entries.items() for entry in versions}


def code_of(title: str) -> str | None:
    """The registry's code of a break's title. A bare `generic_jump` is a data-dependent branch."""
    if title.startswith("generic_jump"):
        title = "Data-dependent branching"
    return registry().get(title)


@dataclass
class Distinct:
    """One break: a cause on a line. skipped: the function that runs as plain Python because of it; rest: only
    what follows an earlier break in that function does; hidden_by: the site of the break that keeps Dynamo
    from coming here."""

    message: Message
    stack: tuple[Place, ...]
    skipped: Place | None = None
    rest: bool = False
    hidden_by: Place | None = None
    graphs: list[Graph] = field(default_factory=list)

    @property
    def site(self) -> Place:
        """The line that a person would edit."""
        return site_place(self.stack)


def distinct_breaks(result: CaptureResult) -> tuple[Distinct, ...]:
    """All breaks of one component, one a cause and line, in the order in which they come."""
    found: dict[tuple[str, int, str], Distinct] = {}
    ends: dict[object, list[Distinct]] = {}
    compiles = {compiled.frame: compiled for compiled in result.capture.compiles}
    for each in result.capture.breaks:
        message = read_message(each.reason)
        row = found.setdefault(_key(each.stack, message), Distinct(message, each.stack))
        if len(each.stack) > len(row.stack):
            row.stack = each.stack
        if each.skipped and each.frame in compiles and row.skipped is None:
            row.skipped, row.rest = compiles[each.frame].place, compiles[each.frame].resumed
        row.hidden_by = row.hidden_by or each.hidden_by
        if not each.skipped:
            ends.setdefault(each.frame, []).append(row)
    for graph in result.capture.graphs:
        for row in ends.get(graph.frame, [])[-1:]:
            row.graphs.append(graph)
    return tuple(each for each in found.values() if not _made_up(each, result))


def _key(stack: tuple[Place, ...], message: Message) -> tuple[str, int, str]:
    """The line that a person would edit, and the cause: many such lines may come to one of PyTorch's. What
    breaks in a stand-in of ours (a tokenizer) breaks where it is called: a real one ends in C code, which
    breaks there as well."""
    line = site_place(stack)[:2]
    return (*line, "a stand-in's code" if _of_ours(stack[0]) else message.code or message.cause)


def _of_ours(place: Place) -> bool:
    return importable_path(place[0])[0].startswith("diffprof/")


def _made_up(each: Distinct, result: CaptureResult) -> bool:
    """An error that only the search for hidden breaks ran into: with every loop making a single pass, a name
    may have no value. The plain run raises nothing there."""
    if each.hidden_by is None or not any(USER_ERROR in hint for hint in each.message.hints):
        return False
    return not any(p.raised for p in result.passed if p.place in (each.stack[0], each.site))


def break_rows(
    component: str,
    found: Sequence[Distinct],
    result: CaptureResult,
    *,
    calls: int,
    per_step: float,
    phase: str | None = None,
    grade: Grade,
) -> tuple[GraphBreakRow, ...]:
    """The recording's form of `distinct_breaks`, in the same order.

    calls: of the component in one pipeline call; per_step: in each denoising step; phase: of these calls,
    where the result does not tell that of each line.
    """
    return tuple(_row(component, each, result, calls, per_step, phase, grade) for each in found)


def complex_rows(
    component: str, result: CaptureResult, *, calls: int, per_step: float, phase: str | None, grade: Grade
) -> tuple[ComplexRow, ...]:
    """Complex numbers in the graphs of one component, one row a line that a person would edit."""
    places: dict[Place, tuple[Site, dict[str, int]]] = {}
    for use in result.capture.complex:
        stack = use.stack or ((component, 0, ""),)
        _, ops = places.setdefault(site_place(stack), (site_of(stack, component), {}))
        ops[use.op] = ops.get(use.op, 0) + use.times
    return tuple(
        ComplexRow(
            component=component, site=site, ops=ops, calls=calls, per_step=per_step, phase=phase, grade=grade
        )
        for site, ops in places.values()
    )


def _row(
    component: str,
    each: Distinct,
    result: CaptureResult,
    calls: int,
    per_step: float,
    phase: str | None,
    grade: Grade,
) -> GraphBreakRow:
    inner = each.stack[0]
    passed = next((p for p in result.passed if p.place == each.site and p.times), None)
    modules, passes = (passed.modules, passed.times) if passed else ([], None)
    site = site_of(each.stack, modules[0] if modules else component)
    stood_in = _of_ours(inner)
    below = not stood_in and (importable_path(inner[0])[0], inner[1]) != (site.file, site.line)
    return GraphBreakRow(
        component=component,
        code=each.message.code,
        cause=each.message.cause,
        explanation=each.message.explanation,
        hints=each.message.hints,
        context="" if stood_in else each.message.context,
        site=site,
        raised_at=_frame(inner) if below else None,
        in_hook=_in_hook(each.stack),
        count=passes * calls if passes else None,
        per_step=passes * per_step if passes else None,
        phase=_phase(each, result) or phase,
        modules=tuple(modules[:_SHOWN_MODULES]),
        skipped_frame=_skipped(each),
        hidden_by=_shown(each.hidden_by) if each.hidden_by else None,
        graphs=len(each.graphs),
        ops=sum(graph.ops for graph in each.graphs),
        grade=grade,
    )


def _phase(each: Distinct, result: CaptureResult) -> str | None:
    """That of the line, or of the innermost call above it that was made."""
    phases = {p.place[:2]: p.phase for p in result.passed if p.times}
    return next((phases[p[:2]] for p in (each.site, *each.stack) if phases.get(p[:2])), None)


def site_of(stack: Sequence[Place], module: str | None) -> Site:
    """The line that a person would edit, with the calls that lead to it."""
    kept = tuple(p for p in stack if not is_machinery(p[0]))
    if in_accelerate_hook(stack):
        kept = (stack[0], *kept)
    return make_site(kept or tuple(stack[:1]), module)


def _frame(place: Place) -> Frame:
    file, line, function = place
    return Frame(file=importable_path(file)[0], line=line, function=function, code=source_line(file, line))


def _skipped(each: Distinct) -> str | None:
    if each.skipped is None or _of_ours(each.skipped):
        return None
    return f"the rest of {_shown(each.skipped)}" if each.rest else _shown(each.skipped)


def _shown(place: Place) -> str:
    return f"{place[2]} ({importable_path(place[0])[0]}:{place[1]})"


def _in_hook(stack: tuple[Place, ...]) -> bool:
    """Whether a module's call ran the innermost function as a hook: torch's own kind, or that of a library of
    hooks, which puts itself in the place of the module's forward."""
    if in_accelerate_hook(stack) or _in_diffusers_hook(stack):
        # Not always below a module's call: a VAE's `decode` and `encode` call them themselves, and a function
        # that Dynamo skipped is not on the stack.
        return True
    for place in stack:
        if importable_path(place[0])[0] == _TORCH_MODULE:
            return "hook(" in linecache.getline(place[0], place[1])
    return False


def _in_diffusers_hook(stack: tuple[Place, ...]) -> bool:
    """Whether the innermost lines that are no machinery's are in a hook of diffusers', called as one."""
    for file, _, function in stack:
        if importable_path(file)[0].startswith(_DIFFUSERS_HOOKS):
            if function in _HOOK_METHODS:
                return True
        elif not is_machinery(file):
            return False
    return False
