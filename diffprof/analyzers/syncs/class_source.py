"""The source of the class that a wait lies in, found by the file's name alone: nothing is imported."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diffprof.model.callsite import file_of
from diffprof.model.recording import Site


class NoSource(Exception):
    """There is no source of that class here; the message says why."""


@dataclass(frozen=True)
class ClassSource:
    """name: the class. methods: by name, those of the classes in the same file that it inherits from too.
    file: as sites name it. lines: of the file."""

    name: str
    file: str
    methods: Mapping[str, ast.FunctionDef]
    lines: tuple[str, ...]
    module: ast.Module

    def text(self, node: ast.AST) -> str:
        """What stands in the file there."""
        first, last = node.lineno - 1, node.end_lineno - 1  # type: ignore[attr-defined]
        begin, end = node.col_offset, node.end_col_offset  # type: ignore[attr-defined]
        lines = [line.encode() for line in self.lines[first : last + 1]]
        lines[-1] = lines[-1][:end]
        return b"".join([lines[0][begin:], *lines[1:]]).decode()


def class_at(site: Site) -> ClassSource:
    """The class whose method a site lies in.

    Raises NoSource where there is none, or the file is not as it was scanned.
    """
    owner = site.function.partition(".<locals>")[0].rpartition(".")[0]
    if not owner:
        raise NoSource(f"{site.function} is no method")
    module, lines = _parsed(site.file)
    for number, text in site.excerpt:
        if number > len(lines) or lines[number - 1].rstrip() != text.rstrip():
            raise NoSource(f"{site.file} is not as it was scanned")
    return _class(owner, site.file, module, lines)


def class_of(name: str, file: str, text: str) -> ClassSource:
    """The class of that name in this text of a file.

    Raises NoSource where there is none.
    """
    return _class(name, file, ast.parse(text), tuple(text.splitlines(keepends=True)))


def _class(name: str, file: str, module: ast.Module, lines: tuple[str, ...]) -> ClassSource:
    classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    if name not in classes:
        raise NoSource(f"{file} has no class {name}")
    return ClassSource(name, file, _methods(name, classes), lines, module)


@functools.lru_cache(maxsize=32)
def _parsed(name: str) -> tuple[ast.Module, tuple[str, ...]]:
    path = path_of(name)
    if path is None or not path.is_file():
        raise NoSource(f"{name} is not on this machine")
    text = path.read_text(encoding="utf-8")
    return ast.parse(text), tuple(text.splitlines(keepends=True))


def path_of(name: str) -> Path | None:
    """The file that sites name so: from the working directory, or in an installed package, which is not
    imported."""
    found = file_of(name)
    package, _, rest = name.partition("/")
    if found is not None or not rest or not package.isidentifier():
        return found
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or ()) if spec is not None else ()
    return next((path for folder in folders if (path := Path(folder) / rest).is_file()), None)


def _methods(name: str, classes: Mapping[str, ast.ClassDef]) -> dict[str, ast.FunctionDef]:
    node = classes[name]
    found: dict[str, ast.FunctionDef] = {}
    for base in reversed(node.bases):
        if isinstance(base, ast.Name) and base.id in classes and base.id != name:
            found |= _methods(base.id, classes)
    return found | {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
