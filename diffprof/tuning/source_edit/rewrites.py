"""The edits, one function each: what stands at a finding's line -> the node to change and what becomes of it.

An edit is offered only where what stands there says that it is safe; it changes nothing on its own output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import libcst as cst
from libcst import matchers as m

FACTORIES = ("zeros", "ones", "full", "empty", "eye")
"""torch's functions that give the same values on every device."""

Change = Callable[[Any], Any]


@dataclass(frozen=True)
class Edit:
    """One change. node: what is replaced, by identity; change: its updated form -> what stands there then.
    line: where; what: in words."""

    node: cst.CSTNode
    change: Change
    line: int
    what: str


@dataclass(frozen=True)
class Tree:
    """A module with positions and parents."""

    module: cst.Module
    positions: Mapping[cst.CSTNode, Any]
    parents: Mapping[cst.CSTNode, cst.CSTNode]

    @classmethod
    def of(cls, module: cst.Module) -> Tree:
        wrapper = cst.MetadataWrapper(module, unsafe_skip_copy=True)
        positions = wrapper.resolve(cst.metadata.PositionProvider)
        return cls(wrapper.module, positions, wrapper.resolve(cst.metadata.ParentNodeProvider))

    def lines(self, node: cst.CSTNode) -> range:
        place = self.positions[node]
        return range(place.start.line, place.end.line + 1)

    def all(self, kind: Any) -> Iterator[Any]:
        """Nodes that match, outermost first."""
        yield from m.findall(self.module, kind)

    def at(self, line: int, kind: Any) -> Iterator[Any]:
        """Nodes that match and reach over a line, the innermost statement's only."""
        found = [node for node in self.all(kind) if line in self.lines(node)]
        yield from sorted(found, key=lambda node: len(self.lines(node)))

    def around(self, node: cst.CSTNode, kind: Any) -> Any:
        """The nearest enclosing node of a type, or None."""
        above = self.parents.get(node)
        while above is not None and not isinstance(above, kind):
            above = self.parents.get(above)
        return above

    def code(self, node: cst.CSTNode) -> str:
        return self.module.code_for_node(node)


# --- what is on the wrong side ---------------------------------------------------------------------------


def keep_on_host(tree: Tree, line: int, attribute: str) -> Iterator[Edit]:
    """`self.sigmas = sigmas.to(device)` in the class of a read of `self.sigmas` -> `.to("cpu")`."""
    read = next(tree.at(line, m.Attribute(m.Name("self"), m.Name(attribute))), None)
    inside = tree.around(read, cst.ClassDef) if read is not None else None
    if inside is None:
        return
    target = m.AssignTarget(m.Attribute(m.Name("self"), m.Name(attribute)))
    for assigned in m.findall(inside, m.Assign(targets=[target])):
        call = assigned.value
        if m.matches(call, m.Call(m.Attribute(attr=m.Name("cuda")), args=[])):
            change: Change = _with_cpu
        elif m.matches(call, m.Call(m.Attribute(attr=m.Name("to")))):
            place = next((arg for arg in call.args if _is_device(tree, arg)), None)
            if place is None:
                continue
            change = _with_host_at(call.args.index(place))
        else:
            continue
        yield Edit(
            call,
            change,
            tree.lines(call).start,
            f"keep `self.{attribute}`, which Python reads, on the host",
        )


def _with_cpu(call: cst.Call) -> cst.Call:
    return call.with_deep_changes(call.func, attr=cst.Name("cpu"))


def _with_host_at(position: int) -> Change:
    host = cst.SimpleString('"cpu"')
    return lambda call: call.with_deep_changes(call.args[position], value=host)


def _is_device(tree: Tree, argument: cst.Arg) -> bool:
    """Whether an argument of `.to` says where; not `"cpu"`, which is where the table is wanted."""
    if argument.keyword is not None:
        return argument.keyword.value == "device" and tree.code(argument.value) not in ('"cpu"', "'cpu'")
    text = tree.code(argument.value)
    return "device" in text or text.strip("\"'").startswith("cuda")


def create_in_place(tree: Tree, line: int) -> Iterator[Edit]:
    """`torch.zeros(n).to(device)` -> `torch.zeros(n, device=device)`."""
    made = m.Call(m.Attribute(m.Name("torch"), m.OneOf(*(m.Name(name) for name in FACTORIES))))
    moves = m.Call(m.Attribute(made, m.OneOf(m.Name("to"), m.Name("cuda"))))
    for call in tree.at(line, moves):
        inner, method = call.func.value, call.func.attr.value
        if any(arg.keyword is not None and arg.keyword.value == "device" for arg in inner.args):
            continue
        given = method == "to" and len(call.args) == 1 and _is_device(tree, call.args[0])
        if given or (method == "cuda" and not call.args):
            yield Edit(call, _created_there, line, "create it on the device")


def _created_there(call: cst.Call) -> cst.Call:
    assert isinstance(call.func, cst.Attribute)
    assert isinstance(call.func.value, cst.Call)
    where = call.args[0].value if call.args else cst.SimpleString('"cuda"')
    return _with_argument(call.func.value, "device", where)


def model_output(tree: Tree, line: int) -> Iterator[Edit]:
    """`unet(...).sample` -> `unet(..., return_dict=False)[0]`; not the method of a distribution."""
    for read in tree.at(line, m.Attribute(m.Call(), m.Name("sample"))):
        call, above = read.value, tree.parents.get(read)
        if isinstance(above, cst.Call) and above.func is read:
            continue
        if any(arg.star or (arg.keyword and arg.keyword.value == "return_dict") for arg in call.args):
            continue
        yield Edit(read, _first_output, line, "take the first of the plain outputs, not `.sample`")


def _first_output(read: cst.Attribute) -> cst.Subscript:
    assert isinstance(read.value, cst.Call)
    first = cst.SubscriptElement(cst.Index(cst.Integer("0")))
    plain = _with_argument(read.value, "return_dict", cst.Name("False"))
    return cst.Subscript(plain, [first], lpar=read.lpar, rpar=read.rpar)


# --- what is there for nobody ----------------------------------------------------------------------------


def without_statement(tree: Tree, line: int, call: Any, what: str) -> Iterator[Edit]:
    """A statement that is such a call alone, taken out; a block that is empty then gets a `pass`."""
    for statement in tree.at(line, m.Expr(call)):
        if not _only_reads(statement.value):
            continue
        whole = tree.parents[statement]
        if isinstance(whole, cst.SimpleStatementLine) and len(whole.body) == 1 and not _alone(tree, whole):
            yield Edit(whole, lambda _: cst.RemoveFromParent(), line, what)
        else:
            yield Edit(statement, _becomes(cst.Pass()), line, what)


def _alone(tree: Tree, line: cst.SimpleStatementLine) -> bool:
    block = tree.parents.get(line)
    return isinstance(block, cst.IndentedBlock) and len(block.body) == 1


READS = (
    *("item", "tolist", "cpu", "detach", "numpy", "float", "double", "mean", "std", "sum", "min", "max"),
    *("abs", "norm", "size", "dim", "numel", "any", "all"),
)
"""Methods of a tensor that change nothing and draw no random numbers."""
PLAIN = ("float", "int", "str", "repr", "len", "round", "bool", "tuple", "list", "type")


def _only_reads(call: cst.Call) -> bool:
    """Whether nothing is lost with a call but its output: its arguments do nothing, and it writes to no file
    of the user's."""
    if any(arg.keyword is not None and arg.keyword.value == "file" for arg in call.args):
        return False
    acts = m.NamedExpr() | m.Await() | m.Yield()
    reads = m.Call(m.Name(m.MatchIfTrue(PLAIN.__contains__))) | m.Call(
        m.Attribute(attr=m.Name(m.MatchIfTrue(READS.__contains__)))
    )
    calls = [each for arg in call.args for each in m.findall(arg, m.Call())]
    return not any(m.findall(arg, acts) for arg in call.args) and all(m.matches(c, reads) for c in calls)


SYNCHRONIZE = m.Call(m.Attribute(attr=m.Name("synchronize")))
LOGGERS = m.Name("logger") | m.Name("logging") | m.Name("log") | m.Attribute(attr=m.Name("logger"))
LEVELS = m.Name("debug") | m.Name("info")
PRINT = m.Call(m.Name("print")) | m.Call(m.Attribute(LOGGERS, LEVELS))
"""Progress lines; a warning or an error is not one."""


# --- where the pipeline is made --------------------------------------------------------------------------


def after_construction(tree: Tree, statements: Callable[[str], str]) -> Iterator[Edit]:
    """Statements behind the one that makes the pipeline. statements: for the name that it is assigned to."""
    makes = m.Call(
        m.OneOf(
            m.Attribute(attr=m.Name("from_pretrained")),
            m.Name(m.MatchIfTrue(lambda name: name.endswith("Pipeline"))),
            m.Attribute(attr=m.Name(m.MatchIfTrue(lambda name: name.endswith("Pipeline")))),
        )
    )
    pattern = m.Assign(targets=[m.AssignTarget(m.Name())])
    found = [
        assigned
        for assigned in tree.all(pattern)
        if "Pipeline" in tree.code(assigned.value) and m.findall(assigned.value, makes)
    ]
    if len(found) != 1:
        return
    name = found[0].targets[0].target.value
    whole = tree.parents[found[0]]
    block = tree.parents.get(whole)
    text = statements(name)
    if not isinstance(whole, cst.SimpleStatementLine) or not hasattr(block, "body"):
        return
    following = "".join(tree.code(each) for each in block.body)  # type: ignore[union-attr]
    wanted = [line for line in cst.parse_module(text).body if tree.code(line).strip() not in following]
    if wanted:
        line = tree.lines(whole).start
        yield Edit(whole, lambda updated: cst.FlattenSentinel([updated, *wanted]), line, f"set up `{name}`")


# --- carrying out ----------------------------------------------------------------------------------------


def _becomes(node: cst.CSTNode) -> Change:
    return lambda _: node


def _with_argument(call: cst.Call, name: str, value: cst.BaseExpression) -> cst.Call:
    """The call with a keyword argument more, in the layout of those that are there."""
    equal = cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace(""))
    added = cst.Arg(value, keyword=cst.Name(name), equal=equal)
    args = list(call.args)
    if args:
        last = args[-1]
        between = args[-2].comma if len(args) > 1 else cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
        if isinstance(last.comma, cst.Comma):  # a trailing comma stays one
            added = added.with_changes(comma=last.comma, whitespace_after_arg=last.whitespace_after_arg)
        elif not isinstance(last.whitespace_after_arg, cst.SimpleWhitespace):
            added = added.with_changes(whitespace_after_arg=last.whitespace_after_arg)
        empty = cst.SimpleWhitespace("")
        args[-1] = last.with_changes(comma=between, whitespace_after_arg=empty)
    return call.with_changes(args=[*args, added])


class _Applied(cst.CSTTransformer):
    def __init__(self, edits: Sequence[Edit]) -> None:
        super().__init__()
        self.changes = {id(edit.node): edit.change for edit in edits}

    def on_leave(self, original_node: Any, updated_node: Any) -> Any:
        left = super().on_leave(original_node, updated_node)
        change = self.changes.get(id(original_node))
        return left if change is None else change(left)


def applied(tree: Tree, edits: Sequence[Edit]) -> cst.Module:
    """The module with the edits made; of two of the same node the first counts."""
    return tree.module.visit(_Applied(edits[::-1]))
