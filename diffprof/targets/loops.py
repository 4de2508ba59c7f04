"""The loops of running code: in which `for`, `while` and comprehension a frame stands, from its source."""

from __future__ import annotations

import ast
import functools
import linecache
import opcode
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import CodeType, FrameType

from diffprof.model.callsite import is_machinery

Position = tuple[int, int]
"""(line, column in bytes), as both syntax trees and code objects have it."""

_FOR_ITER = opcode.opmap["FOR_ITER"]
_COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
_INLINED = (ast.ListComp, ast.SetComp, ast.DictComp) if sys.version_info >= (3, 12) else ()
_TURNING = (ast.For, ast.AsyncFor, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)

Branches = tuple[tuple[int, bool], ...]
"""The `if`s that a node stands in, and whether in their `else`."""


@dataclass(frozen=True, eq=False)
class Loop:
    """One loop of a function.

    first, last: lines of its body. begin, end: what is inside. turns: where a `for` takes its next value, as
    the versions of Python place it. targets: those that nothing else in it sets. own: what it sets, but no
    loop inside it does. steps: calls of `step*` methods.
    """

    file: str
    function: str
    first: int
    last: int
    begin: Position
    end: Position
    turns: tuple[Position, ...] = ()
    targets: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    steps: tuple[tuple[Position, Branches], ...] = ()

    def steps_again(self, at: Position) -> bool:
        """Whether a `step` stands further down in the body, and not in another branch than the one here."""
        here = next((branches for position, branches in self.steps if position == at), ())
        return any(position > at and not _exclude(here, branches) for position, branches in self.steps)


def _exclude(one: Branches, other: Branches) -> bool:
    return any((number, not orelse) in other for number, orelse in one)


@dataclass(eq=False)
class Function:
    """A code object with its loops. machinery: nobody's pipeline code, passed over."""

    code: CodeType
    machinery: bool
    loops: tuple[Loop, ...] = ()
    _positions: list[Position] = field(default_factory=list)
    _at: dict[int, tuple[Loop, ...]] = field(default_factory=dict)

    def loops_at(self, instruction: int) -> tuple[Loop, ...]:
        """The loops around an instruction, outermost first. instruction: a frame's `f_lasti`."""
        found = self._at.get(instruction)
        if found is None:
            found = self._at[instruction] = tuple(self._around(instruction)) if self.loops else ()
        return found

    def position(self, instruction: int) -> Position:
        """Where the source of an instruction begins."""
        if not self._positions:
            self._positions = [(line or 0, column or 0) for line, _, column, _ in self.code.co_positions()]
        return self._positions[instruction // 2]

    def turns(self, instruction: int) -> bool:
        """Whether a `for` takes its next value there."""
        return self.code.co_code[instruction] == _FOR_ITER

    def _around(self, instruction: int) -> Iterator[Loop]:
        at = self.position(instruction)
        turning = self.turns(instruction)
        for loop in self.loops:
            if loop.begin <= at < loop.end or (turning and at in loop.turns):
                yield loop


_FUNCTIONS: dict[int, Function] = {}


def function_of(frame: FrameType) -> Function:
    """The function of a frame, read once."""
    code = frame.f_code
    found = _FUNCTIONS.get(id(code))
    if found is None:
        found = _FUNCTIONS[id(code)] = _read(code)
    return found


def _read(code: CodeType) -> Function:
    name = code.co_filename
    if name.startswith("<frozen") or (not name.startswith("<") and is_machinery(name)):
        return Function(code, machinery=True)
    if code.co_name in _COMPREHENSIONS:
        line = code.co_firstlineno
        whole = Loop(
            name, code.co_qualname, line, line, (0, 0), (sys.maxsize, 0), targets=code.co_varnames[1:]
        )
        return Function(code, False, (whole,))
    node = _node(code)
    return Function(code, False, tuple(_loops(node, code)) if node is not None else ())


def _tree(filename: str) -> ast.Module | None:
    """Of the file as it is now: one that was edited between two scans has other loops at its lines."""
    linecache.checkcache(filename)
    return _parsed("".join(linecache.getlines(filename)))


@functools.lru_cache(maxsize=32)
def _parsed(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return None


def _node(code: CodeType) -> ast.AST | None:
    """The definition of a function; the tree of a module."""
    tree = _tree(code.co_filename)
    if tree is None or code.co_name == "<module>":
        return tree
    around: ast.AST = tree
    while True:
        inner = [n for n in _definitions(around) if n[0] <= code.co_firstlineno <= (n[1].end_lineno or 0)]
        if not inner:
            return None
        line, around = inner[-1]
        if line == code.co_firstlineno and getattr(around, "name", None) == code.co_name:
            return around


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _definitions(node: ast.AST) -> Iterator[tuple[int, Definition]]:
    """The outermost functions and classes below a node, with the line of their first decorator."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield (child.decorator_list[0].lineno if child.decorator_list else child.lineno), child
        elif isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _definitions(child)


def _loops(node: ast.AST, code: CodeType) -> Iterator[Loop]:
    """The loops of one function, those around others first; not those of functions inside it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _SCOPES):
            continue
        if isinstance(child, (ast.For, ast.AsyncFor, ast.While)):
            yield _loop(child, code)
        elif isinstance(child, _INLINED):
            yield _comprehension(child, code)
        yield from _loops(child, code)


def _loop(node: ast.For | ast.AsyncFor | ast.While, code: CodeType) -> Loop:
    begins = node.test if isinstance(node, ast.While) else node.body[0]
    turns = () if isinstance(node, ast.While) else (_start(node), _start(node.iter))
    targets = () if isinstance(node, ast.While) else _stored([node.target])
    inside = set(_stored(node.body))
    deeper = {name for inner in _inner_loops(node.body) for name in _stored([inner])}
    return Loop(
        file=code.co_filename,
        function=code.co_qualname,
        first=begins.lineno if turns else node.lineno,
        last=node.end_lineno or node.lineno,
        begin=_start(begins),
        end=_stop(node.body[-1]),
        turns=turns,
        targets=tuple(name for name in targets if name not in inside),
        own=tuple(sorted({*targets, *inside} - deeper)),
        steps=tuple(_step_calls(node.body, ())),
    )


def _inner_loops(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Comprehensions are among them: from Python 3.13 on a frame's `f_locals` shows their variables."""
    each = (node for statement in body for node in ast.walk(statement))
    return (node for node in each if isinstance(node, _TURNING))


def _comprehension(node: ast.ListComp | ast.SetComp | ast.DictComp, code: CodeType) -> Loop:
    begin, end = _start(node), _stop(node)
    return Loop(code.co_filename, code.co_qualname, begin[0], end[0], begin, end)


def _start(node: ast.expr | ast.stmt) -> Position:
    return node.lineno, node.col_offset


def _stop(node: ast.expr | ast.stmt) -> Position:
    return node.end_lineno or node.lineno, node.end_col_offset or 0


def _stored(nodes: Sequence[ast.AST]) -> tuple[str, ...]:
    each = (inner for node in nodes for inner in ast.walk(node))
    return tuple(n.id for n in each if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))


def _step_calls(body: list[ast.stmt], branches: Branches) -> Iterator[tuple[Position, Branches]]:
    for node in body:
        yield from _steps_below(node, branches)


def _steps_below(node: ast.AST, branches: Branches) -> Iterator[tuple[Position, Branches]]:
    if isinstance(node, ast.If):
        yield from _steps_below(node.test, branches)
        yield from _step_calls(node.body, (*branches, (id(node), False)))
        yield from _step_calls(node.orelse, (*branches, (id(node), True)))
        return
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr.startswith("step")
    ):
        yield _start(node), branches
    for child in ast.iter_child_nodes(node):
        yield from _steps_below(child, branches)


def nearest(sorted_numbers: list[int], number: int) -> int:
    """The number itself, else the next one after it, else the last. The list is not empty."""
    at = bisect_right(sorted_numbers, number)
    if at and sorted_numbers[at - 1] == number:
        return number
    return sorted_numbers[at] if at < len(sorted_numbers) else sorted_numbers[-1]
