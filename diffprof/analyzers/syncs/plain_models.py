"""Plain code against uploads that a model makes in each step: tables that it keeps on the host are sent once,
numbers that it is handed on the host are filled in."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence

from diffprof.analyzers.syncs.class_source import ClassSource, NoSource, class_at
from diffprof.model.fix import Code, Skipped
from diffprof.model.recording import SyncRow
from diffprof.model.recording.source_text import dotted, quoted

_TABLES = '''
def _tables_on_device(model, parts, tables):
    """Put tables that these parts of a model send in each step on the device, once."""
    device = next(model.parameters()).device
    for name, part in model.named_modules():
        if any(fnmatch.fnmatchcase(name, each) for each in parts):
            for table in tables:
                value = getattr(part, table)
                several = isinstance(value, (list, tuple))
                there = [each.to(device) for each in value] if several else value.to(device)
                setattr(part, table, type(value)(there) if several else there)
'''

_NUMBERS = '''
def _fill_numbers(model):
    """Fill numbers that a model is handed on the CPU in on the device: a copy waits, a fill does not."""

    def filled(value, device):
        if isinstance(value, torch.Tensor) and value.device.type == "cpu" and value.dim() == 0:
            return torch.full((), value.item(), dtype=value.dtype, device=device)
        return value

    def fill(module, args, kwargs):
        device = next(module.parameters()).device
        named = {name: filled(value, device) for name, value in kwargs.items()}
        return tuple(filled(value, device) for value in args), named

    model.register_forward_pre_hook(fill, with_kwargs=True)
'''


def sent_once(rows: Sequence[SyncRow]) -> Code | Skipped:
    """For uploads within models, all of which have to be of tables that stay, or of numbers."""
    tables: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    numbers: dict[str, None] = {}
    try:
        for row in rows:
            model, names = _model(row), list(_tables(row))
            if names:
                parts, own = tables.setdefault(model, ({}, {}))
                parts.update(dict.fromkeys(each.partition(".")[2] for each in row.modules))
                own.update(dict.fromkeys(names))
            elif _is_number(row):
                numbers[model] = None
            else:
                raise NoSource(f"line {row.site.line} of {row.site.file} sends what is made anew")
    except NoSource as why:
        return Skipped(f"{why}")
    lines = [
        f"_tables_on_device(pipe.{dotted(model)}, {_listed(parts)}, {_listed(own)})"
        for model, (parts, own) in tables.items()
    ]
    lines += [f"_fill_numbers(pipe.{dotted(model)})" for model in numbers]
    definitions = (_TABLES if tables else "") + (_NUMBERS if numbers else "")
    imports = [f"import {name}" for name in ("fnmatch", "torch") if f"{name}." in definitions]
    return Code(imports=tuple(imports), definitions=definitions.strip("\n") + "\n", optimize="\n".join(lines))


def _listed(names: Iterable[str]) -> str:
    return f"[{', '.join(map(quoted, names))}]"


def _model(row: SyncRow) -> str:
    models = {each.partition(".")[0] for each in row.modules}
    if row.kind != "host-to-device" or len(models) != 1:
        raise NoSource(f"line {row.site.line} of {row.site.file} is in no model")
    return models.pop()


def _tables(row: SyncRow) -> Iterator[str]:
    """Names of attributes that the line sends, and that the class does nothing else with."""
    source = class_at(row.site)
    for method in source.methods.values():
        for node in ast.walk(method):
            if isinstance(node, ast.Call) and node.lineno <= row.site.line <= (node.end_lineno or 0):
                name = _sent(node)
                if name is not None and _only_sent(source, name):
                    yield name


def _sent(node: ast.Call) -> str | None:
    """`freqs` of `self.freqs.to(...)` and `self.freqs[i].to(...)`."""
    if not (isinstance(node.func, ast.Attribute) and node.func.attr == "to"):
        return None
    value = node.func.value
    value = value.value if isinstance(value, ast.Subscript) else value
    own = isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name) and value.value.id == "self"
    return value.attr if own else None  # type: ignore[attr-defined]


def _only_sent(source: ClassSource, name: str) -> bool:
    """Whether the host neither computes with it nor makes it anew but in `__init__`."""
    uses = sent = 0
    for method in (each for key, each in source.methods.items() if key != "__init__"):
        for node in ast.walk(method):
            uses += isinstance(node, ast.Attribute) and node.attr == name
            sent += isinstance(node, ast.Call) and _sent(node) == name
    return uses == sent


def _is_number(row: SyncRow) -> bool:
    """Whether the line sends one number that the model was handed as its timestep."""
    line = dict(row.site.excerpt).get(row.site.line, "")
    return row.shape in ((), (1,)) and "timestep" in line.partition(".to(")[0] and ".to(" in line
