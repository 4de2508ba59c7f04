"""What is computed only to be said, and explicit waits: such statements are taken out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import libcst as cst
from libcst import matchers as m

from diffprof.judge.source_edit.tree import Edit, Refused, Tree, becomes, gone, reads, writes

_TENSOR_READS = (
    *("item", "tolist", "cpu", "detach", "numpy", "float", "double", "mean", "std", "var", "sum"),
    *("min", "max", "amin", "amax", "abs", "norm", "size", "dim", "numel", "any", "all"),
    *("isnan", "isinf", "isfinite", "square", "sqrt", "round", "median"),
)
"""Methods of a tensor, and torch's functions, that change nothing and draw no random numbers."""
_PLAIN_READS = ("format", "join", "time", "perf_counter", "memory_allocated", "max_memory_allocated")
_READS = frozenset((*_TENSOR_READS, *_PLAIN_READS))
_PLAIN = frozenset(("float", "int", "str", "repr", "len", "round", "bool", "type"))
_CONSUMES = frozenset(("tuple", "list", "min", "max", "sum", "sorted", "any", "all", "set"))
"""Functions that change nothing, unless what they are given under a name is an iterator."""

_SYNCHRONIZE = m.Call(m.Attribute(attr=m.Name("synchronize")))
_LOGGER = m.MatchRegex(r"(?i)_?(logger|logging|log)")
_LOGGERS = m.Name(_LOGGER) | m.Attribute(attr=m.Name(_LOGGER))
_LEVELS = m.Name("debug") | m.Name("info")
_BARS = m.Name(m.MatchRegex("set_(postfix|description)(_str)?"))
SAYS = (
    m.Call(m.Name("print"))
    | m.Call(m.Attribute(_LOGGERS, _LEVELS))
    | m.Call(m.Attribute(attr=_BARS))
    | m.Call(m.Attribute(m.Name("tqdm"), m.Name("write")))
)
"""Progress lines; a warning or an error is not one."""


def without_wait(tree: Tree, line: int) -> Iterator[Edit]:
    """`torch.cuda.synchronize()` as a statement, taken out."""
    for statement in tree.at(line, m.Expr(_SYNCHRONIZE)):
        refuse_if_acting(tree, statement.value)
        _refuse_relied_on(tree, statement)
        yield _taken_out(tree, statement, "take the explicit wait out of the loop")


def _refuse_relied_on(tree: Tree, wait: cst.CSTNode) -> None:
    """Events that are read, copies that do not wait, and streams need a wait in the right place."""
    scope = tree.scope(wait)
    waits = tree.within(scope, m.Expr(_SYNCHRONIZE))
    own = {id(name) for each in waits for name in tree.within(each, m.Name())}
    needs = m.Name(m.MatchRegex(r"elapsed_time|non_blocking|\w*[sS]tream\w*"))
    for used in tree.within(scope, needs):
        if id(used) not in own:
            raise Refused(f"`{used.value}` of line {tree.line(used)} may rely on it")


def without_said(tree: Tree, line: int) -> Iterator[Edit]:
    """A statement that only says something, taken out."""
    for statement in tree.at(line, m.Expr(SAYS)):
        refuse_if_acting(tree, statement.value)
        yield _taken_out(tree, statement, "take out the line that is printed or logged")


def without_said_name(tree: Tree, line: int) -> Iterator[Edit]:
    """`mean = x.mean().item()` that nothing but printed lines read: taken out with them."""
    assigned = tree.statement(line)
    one = m.AssignTarget(m.Name())
    several = m.AssignTarget(m.Tuple([m.AtLeastN(m.Element(m.Name()), n=1)]))
    if not m.matches(assigned, m.Assign(targets=[one | several])):
        return
    names = [each.value for each in tree.within(assigned.targets[0], m.Name())]
    shown = ", ".join(f"`{name}`" for name in names)
    scope = tree.scope(assigned)
    if not isinstance(scope, cst.FunctionDef):
        raise Refused(f"{shown}: a variable of the module, which anything may read")
    used = [each for name in names for each in reads(tree, scope, name)]
    for each in used:
        if _said_in(tree, each) is None:
            raise Refused(f"`{each.value}` is used in line {tree.line(each)}")
    if any(len(writes(tree, scope, name)) != 1 for name in names):
        raise Refused(f"{shown}: set at several places")
    if not used or _acting(assigned.value) is not None:
        raise Refused(f"`{tree.code(assigned.value)}` may do more than compute {shown}")
    for each in used:
        statement = _said_in(tree, each)
        refuse_if_acting(tree, statement.value)
        yield _taken_out(tree, statement, "take out the line that is printed or logged")
    yield _taken_out(tree, assigned, f"take out {shown}, only printed or logged")


def _said_in(tree: Tree, node: cst.CSTNode) -> Any:
    """The statement around a node that only says something, or None."""
    statement = tree.around(node, cst.BaseSmallStatement)
    return statement if m.matches(statement, m.Expr(SAYS)) else None


def refuse_if_acting(tree: Tree, call: cst.BaseExpression) -> None:
    """Raises Refused unless nothing is lost with a call but its output."""
    assert isinstance(call, cst.Call)
    for arg in call.args:
        if arg.keyword is not None and arg.keyword.value == "file":
            raise Refused("what it prints goes to a file of yours")
        if (acting := _acting(arg.value)) is not None:
            raise Refused(f"`{tree.code(acting).strip()}` in it may do more than read")


def _acting(value: cst.CSTNode) -> cst.CSTNode | None:
    """The first part of an expression that may do something, or None."""
    acts = m.NamedExpr() | m.Await() | m.Yield()
    only_reads = (
        m.Call(m.Name(m.MatchIfTrue(_PLAIN.__contains__)))
        | m.Call(
            m.Name(m.MatchIfTrue(_CONSUMES.__contains__)), [m.Arg(m.DoesNotMatch(m.Name())), m.ZeroOrMore()]
        )
        | m.Call(m.Attribute(attr=m.Name(m.MatchIfTrue(_READS.__contains__))))
    )
    for each in m.findall(value, acts | m.Call()):
        if not m.matches(each, only_reads):
            return each
    return None


def _taken_out(tree: Tree, statement: cst.BaseSmallStatement, what: str) -> Edit:
    """A block, or a line of several, that would end with nothing gets a `pass`."""
    whole = tree.parents[statement]
    line = tree.line(statement)
    if isinstance(whole, cst.SimpleStatementLine) and len(whole.body) == 1 and not _alone(tree, whole):
        return Edit(whole, line, what, gone)
    if not isinstance(whole, cst.SimpleStatementLine | cst.SimpleStatementSuite):
        raise Refused("the statement stands where none can be taken out")
    if whole.body[-1] is not statement:
        return Edit(statement, line, what, gone)
    return Edit(statement, line, what, becomes(cst.Pass()))


def _alone(tree: Tree, line: cst.SimpleStatementLine) -> bool:
    block = tree.parents.get(line)
    return isinstance(block, cst.IndentedBlock) and len(block.body) == 1
