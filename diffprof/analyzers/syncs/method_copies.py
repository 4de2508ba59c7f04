"""Methods written again with some expressions changed, as a subclass of their class."""

from __future__ import annotations

import ast
import difflib
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from diffprof.analyzers.syncs.class_source import ClassSource, NoSource, class_at
from diffprof.analyzers.syncs.line_edits import LineEdit, edited, line_edits
from diffprof.model.recording import SyncRow

MARK = "  # changed"

_CLASS = '''
def {function}(scheduler):
    """{doc}"""
    cls = type(scheduler)
{above}
    class {name}(cls):
        @functools.wraps(cls.set_timesteps)
        def set_timesteps(self, *args, **kwargs):
            super().set_timesteps(*args, **kwargs)
{keeps}

{methods}

    scheduler.__class__ = functools.update_wrapper({name}, cls, updated=())  # it keeps its name
'''

_SUBCLASS = '''
def {function}(cls):
    """A subclass with the lines that wait written otherwise."""
{above}
    class Changed(cls):
{methods}

    return functools.update_wrapper(Changed, cls, updated=())  # it keeps its name
'''


@dataclass(frozen=True)
class Copied:
    """imports, definitions: of a fix's code. kept: how many lines of it are the library's own."""

    imports: tuple[str, ...]
    definitions: str
    kept: int


def copied(rows: Sequence[SyncRow], function: str, name: str, doc: str) -> Copied:
    """The definition of `function`, which gives a scheduler the methods in which the rows lie, without those
    of their waits that can be gone.

    Raises NoSource, with the reason, where that can't be done.
    """
    edits: dict[str, list[LineEdit]] = {}
    sources: dict[str, ClassSource] = {}
    why: NoSource | None = None
    for row in rows:
        own = row.site.function.rpartition(".")[2]
        try:
            source = class_at(row.site)
            made = line_edits(source, source.methods[own], row)
        except NoSource as error:
            why = error
            continue
        sources[own] = source
        edits.setdefault(own, []).extend(made)
    if why is not None and not edits:
        raise why
    if len({source.name for source in sources.values()}) != 1:
        raise NoSource("the waits lie in several classes")
    source = next(iter(sources.values()))
    methods, kept = _methods(source, edits)
    keeps = dict.fromkeys(edit.keeps for made in edits.values() for edit in made if edit.keeps)
    text = _CLASS.format(
        function=function,
        name=name,
        doc=doc,
        above=_owner(source, methods),
        keeps=textwrap.indent("\n".join(keeps), " " * 12),
        methods=methods,
    )
    if not keeps:
        text = text.replace(
            text[text.index("        @functools.wraps(cls.set") : text.index("\n\n\n") + 3], ""
        )
    return Copied(_all_imports(source, edits), text.strip("\n") + "\n", kept)


def subclassed(source: ClassSource, edits: Mapping[str, Sequence[LineEdit]], function: str) -> Copied:
    """The definition of `function`, which makes a subclass of a class with these methods edited.

    Raises NoSource, with the reason, where that can't be done.
    """
    methods, kept = _methods(source, edits)
    text = _SUBCLASS.format(function=function, above=_owner(source, methods), methods=methods)
    return Copied(_all_imports(source, edits), text.strip("\n") + "\n", kept)


def _methods(source: ClassSource, edits: Mapping[str, Sequence[LineEdit]]) -> tuple[str, int]:
    """(the methods as they stand in the subclass, how many lines of their code are the library's)"""
    texts, kept = [], 0
    for own, made in edits.items():
        head, body = _method(source, source.methods[own], made)
        texts.append(f"{head}\n{textwrap.indent(body, '    ')}")
        lines = (line.strip() for line in body.splitlines())
        kept += sum(bool(line) and not line.startswith("#") and not line.endswith(MARK) for line in lines)
    return "\n\n".join(textwrap.indent(text, " " * 8) for text in texts), kept


def _owner(source: ClassSource, methods: str) -> str:
    """What `super(owner, self)` in the methods asks for."""
    if "super(owner, self)" not in methods:
        return ""
    return f'    owner = next(each for each in reversed(cls.__mro__) if each.__name__ == "{source.name}")\n'


def _all_imports(source: ClassSource, edits: Iterable[str]) -> tuple[str, ...]:
    return ("import functools", *_imports(source, [source.methods[own] for own in edits]))


def _method(source: ClassSource, node: ast.FunctionDef, edits: Sequence[LineEdit]) -> tuple[str, str]:
    """(head, body) of the method without docstring and annotations, with the edits made and marked."""
    decorators = [f"@{text}\n" for each in node.decorator_list if (text := _decorator(source, node, each))]
    begin = node.body[1 if ast.get_docstring(node) is not None else 0]
    first = (node.body[0].end_lineno or 0) + 1 if begin is not node.body[0] else begin.lineno
    body = _marked(source, node, first, [*edits, *_bare_supers(node)])
    origin = f"# As in {source.name}, but for the lines that end with `{MARK.strip()}`."
    head = f"@functools.wraps(cls.{node.name})\ndef {node.name}({ast.unparse(_bare(node.args))}):"
    return f"{origin}\n{''.join(decorators)}{head}", body


def _decorator(source: ClassSource, node: ast.FunctionDef, decorator: ast.expr) -> str:
    """How a decorator is written in the subclass; empty where it only documents something."""
    text = ast.unparse(decorator)
    names = {each.id for each in ast.walk(decorator) if isinstance(each, ast.Name)}
    if text.startswith("replace_example_docstring("):
        return ""
    if not names <= dict(_importable(source)).keys():
        raise NoSource(f"{source.name}.{node.name} is decorated with {text}")
    return text


def _marked(source: ClassSource, node: ast.FunctionDef, first: int, edits: Sequence[LineEdit]) -> str:
    """The lines of a method from `first` on, edited, with a mark behind those that are not the library's."""
    old = source.lines[first - 1 : node.end_lineno]
    new = edited(source.lines, edits)[sum(map(len, source.lines[: first - 1])) :]
    rest = sum(map(len, source.lines[node.end_lineno :]))
    lines = (new[:-rest] if rest else new).splitlines(keepends=True)
    for kind, _, _, begin, end in difflib.SequenceMatcher(None, old, lines, autojunk=False).get_opcodes():
        for n in range(begin, end) if kind != "equal" else ():
            lines[n] = f"{lines[n].rstrip()}{MARK}\n" if lines[n].strip() else lines[n]
    return textwrap.dedent("".join(lines)).strip("\n")


def _bare_supers(node: ast.FunctionDef) -> Iterator[LineEdit]:
    for each in ast.walk(node):
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Name) and each.func.id == "super":
            yield LineEdit(each, "super(owner, self)")


def _bare(arguments: ast.arguments) -> ast.arguments:
    """Without annotations."""
    copy = ast.parse(f"def f({ast.unparse(arguments)}): ...").body[0]
    assert isinstance(copy, ast.FunctionDef)
    for each in ast.walk(copy.args):
        if isinstance(each, ast.arg):
            each.annotation = None
    return copy.args


# --- what a method takes from its module -----------------------------------------------------------------


def _imports(source: ClassSource, methods: Iterable[ast.FunctionDef]) -> tuple[str, ...]:
    """Import statements for the global names that the methods use."""
    parts = [part for method in methods for part in (*method.body, *method.decorator_list)]
    used = {n.id for part in parts for n in ast.walk(part) if isinstance(n, ast.Name)}
    used -= {"replace_example_docstring", "EXAMPLE_DOC_STRING"}
    known = dict(_importable(source))
    return tuple(known[name] for name in sorted(used & known.keys()))


def _importable(source: ClassSource) -> Iterator[tuple[str, str]]:
    package = source.file.removesuffix(".py").split("/")
    for node in _at_the_top(source.module.body):
        if isinstance(node, ast.Import):
            for each in node.names:
                yield (
                    each.asname or each.name.partition(".")[0],
                    f"import {each.name}" + (f" as {each.asname}" if each.asname else ""),
                )
        elif isinstance(node, ast.ImportFrom):
            origin = (
                ".".join([*package[: len(package) - node.level], node.module or ""])
                if node.level
                else node.module
            )
            for each in node.names:
                as_ = f" as {each.asname}" if each.asname else ""
                yield each.asname or each.name, f"from {(origin or '').strip('.')} import {each.name}{as_}"
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Assign):
            for name in _defined(node):
                yield name, f"from {'.'.join(package)} import {name}"


def _at_the_top(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module; of those under an `if` what is set there, which may import what is not here."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from (each for each in (*node.body, *node.orelse) if isinstance(each, ast.Assign))


def _defined(node: ast.FunctionDef | ast.ClassDef | ast.Assign) -> Iterator[str]:
    if isinstance(node, ast.Assign):
        yield from (each.id for each in node.targets if isinstance(each, ast.Name))
    else:
        yield node.name
