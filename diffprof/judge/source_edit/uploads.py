"""What is made on the CPU and sent to the device: made there, filled in there, or sent once."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst
from libcst import matchers as m

from diffprof.judge.source_edit.tree import (
    Change,
    Edit,
    Refused,
    Tree,
    becomes,
    gone,
    keyword,
    reads,
    with_argument,
    writes,
)

_SAME = ("zeros", "ones", "full", "empty", "eye")
"""torch's functions that give the same values on every device."""
_OTHER = {
    **dict.fromkeys(
        ("randn", "rand", "randint", "randperm", "normal"), "the device draws other random numbers"
    ),
    **dict.fromkeys(("linspace", "logspace", "arange"), "the device may round its values otherwise"),
}
_TENSOR = m.Call(m.Attribute(m.Name("torch"), m.Name("tensor") | m.Name("as_tensor")))
_MOVES = m.Name("to") | m.Name("cuda")


def is_device(tree: Tree, argument: cst.Arg) -> bool:
    """Whether an argument of `.to` says where; not `"cpu"`, which is the host."""
    text = tree.code(argument.value)
    if argument.keyword is not None:
        return argument.keyword.value == "device" and text not in ('"cpu"', "'cpu'")
    return "device" in text or text.strip("\"'").startswith("cuda")


def _destination(tree: Tree, move: cst.Call) -> cst.BaseExpression | None:
    """Where `.to(device)` or `.cuda()` moves to; None where it does more than that, or names no device."""
    assert isinstance(move.func, cst.Attribute)
    if move.func.attr.value == "cuda":
        return cst.SimpleString('"cuda"') if not move.args else None
    args = [arg for arg in move.args if arg is not keyword(move, "non_blocking")]
    return args[0].value if len(args) == 1 and is_device(tree, args[0]) else None


def create_in_place(tree: Tree, line: int) -> Iterator[Edit]:
    """`torch.zeros(n).to(device)` -> `torch.zeros(n, device=device)`."""
    made = m.Call(m.Attribute(m.Name("torch"), m.Name()))
    for call in tree.at(line, m.Call(m.Attribute(made, _MOVES))):
        inner = call.func.value
        name = inner.func.attr.value
        if name in _OTHER:
            raise Refused(f"`torch.{name}` would be another one there: {_OTHER[name]}")
        if (asked := keyword(inner, "pin_memory", "out", "requires_grad")) is not None:
            raise Refused(f"`{tree.code(asked).strip(', ')}` is for a tensor of the host")
        if name in _SAME and keyword(inner, "device") is None and _destination(tree, call) is not None:
            yield Edit(call, line, "create it on the device", _created(tree, call))


def _created(tree: Tree, move: cst.Call) -> Change:
    where = _destination(tree, move)
    assert where is not None
    return lambda call: with_argument(call.func.value, "device", where)


# --- numbers ---------------------------------------------------------------------------------------------


def fill(tree: Tree, line: int, *, scalar: bool) -> Iterator[Edit]:
    """`torch.tensor(0.5, device=device)` -> `torch.full((), 0.5, device=device)`.

    A fill takes its number along when it is launched. Also `[0.5]`, `[0.5] * 2`, and `.to(device)` behind it.

    scalar: whether what was sent is one number, so that a name in its place is one.
    """
    calls = list(tree.at(line, _TENSOR))
    for call in calls:
        move = _move_of(tree, call)
        where = _destination(tree, move) if move is not None else None
        if where is None and keyword(call, "device") is None:
            continue
        _refuse_more(tree, call)
        shape, number = _shape_and_number(tree, call, scalar=scalar and len(calls) == 1)
        filled = _filled(call, shape, number)
        if where is not None:
            filled = with_argument(filled, "device", where)
        whole = call if where is None else move
        assert whole is not None
        yield Edit(whole, line, "fill the number in on the device", becomes(filled))


def _move_of(tree: Tree, call: cst.Call) -> cst.Call | None:
    """`.to(device)` or `.cuda()` right behind a call."""
    method = tree.parents[call]
    move = tree.parents.get(method)
    if isinstance(move, cst.Call) and move.func is method and m.matches(method, m.Attribute(attr=_MOVES)):
        return move
    return None


def _refuse_more(tree: Tree, call: cst.Call) -> None:
    if not call.args or call.args[0].keyword is not None or call.args[0].star:
        raise Refused("what the tensor is made of is not its first argument")
    for arg in call.args[1:]:
        if arg.keyword is None or arg.keyword.value not in ("device", "dtype"):
            raise Refused(f"`{tree.code(arg).strip(', ')}` asks for more than a device and a type")


def _shape_and_number(tree: Tree, call: cst.Call, *, scalar: bool) -> tuple[str, cst.BaseExpression]:
    """As in `torch.full(shape, number)`."""
    data = call.args[0].value
    if _is_number(data) or (scalar and m.matches(data, m.Call(m.Name("float") | m.Name("int")))):
        return "()", data
    if isinstance(data, cst.List | cst.Tuple):
        numbers = [each.value for each in data.elements]
        same = {tree.code(each) for each in numbers}
        if len(same) == 1 and _is_number(numbers[0]):
            return f"({len(numbers)},)", numbers[0]
        raise Refused(
            "its numbers differ, and one fill takes one number: make the tensor once, before the loop"
        )
    times = m.BinaryOperation(m.List([m.Element(m.MatchIfTrue(_is_number))]), m.Multiply(), m.Integer())
    if m.matches(data, times):
        product = cst.ensure_type(data, cst.BinaryOperation)
        length = cst.ensure_type(product.right, cst.Integer).value
        return f"({length},)", cst.ensure_type(product.left, cst.List).elements[0].value
    if not scalar:
        raise Refused(f"`{tree.code(data)}` is more than one number: make the tensor once, before the loop")
    if keyword(call, "dtype") is None:
        raise Refused(
            f"what `{tree.code(data)}` is decides the tensor's type; with `dtype=` it can be filled in"
        )
    return "()", data


def _is_number(node: cst.CSTNode) -> bool:
    literal = m.Integer() | m.Float() | m.Name("True") | m.Name("False")
    return m.matches(node, literal | m.UnaryOperation(m.Minus(), literal))


def _filled(call: cst.Call, shape: str, number: cst.BaseExpression) -> cst.Call:
    assert isinstance(call.func, cst.Attribute)
    first = call.args[0]
    size = cst.Arg(cst.parse_expression(shape), comma=cst.Comma(whitespace_after=cst.SimpleWhitespace(" ")))
    full = call.func.with_changes(attr=cst.Name("full"))
    return call.with_changes(func=full, args=[size, first.with_changes(value=number), *call.args[1:]])


def stack_scalars(tree: Tree, line: int) -> Iterator[Edit]:
    """`torch.tensor([t] * n, device=device)` of a device's scalar -> `torch.stack([t] * n)`."""
    one = m.List([m.Element(m.Name() | m.Attribute() | m.Subscript())])
    for call in tree.at(line, _TENSOR):
        _refuse_more(tree, call)
        data = call.args[0].value
        place, move = keyword(call, "device"), _move_of(tree, call)
        moved = move is not None and _destination(tree, move) is not None
        if not moved and (place is None or not is_device(tree, place)):
            raise Refused("it lies on the host, and what reads it may need it there")
        if not m.matches(data, one | m.BinaryOperation(one, m.Multiply(), m.DoNotCare())):
            raise Refused("its list holds more than one thing, and not all need be tensors of the device")
        stacked: cst.BaseExpression = cst.Call(
            call.func.with_changes(attr=cst.Name("stack")),
            [cst.Arg(data)],
            lpar=call.lpar,
            rpar=call.rpar,
        )
        kind = keyword(call, "dtype")
        if kind is not None:
            stacked = cst.Call(cst.Attribute(stacked, cst.Name("to")), [cst.Arg(kind.value)])
        yield Edit(call, line, "stack it on the device", becomes(stacked))


# --- before the loop -------------------------------------------------------------------------------------


def hoist(tree: Tree, line: int) -> Iterator[Edit]:
    """`x = torch.tensor([0.1, 0.2], device=device)` right in a loop -> in front of the loop."""
    statement = tree.statement(line)
    if not m.matches(statement, m.Assign(targets=[m.AssignTarget(m.Name())])):
        return
    whole = tree.parents[statement]
    loop = tree.around(whole, cst.For | cst.While)
    if loop is None or tree.scope(loop) is not tree.scope(statement):
        return
    name = statement.targets[0].target.value
    if tree.parents[whole] is not loop.body or len(whole.body) != 1:
        raise Refused(f"`{name}` is not made right in the loop, so not in each of its rounds")
    _refuse_varying(tree, loop, statement)
    _refuse_changed(tree, tree.scope(statement), name)
    what = f"make `{name}` once, before the loop"
    yield Edit(whole, line, what, gone)
    yield Edit(loop, line, what, before=(whole.with_changes(leading_lines=whole.leading_lines),))


_SAME_EACH_TIME = frozenset(
    (
        *("tensor", "as_tensor", "from_numpy", "to", "cuda", "float", "half", "bfloat16", "double", "long"),
        *("view", "reshape", "flatten", "unsqueeze", "squeeze", "expand", "repeat", "permute", "transpose"),
    )
)
"""Functions and methods that give the same for the same, and change nothing."""


def _refuse_varying(tree: Tree, loop: cst.CSTNode, statement: cst.Assign) -> None:
    """What the value is made of has to be there before the loop, and the same in each round."""
    calls = m.Call(m.Attribute(attr=m.Name(m.MatchIfTrue(_SAME_EACH_TIME.__contains__))))
    for call in tree.within(statement.value, m.Call()):
        if not m.matches(call, calls):
            raise Refused(f"`{tree.code(call)}` may differ from round to round")
    modules = m.Name("torch") | m.Name("np") | m.Name("numpy") | m.Name("math")
    plain = m.Attribute(modules) | m.Attribute(attr=m.Name("device") | m.Name("dtype"))
    for used in tree.within(statement.value, m.Name()):
        if used not in reads(tree, statement.value, used.value) or m.matches(used, modules):
            continue
        parent = tree.parents[used]
        method = isinstance(parent, cst.Attribute) and m.matches(
            tree.parents[parent], m.Call(m.Attribute(m.Name(used.value)))
        )
        if isinstance(parent, cst.Attribute) and not method and not m.matches(parent, plain):
            raise Refused(f"`{tree.code(parent)}` may change in the loop")
        for other in reads(tree, loop, used.value):
            if other is not used and _may_change(tree, other):
                raise Refused(f"`{used.value}` may change in the loop, in line {tree.line(other)}")
        set_inside = writes(tree, loop, used.value)
        if set_inside and not m.matches(parent, m.Attribute(attr=m.Name("device"))):
            raise Refused(f"`{used.value}` is set in the loop, in line {tree.line(set_inside[0])}")
        if set_inside and len(writes(tree, tree.scope(loop), used.value)) == len(set_inside):
            raise Refused(f"`{used.value}` is not there before the loop")


def _may_change(tree: Tree, used: cst.Name) -> bool:
    """Whether it is written to there, as in `values[0] = x` and `values.append(x)`."""
    parent = tree.parents[used]
    if isinstance(parent, cst.Subscript):
        return tree.around(parent, cst.AssignTarget) is not None
    changes = m.Name(m.MatchRegex(r"append|extend|insert|pop|remove|clear|sort|reverse|update|\w+[^_]_"))
    return m.matches(parent, m.Attribute(attr=changes))


def _refuse_changed(tree: Tree, scope: cst.CSTNode, name: str) -> None:
    """One tensor for all rounds must not be written to in one of them."""
    if len(writes(tree, scope, name)) != 1:
        raise Refused(f"`{name}` is set at several places")
    for used in reads(tree, scope, name):
        parent = tree.parents[used]
        if _may_change(tree, used):
            raise Refused(f"`{name}` is written to in line {tree.line(used)}")
        call = tree.around(parent, cst.Call) if isinstance(parent, cst.Arg) else None
        if call is not None and not m.matches(call, m.Call(m.Attribute(m.Name("torch") | m.Name("F")))):
            raise Refused(
                f"`{tree.code(call.func)}` of line {tree.line(call)} gets `{name}`, and might write to it"
            )
