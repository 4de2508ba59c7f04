"""Methods of a scheduler written again with some expressions changed, as a subclass of its class."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from diffprof.analyzers.syncs.class_source import ClassSource, NoSource, class_at
from diffprof.analyzers.syncs.line_edits import LineEdit, line_edits
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


def copied(rows: Sequence[SyncRow], function: str, name: str, doc: str) -> tuple[tuple[str, ...], str]:
    """(imports, definition of `function`), which gives a scheduler the methods in which the rows lie, without
    their waits.

    Raises NoSource, with the reason, where that can't be done.
    """
    edits: dict[str, list[LineEdit]] = {}
    sources: dict[str, ClassSource] = {}
    for row in rows:
        source = class_at(row.site)
        own = row.site.function.rpartition(".")[2]
        sources[own] = source
        edits.setdefault(own, []).extend(line_edits(source, source.methods[own], row))
    if len({source.name for source in sources.values()}) != 1:
        raise NoSource("the waits lie in several classes")
    source = next(iter(sources.values()))
    methods = [_method(source, source.methods[own], made) for own, made in edits.items()]
    keeps = dict.fromkeys(edit.keeps for made in edits.values() for edit in made if edit.keeps)
    owner = f'    owner = next(each for each in reversed(cls.__mro__) if each.__name__ == "{source.name}")\n'
    text = _CLASS.format(
        function=function,
        name=name,
        doc=doc,
        above=owner if any("super(owner, self)" in method for method in methods) else "",
        keeps=textwrap.indent("\n".join(keeps), " " * 12),
        methods="\n\n".join(textwrap.indent(method, " " * 8) for method in methods),
    )
    if not keeps:
        text = text.replace(
            text[text.index("        @functools.wraps(cls.set") : text.index("\n\n\n") + 3], ""
        )
    used = [source.methods[own] for own in edits]
    return ("import functools", *_imports(source, used)), text.strip("\n") + "\n"


def _method(source: ClassSource, node: ast.FunctionDef, edits: Sequence[LineEdit]) -> str:
    """The method without docstring and annotations, with the edits made; their lines are marked."""
    if node.decorator_list:
        raise NoSource(f"{source.name}.{node.name} is decorated")
    begin = node.body[1 if ast.get_docstring(node) is not None else 0]
    first = (node.body[0].end_lineno or 0) + 1 if begin is not node.body[0] else begin.lineno
    lines = list(source.lines[first - 1 : node.end_lineno])
    changes = {(e.node.lineno, e.node.col_offset): (e.node, e.text) for e in edits}
    changes |= {(n.lineno, n.col_offset): (n, "super(owner, self)") for n in _bare_supers(node)}
    for _, (old, new) in sorted(changes.items(), reverse=True):
        if old.lineno != old.end_lineno:
            raise NoSource(f"line {old.lineno} of {source.file} goes on in the next")
        text = lines[old.lineno - first].encode()
        lines[old.lineno - first] = (
            text[: old.col_offset] + new.encode() + text[old.end_col_offset :]
        ).decode()
    for number in {old.lineno - first for old, _ in changes.values()}:
        lines[number] = f"{lines[number].rstrip()}{MARK}\n"
    body = textwrap.dedent("".join(lines)).strip("\n")
    origin = f"# As in {source.name}, but for the lines that end with `{MARK.strip()}`."
    head = f"@functools.wraps(cls.{node.name})\ndef {node.name}({ast.unparse(_bare(node.args))}):"
    return f"{origin}\n{head}\n{textwrap.indent(body, '    ')}"


def _bare_supers(node: ast.FunctionDef) -> Iterator[ast.Call]:
    for each in ast.walk(node):
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Name) and each.func.id == "super":
            yield each


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
    used = {
        n.id for method in methods for part in method.body for n in ast.walk(part) if isinstance(n, ast.Name)
    }
    known = dict(_importable(source))
    return tuple(known[name] for name in sorted(used & known.keys()))


def _importable(source: ClassSource) -> Iterator[tuple[str, str]]:
    package = source.file.removesuffix(".py").split("/")
    for node in source.module.body:
        if isinstance(node, ast.Import):
            for each in node.names:
                yield (
                    each.asname or each.name,
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


def _defined(node: ast.FunctionDef | ast.ClassDef | ast.Assign) -> Iterator[str]:
    if isinstance(node, ast.Assign):
        yield from (each.id for each in node.targets if isinstance(each, ast.Name))
    else:
        yield node.name
