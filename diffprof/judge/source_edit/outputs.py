"""What a model gives back: a plain tuple in the place of an object with names."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst
from libcst import matchers as m

from diffprof.judge.source_edit.tree import Edit, Refused, Tree, keyword, reads, with_argument, writes

_FIRST = m.Name("sample") | m.Name("prev_sample") | m.Name("latent_dist")
"""The first field of diffusers' outputs of models, schedulers and encoders."""


def model_output(tree: Tree, line: int) -> Iterator[Edit]:
    """`unet(...).sample` -> `unet(..., return_dict=False)[0]`; not the method of a distribution.

    Also where the object gets a name first, if only its first field is ever read.
    """
    found = False
    starred: Refused | None = None
    for read in tree.at(line, m.Attribute(m.Call(), _FIRST)):
        above = tree.parents.get(read)
        if isinstance(above, cst.Call) and above.func is read:
            continue
        try:
            asks = _asks_already(read.value)
        except Refused as refused:
            starred = refused
            continue
        if not asks:
            _refuse_own(tree, read.value)
            found = True
            what = f"take the first of the plain outputs, not `.{read.attr.value}`"
            yield Edit(read, tree.line(read), what, _first_of_call)
    if found:
        return
    if starred is not None:
        raise starred
    for read in tree.at(line, m.Attribute(m.Name(), _FIRST)):
        assigned = _where_set(tree, read)
        if assigned is not None:
            yield from _named_output(tree, assigned)
            return
    statement = tree.statement(line)
    if m.matches(statement, m.Assign(targets=[m.AssignTarget(m.Name())], value=m.Call())):
        yield from _named_output(tree, statement)


def _where_set(tree: Tree, read: cst.Attribute) -> cst.Assign | None:
    assert isinstance(read.value, cst.Name)
    name = read.value.value
    set_at = writes(tree, tree.scope(read), name)
    assigned = tree.around(set_at[0], cst.Assign) if len(set_at) == 1 else None
    return assigned if m.matches(assigned, m.Assign(value=m.Call())) else None


def _named_output(tree: Tree, assigned: cst.Assign) -> Iterator[Edit]:
    """`out = unet(...)`, then `out.sample`: the call gives a tuple, and `out[0]` is read."""
    target = assigned.targets[0].target
    call = assigned.value
    if not isinstance(target, cst.Name) or not isinstance(call, cst.Call) or _asks_already(call):
        return
    name, scope = target.value, tree.scope(assigned)
    fields = [tree.parents[each] for each in reads(tree, scope, name)]
    if not any(m.matches(each, m.Attribute(attr=_FIRST)) for each in fields):
        return
    _refuse_own(tree, call)
    if len(writes(tree, scope, name)) != 1:
        raise Refused(f"`{name}` is set at several places")
    for each in fields:
        called = m.matches(tree.parents[each], m.Call(func=m.MatchIfTrue(lambda f, each=each: f is each)))
        if called or not m.matches(each, m.Attribute(m.Name(name), _FIRST)):
            raise Refused(f"`{name}` is also used otherwise, in line {tree.line(each)}")
    yield Edit(call, tree.line(call), f"let `{name}` be a plain tuple", _plain)
    for each in fields:
        assert isinstance(each, cst.Attribute)
        yield Edit(each, tree.line(each), f"take `{name}[0]`, not `.{each.attr.value}`", _first_of_name)


def _asks_already(call: cst.Call) -> bool:
    """Whether the call says itself that it wants something else than an object with names.

    Raises Refused where it may, in what it is given by `**`.
    """
    asked = keyword(call, "return_dict")
    if asked is None and any(arg.star == "**" for arg in call.args):
        raise Refused("the call may be given return_dict by `**`")
    return asked is not None and not m.matches(asked.value, m.Name("True"))


def _refuse_own(tree: Tree, call: cst.Call) -> None:
    """A function of this file need not take `return_dict`."""
    if not isinstance(call.func, cst.Name):
        return
    for function in tree.all(m.FunctionDef(m.Name(call.func.value))):
        if not tree.within(function.params, m.Param(m.Name("return_dict"))):
            raise Refused(f"`{call.func.value}`, of line {tree.line(function)}, does not take return_dict")


def _first() -> list[cst.SubscriptElement]:
    return [cst.SubscriptElement(cst.Index(cst.Integer("0")))]


def _plain(call: cst.Call) -> cst.Call:
    asked = keyword(call, "return_dict")
    if asked is not None:
        return call.with_deep_changes(asked, value=cst.Name("False"))
    return with_argument(call, "return_dict", cst.Name("False"))


def _first_of_call(read: cst.Attribute) -> cst.Subscript:
    assert isinstance(read.value, cst.Call)
    return cst.Subscript(_plain(read.value), _first(), lpar=read.lpar, rpar=read.rpar)


def _first_of_name(read: cst.Attribute) -> cst.Subscript:
    return cst.Subscript(read.value, _first(), lpar=read.lpar, rpar=read.rpar)
