"""`optimized.py`: the fixes that were kept, as a module of plain diffusers code. Needs no torch."""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from diffprof.judge.source_edit.renaming import rename
from diffprof.model import units
from diffprof.model.fix import Code, Outcome, PlanStep
from diffprof.model.plain import clean
from diffprof.model.report import Report
from diffprof.views import words
from diffprof.views.tuning import output_change, total

WIDTH = 100
"""Characters of a line of comment."""


def optimized(report: Report, module: str = "optimized") -> str:
    """The source of `optimized.py`, also where no fix was kept; empty where none was tried. module: how it is
    imported."""
    if report.plan is None or report.outcomes is None:
        return ""
    return optimized_source(report, report.plan.steps, report.outcomes, module)


def optimized_source(
    report: Report, steps: Sequence[PlanStep], outcomes: Sequence[Outcome], module: str = "optimized"
) -> str:
    """The module that does to a pipeline what was kept, in the order of `steps`.

    `optimize(pipe)` changes a pipeline; where something has to stand during the call, `call(pipe, ...)` makes
    it. Definitions that fixes share stand once; of two that only share a name, the later is renamed.
    """
    kept = {outcome.fix: outcome for outcome in outcomes if outcome.stays}
    written = [(kept[s.fix], kept[s.fix].written or Code()) for s in steps if s.fix in kept]
    return _module(report, outcomes, written, module)


def _module(
    report: Report, outcomes: Sequence[Outcome], written: list[tuple[Outcome, Code]], module: str
) -> str:
    definitions = _Definitions()
    written = [(outcome, definitions.add(code)) for outcome, code in written]
    at_call = any(code.call.strip() or code.around for _, code in written)
    imports = [line for _, code in written for line in code.imports]
    if any(code.around for _, code in written):
        imports.append("import contextlib")
    head = _head(report, outcomes, [outcome for outcome, _ in written], module, at_call=at_call)
    parts = [f"{head}\n\n{merged_imports(imports)}".rstrip("\n")]
    parts += ["\n\n\n".join(definitions.texts)] if definitions.texts else []
    parts.append(
        _function("optimize", "pipe", "Change a pipeline in place; returns it.", _bodies(written, "optimize"))
    )
    if at_call:
        parts += _at_call(written)
    return "\n\n\n".join(parts) + "\n"


def _at_call(written: list[tuple[Outcome, Code]]) -> Iterator[str]:
    changed = list(_bodies(written, "call"))
    around = [(outcome, code.around) for outcome, code in written if code.around]
    if changed:
        yield _function("call_kwargs", "kwargs", "The arguments of a call, changed; returns them.", changed)
    arguments = "**call_kwargs(kwargs)" if changed else "**kwargs"
    if not around:
        yield (
            f'def call(pipe, **kwargs):\n    """Call an optimized pipeline."""\n    return pipe({arguments})'
        )
        return
    lines = [
        "def call(pipe, **kwargs):",
        '    """Call an optimized pipeline, with what has to stand meanwhile."""',
    ]
    lines.append("    with contextlib.ExitStack() as stack:")
    for outcome, expression in around:
        lines += textwrap.indent("\n".join(_comment(outcome)), " " * 8).splitlines()
        lines.append(f"        stack.enter_context({expression})")
    lines.append(f"        return pipe({arguments})")
    yield "\n".join(lines)


def _function(name: str, argument: str, doc: str, bodies: Sequence[str] | Iterator[str]) -> str:
    inner = "\n\n".join(bodies)
    body = textwrap.indent(
        f'"""{doc}"""\n{inner}\nreturn {argument}' if inner else f'"""{doc}"""\nreturn {argument}', "    "
    )
    return f"def {name}({argument}):\n{body}"


def _bodies(written: list[tuple[Outcome, Code]], part: str) -> Iterator[str]:
    for outcome, code in written:
        body = getattr(code, part).strip("\n")
        if body.strip():
            yield "\n".join([*_comment(outcome), body])


# --- what is said ---------------------------------------------------------------------------------------


def _head(
    report: Report, outcomes: Sequence[Outcome], kept: Sequence[Outcome], module: str, *, at_call: bool
) -> str:
    recording = report.recording
    packages = recording.environment.packages
    versions = ", ".join(
        f"{name} {packages[name]}" for name in ("torch", "diffusers", "torchao") if name in packages
    )
    run = f", run {Path(report.path).name}" if report.path else ""
    lines = [f"Fixes for {words.subject(recording).rstrip('.')}.", ""]
    if not kept:
        tried = units.plural(len(outcomes), "fix", "fixes")
        lines += [f"Nothing: of {tried} none helped here, so `optimize` leaves a pipeline as it is.", ""]
    else:
        target = recording.target
        given = "prompt=..." if "prompt" in target.call or not target.call else "..."
        made = {"image": "image = {}.images[0]", "clip": "frames = {}.frames[0]"}
        use = made.get(target.makes or "", "output = {}").format(
            f"call(pipe, {given})" if at_call else f"pipe({given})"
        )
        names = "optimize, call" if at_call else "optimize"
        lines += [f"    from {module} import {names}", "", "    pipe = optimize(pipe)", f"    {use}", ""]
        lines += [total(outcomes), ""]
    lines.append(f"Made by diffprof {recording.environment.diffprof}{run}. {versions}.")
    text = "\n".join(
        line
        if line.startswith("    ")
        else "\n".join(textwrap.wrap(clean(line), WIDTH, break_long_words=False))
        for line in lines
    )
    return f'"""{_in_docstring(text)}\n"""'


def _in_docstring(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"') if "\\" in text or '"""' in text else text


def _comment(outcome: Outcome) -> Iterator[str]:
    """What the fix is, what it gained, and how that was established."""
    gained = outcome.why
    if outcome.grade is not None:
        gained = f"{gained.rstrip('.')} ({outcome.grade})." if gained else f"({outcome.grade})"
    for sentence in (
        f"{outcome.fix}: {outcome.title}.",
        gained,
        f"Output: {output_change(outcome.difference)}.",
    ):
        if sentence:
            for line in textwrap.wrap(clean(sentence), WIDTH - 2, break_long_words=False):
                yield f"# {line}"


# --- imports --------------------------------------------------------------------------------------------


def merged_imports(lines: Sequence[str]) -> str:
    """Import statements, each thing once: the standard library's first, sorted, names of a module together.

    Raises SyntaxError for what is no import.
    """
    plain: set[tuple[str, str | None]] = set()
    named: dict[str, set[tuple[str, str | None]]] = {}
    for node in ast.parse("\n".join(lines)).body:
        if isinstance(node, ast.Import):
            plain.update((alias.name, alias.asname) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            named.setdefault(node.module, set()).update((alias.name, alias.asname) for alias in node.names)
        else:
            raise SyntaxError(f"not an import: {ast.unparse(node)}")
    texts = [(name, 0, f"import {_as(name, alias)}") for name, alias in plain]
    texts += [
        (module, 1, f"from {module} import {', '.join(_as(*each) for each in sorted(names, key=str))}")
        for module, names in named.items()
    ]
    sections: tuple[list[str], list[str]] = ([], [])
    for name, _, text in sorted(texts, key=lambda each: (each[1], each[0])):
        sections[name.partition(".")[0] not in sys.stdlib_module_names].append(text)
    return "\n\n".join("\n".join(section) for section in sections if section)


def _as(name: str, alias: str | None) -> str:
    return f"{name} as {alias}" if alias else name


# --- definitions ----------------------------------------------------------------------------------------


class _Definitions:
    """Top-level statements of all fixes, each once."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._names: dict[str, str] = {}

    def add(self, code: Code) -> Code:
        """Take a fix's definitions; returns the fix with names that were taken by others replaced."""
        renamed = self._clashes(code)
        if renamed:
            code = replace(
                code,
                definitions=rename(code.definitions, renamed),
                optimize=rename(code.optimize, renamed),
                call=rename(code.call, renamed),
                around=rename(code.around, renamed),
            )
        for text, names in statements(code.definitions):
            if names and all(self._names.get(name) == text for name in names):
                continue
            self._names.update(dict.fromkeys(names, text))
            self.texts.append(text)
        return code

    def _clashes(self, code: Code) -> dict[str, str]:
        """Names that others have for something else, and those of what uses such a name -> new names."""
        own = statements(code.definitions)
        clashing = {n for text, names in own for n in names if self._names.get(n, text) != text}
        grown = True
        while grown:
            using = {n for text, names in own if clashing & set(re.findall(r"\w+", text)) for n in names}
            grown = not using <= clashing
            clashing |= using
        return {name: self._free(name) for name in sorted(clashing)}

    def _free(self, name: str) -> str:
        number = 2
        while f"{name}_{number}" in self._names:
            number += 1
        return f"{name}_{number}"


def statements(source: str) -> list[tuple[str, tuple[str, ...]]]:
    """(text with the comments above it, names that it defines) of each statement at the top level."""
    lines = source.strip("\n").splitlines()
    found = []
    begin = 0
    for node in ast.parse("\n".join(lines)).body:
        end = node.end_lineno or node.lineno
        text = "\n".join(lines[begin:end]).strip("\n")
        found.append((text, tuple(_defined(node))))
        begin = end
    return found


def _defined(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield from (each.id for each in ast.walk(target) if isinstance(each, ast.Name))
