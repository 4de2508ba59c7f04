"""Plain code against uploads that a model makes in each step: tables that it keeps on the CPU are sent once,
numbers that it is handed on the CPU are filled in."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence

from diffprof.analyzers.syncs.class_source import ClassSource, NoSource, class_at, class_of
from diffprof.model.fix import Code, Skipped
from diffprof.model.recording import Frame, Site, SyncRow
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


_GIVEN = '''
def _send_once(model, names):
    """Send tables that a model is given on the CPU once, not in each block of each step."""
    device = next(model.parameters()).device
    sent = {}

    def send(module, args, kwargs):
        for name in kwargs.keys() & set(names):
            given, there = sent.get(name, (None, None))
            if kwargs[name] is not given:
                given, several = kwargs[name], isinstance(kwargs[name], (list, tuple))
                there = type(given)(each.to(device) for each in given) if several else given.to(device)
                sent[name] = given, there
            kwargs[name] = there
        return args, kwargs

    model.register_forward_pre_hook(send, with_kwargs=True)
'''


_MADE = '''
def _make_once(part):
    """Let a part that makes tables of its input's shape make them once for each, and send them."""
    cls = type(part)

    class Once(cls):
        @functools.wraps(cls.forward)
        def forward(self, x):
            if self.__dict__.get("made_for") != (x.shape, x.device):
                made = super().forward(x)
                several = isinstance(made, (list, tuple))
                self.made = type(made)(each.to(x.device) for each in made) if several else made.to(x.device)
                self.made_for = x.shape, x.device
            return self.made

    part.__class__ = functools.update_wrapper(Once, cls, updated=())  # it keeps its name
'''


def takes(row: SyncRow) -> bool:
    """Whether `sent_once` has code for it."""
    try:
        return bool(_is_number(row) or list(_tables(row)) or any(_held(row))) and bool(_model(row))
    except NoSource:
        return False


def sent_once(rows: Sequence[SyncRow]) -> Code | Skipped:
    """For uploads within models: of tables that stay, of those that a model is given or makes of a shape, of
    numbers. What else is made anew is left."""
    tables: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    given: dict[str, dict[str, None]] = {}
    makers: dict[str, None] = {}
    numbers: dict[str, None] = {}
    for row in filter(takes, rows):
        model, (argument, maker) = _model(row), _held(row)
        if _is_number(row):
            numbers[model] = None
        elif names := list(_tables(row)):
            parts, own = tables.setdefault(model, ({}, {}))
            parts.update(dict.fromkeys(each.partition(".")[2] for each in row.modules))
            own.update(dict.fromkeys(names))
        elif maker:
            makers[f"{model}.{maker}"] = None
        elif argument:
            given.setdefault(model, {})[argument] = None
    lines = [
        f"_tables_on_device(pipe.{dotted(model)}, {_listed(parts)}, {_listed(own)})"
        for model, (parts, own) in tables.items()
    ]
    lines += [f"_make_once(pipe.{dotted(maker)})" for maker in makers]
    lines += [f"_send_once(pipe.{dotted(model)}, {_listed(names)})" for model, names in given.items()]
    lines += [f"_fill_numbers(pipe.{dotted(model)})" for model in numbers]
    if not lines:
        return Skipped("what is sent is made anew in each step")
    wanted = ((_TABLES, tables), (_MADE, makers), (_GIVEN, given), (_NUMBERS, numbers))
    definitions = "\n".join(text for text, used in wanted if used)
    imports = [f"import {name}" for name in ("fnmatch", "functools", "torch") if f"{name}." in definitions]
    return Code(imports=tuple(imports), definitions=definitions.strip("\n") + "\n", optimize="\n".join(lines))


def _held(row: SyncRow) -> tuple[str | None, str | None]:
    """(argument, part) of what `transformer(rotary)` stands for: the argument that the model was given, or
    the part of it that makes what has that name."""
    model, _, name = (row.owner or "").removesuffix(")").partition("(")
    if not name or model not in {each.partition(".")[0] for each in row.modules}:
        return None, None
    frames: list[Site | Frame] = [row.site, *row.site.chain]
    frames = [f for f in frames if f.function.endswith(".forward")]
    source = class_at(Site(file=frames[-1].file, line=frames[-1].line, function=frames[-1].function))
    method = source.methods["forward"]
    for node in ast.walk(method):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            parts = [maker for call in ast.walk(node.value) if (maker := _maker(source, call))]
            return None, parts[0] if len(parts) == 1 else None
    return name if name in {each.arg for each in method.args.args} else None, None


def _maker(source: ClassSource, node: ast.AST) -> str | None:
    """`rope` of `self.rope(x)`, a part whose class, of the same file, looks at the shape of `x` alone."""
    if not isinstance(node, ast.Call) or len(node.args) != 1 or node.keywords:
        return None
    part = _own(node.func)
    for made in ast.walk(source.methods["__init__"]) if part and "__init__" in source.methods else ():
        if (
            isinstance(made, ast.Assign)
            and _own(made.targets[0]) == part
            and isinstance(made.value, ast.Call)
        ):
            try:
                forward = class_of(ast.unparse(made.value.func), source.file, "".join(source.lines)).methods[
                    "forward"
                ]
            except (NoSource, KeyError):
                return None
            return part if _asks_for_the_shape(forward) else None
    return None


def _asks_for_the_shape(forward: ast.FunctionDef) -> bool:
    x = forward.args.args[1].arg
    used = [n for n in ast.walk(forward) if isinstance(n, ast.Name) and n.id == x]
    asked = (f"{x}.shape", f"{x}.size", f"{x}.device")
    shapes = [n for n in ast.walk(forward) if isinstance(n, ast.Attribute) and ast.unparse(n) in asked]
    return len(used) == len(shapes) > 0


def _own(node: ast.AST) -> str | None:
    """`rope` of `self.rope`."""
    own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return node.attr if own else None  # type: ignore[attr-defined]


def _listed(names: Iterable[str]) -> str:
    return f"[{', '.join(map(quoted, names))}]"


def _model(row: SyncRow) -> str:
    models = {each.partition(".")[0] for each in row.modules}
    if row.kind != "host-to-device" or len(models) != 1:
        raise NoSource(f"line {row.site.line} of {row.site.file} is in no model")
    return models.pop()


def _tables(row: SyncRow) -> Iterator[str]:
    """Names of attributes that the line sends, and that the class does nothing else with."""
    try:
        source = class_at(row.site)
    except NoSource:
        return
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
    """Whether the CPU neither computes with it nor makes it anew but in `__init__`."""
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
