"""From Dynamo's messages to distinct breaks: one row a cause and line."""

from __future__ import annotations

import functools
import json
import linecache
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diffprof.analyzers.graph_breaks.capture import Graph
from diffprof.analyzers.graph_breaks.component import Result
from diffprof.callsite import Place, importable_path, is_machinery, make_site, source_line
from diffprof.recording import Frame, Grade, GraphBreakRow, Site

_URL_CODE = re.compile(r"/gb/gb(\d+)\.html")
_CONSEQUENCE = "*** While handling this graph break, another graph break occurred: ***"
_TORCH_MODULE = "torch/nn/modules/module.py"
_SHOWN_MODULES = 20


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
class _Distinct:
    message: Message
    stack: tuple[Place, ...]
    skipped: str | None = None
    hidden_by: str | None = None
    graphs: list[Graph] = field(default_factory=list)


def distinct_breaks(
    component: str, result: Result, *, calls: int, per_step: float, grade: Grade
) -> tuple[GraphBreakRow, ...]:
    """All breaks of one component, one row a cause and line, in the order in which they come.

    calls: of the component in one pipeline call; per_step: in each denoising step.
    """
    found: dict[tuple[str, int, str], _Distinct] = {}
    ends: dict[object, list[_Distinct]] = {}
    names = {compiled.frame: compiled.place for compiled in result.capture.compiles}
    for each in result.capture.breaks:
        message = read_message(each.reason)
        file, line, _ = each.stack[0]
        row = found.setdefault((file, line, message.code or message.cause), _Distinct(message, each.stack))
        if len(each.stack) > len(row.stack):
            row.stack = each.stack
        if each.skipped and each.frame in names:
            row.skipped = row.skipped or _shown(names[each.frame])
        if each.hidden_by is not None:
            row.hidden_by = _shown(each.hidden_by)
        if not each.skipped:
            ends.setdefault(each.frame, []).append(row)
    for graph in result.capture.graphs:
        for row in ends.get(graph.frame, [])[-1:]:
            row.graphs.append(graph)
    return tuple(_row(component, each, result, calls, per_step, grade) for each in found.values())


def _row(
    component: str, each: _Distinct, result: Result, calls: int, per_step: float, grade: Grade
) -> GraphBreakRow:
    inner = each.stack[0]
    passed = next((p for p in result.passed if p.place == inner and p.times), None)
    modules, passes = (passed.modules, passed.times) if passed else ([], None)
    site = site_of(each.stack, modules[0] if modules else component)
    below = (importable_path(inner[0])[0], inner[1]) != (site.file, site.line)
    return GraphBreakRow(
        component=component,
        code=each.message.code,
        cause=each.message.cause,
        explanation=each.message.explanation,
        hints=each.message.hints,
        context=each.message.context,
        site=site,
        raised_at=_frame(inner) if below else None,
        in_hook=_in_hook(each.stack),
        count=passes * calls if passes else None,
        per_step=passes * per_step if passes else None,
        modules=tuple(modules[:_SHOWN_MODULES]),
        skipped_frame=each.skipped,
        hidden_by=each.hidden_by,
        graphs=len(each.graphs),
        ops=sum(graph.ops for graph in each.graphs),
        grade=grade,
    )


def site_of(stack: Iterable[Place], module: str | None) -> Site:
    """The innermost line that a person would edit; the innermost of all when none is."""
    places = tuple(stack)
    kept = tuple(p for p in places if not is_machinery(p[0]))
    return make_site(kept or places[:1], module)


def _frame(place: Place) -> Frame:
    file, line, function = place
    return Frame(file=importable_path(file)[0], line=line, function=function, code=source_line(file, line))


def _shown(place: Place) -> str:
    return f"{place[2]} ({importable_path(place[0])[0]}:{place[1]})"


def _in_hook(stack: tuple[Place, ...]) -> bool:
    """Whether a module's call ran the innermost function as a hook: torch's own kind, or that of a library of
    hooks, which puts itself in the place of the module's forward."""
    for place in stack:
        if importable_path(place[0])[0] == _TORCH_MODULE:
            return "/hooks" in stack[0][0] or "hook(" in linecache.getline(place[0], place[1])
    return False
