"""Edits of single expressions in a scheduler's method, by the wait that they are against: read from the side
where the value is, without changing what is computed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from diffprof.analyzers.syncs.class_source import ClassSource, NoSource
from diffprof.model.recording import SyncRow

_READING = ("float", "int", "bool", "abs", "min", "max", "round")


@dataclass(frozen=True)
class LineEdit:
    """node: what is replaced, by this text. keeps: what `set_timesteps` ends with for it, a statement. ahead:
    a statement in front of which one more is written: what the edit needs."""

    node: ast.expr | ast.stmt
    text: str
    keeps: str = ""
    ahead: tuple[ast.stmt, str] | None = None


def edited(lines: Sequence[str], edits: Sequence[LineEdit]) -> str:
    """The text of a file with these edits made. Of two that overlap the outer counts."""
    begins = [0]
    for line in lines:
        begins.append(begins[-1] + len(line.encode()))
    changes: dict[tuple[int, int], str] = {}
    for edit in edits:
        node = edit.node
        first = begins[node.lineno - 1] + node.col_offset
        last = begins[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        changes[first, last] = edit.text
        if edit.ahead is not None:
            statement, text = edit.ahead
            at = begins[statement.lineno - 1]
            changes[at, at] = f"{' ' * statement.col_offset}{text}\n" + changes.get((at, at), "").replace(
                f"{' ' * statement.col_offset}{text}\n", ""
            )
    data = "".join(lines).encode()
    for first, last in sorted(changes, key=lambda place: (-place[0], -place[1])):
        inner = any(a <= first and last <= b and (a, b) != (first, last) for a, b in changes)
        if not inner:
            data = data[:first] + changes[first, last].encode() + data[last:]
    return data.decode()


def line_edits(source: ClassSource, method: ast.FunctionDef, row: SyncRow) -> list[LineEdit]:
    """What to write at a row's line.

    Raises NoSource, with the reason, where nothing there is safe.
    """
    here = [node for node in ast.walk(method) if _on_line(node, row.site.line)]
    found = [edit for node in here for kind in _KINDS for edit in kind(source, node, row, method)]
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
    """`if self.sigmas[i] > 0` with the table on the device: the same of a copy on the CPU."""
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
    """`self.sigmas[i].to(device)`, `self.sigmas.to(device)` with the table on the CPU: the same of a copy on
    the device."""
    if row.kind != "host-to-device" or not isinstance(node, ast.Call) or not _is_to(node):
        return
    value = node.func.value  # type: ignore[attr-defined]
    table = _table(value) or _own(value)
    if table is None or not (node.args or node.keywords):
        return
    _refuse_if_set_elsewhere(source, table)
    was = source.text(value).replace(f"self.{table}", f"self.{table}_on_device", 1)
    typed = [each for each in node.keywords if each.arg == "dtype"]
    text = f"{was}.to({source.text(typed[0])})" if typed else was
    yield LineEdit(node, text, f"self.{table}_on_device = self.{table}.to(self.timesteps.device)")


def _listed(source: ClassSource, node: ast.AST, row: SyncRow, method: ast.FunctionDef) -> Iterator[LineEdit]:
    """`table[indexes]` with a list of numbers: an upload. The entries, put together on the device."""
    if row.kind != "host-to-device" or not isinstance(node, ast.Subscript):
        return
    indexes = node.slice.id if isinstance(node.slice, ast.Name) else ""
    made = [n.value for n in ast.walk(method) if isinstance(n, ast.Assign) and _sets(n, indexes)]
    if made and all(map(_is_list, made)):
        yield LineEdit(node, f"torch.stack([{source.text(node.value)}[each] for each in {indexes}])")


def _sets(node: ast.Assign, name: str) -> bool:
    return any(isinstance(each, ast.Name) and each.id == name for each in node.targets)


def _is_list(node: ast.expr) -> bool:
    repeated = isinstance(node, ast.BinOp) and isinstance(node.left, ast.List)
    return repeated or isinstance(node, ast.List | ast.ListComp)


def _is_to(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Attribute) and node.func.attr == "to"


def _own(node: ast.AST) -> str | None:
    """`sigmas` of `self.sigmas`."""
    own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return node.attr if own else None  # type: ignore[attr-defined]


_NEAREST = re.compile(r"\(self\.timesteps - (\w+)\[0\]\)\.abs\(\)\.argmin\(\)\.item\(\)")


def _searched(
    source: ClassSource, node: ast.AST, row: SyncRow, method: ast.FunctionDef
) -> Iterator[LineEdit]:
    """`(self.timesteps - t[0]).abs().argmin().item()`: where a view of them lies, its address says."""
    if row.kind != "value-read" or not isinstance(node, ast.Call):
        return
    found = _NEAREST.fullmatch(source.text(node))
    if found is not None:
        t = found[1]
        place = f"({t}.data_ptr() - self.timesteps.data_ptr()) // {t}.element_size()"
        there = f"0 <= {t}.data_ptr() - self.timesteps.data_ptr() < self.timesteps.nbytes"
        yield LineEdit(node, f"{place} if {there} else {found[0]}")


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


_KINDS = (_read, _sent, _listed, _searched, _checked)
