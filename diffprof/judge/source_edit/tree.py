"""A parsed file: what stands where, what is around it, and edits made to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import libcst as cst
from libcst import matchers as m

Change = Callable[[Any], Any]


class Refused(Exception):
    """An edit that is not made. The text says why, as a clause."""


@dataclass(frozen=True)
class Edit:
    """One change at a node, which is known by identity. line: where; what: in words.

    change: its updated form -> what stands there then. before, after: statements put in front, behind.
    """

    node: cst.CSTNode
    line: int
    what: str
    change: Change | None = None
    before: tuple[cst.CSTNode, ...] = ()
    after: tuple[cst.CSTNode, ...] = ()


@dataclass(frozen=True)
class Tree:
    """A module with positions and parents.

    nodes: all, as they stand in the source, outer ones first. spans: of each the range of `nodes` that it and
    what is below it take.
    """

    module: cst.Module
    positions: Mapping[cst.CSTNode, cst.metadata.CodeRange]
    parents: Mapping[cst.CSTNode, cst.CSTNode]
    nodes: Sequence[cst.CSTNode]
    spans: Mapping[cst.CSTNode, range]

    @classmethod
    def of(cls, module: cst.Module) -> Tree:
        wrapper = cst.MetadataWrapper(module, unsafe_skip_copy=True)
        positions = wrapper.resolve(cst.metadata.PositionProvider)
        walk = _Walk()
        wrapper.module.visit(walk)
        return cls(wrapper.module, positions, walk.parents, walk.nodes, walk.spans)

    def line(self, node: cst.CSTNode) -> int:
        return int(self.positions[node].start.line)

    def lines(self, node: cst.CSTNode) -> range:
        place = self.positions.get(node)
        return range(place.start.line, place.end.line + 1) if place is not None else range(0)

    def over(self, line: int) -> Iterator[cst.CSTNode]:
        """Nodes that reach over a line, as they stand in the source."""
        n = 0
        while n < len(self.nodes):
            node = self.nodes[n]
            reaches = line in self.lines(node)
            if reaches:
                yield node
            # What does not reach there has nothing below that does, but for decorators.
            decorated = isinstance(node, cst.FunctionDef | cst.ClassDef) and node.decorators
            inside = reaches or decorated or node is self.module
            n = n + 1 if inside else self.spans[node].stop

    def all(self, kind: object) -> Iterator[cst.CSTNode]:
        """Nodes that match, outermost first."""
        return (node for node in self.nodes if m.matches(node, kind))

    def at(self, line: int, kind: object) -> Iterator[cst.CSTNode]:
        """Nodes that match and reach over a line, those of the fewest lines first."""
        here = [node for node in self.over(line) if m.matches(node, kind)]
        yield from sorted(here, key=lambda node: len(self.lines(node)))

    def within(self, node: cst.CSTNode, kind: object) -> list[cst.CSTNode]:
        """Nodes at or below a node that match, as they stand in the source."""
        span = self.spans.get(node)
        assert span is not None, "a node of this tree"
        return [each for each in self.nodes[span.start : span.stop] if m.matches(each, kind)]

    def above(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        """What is around a node, innermost first."""
        parent = self.parents.get(node)
        while parent is not None:
            yield parent
            parent = self.parents.get(parent)

    def around(self, node: cst.CSTNode, kind: Any) -> Any:
        """The nearest enclosing node of a type, or None."""
        return next((each for each in self.above(node) if isinstance(each, kind)), None)

    def scope(self, node: cst.CSTNode) -> cst.FunctionDef | cst.Module:
        """The function that a node is in, or the module."""
        return self.around(node, cst.FunctionDef) or self.module

    def statement(self, line: int) -> Any:
        """The smallest statement that reaches over a line, or None. Simple ones come first."""
        here = list(self.over(line))
        small = [node for node in here if isinstance(node, cst.BaseSmallStatement)]
        found = small or [node for node in here if isinstance(node, cst.BaseCompoundStatement)]
        return min(found, key=lambda node: len(self.lines(node)), default=None)

    def parsed(self, source: str) -> cst.SimpleStatementLine | cst.BaseCompoundStatement:
        """A statement from source text, with this module's line ends."""
        config = self.module.config_for_parsing
        return cst.parse_statement(source.replace("\n", config.default_newline), config)

    def code(self, node: cst.CSTNode) -> str:
        return self.module.code_for_node(node)


class _Walk(cst.CSTVisitor):
    """Every node in one pass."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[cst.CSTNode] = []
        self.parents: dict[cst.CSTNode, cst.CSTNode] = {}
        self.spans: dict[cst.CSTNode, range] = {}
        self._open: list[tuple[cst.CSTNode, int]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if self._open:
            self.parents[node] = self._open[-1][0]
        self._open.append((node, len(self.nodes)))
        self.nodes.append(node)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        _, first = self._open.pop()
        self.spans[original_node] = range(first, len(self.nodes))


# --- names -----------------------------------------------------------------------------------------------


def reads(tree: Tree, scope: cst.CSTNode, name: str) -> list[cst.Name]:
    """Where a name is read in a scope, functions within it included."""
    return [
        node
        for node in tree.within(scope, m.Name(name))
        if not _is_written(tree, node) and not _is_label(tree, node)
    ]


def writes(tree: Tree, scope: cst.CSTNode, name: str) -> list[cst.Name]:
    """Where a name gets a value in a scope, its parameters included."""
    return [node for node in tree.within(scope, m.Name(name)) if _is_written(tree, node)]


def _is_written(tree: Tree, node: cst.CSTNode) -> bool:
    child = node
    for parent in tree.above(node):
        if isinstance(parent, cst.AssignTarget | cst.Param | cst.NameItem | cst.AsName | cst.Del):
            return not (isinstance(parent, cst.Param) and parent.name is not child)
        if isinstance(parent, cst.AnnAssign | cst.AugAssign | cst.NamedExpr):
            return parent.target is child
        if isinstance(parent, cst.For | cst.CompFor):
            return parent.target is child
        if isinstance(parent, cst.FunctionDef | cst.ClassDef):
            return parent.name is child
        if not isinstance(parent, cst.Tuple | cst.List | cst.Element | cst.StarredElement):
            return False
        child = parent
    return False


def _is_label(tree: Tree, node: cst.CSTNode) -> bool:
    """Whether it is no variable: an attribute's name, or that of an argument."""
    parent = tree.parents.get(node)
    if isinstance(parent, cst.Attribute):
        return parent.attr is node
    return isinstance(parent, cst.Arg) and parent.keyword is node


# --- carrying out ----------------------------------------------------------------------------------------


def becomes(node: cst.CSTNode) -> Change:
    """The change into this."""
    return lambda _: node


def gone(_: object) -> object:
    """The change that takes a statement out."""
    return cst.RemoveFromParent()


def keyword(call: cst.Call, *names: str) -> cst.Arg | None:
    """The argument of a call that is given by one of these names."""
    return next((arg for arg in call.args if arg.keyword is not None and arg.keyword.value in names), None)


def with_argument(call: cst.Call, name: str, value: cst.BaseExpression) -> cst.Call:
    """The call with a keyword argument more, in the layout of those that are there."""
    equal = cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace(""))
    added = cst.Arg(value, keyword=cst.Name(name), equal=equal)
    if not call.args:
        return call.with_changes(args=[added])
    *others, last = call.args
    between = (
        cst.ensure_type(others[-1].comma, cst.Comma).whitespace_after
        if others
        else call.whitespace_before_args
    )
    if not others and isinstance(between, cst.SimpleWhitespace):
        between = cst.SimpleWhitespace(" ")
    if isinstance(last.comma, cst.Comma):  # a trailing comma stays one
        behind = last.comma.whitespace_after
        added = added.with_changes(
            comma=last.comma.with_changes(whitespace_after=_without_comment(behind)),
            whitespace_after_arg=last.whitespace_after_arg,
        )
    else:
        behind = last.whitespace_after_arg
        if not isinstance(behind, cst.SimpleWhitespace):
            added = added.with_changes(whitespace_after_arg=_without_comment(behind))
    between = _with_comment_of(_without_comment(between), behind)
    last = last.with_changes(
        comma=cst.Comma(whitespace_after=between), whitespace_after_arg=cst.SimpleWhitespace("")
    )
    return call.with_changes(args=[*others, last, added])


def _without_comment(space: object) -> object:
    if isinstance(space, cst.ParenthesizedWhitespace):
        return space.with_changes(first_line=cst.TrailingWhitespace(), empty_lines=[])
    return space


def _with_comment_of(space: object, other: object) -> object:
    """A comment stays on the line of the argument that it is behind."""
    if not isinstance(other, cst.ParenthesizedWhitespace) or other.first_line.comment is None:
        return space
    if isinstance(space, cst.ParenthesizedWhitespace):
        return space.with_changes(first_line=other.first_line)
    return other


def distinct(edits: Iterable[Edit]) -> list[Edit]:
    """Each edit once. Of several changes of a node the first counts, but for blocks, which take all."""
    found: dict[tuple[object, ...], Edit] = {}
    for edit in edits:
        adds = edit.change is None or isinstance(edit.node, cst.BaseSuite)
        found.setdefault((id(edit.node), edit.what) if adds else (id(edit.node),), edit)
    return list(found.values())


class _Applied(cst.CSTTransformer):
    def __init__(self, edits: Sequence[Edit]) -> None:
        super().__init__()
        self.edits: dict[int, list[Edit]] = {}
        for edit in edits:
            self.edits.setdefault(id(edit.node), []).append(edit)

    def on_leave(self, original_node: object, updated_node: object) -> object:
        left = super().on_leave(original_node, updated_node)
        before: list[cst.CSTNode] = []
        after: list[object] = []
        for edit in self.edits.get(id(original_node), ()):
            left = edit.change(left) if edit.change is not None else left
            before += edit.before
            after += edit.after
        if not before and not after:
            return left
        if before:  # comments above it stay above all of it
            before[0] = before[0].with_changes(leading_lines=left.leading_lines)
            left = left.with_changes(leading_lines=[])
        return cst.FlattenSentinel([*before, left, *after])


def applied(tree: Tree, edits: Sequence[Edit]) -> cst.Module:
    """The module with the edits made, which are `distinct`."""
    made = _touched(tree, edits)
    body = [each for old in tree.module.body for each in made.get(old, [old])]
    return tree.module.with_changes(body=body)


def applied_to(source: bytes, tree: Tree, edits: Sequence[Edit]) -> bytes:
    """The module's source with the edits made.

    Only top-level statements that change are written anew, as long as each stands in the source once.
    """
    encoding = "utf-8" if tree.module.encoding.startswith("utf-8") else tree.module.encoding
    text = source
    for old, new in _touched(tree, edits).items():
        was = tree.code(old).encode(encoding)
        if text.count(was) != 1:
            return applied(tree, edits).bytes
        text = text.replace(was, "".join(map(tree.code, new)).encode(encoding))
    return text


def _touched(tree: Tree, edits: Sequence[Edit]) -> dict[cst.CSTNode, list[object]]:
    """Top-level statements that change -> what stands there then."""
    touched = {id(each) for edit in edits for each in (edit.node, *tree.above(edit.node))}
    transformer = _Applied(edits)
    found: dict[cst.CSTNode, list[object]] = {}
    for statement in tree.module.body:
        if id(statement) in touched:
            made: Any = statement.visit(transformer)
            several = isinstance(made, cst.FlattenSentinel)
            found[statement] = list(made) if several else [] if made is cst.RemovalSentinel.REMOVE else [made]
    return found
