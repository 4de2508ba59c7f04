"""Tables of a scheduler that Python reads, kept on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst
from libcst import matchers as m

from diffprof.judge.source_edit.tree import Change, Edit, Refused, Tree, reads, writes
from diffprof.judge.source_edit.uploads import is_device

_SCALAR = m.Name(
    m.MatchIfTrue(frozenset(("float", "int", "bool", "abs", "max", "min", "round", "len")).__contains__)
)
_MATHS = m.Attribute(
    m.Name("torch") | m.Name("math"),
    m.Name(
        m.MatchIfTrue(frozenset(("sqrt", "exp", "log", "abs", "expm1", "log1p", "sin", "cos")).__contains__)
    ),
)
_TAKES_NUMBERS = m.Call(_SCALAR | _MATHS | m.Name("print"))
_SIZES = m.Name("shape") | m.Name("dtype") | m.Name("ndim") | m.Name("device")
_VALUES = m.Name("item") | m.Name("tolist") | m.Name("cpu") | m.Name("numpy")


def keep_on_host(tree: Tree, line: int, attribute: str, *, half: str | None = None) -> Iterator[Edit]:
    """`self.sigmas = sigmas.to(device)` in the class of a read of `self.sigmas` -> `.to("cpu")`; what else it
    is set to, `.cpu()` behind that.

    half: the half precision that the model runs in. A number of the CPU takes part in it as it is, one of
    the device is rounded first (aten/src/ATen/native/cuda/Loops.cuh, opmath_gpu_kernel_with_scalars).
    """
    own = m.Attribute(m.Name("self"), m.Name(attribute))
    read = tree.statement(line)
    inside = tree.around(read, cst.ClassDef) if read is not None else None
    if inside is None:
        return
    assigned = tree.within(inside, m.Assign(targets=[m.AssignTarget(own)]))
    every = [each for each in tree.all(m.AssignTarget(own)) if tree.around(each, cst.ClassDef) is inside]
    if not assigned:
        raise Refused(f"`self.{attribute}` is set by a class that this one inherits from")
    if len(every) != len(assigned):
        raise Refused(f"`self.{attribute}` is set along with others, in line {tree.line(every[0])}")
    here = tree.scope(read)
    for each in assigned:
        if tree.scope(each) is here:
            raise Refused(f"`self.{attribute}` is set anew where it is read, in line {tree.line(each)}")
    for used in tree.all(m.Attribute(attr=m.Name(attribute))):
        elsewhere = m.matches(used, own) and tree.around(used, cst.ClassDef) is not inside
        written = isinstance(tree.parents[used], cst.AssignTarget)
        if not elsewhere and not written and not _inherited(tree, used, assigned):
            _refuse_on_device(tree, used)
    for each in assigned:
        change = _onto_host(tree, each.value)
        if change is not None:
            what = f"keep `self.{attribute}`, which Python reads, on the host"
            if half:
                what += f"; its numbers are then no longer rounded to {half} before they meet tensors"
            yield Edit(each.value, tree.line(each.value), what, change)


def _inherited(tree: Tree, used: cst.Attribute, assigned: list[cst.Assign]) -> bool:
    """Whether it is still what the method of the class above has set: read before it is set here."""
    method = tree.scope(used)
    own = [tree.line(each) for each in assigned if tree.scope(each) is method]
    above = tree.within(method, m.Call(m.Attribute(m.Call(m.Name("super")))))
    return (
        bool(own) and any(tree.line(each) < tree.line(used) for each in above) and tree.line(used) < min(own)
    )


def _onto_host(tree: Tree, value: cst.BaseExpression) -> Change | None:
    """None where it is there already."""
    if m.matches(value, m.Call(m.Attribute(attr=m.Name("cpu")), args=[])):
        return None
    if m.matches(value, m.Call(m.Attribute(attr=m.Name("cuda")), args=[])):
        return lambda call: call.with_deep_changes(call.func, attr=cst.Name("cpu"))
    if m.matches(value, m.Call(m.Attribute(attr=m.Name("to")))):
        assert isinstance(value, cst.Call)
        place = next((n for n, arg in enumerate(value.args) if is_device(tree, arg)), None)
        if place is not None:
            host = cst.SimpleString('"cpu"')
            return lambda call: call.with_deep_changes(call.args[place], value=host)
        if any(tree.code(arg.value).strip("\"'") == "cpu" for arg in value.args):
            return None
    if not m.matches(value, m.Call() | m.Attribute() | m.Name() | m.Subscript()) and not value.lpar:
        return lambda bare: _copied(bare.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()]))
    return _copied


def _copied(value: cst.BaseExpression) -> cst.Call:
    return cst.Call(cst.Attribute(value, cst.Name("cpu")))


def _refuse_on_device(tree: Tree, used: cst.Attribute) -> None:
    """A table on the CPU does for single numbers of it; not for what the device computes with all of it."""
    parent = tree.parents[used]
    line = tree.line(used)
    if m.matches(parent, m.Attribute(attr=_SIZES)) or m.matches(parent, m.Attribute(attr=_VALUES)):
        return
    if isinstance(parent, cst.Arg) and m.matches(tree.parents[parent], m.Call(_SCALAR)):
        return
    name = tree.code(used)
    if not isinstance(parent, cst.Subscript) or parent.value is not used:
        if any(
            isinstance(each, cst.Assign) and tree.code(each.targets[0].target) == name
            for each in tree.above(used)
        ):
            return  # what it is set to, made from what it was
        raise Refused(f"`{name}` is used as a whole in line {line}, where it may be needed on the device")
    for element in parent.slice:
        if not isinstance(element.slice, cst.Index) or not _is_host_index(tree, element.slice.value):
            shown = tree.code(parent)
            raise Refused(f"whether the index of `{shown}` in line {line} is known to the host can't be told")
    _refuse_number_on_device(tree, parent, f"`{tree.code(parent)}`")


def _is_host_index(tree: Tree, index: cst.BaseExpression) -> bool:
    """Numbers, attributes of self, and what is computed of them; counters of a loop."""
    number = m.Call(m.Name("int") | m.Name("len")) | m.Call(m.Attribute(attr=m.Name("item")), args=[])
    if m.matches(index, m.Integer() | m.Attribute(m.Name("self")) | number):
        return True
    if isinstance(index, cst.BinaryOperation):
        return _is_host_index(tree, index.left) and _is_host_index(tree, index.right)
    if isinstance(index, cst.UnaryOperation):
        return _is_host_index(tree, index.expression)
    if isinstance(index, cst.Name):
        set_at = writes(tree, tree.scope(index), index.value)
        return bool(set_at) and all(_is_host_value(tree, each) for each in set_at)
    return False


def _is_host_value(tree: Tree, name: cst.Name) -> bool:
    """Whether what a name is set to there is a host's number."""
    assigned = tree.around(name, cst.Assign)
    if assigned is not None and m.matches(assigned, m.Assign(targets=[m.AssignTarget(m.Name(name.value))])):
        return _is_host_index(tree, assigned.value)
    loop = tree.around(name, cst.For)
    if loop is None:
        return False
    counted = m.matches(loop.iter, m.Call(m.Name("range"))) and loop.target is name
    first = isinstance(loop.target, cst.Tuple) and loop.target.elements[0].value is name
    return counted or (first and m.matches(loop.iter, m.Call(m.Name("enumerate"))))


def _refuse_number_on_device(tree: Tree, number: cst.CSTNode, name: str) -> None:
    """One number of a table, also under a name: it may be computed with, not be put together with tensors."""
    parent = tree.parents[number]
    if isinstance(parent, cst.Arg) and not m.matches(tree.parents[parent], _TAKES_NUMBERS):
        call = tree.code(cst.ensure_type(tree.parents[parent], cst.Call).func)
        raise Refused(
            f"{name} is given to `{call}` in line {tree.line(number)}, which may need it on the device"
        )
    if isinstance(parent, cst.Element):
        raise Refused(f"{name} is put into a list in line {tree.line(number)}, which may be for the device")
    other = m.Attribute(attr=m.DoesNotMatch(_VALUES | _SIZES))
    if isinstance(parent, cst.Attribute) and m.matches(parent, other) and parent.value is number:
        raise Refused(f"`{tree.code(parent)}` of line {tree.line(number)} may be needed on the device")
    if isinstance(parent, cst.Assign) and m.matches(parent, m.Assign(targets=[m.AssignTarget(m.Name())])):
        local = cst.ensure_type(parent.targets[0].target, cst.Name).value
        for used in reads(tree, tree.scope(parent), local):
            _refuse_number_on_device(tree, used, f"`{local}`, of {name},")
