"""What a scheduler's `step` does with its timestep, read in its source: whether a number will do, whether
timesteps on the CPU will, and which of its methods compute with it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from diffprof.analyzers.syncs.class_source import NoSource

NOT_VALUES = ("device", "dtype", "shape", "ndim", "layout")
"""Attributes of a tensor that say nothing of its values."""

_WHOLE = (ast.Add, ast.Sub, ast.FloorDiv, ast.Mod)
"""Of whole numbers these are the same for a number as for a tensor."""

Tags = frozenset[str]
"""Where a value that follows from the timestep was computed: names of methods; `step` itself."""

_NONE: Tags = frozenset()

_TABLE = "timesteps"
"""The tag of what comes from the scheduler's own table."""


@dataclass(frozen=True)
class TimestepUse:
    """number: a Python number will do, which only indexes, is compared, and added to. searches: the table of
    timesteps is looked into as well. indexed: once the first step was found, a list of its entries will do
    for that table; listed: a list of numbers. computing: methods whose result takes part in what is computed:
    they need the timestep of the device. inline: `step` itself computes with it."""

    number: bool
    searches: bool
    indexed: bool
    listed: bool
    computing: tuple[str, ...]
    inline: bool


def timestep_use(methods: Mapping[str, ast.FunctionDef], entry: str = "step") -> TimestepUse:
    """What `entry` does with the timestep that it is given.

    Raises NoSource where it has no such argument.
    """
    if entry not in methods:
        raise NoSource(f"`{entry}` is inherited from elsewhere")
    given = [name for name in arguments_to_timestep(methods[entry]) if is_timestep(name)]
    tags = dict.fromkeys([*given, *optional_timesteps(methods[entry])], frozenset((entry,)))
    result = _Reader(methods, entry, ()).call(entry, tags)
    computing = tuple(sorted(result - {entry, _TABLE}))
    reader = _Reader(methods, entry, computing)
    reader.call(entry, tags)
    number = reader.number and len(given) == 1
    later = _Reader(methods, entry, computing, later=True)
    later.call(entry, tags)
    inline = bool(result & {entry, _TABLE})
    listed = number and later.indexed and later.listed
    return TimestepUse(number, reader.searches, later.indexed, listed, computing, inline)


def arguments_to_timestep(method: ast.FunctionDef) -> list[str]:
    """The names of a method's arguments behind `self`, up to the last timestep among those without defaults.

    Raises NoSource where there is none.
    """
    every = method.args.args[1:]
    names = [each.arg for each in every[: len(every) - len(method.args.defaults)]]
    while names and not is_timestep(names[-1]):
        names.pop()
    if not names:
        raise NoSource(f"`{method.name}` names no timestep")
    return names


def optional_timesteps(method: ast.FunctionDef) -> list[str]:
    """The names of further timesteps that a method may be given: `prev_timestep=None`."""
    named = method.args.args[len(method.args.args) - len(method.args.defaults) :]
    return [each.arg for each in (*named, *method.args.kwonlyargs) if each.arg.endswith("_timestep")]


def is_timestep(name: str) -> bool:
    """Whether an argument of that name is one."""
    return name == "timestep" or name.startswith("timestep_")


class _Reader:
    """Follows the timestep through the methods of a class."""

    def __init__(
        self,
        methods: Mapping[str, ast.FunctionDef],
        entry: str,
        elsewhere: Iterable[str],
        *,
        later: bool = False,
    ) -> None:
        """elsewhere: methods that are given another timestep, and not followed. later: whether to read what
        the steps behind the first one run."""
        self.methods = methods
        self.entry = entry
        self.elsewhere = frozenset(elsewhere)
        self.later = later
        self.number = True
        self.indexed = True
        self.listed = True
        self.searches = False
        self.attributes: dict[str, Tags] = {"timesteps": frozenset((_TABLE,))}
        self.open: list[str] = []

    def call(self, name: str, given: Mapping[str, Tags]) -> Tags:
        """What a method returns, its parameters being so."""
        if name in self.open:
            return _NONE
        self.open.append(name)
        names = dict(given)
        body = list(_statements(self.methods[name].body))
        if self.later:
            once = {id(each) for node in body for each in _statements(_in_the_first_step(node))}
            body = [node for node in body if id(node) not in once]
        skipped = {id(each) for node in body for each in _statements(_for_tensors(node))}
        before: object = None
        result = _NONE
        while before != (names, self.attributes):  # what is set later in a loop is there before, too
            before = dict(names), dict(self.attributes)
            for statement in body:
                number = self.number
                result |= self.statement(statement, names)
                if id(statement) in skipped:
                    self.number = number
        self.open.pop()
        return result

    def statement(self, node: ast.stmt, names: dict[str, Tags]) -> Tags:
        if isinstance(node, ast.Return):
            return self.of(node.value, names)
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self.set(target, self.of(node.value, names), names)
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            self.set(node.target, self.of(node.value, names), names)
        elif isinstance(node, ast.For):
            self.set(node.target, self.of(node.iter, names), names)
        else:
            for each in ast.iter_child_nodes(node):
                if isinstance(each, ast.expr):
                    self.of(each, names)
        return _NONE

    def set(self, target: ast.expr, tags: Tags, names: dict[str, Tags]) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            for each in target.elts:
                self.set(each, tags, names)
            return
        while isinstance(target, ast.Subscript):
            target = target.value
        if isinstance(target, ast.Name) and tags:
            names[target.id] = names.get(target.id, _NONE) | tags
        elif isinstance(target, ast.Attribute) and tags and _is_own(target):
            self.attributes[target.attr] = self.attributes.get(target.attr, _NONE) | tags

    def of(self, node: ast.expr | None, names: dict[str, Tags]) -> Tags:
        """The tags of an expression's value."""
        if isinstance(node, ast.Name):
            return names.get(node.id, _NONE)
        if isinstance(node, ast.Attribute):
            return self.attribute(node, names)
        if isinstance(node, ast.Call):
            return self.called(node, names)
        if isinstance(node, ast.Subscript):  # what a table holds at a timestep does not follow from it
            self.of(node.slice, names)
            indexed = self.indexed
            found = self.of(node.value, names)
            if _is_own_table(node.value) and not isinstance(node.slice, ast.Slice | ast.Tuple):
                self.indexed = indexed
            return found
        if isinstance(node, ast.Compare):
            self.all([node.left, *node.comparators], names)
            return _NONE
        if isinstance(node, ast.IfExp):
            self.of(node.test, names)
            return self.all([node.body, node.orelse], names)
        if isinstance(node, ast.BinOp):
            found = self.all([node.left, node.right], names)
            self.needs_tensor(_NONE if isinstance(node.op, _WHOLE) else found)
            return found
        if node is None or isinstance(node, ast.Constant | ast.Lambda | ast.JoinedStr):
            return _NONE
        return self.all((each for each in ast.iter_child_nodes(node) if isinstance(each, ast.expr)), names)

    def all(self, nodes: Iterable[ast.expr], names: dict[str, Tags]) -> Tags:
        return _NONE.union(*(self.of(node, names) for node in nodes))

    def attribute(self, node: ast.Attribute, names: dict[str, Tags]) -> Tags:
        if _is_own(node):
            found = self.attributes.get(node.attr, _NONE)
            self.searches |= node.attr == _TABLE
            self.indexed &= node.attr != _TABLE
            return found
        self.indexed &= not _is_own_table(node.value)
        return _NONE if node.attr in NOT_VALUES else self.of(node.value, names)

    def needs_tensor(self, tags: Tags) -> None:
        """A number will not do where a value of these tags is."""
        self.number &= self.entry not in tags
        self.listed &= _TABLE not in tags

    def called(self, node: ast.Call, names: dict[str, Tags]) -> Tags:
        given = [*node.args, *(each.value for each in node.keywords)]
        if isinstance(node.func, ast.Name) and node.func.id in ("len", "isinstance", "int", "float"):
            if node.func.id == "isinstance":  # `step` may refuse numbers
                asks_int = any(isinstance(n, ast.Name) and n.id == "int" for n in ast.walk(node.args[1]))
                asked = self.of(node.args[0], names)
                self.needs_tensor(asked if asks_int else _NONE)
            elif node.func.id != "len":
                self.all(given, names)
            return _NONE
        if isinstance(node.func, ast.Attribute) and _is_own(node.func):
            if node.func.attr in self.methods:
                return self.method(node, names)
            self.needs_tensor(self.all(given, names))
            return _NONE  # a function that the scheduler was given: what it makes of it is its own
        found = self.all([node.func, *given], names)
        self.needs_tensor(found)
        return found

    def method(self, node: ast.Call, names: dict[str, Tags]) -> Tags:
        assert isinstance(node.func, ast.Attribute)
        name = node.func.attr
        parameters = [each.arg for each in self.methods[name].args.args[1:]]
        given = dict(zip(parameters, (self.of(each, names) for each in node.args), strict=False))
        given |= {each.arg: self.of(each.value, names) for each in node.keywords if each.arg}
        if name in self.elsewhere:
            return _NONE
        return frozenset((name,)) if self.call(name, given) else _NONE


def _for_tensors(node: ast.stmt) -> Sequence[ast.stmt]:
    """What runs only `if isinstance(x, torch.Tensor)`, and so not for a number."""
    wanted = isinstance(node, ast.If) and ast.unparse(node.test).startswith("isinstance(")
    return node.body if wanted and ast.unparse(node.test).endswith(", torch.Tensor)") else ()  # type: ignore[attr-defined]


def _in_the_first_step(node: ast.stmt) -> Sequence[ast.stmt]:
    """What runs only `if self.step_index is None`."""
    first = isinstance(node, ast.If) and ast.unparse(node.test) == "self.step_index is None"
    return node.body if first else ()  # type: ignore[attr-defined]


def _is_own_table(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and _is_own(node) and node.attr == _TABLE


def _is_own(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "self"


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """All of them, those within others too; not of functions that are defined there."""
    for node in body:
        yield node
        for name in ("body", "orelse", "finalbody"):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield from _statements(getattr(node, name, ()))
        for handler in getattr(node, "handlers", ()):
            yield from _statements(handler.body)
