"""Host tables that are indexed by a timestep of the device: indexed by the CPU's own copy of it."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst
from libcst import matchers as m

from diffprof.judge.source_edit.tree import Change, Edit, Refused, Tree, becomes, reads, writes
from diffprof.judge.source_edit.uploads import is_device

_ON_HOST = '''
def _on_host(self, timesteps):
    """The host's copy of timesteps, told by their place in memory: no read of the device, no wait."""
    if not isinstance(timesteps, torch.Tensor) or timesteps.device.type == "cpu":
        return timesteps
    on_device, on_host = getattr(self, "_host_timesteps", (None, None))
    if timesteps is on_device:
        return on_host
    if on_device is None or timesteps.dtype != on_device.dtype or timesteps.dim():
        return timesteps.cpu()
    place = (timesteps.data_ptr() - on_device.data_ptr()) // on_device.element_size()
    return on_host[place] if 0 <= place < len(on_host) else timesteps.cpu()
'''
_TIMESTEPS = m.Attribute(m.Name("self"), m.Name("timesteps"))


def index_on_host(tree: Tree, line: int, *, table: bool) -> Iterator[Edit]:
    """`table[timestep]` with a table on the CPU and a timestep of the device: the CPU's own copy of it.

    In a loop over timesteps that copy is made before the loop; in a method of a scheduler, in its
    `set_timesteps`. table: whether a table on the CPU is indexed in the line.
    """
    found = list(_searched(tree, line)) or list(_in_loop(tree, line))
    yield from found or _in_scheduler(tree, line, table=table)


def _searched(tree: Tree, line: int) -> Iterator[Edit]:
    """`(self.timesteps == t).nonzero()` in a scheduler's method -> both sides are the CPU's copies, and so
    is the index."""
    for compared in tree.at(line, m.Comparison(comparisons=[m.ComparisonTarget(m.Equal())])):
        sides = (compared.left, compared.comparisons[0].comparator)
        table = next((side for side in sides if m.matches(side, _TIMESTEPS)), None)
        inside = tree.around(compared, cst.ClassDef)
        if table is None or inside is None or not _looked_up(tree, compared):
            continue
        if tree.within(inside, m.FunctionDef(m.Name("_on_host"))):
            return
        yield from _with_copy(tree, inside)
        for side in sides:
            on_host = cst.parse_expression(f"self._on_host({tree.code(side)})")
            yield Edit(side, tree.line(side), "search the host's copy of the timesteps", becomes(on_host))


def _looked_up(tree: Tree, compared: cst.CSTNode) -> bool:
    """Whether the places are found and Python gets the number: `.nonzero()` and `.item()` follow."""
    names = []
    for parent in tree.above(compared):
        if isinstance(parent, cst.BaseStatement | cst.BaseSmallStatement):
            break
        if isinstance(parent, cst.Attribute):
            names.append(parent.attr.value)
        elif isinstance(parent, cst.Arg):
            return False
    return "nonzero" in names and names[-1] in ("item", "tolist")


def _in_scheduler(tree: Tree, line: int, *, table: bool) -> Iterator[Edit]:
    statement = tree.statement(line)
    function = tree.scope(statement) if statement is not None else None
    inside = tree.around(function, cst.ClassDef) if isinstance(function, cst.FunctionDef) else None
    if inside is None or tree.parents.get(tree.parents[function]) is not inside:
        return
    assert isinstance(function, cst.FunctionDef)
    names = [each.value for each in tree.within(_head(statement), m.Name())]
    parameters = [each.name.value for each in function.params.params if "timestep" in each.name.value]
    for parameter in parameters:
        derived = _derived(tree, function, parameter)
        if derived & set(names):
            break
    else:
        if table:
            raise Refused("the index is not computed of a timestep that the method is given")
        return
    if tree.within(inside, m.FunctionDef(m.Name("_on_host"))):
        return
    for name in derived:
        for used in reads(tree, function, name):
            _refuse_beside_index(tree, used)
    if len(writes(tree, function, parameter)) != 1:
        raise Refused(f"`{parameter}` is set anew in the method")
    yield from _with_copy(tree, inside)
    body = function.body
    first = tree.parsed(f"{parameter} = self._on_host({parameter})\n")
    what = f"index by the host's copy of `{parameter}`"
    yield Edit(body, tree.line(function), what, lambda updated: _begun(updated, first))


def _head(statement: cst.CSTNode) -> cst.CSTNode:
    """Of a compound statement what stands in its first line."""
    if isinstance(statement, cst.If | cst.While):
        return statement.test
    return statement.iter if isinstance(statement, cst.For) else statement


def _derived(tree: Tree, function: cst.FunctionDef, parameter: str) -> set[str]:
    """A parameter, and the names that are set to something computed of it."""
    found = {parameter}
    grown = True
    while grown:
        grown = False
        for each in tree.within(function.body, m.Assign(targets=[m.AssignTarget(m.Name())])):
            name = each.targets[0].target.value
            arithmetic = not tree.within(each.value, m.Call() | m.Subscript())
            uses = any(reads(tree, each.value, known) for known in found)
            if name not in found and arithmetic and uses:
                found.add(name)
                grown = True
    return found


def _refuse_beside_index(tree: Tree, used: cst.Name) -> None:
    """A timestep of the CPU may index, be compared and computed with; the device may not need it."""
    child: cst.CSTNode = used
    for parent in tree.above(used):
        if isinstance(parent, cst.SubscriptElement | cst.Comparison):
            return
        if isinstance(parent, cst.IfExp | cst.If | cst.While) and parent.test is child:
            return
        if m.matches(parent, m.Assign(targets=[m.AssignTarget(m.Name())])):
            return
        if isinstance(parent, cst.Arg):
            call = tree.parents[parent]
            assert isinstance(call, cst.Call)
            plain = m.Call(m.Name("int") | m.Name("float") | m.Name("isinstance") | m.Name("print"))
            own = m.Call(m.Attribute(m.Name("self")))
            if m.matches(call, plain | own):
                return
            raise Refused(
                f"`{used.value}` is also given to `{tree.code(call.func)}` in line {tree.line(used)}, "
                "which may need it on the device"
            )
        if not isinstance(
            parent,
            cst.BinaryOperation
            | cst.UnaryOperation
            | cst.BooleanOperation
            | cst.ComparisonTarget
            | cst.Index,
        ):
            break
        child = parent
    raise Refused(f"`{used.value}` is also used in line {tree.line(used)}, which may need it on the device")


def _with_copy(tree: Tree, inside: cst.ClassDef) -> Iterator[Edit]:
    """The class with a host's copy of its timesteps, and the method that finds a timestep in it."""
    if not tree.within(tree.module, m.ImportAlias(m.Name("torch"))):
        raise Refused("the file does not import torch")
    sets = [each for each in inside.body.body if m.matches(each, m.FunctionDef(m.Name("set_timesteps")))]
    if not sets:
        raise Refused(
            "set_timesteps, where the host would keep a copy of the timesteps, is inherited; optimized.py "
            "(`diffprof fix --apply`) does it from outside"
        )
    returns = tree.within(sets[0].body, m.Return())
    if returns:
        raise Refused(f"set_timesteps returns early, in line {tree.line(returns[0])}")
    keep = tree.parsed(f"self._host_timesteps = self.timesteps, {_host_source(tree, sets[0])}\n")
    method = tree.parsed(_ON_HOST.lstrip("\n"))
    method = method.with_changes(leading_lines=[cst.EmptyLine(indent=False)])
    what = "keep a copy of the timesteps on the host"
    yield Edit(sets[0].body, tree.line(sets[0]), what, lambda body: _ended(body, keep))
    yield Edit(inside.body, tree.line(inside), what, lambda body: _ended(body, method))


def _host_source(tree: Tree, method: cst.FunctionDef) -> str:
    """What the CPU's copy is made of: `timesteps.cpu()` for `self.timesteps = timesteps.to(device)`, which
    copies nothing where that is on the CPU; else what is on the device is copied back, before the loop."""
    assigned = tree.within(method, m.Assign(targets=[m.AssignTarget(_TIMESTEPS)]))
    moved = m.Assign(value=m.Call(m.Attribute(m.Name(), m.Name("to")), args=[m.Arg()]))
    if not assigned or not m.matches(assigned[-1], moved):
        return "self.timesteps.cpu()"
    last = assigned[-1]
    name = last.value.func.value.value
    later = any(tree.line(each) > tree.line(last) for each in writes(tree, method, name))
    plain = is_device(tree, last.value.args[0]) and not later
    return f"{name}.cpu()" if plain else "self.timesteps.cpu()"


def _begun(body: cst.BaseSuite, first: cst.BaseStatement) -> cst.BaseSuite:
    """A block with a statement in front, behind its docstring."""
    assert isinstance(body, cst.IndentedBlock)
    documented = m.matches(
        body.body[0], m.SimpleStatementLine([m.Expr(m.SimpleString() | m.ConcatenatedString())])
    )
    return body.with_changes(body=[*body.body[:documented], first, *body.body[documented:]])


def _ended(body: cst.BaseSuite, last: cst.BaseStatement) -> cst.BaseSuite:
    assert isinstance(body, cst.IndentedBlock)
    return body.with_changes(body=[*body.body, last])


# --- a loop over timesteps -------------------------------------------------------------------------------


def _in_loop(tree: Tree, line: int) -> Iterator[Edit]:
    """`for i, t in enumerate(timesteps)` with `t` read in the line: `timesteps_on_host[i]` is read."""
    statement = tree.statement(line)
    if statement is None:
        return
    for loop in (each for each in tree.above(statement) if isinstance(each, cst.For)):
        over = _loop_over(loop)
        if over is None or tree.scope(loop) is not tree.scope(statement):
            continue
        counter, each, table = over
        places = [name for name in reads(tree, _head(statement), each) if _is_read(tree, name)]
        if not places:
            continue
        if len(writes(tree, loop, each)) != 1 or (counter and len(writes(tree, loop, counter)) != 1):
            raise Refused(f"`{each}` or its counter is set anew in the loop")
        yield from _counted(tree, loop, counter, each, table, places)
        return


def _loop_over(loop: cst.For) -> tuple[str | None, str, cst.BaseExpression] | None:
    """(counter, name of each, the table) of `for i, t in enumerate(table)` or `for t in table`."""
    pair = m.Tuple([m.Element(m.Name()), m.Element(m.Name())])
    listed = m.Call(m.Name("enumerate"), args=[m.Arg(m.Name() | m.Attribute(), keyword=None)])
    if m.matches(loop.target, pair) and m.matches(loop.iter, listed):
        elements = cst.ensure_type(loop.target, cst.Tuple).elements
        counter, each = (cst.ensure_type(element.value, cst.Name).value for element in elements)
        return counter, each, cst.ensure_type(loop.iter, cst.Call).args[0].value
    if isinstance(loop.target, cst.Name) and m.matches(loop.iter, m.Name() | m.Attribute()):
        return None, loop.target.value, loop.iter
    return None


_EXACT = cst.Add | cst.Subtract | cst.Multiply | cst.FloorDivide | cst.Modulo
"""Rounded alike on the CPU and on the device, unlike a division."""


def _is_read(tree: Tree, name: cst.Name) -> bool:
    """Whether the CPU needs its value: `t.item()`, `int(t)`, `table[t - 1]`, `t > 500`."""
    child: cst.CSTNode = name
    for parent in tree.above(name):
        if isinstance(parent, cst.Attribute):
            return m.matches(parent, m.Attribute(attr=m.Name("item")))
        if isinstance(parent, cst.Arg):
            return m.matches(tree.parents[parent], m.Call(m.Name("int") | m.Name("float") | m.Name("bool")))
        if isinstance(parent, cst.Comparison | cst.ComparisonTarget):
            return True
        if isinstance(parent, cst.Index):
            return isinstance(tree.parents[parent], cst.SubscriptElement)
        exact = isinstance(parent, cst.BinaryOperation) and isinstance(parent.operator, _EXACT)
        if not exact and not isinstance(parent, cst.UnaryOperation):
            return isinstance(parent, cst.If | cst.IfExp) and parent.test is child
        child = parent
    return False


def _counted(
    tree: Tree,
    loop: cst.For,
    counter: str | None,
    each: str,
    table: cst.BaseExpression,
    places: list[cst.Name],
) -> Iterator[Edit]:
    source = tree.code(table)
    what = f"read `{each}` from a copy of `{source}` that is made before the loop"
    at = tree.line(loop)
    name = f"{each}_on_host"
    if writes(tree, tree.scope(loop), name) or not isinstance(
        tree.parents[loop], cst.IndentedBlock | cst.Module
    ):
        return
    for set_at in writes(tree, tree.scope(loop), source):
        assigned = tree.around(set_at, cst.Assign)
        if assigned is not None and not m.matches(assigned.value, m.Call() | m.Attribute() | m.Subscript()):
            raise Refused(f"`{source}`, of line {tree.line(set_at)}, may be no tensor")
    if counter is None:
        names = cst.parse_expression(f"{each}, {name}").with_changes(lpar=[], rpar=[])
        pairs = cst.parse_expression(f"zip({source}, {source}.cpu())")
        yield Edit(loop.target, at, what, becomes(names))
        yield Edit(loop.iter, at, what, becomes(pairs))
        read = name
    else:
        copy = tree.parsed(f"{name} = {source}.cpu()\n")
        yield Edit(loop, at, what, before=(copy,))
        read = f"{name}[{counter}]"
    for place in places:
        yield Edit(place, tree.line(place), what, _within_parentheses(cst.parse_expression(read)))


def _within_parentheses(node: cst.CSTNode) -> Change:
    """The change into this, in the parentheses that were there."""
    return lambda was: node.with_changes(lpar=was.lpar, rpar=was.rpar)
