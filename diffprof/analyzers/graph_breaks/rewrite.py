"""Rewrite a function's source, with its line numbers kept: without blocks that Dynamo can't resume in, or a
loop's body on its own."""

from __future__ import annotations

import ast
import copy
import functools
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Any


@functools.lru_cache(maxsize=64)
def _file_tree(filename: str) -> ast.Module | None:
    try:
        with open(filename, encoding="utf-8") as file:
            return ast.parse(file.read(), filename)
    except (OSError, SyntaxError, ValueError):
        return None


def _definition(code: CodeType) -> tuple[ast.FunctionDef, str | None] | None:
    """The function's source as a tree, and the class it stands in; None for what has no source."""
    tree = _file_tree(code.co_filename)
    if tree is None:
        return None
    for owner in ast.walk(tree):
        for node in ast.iter_child_nodes(owner):
            if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                if first == code.co_firstlineno or node.lineno == code.co_firstlineno:
                    return node, owner.name if isinstance(owner, ast.ClassDef) else None
    return None


def _compiled(node: ast.FunctionDef, owner: str | None, like: CodeType) -> CodeType | None:
    """Code of a changed function that can take the place of `like`: same name, file and free variables."""
    bare = copy.copy(node)
    bare.decorator_list = []
    body: list[ast.stmt] = [bare]
    if owner is not None:
        body = [ast.ClassDef(name=owner, bases=[], keywords=[], body=[bare], decorator_list=[])]
    free = [name for name in like.co_freevars if name != "__class__"]
    if free:
        values = ast.Constant(value=None)
        names: list[ast.stmt] = [
            ast.Assign(targets=[ast.Name(id=n, ctx=ast.Store())], value=values) for n in free
        ]
        nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        body = [ast.FunctionDef(name="around", args=nothing, body=[*names, *body], decorator_list=[])]
    module = ast.fix_missing_locations(ast.Module(body=body, type_ignores=[]))
    try:
        whole = compile(module, like.co_filename, "exec", dont_inherit=True, flags=_future(like))
    except (SyntaxError, ValueError):
        return None
    found = next((c for c in _codes(whole) if c.co_name == like.co_name), None)
    if found is None or found.co_freevars != like.co_freevars:
        return None
    return found.replace(co_qualname=like.co_qualname)


def _future(like: CodeType) -> int:
    import __future__

    return like.co_flags & __future__.annotations.compiler_flag


def _codes(code: CodeType) -> Iterator[CodeType]:
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield const
            yield from _codes(const)


# --- without blocks that nothing is resumed in ----------------------------------------------------------


def straightened(code: CodeType, passes: int = 1) -> CodeType | None:
    """The function with its loops written out, so that no jump leads back, and with neither `with` nor `try`
    around what stands in them; None where there are none, or that can't be. passes: that each loop makes at
    most, where it has as many; loops inside of another make one each."""
    found = _definition(code)
    if found is None:
        return None
    node, owner = found
    changed = copy.deepcopy(node)
    straight = _Straighten(passes)
    changed.body = straight.all(changed.body)
    return _compiled(changed, owner, code) if straight.changes else None


class _Straighten(ast.NodeTransformer):
    """`for x in it: body` becomes `while True: x = next(iter(it)); body; break`, which never jumps back; of
    several passes each is such a loop in one around all of them, which `else: break` leaves.

    `with a as b: body` becomes `_a = a; b = _a.__enter__(); body; _a.__exit__(None, None, None)`; what is
    entered for nothing is not entered. Of a `try` what runs where nothing is raised stays.
    """

    def __init__(self, passes: int) -> None:
        self.changes = 0
        self.passes = passes

    def all(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """A body, changed."""
        out: list[ast.stmt] = []
        for statement in body:
            changed = self.visit(statement)
            out += changed if isinstance(changed, list) else [changed]
        return out

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        return node

    def visit_For(self, node: ast.For) -> ast.AST | list[ast.stmt]:
        self.changes += 1
        self.generic_visit(node)
        if self.passes == 1:
            take = ast.Assign(targets=[node.target], value=_called("next", _called("iter", node.iter)))
            return _once(node, [take], ast.Break())
        name = f"_passes_{self.changes}"
        some = _called("zip", _called("range", ast.Constant(value=self.passes)), node.iter)
        begin = ast.Assign(targets=[_stored(name)], value=_called("tuple", some))
        takes = (
            [
                _leave_if(ast.Compare(_called("len", _name(name)), [ast.Eq()], [ast.Constant(value=at)])),
                ast.Assign(targets=[node.target], value=_item(_item(_name(name), at), 1)),
            ]
            for at in range(self.passes)
        )
        return [_placed(begin, node), self._several(node, takes)]

    def visit_While(self, node: ast.While) -> ast.AST:
        self.changes += 1
        self.generic_visit(node)
        ended = ast.UnaryOp(op=ast.Not(), operand=node.test)
        if self.passes == 1:
            return _once(node, [_leave_if(ended)], ast.Break())
        return self._several(node, ([_leave_if(copy.deepcopy(ended))] for _ in range(self.passes)))

    def _several(self, node: ast.For | ast.While, takes: Iterable[list[ast.stmt]]) -> ast.AST:
        """Passes one after the other. takes: what stands before the body of each."""
        name = f"_left_{self.changes}"
        self.changes += 1
        passes: list[ast.stmt] = []
        for take in takes:
            went_on = ast.Assign(targets=[_stored(name)], value=ast.Constant(value=False))
            begin = ast.Assign(targets=[_stored(name)], value=ast.Constant(value=True))
            passes += [*take, begin, _once(node, [], went_on, ast.Break()), _leave_if(_name(name))]
        whole = ast.While(test=ast.Constant(value=True), body=[*passes, ast.Break()], orelse=[])
        return _placed(whole, node)

    def visit_With(self, node: ast.With) -> list[ast.stmt]:
        before: list[ast.stmt] = []
        after: list[ast.stmt] = []
        for item in node.items:
            self.changes += 1
            if item.optional_vars is None:
                before.append(ast.Expr(value=item.context_expr))
                continue
            name = f"_context_{self.changes}"
            nothing: list[ast.expr] = [ast.Constant(value=None) for _ in range(3)]
            entered = ast.Call(func=_attribute(name, "__enter__"), args=[], keywords=[])
            left = ast.Call(func=_attribute(name, "__exit__"), args=nothing, keywords=[])
            before.append(ast.Assign(targets=[_stored(name)], value=item.context_expr))
            before.append(ast.Assign(targets=[item.optional_vars], value=entered))
            after.insert(0, ast.Expr(value=left))
        return [
            *(_placed(each, node) for each in before),
            *self.all(node.body),
            *(_placed(each, node) for each in after),
        ]

    def visit_Try(self, node: ast.Try) -> list[ast.stmt]:
        self.changes += 1
        return self.all([*node.body, *node.orelse, *node.finalbody])


def _once(node: ast.For | ast.While, before: list[ast.stmt], *end: ast.stmt) -> ast.While:
    """A loop with the body of another that makes one pass. end: what stands there for `continue`."""
    leave = _ContinueTo(end)
    body = [leave.visit(s) for s in copy.deepcopy(node.body)]
    test = ast.Constant(value=True)
    once = ast.While(test=test, body=[*before, *body, *copy.deepcopy(end)], orelse=[])
    return _placed(once, node)


class _ContinueTo(ast.NodeTransformer):
    """Other statements in the place of `continue`. Inner loops keep their own."""

    def __init__(self, end: tuple[ast.stmt, ...]) -> None:
        self.end = end

    def visit_Continue(self, node: ast.Continue) -> list[ast.stmt]:
        return [_placed(copy.deepcopy(each), node) for each in self.end]

    def _keep(self, node: ast.AST) -> ast.AST:
        return node

    visit_For = visit_While = visit_FunctionDef = visit_Lambda = _keep


def _called(name: str, *args: ast.expr) -> ast.Call:
    return ast.Call(func=_name(name), args=list(args), keywords=[])


def _item(held: ast.expr, at: int) -> ast.Subscript:
    return ast.Subscript(value=held, slice=ast.Constant(value=at), ctx=ast.Load())


def _leave_if(test: ast.expr) -> ast.If:
    return ast.If(test=test, body=[ast.Break()], orelse=[])


def _name(text: str) -> ast.Name:
    return ast.Name(id=text, ctx=ast.Load())


def _stored(text: str) -> ast.Name:
    return ast.Name(id=text, ctx=ast.Store())


def _attribute(owner: str, name: str) -> ast.Attribute:
    return ast.Attribute(value=_name(owner), attr=name, ctx=ast.Load())


def _placed(node: Any, like: ast.stmt) -> Any:
    return ast.fix_missing_locations(ast.copy_location(node, like))


# --- a loop's body on its own --------------------------------------------------------------------------


def body_apart(code: CodeType, first: int, last: int, runner: str) -> CodeType | None:
    """The function with the body of one loop moved into an inner function of the same name, which is called
    through the global `runner(body)`. first, last: lines of the loop. None where the body can't be moved: it
    returns or yields, or the loop is not found.
    """
    found = _definition(code)
    if found is None:
        return None
    function, owner = copy.deepcopy(found[0]), found[1]
    loops = [
        n
        for n in ast.walk(function)
        if isinstance(n, ast.For | ast.While) and n.lineno <= first <= last <= (n.end_lineno or 0)
    ]
    if not loops:
        return None
    loop = max(loops, key=lambda n: n.lineno)
    leaving = (ast.Return, ast.Yield, ast.YieldFrom, ast.Await)
    if any(isinstance(n, leaving) for s in loop.body for n in ast.walk(s)):
        return None
    assigned = sorted(_assigned(loop.body))
    nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
    leave = _LeaveBody()
    body = [leave.visit(s) for s in loop.body]
    head: list[ast.stmt] = [ast.Nonlocal(names=assigned)] if assigned else []
    inner = _placed(
        ast.FunctionDef(name=function.name, args=nothing, body=[*head, *body], decorator_list=[]),
        loop.body[0],
    )
    call = ast.Call(func=_name(runner), args=[_name(function.name)], keywords=[])
    check = ast.If(test=call, body=[ast.Break()], orelse=[])
    bound = {a.arg for a in ast.walk(function.args) if isinstance(a, ast.arg)}
    unset = [n for n in assigned if n not in bound]
    loop.body = [_placed(check, loop.body[0])]
    start = function.body[0]
    targets: list[ast.expr] = [_stored(n) for n in unset]
    nones = [_placed(ast.Assign(targets=targets, value=ast.Constant(value=None)), start)] if targets else []
    function.body = [*nones, inner, *function.body]
    return _compiled(function, owner, code)


class _LeaveBody(ast.NodeTransformer):
    """`continue` ends the body, `break` ends it and says so."""

    def visit_Continue(self, node: ast.Continue) -> ast.AST:
        return _placed(ast.Return(value=ast.Constant(value=False)), node)

    def visit_Break(self, node: ast.Break) -> ast.AST:
        return _placed(ast.Return(value=ast.Constant(value=True)), node)

    def _keep(self, node: ast.AST) -> ast.AST:
        return node

    visit_For = visit_While = visit_FunctionDef = visit_Lambda = _keep


def _assigned(body: list[ast.stmt]) -> set[str]:
    """Names that a body binds in its function."""
    names: set[str] = set()
    pending: list[ast.AST] = list(body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            names.add(node.id)
        if isinstance(node, ast.Import | ast.ImportFrom):
            names.update((a.asname or a.name).partition(".")[0] for a in node.names)
        if isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
        pending.extend(ast.iter_child_nodes(node))
    return names
