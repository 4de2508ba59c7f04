"""What of a script can still run after the line that it is at: read from its source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType

from diffprof.targets.held_pipelines import is_own

_Scope = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_MAKING = ("__init__", "__post_init__", "__new__")
"""Methods that run where their class is named."""
_UNNAMED = ("__call__", "__enter__", "__aenter__")
"""Methods that run without a name being written."""


def files_of(script: Path) -> list[str]:
    """A script's file, and those of the modules beside it that it has imported."""
    beside = script.resolve().parent
    loaded = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    own = {file for file in loaded if file and is_own(file) and Path(file).is_relative_to(beside)}
    return [*sorted(own - {str(script), str(script.resolve())}), str(script)]


def calls_ahead(files: Iterable[str], frames: Iterable[FrameType]) -> list[tuple[str, ast.Call]]:
    """(file, call) for each call below the frames' lines, around them in a loop, or in a function that is
    named there, and in those that are named in it. What is named is taken to be called, if it is a function
    of one of the files."""
    trees = {file: tree for file in files if (tree := _tree(file)) is not None}
    functions: dict[str, list[tuple[str, _Function]]] = {}
    for file, tree in trees.items():
        for node in ast.walk(tree):
            for name, function in _named(node):
                functions.setdefault(name, []).append((file, function))
    reached = [
        (file, part)
        for frame in frames
        for file, tree in trees.items()
        if Path(frame.f_code.co_filename) == Path(file)
        for part in _below(tree, frame)
    ]
    found: list[tuple[str, ast.Call]] = []
    known = set()
    reached += [each for name in _UNNAMED for each in functions.get(name, ())]
    while reached:
        file, part = reached.pop()
        if id(part) in known:
            continue
        known.add(id(part))
        for node in _own_nodes(part):
            if isinstance(node, ast.Call):
                found.append((file, node))
            reached += functions.get(_name(node), ())
    return sorted(
        {id(node): (file, node) for file, node in found}.values(), key=lambda at: (at[0], at[1].lineno)
    )


def _named(node: ast.AST) -> Iterator[tuple[str, _Function]]:
    """(name, function) for what naming it may run."""
    if isinstance(node, _Function) and node.name not in _MAKING:
        yield node.name, node
    elif isinstance(node, ast.ClassDef):
        yield from (
            (node.name, each) for each in node.body if isinstance(each, _Function) and each.name in _MAKING
        )


def _tree(file: str) -> ast.Module | None:
    try:
        return ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _own_nodes(part: ast.AST) -> Iterator[ast.AST]:
    """A part's nodes, without the bodies of functions that are defined in it."""
    waiting = [*ast.iter_child_nodes(part)] if isinstance(part, _Scope) else [part]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, _Function):
            yield node
            waiting += ast.iter_child_nodes(node)


def _below(tree: ast.Module, frame: FrameType) -> list[ast.AST]:
    """The parts of a frame's function that can run after the call that it is at."""
    begin, end = _spot(frame)
    found: list[ast.AST] = []
    for node in _own_nodes(_scope(tree, frame)):
        first, last = _span(node)
        if first > end or (isinstance(node, _LOOPS) and first <= begin and end <= last):
            found.append(node)
        elif isinstance(node, ast.Call) and first <= begin and end <= last and (first, last) != (begin, end):
            found.append(ast.copy_location(ast.Call(node.func, [], []), node))  # its arguments come before it
    return found


_Spot = tuple[int, int]


def _spot(frame: FrameType) -> tuple[_Spot, _Spot]:
    """(line, column) where the call that a frame is at begins and ends."""
    positions = [*frame.f_code.co_positions()][frame.f_lasti // 2]
    line, last, column, end = (each or 0 for each in positions)
    return (line or frame.f_lineno, column), (last or frame.f_lineno, end)


def _span(node: ast.AST) -> tuple[_Spot, _Spot]:
    if not isinstance(node, ast.expr | ast.stmt):
        return (0, 0), (0, 0)
    return (node.lineno, node.col_offset), (node.end_lineno or node.lineno, node.end_col_offset or 0)


def _scope(tree: ast.Module, frame: FrameType) -> ast.AST:
    first = frame.f_code.co_firstlineno
    for node in ast.walk(tree):
        if isinstance(node, _Function):
            begin = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            if begin == first and node.name == frame.f_code.co_name:
                return node
    return tree
