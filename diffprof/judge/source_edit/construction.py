"""Where the pipeline is made: statements behind that, and the type that it is loaded in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import libcst as cst
from libcst import matchers as m

from diffprof.judge.source_edit.renaming import rename
from diffprof.judge.source_edit.tree import Edit, Refused, Tree, becomes, keyword, with_argument

_CLASS = m.Name(m.MatchRegex(r"\w*Pipeline\w*"))
_LOADS = m.Name("from_pretrained") | m.Name("from_single_file") | m.Name("from_pipe")
_LOADED = m.Call(m.Attribute(_CLASS | m.Attribute(attr=_CLASS), _LOADS))
_MADE = m.Call(m.Name(m.MatchRegex(r"\w+Pipeline")) | m.Attribute(attr=m.Name(m.MatchRegex(r"\w+Pipeline"))))
_ANY_CLASS = re.compile(r"DiffusionPipeline|Auto\w+")
"""Classes that make a pipeline of another one, which the checkpoint names."""
_HALF = re.compile(r"pipe\.to\((torch\.\w+)\)")


class Construction:
    """The statement of a file that makes the pipeline that was scanned. name: as code, `pipe` or `self.pipe`.

    scanned: that pipeline's class; function: the factory that returned it, where one did.
    Raises Refused where there is none, more than one that may be it, or it gets no name.
    """

    def __init__(self, tree: Tree, scanned: str = "", function: str = "") -> None:
        self.tree = tree
        self.call = self._chosen(scanned, function)
        named = m.Assign(targets=[m.AssignTarget(m.Name() | m.Attribute(m.Name("self")))])
        self.statement = tree.around(self.call, cst.BaseSmallStatement)
        self.line = tree.line(self.call)
        if m.matches(self.statement, named):
            self.name = tree.code(self.statement.targets[0].target)
        elif isinstance(self.statement, cst.Return) and self._is_outermost(self.statement.value):
            self.name = "pipe"
        else:
            raise Refused(f"the pipeline that line {self.line} makes gets no name there")

    def _chosen(self, scanned: str, function: str) -> cst.Call:
        tree = self.tree
        makes = list(tree.all(_LOADED | _MADE))
        outer = [each for each in makes if not any(other in makes for other in tree.above(each))]
        inside = [each for each in outer if self._is_in(each, function)]
        outer = inside or outer
        if not outer:
            raise Refused("no statement in it makes a pipeline by name")
        if len(outer) == 1:
            return outer[0]
        classes = [_class_name(each) for each in outer]
        if classes.count(scanned) == 1 and not any(map(_ANY_CLASS.fullmatch, classes)):
            return outer[classes.index(scanned)]
        lines = ", ".join(str(tree.line(each)) for each in outer)
        which = f", and which of them was scanned (a {scanned}) can't be told" if scanned else ""
        raise Refused(f"it makes more than one pipeline, in lines {lines}{which}")

    def _is_in(self, node: cst.CSTNode, function: str) -> bool:
        return any(
            isinstance(each, cst.FunctionDef) and each.name.value == function
            for each in self.tree.above(node)
        )

    def _is_outermost(self, value: cst.CSTNode | None) -> bool:
        """Whether an expression is the pipeline: the call, or methods on it such as `.to("cuda")`."""
        while value is not self.call and isinstance(value, cst.Call | cst.Attribute):
            value = value.func if isinstance(value, cst.Call) else value.value
        return value is self.call

    # --- statements ----------------------------------------------------------------------------------

    def followed_by(self, statements: str) -> Iterator[Edit]:
        """Statements on `pipe`, behind the last of those that set the pipeline up.

        What stands there already is left out.
        """
        whole = self.tree.parents[self.statement]
        block = self.tree.parents.get(whole)
        if not isinstance(whole, cst.SimpleStatementLine) or len(whole.body) > 1:
            raise Refused(f"line {self.line} has more than the statement that makes the pipeline")
        assert isinstance(block, cst.IndentedBlock | cst.Module)
        text = rename(statements, {"pipe": self.name})
        present = {self.tree.code(each).strip() for each in block.body}
        module = cst.parse_module(text)
        wanted = [each for each in module.body if module.code_for_node(each).strip() not in present]
        what = f"set up `{self.name}`"
        if isinstance(self.statement, cst.Return):
            yield Edit(whole, self.line, what, lambda updated: self._named(updated, wanted))
        elif wanted:
            last = self._setting_up(block.body[block.body.index(whole) :])[-1]
            yield Edit(last, self.tree.line(last), what, after=tuple(wanted))

    def _named(
        self, whole: cst.Module | cst.BaseSuite, wanted: Sequence[object]
    ) -> cst.FlattenSentinel[object]:
        """`return make()` -> `pipe = make()`, the statements, `return pipe`."""
        name = cst.Name(self.name)
        made = cst.Assign([cst.AssignTarget(name)], whole.body[0].value)
        back = cst.SimpleStatementLine([cst.Return(name)])
        return cst.FlattenSentinel([whole.with_changes(body=[made]), *wanted, back])

    def _setting_up(self, following: Sequence[object]) -> list[object]:
        """The construction, and what follows it up to the last statement that only sets the pipeline up."""
        found = list(following[:1])
        for number, statement in enumerate(following[1:], 2):
            if self._uses(statement):
                if not self._sets_up(statement):
                    break
                found = list(following[:number])
            elif not isinstance(statement, cst.SimpleStatementLine):
                break
        return found

    def _uses(self, node: cst.CSTNode) -> bool:
        return any(
            self.tree.code(each) == self.name for each in self.tree.within(node, m.Name() | m.Attribute())
        )

    def _sets_up(self, statement: cst.CSTNode) -> bool:
        """`pipe.scheduler = ...`, `pipe = pipe.to("cuda")`, `pipe.enable_...()`.

        Not a call of the pipeline, not one that hands it on.
        """
        if not isinstance(statement, cst.SimpleStatementLine):
            return False
        small = statement.body[0]
        first = small.targets[0].target if isinstance(small, cst.Assign) else getattr(small, "value", None)
        calls = self.tree.within(statement, m.Call())
        if any(self.tree.code(call.func) == self.name for call in calls):
            return False
        if any(self.tree.code(arg.value) == self.name for call in calls for arg in call.args):
            return False
        return isinstance(small, cst.Assign | cst.Expr) and self._begins_with_it(first)

    def _begins_with_it(self, node: object) -> bool:
        while node is not None and self.tree.code(node) != self.name:
            node = getattr(node, "func", None) or (node.value if isinstance(node, cst.Attribute) else None)
        return node is not None

    # --- the type ------------------------------------------------------------------------------------

    def loaded_in(self, statements: str) -> list[Edit] | None:
        """For `pipe.to(torch.bfloat16)` the argument `dtype` of `from_pretrained`; None for other statements.

        Raises Refused where the type given there is not written out.
        """
        half = _HALF.fullmatch(statements.strip())
        if half is None or not m.matches(
            self.call, m.Call(m.Attribute(attr=m.DoesNotMatch(m.Name("from_pipe"))))
        ):
            return None
        if m.matches(self.call, _MADE) and not m.matches(self.call, _LOADED):
            return None
        wanted = cst.parse_expression(half[1])
        given = keyword(self.call, "torch_dtype", "dtype")
        line = self.tree.line(self.call)
        what = f"load the pipeline with {half[1]}"
        if given is None:
            return [Edit(self.call, line, what, lambda call: with_argument(call, "dtype", wanted))]
        if not m.matches(given.value, m.Attribute(m.Name("torch")) | m.SimpleString() | m.Name("None")):
            raise Refused(
                f"the type is given as `{self.tree.code(given.value)}` in line {line}: change what that is"
            )
        if self.tree.code(given.value) == half[1]:
            return []
        return [Edit(given.value, line, what, becomes(wanted))]


def _class_name(call: cst.Call) -> str:
    """`X` of `X(...)`, `diffusers.X(...)`, `X.from_pretrained(...)`."""
    made = call.func
    if m.matches(made, m.Attribute(attr=_LOADS)):
        made = cst.ensure_type(made, cst.Attribute).value
    name = made.attr if isinstance(made, cst.Attribute) else made
    return name.value if isinstance(name, cst.Name) else ""
