"""Which attribute of which object is on the wrong side of a sync.

Looks at the statement that caused it, with the values that the frame has at that moment: a host table
indexed by a device tensor, or a device tensor that the CPU reads.
"""

from __future__ import annotations

import ast
import functools
import linecache
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch

from diffprof.devices.simulated import Blocking, same_storage, suspended
from diffprof.model.callsite import values_in

SMALL = 64
"""Elements of a local tensor that Python may want the value of."""


@dataclass(frozen=True)
class Owner:
    """label: `scheduler.sigmas`; device: where that tensor lives, `cpu` or `device`; index: the source
    text of the device tensor that indexes it, for a host table; read: the name of the local device tensor
    that is read, where no attribute is."""

    label: str | None
    device: str
    index: str | None = None
    read: str | None = None


def owner_of(frame: FrameType, event: Blocking, names: dict[int, str]) -> Owner | None:
    """The tensor attribute behind a blocking operation, if the site's statement shows it.

    names: id(object) -> name of the pipeline's components and modules.
    """
    statement = _statement(frame.f_code.co_filename, frame.f_lineno)
    if statement is None:
        return None
    with suspended():
        return _indexed_table(statement, frame, names) or _read_attribute(statement, frame, event, names)


def given_to(frames: Sequence[FrameType], event: Blocking, names: dict[int, str]) -> Owner | None:
    """What a model's `forward` calls a host's tensor that is sent: `transformer(image_rotary_emb)`."""
    if event.tensor is None:
        return None
    for frame in frames:
        model = names.get(id(values_in(frame).get("self"))) if frame.f_code.co_name == "forward" else None
        if model is None or "." in model:
            continue
        for name, value in values_in(frame).items():
            held = value if isinstance(value, (list, tuple)) else [value]
            if any(_on(each, host=True) and same_storage(each, event.tensor) for each in held):
                return Owner(f"{model}({name})", "cpu")
    return None


def _indexed_table(statement: ast.stmt, frame: FrameType, names: dict[int, str]) -> Owner | None:
    """`self.alphas_cumprod[timestep]` with the table on the CPU and the index on the device."""
    for node in ast.walk(statement):
        if not isinstance(node, ast.Subscript):
            continue
        table, index = _value(node.value, frame), _value(node.slice, frame)
        if _on(table, host=True) and _on(index, host=False):
            return Owner(_label(node.value, frame, names), "cpu", ast.unparse(node.slice))
    return None


def _read_attribute(
    statement: ast.stmt, frame: FrameType, event: Blocking, names: dict[int, str]
) -> Owner | None:
    """The attribute whose memory was read; else the device attributes that the statement names."""
    tensor = event.tensor
    owner = values_in(frame).get("self")
    if tensor is None or not _on(tensor, host=False) or owner is None:
        return None
    named = [node for node in ast.walk(statement) if isinstance(node, (ast.Attribute, ast.Name))]
    on_device = [(node, value) for node in named if _on(value := _value(node, frame), host=False)]
    for node, value in on_device:
        if isinstance(node, ast.Attribute) and same_storage(value, tensor):
            return Owner(_label(node, frame, names), "device")
    small = {n.id: value for n, value in on_device if isinstance(n, ast.Name) and _is_read(value)}
    if len(small) > 1:
        small = {n: v for n, v in small.items() if same_storage(v, tensor) and v.shape == tensor.shape}
    local = Owner(None, "device", read=next(iter(small))) if len(small) == 1 else None
    if isinstance(owner, torch.nn.Module):
        return local
    held = {name: value for name, value in _attributes(owner) if _on(value, host=False)}
    for name, value in held.items():
        if same_storage(value, tensor):
            return Owner(f"{_object_name(owner, names)}.{name}", "device")
    of_self = [n for n in named if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "self"]
    for node in of_self:
        if node.attr in held:
            return Owner(f"{_object_name(owner, names)}.{node.attr}", "device")
    if local is not None:
        return local
    asked = [name for node in of_self for name in _looked_at(owner, node.attr)]
    looked_at = asked if frame.f_code.co_name == "__call__" else (*frame.f_code.co_names, *asked)
    used = [name for name in held if name in looked_at]
    if len(used) == 1:
        return Owner(f"{_object_name(owner, names)}.{used[0]}", "device")
    return None


def _is_read(value: torch.Tensor) -> bool:
    """Whether Python may want the value of such a local tensor: a few numbers, or a mask."""
    return value.numel() <= (SMALL if value.is_floating_point() else SMALL**2)


def _looked_at(owner: object, name: str, depth: int = 2) -> Iterator[str]:
    """The names that a property looks at, through the properties that it asks."""
    code = getattr(getattr(getattr(type(owner), name, None), "fget", None), "__code__", None)
    for inner in code.co_names if code is not None and depth else ():
        yield inner
        yield from _looked_at(owner, inner, depth - 1)


def _attributes(owner: object) -> Iterator[tuple[str, Any]]:
    for name, value in getattr(owner, "__dict__", {}).items():
        if isinstance(value, torch.Tensor):
            yield name, value


def _on(value: object, *, host: bool) -> bool:
    return isinstance(value, torch.Tensor) and (value.device.type == "cpu") is host


def _value(node: ast.expr, frame: FrameType) -> Any:
    """What a name or a chain of attributes stands for in this frame; None for anything that would have
    to be run."""
    if isinstance(node, ast.Name):
        return values_in(frame).get(node.id, frame.f_globals.get(node.id))
    if isinstance(node, ast.Attribute):
        owner = _value(node.value, frame)
        if owner is None or isinstance(owner, torch.Tensor):
            return None
        found = vars(owner).get(node.attr) if hasattr(owner, "__dict__") else None
        return getattr(owner, node.attr, None) if found is None and "config" in node.attr else found
    if isinstance(node, ast.Subscript):
        return None
    return None


def _label(node: ast.expr, frame: FrameType, names: dict[int, str]) -> str:
    if isinstance(node, ast.Attribute):
        owner = _value(node.value, frame)
        return f"{_object_name(owner, names)}.{node.attr}"
    return ast.unparse(node)


def _object_name(thing: object, names: dict[int, str]) -> str:
    return names.get(id(thing)) or type(thing).__name__


@functools.lru_cache(maxsize=64)
def _tree(filename: str) -> ast.Module | None:
    try:
        return ast.parse("".join(linecache.getlines(filename)))
    except (SyntaxError, ValueError):
        return None


@functools.lru_cache(maxsize=1024)
def _statement(filename: str, line: int) -> ast.stmt | None:
    """The innermost statement that covers a line; of a compound one, only its head."""
    tree = _tree(filename)
    best: ast.stmt | None = None
    for node in ast.walk(tree) if tree else ():
        covers = isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno)
        if covers and (best is None or node.lineno >= best.lineno):  # type: ignore[attr-defined]
            best = node  # type: ignore[assignment]
    return _head(best) if best is not None else None


def _head(statement: ast.stmt) -> ast.stmt | None:
    """`if x > 0:` without its body, so that only what the line does is looked at."""
    if isinstance(statement, (ast.If, ast.While)):
        return ast.Expr(statement.test)
    if isinstance(statement, ast.For):
        return ast.Expr(statement.iter)
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return None
    return statement
