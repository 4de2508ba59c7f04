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
            moved = call.with_changes(func=call.func.with_changes(attr=cst.Name("cpu")))
        elif m.matches(call, m.Call(m.Attribute(attr=m.Name("to")))):
            place = next((arg for arg in call.args if _is_device(tree, arg)), None)
            if place is None:
                continue
            host = place.with_changes(value=cst.SimpleString('"cpu"'))
            moved = call.with_changes(args=[host if arg is place else arg for arg in call.args])
        else:
            continue
        yield Edit(
            call,
            _becomes(moved),
            tree.lines(call).start,
            f"keep `self.{attribute}`, which Python reads, on the host",
        )


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
        if method == "cuda" and not call.args:
            where: cst.BaseExpression = cst.SimpleString('"cuda"')
        elif method == "to" and len(call.args) == 1 and _is_device(tree, call.args[0]):
            where = call.args[0].value
        else:
            continue
        yield Edit(call, _becomes(_with_argument(inner, "device", where)), line, "create it on the device")


def model_output(tree: Tree, line: int) -> Iterator[Edit]:
    """`unet(...).sample` -> `unet(..., return_dict=False)[0]`."""
    for read in tree.at(line, m.Attribute(m.Call(), m.Name("sample"))):
        call = read.value
        if any(arg.star or (arg.keyword and arg.keyword.value == "return_dict") for arg in call.args):
            continue
        first = cst.SubscriptElement(cst.Index(cst.Integer("0")))
        plain = cst.Subscript(_with_argument(call, "return_dict", cst.Name("False")), [first])
        yield Edit(read, _becomes(plain), line, "take the first of the plain outputs, not `.sample`")


# --- what is there for nobody ----------------------------------------------------------------------------


def without_statement(tree: Tree, line: int, call: Any, what: str) -> Iterator[Edit]:
    """A statement that is such a call alone, taken out; a block that is empty then gets a `pass`."""
    for statement in tree.at(line, m.Expr(call)):
        whole = tree.parents[statement]
        if isinstance(whole, cst.SimpleStatementLine) and len(whole.body) == 1 and not _alone(tree, whole):
            yield Edit(whole, lambda _: cst.RemoveFromParent(), line, what)
        else:
            yield Edit(statement, _becomes(cst.Pass()), line, what)


def _alone(tree: Tree, line: cst.SimpleStatementLine) -> bool:
    block = tree.parents.get(line)
    return isinstance(block, cst.IndentedBlock) and len(block.body) == 1


SYNCHRONIZE = m.Call(m.Attribute(attr=m.Name("synchronize")))
PRINT = m.Call(m.Name("print"))


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
