"""Edits of single expressions in a method, by the wait that they are against: read from the side where the
value is, without changing what is computed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from diffprof.analyzers.syncs.class_source import ClassSource, NoSource
from diffprof.model.recording import SyncRow

_READING = ("float", "int", "bool", "abs", "min", "max", "round")


@dataclass(frozen=True)
class LineEdit:
    """node: what is replaced, by this text. keeps: what `set_timesteps` ends with for it, a statement."""

    node: ast.expr
    text: str
    keeps: str = ""


def line_edits(source: ClassSource, method: ast.FunctionDef, row: SyncRow) -> list[LineEdit]:
    """What to write at a row's line.

    Raises NoSource, with the reason, where nothing there is safe.
    """
    here = [node for node in ast.walk(method) if _on_line(node, row.site.line)]
    found = [
        edit for node in here for kind in (_read, _sent, _checked) for edit in kind(source, node, row, method)
    ]
    if not found:
        raise NoSource(f"nothing on line {row.site.line} of {row.site.file} can be written without the wait")
    return found


def _on_line(node: ast.AST, line: int) -> bool:
    return isinstance(node, ast.expr) and node.lineno <= line <= (node.end_lineno or node.lineno)


def _table(node: ast.AST) -> str | None:
    """`sigmas` of `self.sigmas[...]`."""
    own = isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute)
    if own and isinstance(node.value.value, ast.Name) and node.value.value.id == "self":  # type: ignore[attr-defined]
        return node.value.attr  # type: ignore[attr-defined]
    return None


def _read(source: ClassSource, node: ast.AST, row: SyncRow, method: ast.FunctionDef) -> Iterator[LineEdit]:
    """`if self.sigmas[i] > 0` with the table on the device: the same of a copy on the host."""
    wanted = (row.owner or "").rpartition(".")[2]
    if row.owner_device != "device" or row.kind != "value-read":
        return
    if isinstance(node, ast.Compare):
        tables = [each for side in (node.left, *node.comparators) for each in [side]]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _READING:
        tables = list(node.args)
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("item", "tolist")
    ):
        tables = [node.func.value]
    else:
        return
    for each in tables:
        entry = _entry(each, method)
        if _table(entry) == wanted:
            _refuse_if_set_elsewhere(source, wanted)
            yield LineEdit(
                each,
                source.text(entry).replace(f"self.{wanted}", f"self.{wanted}_on_host", 1),
                f"self.{wanted}_on_host = self.{wanted}.cpu()",
            )


def _entry(node: ast.expr, method: ast.FunctionDef) -> ast.expr:
    """What a local name that is set once stands for."""
    if not isinstance(node, ast.Name):
        return node
    stored = [
        n
        for n in ast.walk(method)
        if isinstance(n, ast.Name) and n.id == node.id and isinstance(n.ctx, ast.Store)
    ]
    made = [n.value for n in ast.walk(method) if isinstance(n, ast.Assign) and n.targets == stored[:1]]
    return made[0] if len(stored) == len(made) == 1 else node


def _sent(source: ClassSource, node: ast.AST, row: SyncRow, method: ast.FunctionDef) -> Iterator[LineEdit]:
    """`self.sigmas[i].to(device)` with the table on the host: the same of a copy on the device."""
    if (
        row.kind != "host-to-device"
        or not isinstance(node, ast.Call)
        or not isinstance(node.func, ast.Attribute)
    ):
        return
    table = _table(node.func.value)
    if node.func.attr != "to" or table is None or len(node.args) != 1 or node.keywords:
        return
    _refuse_if_set_elsewhere(source, table)
    yield LineEdit(
        node,
        source.text(node.func.value).replace(f"self.{table}", f"self.{table}_on_device", 1),
        f"self.{table}_on_device = self.{table}.to(self.timesteps.device)",
    )


def _checked(source: ClassSource, node: ast.AST, row: SyncRow, method: ast.FunctionDef) -> Iterator[LineEdit]:
    """`torch.linalg.solve(A, b)`: the same solver, without reading back whether `A` is singular."""
    if row.kind == "library-check" and isinstance(node, ast.Call):
        called = source.text(node.func)
        if called in ("torch.linalg.solve", "torch.linalg.inv", "torch.linalg.cholesky"):
            yield LineEdit(node, f"{called}_ex{source.text(node)[len(called) :]}[0]")


def _refuse_if_set_elsewhere(source: ClassSource, table: str) -> None:
    """A copy that is made at the end of `set_timesteps` has to stay one."""
    for name, method in source.methods.items():
        for node in ast.walk(method) if name not in ("__init__", "set_timesteps") else ():
            if isinstance(node, ast.Attribute) and node.attr == table and isinstance(node.ctx, ast.Store):
                raise NoSource(f"{source.name}.{name} sets `self.{table}` anew")
