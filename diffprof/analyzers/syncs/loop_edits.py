"""Edits of single lines in a pipeline's or a model's method, by kind: the same values, without asking the
device for them. Each kind looks at the line and at what the value is used for, never at whose line it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from diffprof.analyzers.syncs.class_source import ClassSource, NoSource
from diffprof.analyzers.syncs.line_edits import LineEdit
from diffprof.model.recording import SyncRow
from diffprof.model.recording.source_text import quoted

_NOISES = ("add_noise", "scale_noise")
"""Methods of a scheduler that take timesteps to where the sample is."""

_SPREADS = ("expand", "repeat", "to", "view", "reshape", "flatten")
"""Methods that give each entry the value that it had, but for its type."""

_ZEROS = re.compile(r"torch\.tensor\(\[(0|0\.0)\](?: \* (\w+))?\)")
"""`torch.tensor([0] * n)`"""

TELLS = re.compile(r"\s*self\.\w*timestep = (?!None)\w+\s*(#.*)?\s*")
"""A pipeline keeps the step's timestep for those who ask for it."""


class MethodLines:
    """A method, and the lines of it that a row is about."""

    def __init__(self, source: ClassSource, method: ast.FunctionDef, row: SyncRow, line: int) -> None:
        self.source = source
        self.method = method
        self.row = row
        self.line = line
        self.parents = {id(c): p for p in ast.walk(method) for c in ast.iter_child_nodes(p)}

    def at(self, kind: type | tuple[type, ...] = ast.expr) -> Iterator[ast.expr]:
        """Expressions that reach over the line, outer ones first."""
        for node in ast.walk(self.method):
            if isinstance(node, kind) and isinstance(node, ast.expr) and self._covers(node):
                yield node

    def _covers(self, node: ast.expr) -> bool:
        return node.lineno <= self.line <= (node.end_lineno or node.lineno)

    def text(self, node: ast.AST) -> str:
        return self.source.text(node)

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        while (parent := self.parents.get(id(node))) is not None:
            yield parent
            node = parent

    def loop(self) -> tuple[ast.For, ast.stmt] | None:
        """The innermost loop around the line, with the statement of the method that it stands in."""
        loops = [n for n in ast.walk(self.method) if isinstance(n, ast.For)]
        around = [n for n in loops if n.lineno < self.line <= (n.end_lineno or 0)]
        if not around:
            return None
        inner = max(around, key=lambda n: n.lineno)
        top = next(s for s in self.method.body if s.lineno <= inner.lineno <= (s.end_lineno or 0))
        return inner, top

    def stored(self, name: str) -> list[ast.Assign]:
        """Statements that set a name."""
        nodes = [n for n in ast.walk(self.method) if isinstance(n, ast.Assign)]
        return [n for n in nodes if any(isinstance(t, ast.Name) and t.id == name for t in n.targets)]


def loop_edits(source: ClassSource, method: ast.FunctionDef, row: SyncRow, line: int) -> list[LineEdit]:
    """What to write at a row's line.

    Raises NoSource where no kind fits.
    """
    lines = MethodLines(source, method, row, line)
    for kind in _KINDS:
        found = list(kind(lines))
        if found:
            return found
    raise NoSource(f"nothing on line {line} of {row.site.file} can be written without the wait")


# --- timesteps in a loop ---------------------------------------------------------------------------------


def _counted(loop: ast.For) -> tuple[str, str, ast.expr] | None:
    """(counter, timestep, table) of `for i, t in enumerate(timesteps)`."""
    pair = loop.target.elts if isinstance(loop.target, ast.Tuple) else []
    called = isinstance(loop.iter, ast.Call) and ast.unparse(loop.iter.func) == "enumerate"
    if len(pair) != 2 or not called or not all(isinstance(each, ast.Name) for each in pair):
        return None
    return pair[0].id, pair[1].id, loop.iter.args[0]  # type: ignore[attr-defined]


def _timestep(lines: MethodLines) -> Iterator[LineEdit]:
    """`if t >= boundary`, `float(t)`: the entry of a copy of all timesteps, made before the loop."""
    found = lines.loop()
    over = _counted(found[0]) if found else None
    if lines.row.kind != "value-read" or found is None or over is None:
        return
    counter, each, table = over
    ahead = (found[1], f"timesteps_on_host = {lines.text(table)}.cpu()")
    for node in lines.at(ast.Name):
        assert isinstance(node, ast.Name)
        reads = isinstance(next(lines.above(node)), ast.Compare) or _is_number_of(lines, node)
        kept = isinstance(next(lines.above(node)), ast.Assign) and _is_told(lines)
        if node.id == each and isinstance(node.ctx, ast.Load) and (reads or kept):
            yield LineEdit(node, f"timesteps_on_host[{counter}]", ahead=ahead)


def _is_told(lines: MethodLines) -> bool:
    """Whether the line keeps the timestep for those who look: `self._current_timestep = t`."""
    return TELLS.fullmatch(lines.source.lines[lines.line - 1]) is not None


def _is_number_of(lines: MethodLines, node: ast.AST) -> bool:
    parent = next(lines.above(node))
    named = isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name)
    return named and parent.func.id in ("float", "int", "bool")  # type: ignore[attr-defined]


def _entry(lines: MethodLines) -> Iterator[LineEdit]:
    """`float(self.scheduler.sigmas[i])`: of a copy of the table, made before the loop."""
    found = lines.loop()
    over = _counted(found[0]) if found else None
    if lines.row.kind != "value-read" or found is None or over is None:
        return
    for node in lines.at(ast.Subscript):
        assert isinstance(node, ast.Subscript)
        counted = _is_number_of(lines, node) and lines.text(node.slice) == over[0]
        if counted and isinstance(node.value, ast.Attribute):
            name = f"{node.value.attr}_on_host"
            ahead = (found[1], f"{name} = {lines.text(node.value)}.cpu()")
            yield LineEdit(node.value, name, ahead=ahead)


def _computed(lines: MethodLines) -> Iterator[LineEdit]:
    """`timestep[0].item()`, computed from the loop's timestep alone: computed of all before the loop, and
    read once."""
    found = lines.loop()
    over = _counted(found[0]) if found else None
    if lines.row.kind != "value-read" or found is None or over is None:
        return
    for node in lines.at(ast.Subscript):
        assert isinstance(node, ast.Subscript)
        if not isinstance(node.value, ast.Name) or lines.text(node.slice) != "0":
            continue
        whole = _of_all(lines, found[0], node.value.id, over[1], lines.text(over[2]))
        item = next(lines.above(node))
        called = isinstance(item, ast.Attribute) and item.attr == "item"
        read = next(lines.above(item)) if called else node
        if whole is not None and (called or isinstance(item, ast.Compare)):
            name = f"{node.value.id}_of_all"
            yield LineEdit(read, f"{name}[{over[0]}]", ahead=(found[1], f"{name} = ({whole}).tolist()"))  # type: ignore[arg-type]


def _of_all(lines: MethodLines, loop: ast.For, name: str, each: str, table: str) -> str | None:
    """What a name is when the line reads it, with the table of all timesteps in the place of one."""
    text = None
    for made in sorted(lines.stored(name), key=lambda n: n.lineno):
        if not loop.lineno < made.lineno < lines.line:
            continue
        value = made.value
        while isinstance(value, ast.Call | ast.Subscript):  # `t.expand(n)`, `t[None]`
            if isinstance(value, ast.Call) and getattr(value.func, "attr", "") not in _SPREADS:
                break
            value = value.func.value if isinstance(value, ast.Call) else value.value  # type: ignore[attr-defined]
        names = {n.id for n in ast.walk(value) if isinstance(n, ast.Name)} - {"self"}
        if isinstance(value, ast.Name) and value.id == each:
            text = table
        elif isinstance(value, ast.Name) and value.id == name:
            continue
        elif isinstance(value, ast.BinOp) and names == {name} and text is not None:
            text = _put(lines.text(value), name, text if text.isidentifier() else f"({text})")
        elif isinstance(value, ast.BinOp) and names == {each}:
            text = _put(lines.text(value), each, table)
        elif not any(isinstance(p, ast.If) for p in lines.above(made)):
            return None
    return text


def _put(text: str, name: str, instead: str) -> str:
    """A text with another one in the place of a name."""
    return re.sub(rf"\b{name}\b", lambda _: instead, text)


def _asked(lines: MethodLines) -> Iterator[LineEdit]:
    """`if self.does_guidance`, a property that looks at a tensor which stays: asked once, before the loop."""
    found = lines.loop()
    owner = (lines.row.owner or "").partition(".")[0]
    if lines.row.kind != "value-read" or found is None or owner != lines.source.name:
        return
    for node in lines.at(ast.Attribute):
        assert isinstance(node, ast.Attribute)
        parent = next(lines.above(node))
        tests = isinstance(parent, ast.If | ast.IfExp) and parent.test is node
        if tests and lines.text(node) == f"self.{node.attr}":
            yield LineEdit(node, node.attr, ahead=(found[1], f"{node.attr} = bool(self.{node.attr})"))


# --- tensors made of numbers -----------------------------------------------------------------------------


def _is_made(lines: MethodLines, node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and lines.text(node.func) in ("torch.tensor", "torch.as_tensor")


def _keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((each.value for each in call.keywords if each.arg == name), None)


def _scalars(lines: MethodLines) -> Iterator[LineEdit]:
    """`torch.tensor([t] * n)` of a device's scalar: a view of it."""
    if lines.row.kind != "tensor-from-device-scalars":
        return
    for node in lines.at(ast.Call):
        if not _is_made(lines, node):
            continue
        assert isinstance(node, ast.Call)
        data, times = node.args[0], ""
        if isinstance(data, ast.BinOp) and isinstance(data.op, ast.Mult):
            times = f".expand({lines.text(data.right)})"
            data = data.left
        if isinstance(data, ast.List) and len(data.elts) == 1 and _may_be_there(lines, node):
            one = data.elts[0]
            short = isinstance(one, ast.Name | ast.Attribute | ast.Subscript)
            view = f"{lines.text(one)}[None]" if short else f"({lines.text(one)})[None]"
            kind = _keyword(node, "dtype")
            typed = f".to({lines.text(kind)})" if kind is not None else ""
            yield LineEdit(node, f"{view}{times}{typed}")


def _may_be_there(lines: MethodLines, node: ast.Call) -> bool:
    """Whether what takes the tensor puts it on the device, or it is there already."""
    if _keyword(node, "device") is not None:
        return True
    parents = list(lines.above(node))
    if isinstance(parents[0], ast.Call) and getattr(parents[0].func, "attr", "") in _NOISES:
        return True
    statement = next((each for each in parents if isinstance(each, ast.Assign)), None)
    if statement is None or not isinstance(statement.targets[0], ast.Name):
        return False
    name = statement.targets[0].id
    return any(lines.text(each.value).startswith(f"{name}.to(") for each in lines.stored(name))


def _few_numbers(lines: MethodLines) -> Iterator[LineEdit]:
    """`torch.tensor(weights, device=device)` of a few numbers: filled in on the device."""
    shape = lines.row.shape or ()
    if lines.row.kind != "host-to-device" or len(shape) != 1 or shape[0] > 8:
        return
    for node in lines.at(ast.Call):
        if _is_made(lines, node) and isinstance(node, ast.Call) and isinstance(node.args[0], ast.Name):
            rest = ", ".join(f"{each.arg}={lines.text(each.value)}" for each in node.keywords)
            if _keyword(node, "device") is not None:
                each = f"torch.full((), each, {rest})"
                yield LineEdit(node, f"torch.stack([{each} for each in {lines.text(node.args[0])}])")


def _host_numbers(lines: MethodLines) -> Iterator[LineEdit]:
    """`torch.tensor([height, width], device=device)`, which Python alone reads: made on the CPU."""
    if lines.row.kind != "host-to-device" or not lines.row.constant or "int" not in (lines.row.dtype or ""):
        return
    for node in lines.at(ast.Call):
        if _is_made(lines, node) and isinstance(node, ast.Call) and isinstance(node.args[0], ast.List):
            rest = [lines.text(node.args[0])]
            rest += [f"{e.arg}={lines.text(e.value)}" for e in node.keywords if e.arg != "device"]
            if _keyword(node, "device") is not None:
                yield LineEdit(node, f"{lines.text(node.func)}({', '.join(rest)})")


def _one_number(lines: MethodLines) -> Iterator[LineEdit]:
    """`timesteps[None].to(device)` of one number on the CPU: filled in on the device."""
    if lines.row.kind != "host-to-device" or lines.row.shape != (1,):
        return
    for node in lines.at(ast.Call):
        assert isinstance(node, ast.Call)
        value = node.func.value if isinstance(node.func, ast.Attribute) and node.func.attr == "to" else None
        if isinstance(value, ast.Subscript) and lines.text(value.slice) == "None" and len(node.args) == 1:
            one, where = lines.text(value.value), lines.text(node.args[0])
            yield LineEdit(node, f"torch.full((1,), {one}.item(), dtype={one}.dtype, device={where})")


def _zeros(lines: MethodLines) -> Iterator[LineEdit]:
    """`self.time_proj(torch.tensor([0] * n)).to(device=d)`, `torch.tensor([0.0]).to(d)`: made on the device,
    on which sines and cosines of zero have the same bits."""
    for node in lines.at(ast.Call) if lines.row.kind == "host-to-device" else ():
        zeros = _ZEROS.fullmatch(lines.text(node))
        parents = lines.above(node)
        over = next(parents)
        if isinstance(over, ast.Call) and _is_of_sines(lines, over.func):
            over = next(parents)
        sent = next(parents)
        if not (
            zeros and isinstance(over, ast.Attribute) and over.attr == "to" and isinstance(sent, ast.Call)
        ):
            continue
        where = _keyword(sent, "device") or next(iter(sent.args), None)
        if where is not None and lines.text(where).rpartition(".")[2] == "device":
            kind = "" if "." in zeros[1] else ", dtype=torch.int64"
            yield LineEdit(node, f"torch.zeros({zeros[2] or 1}{kind}, device={lines.text(where)})")


def _is_of_sines(lines: MethodLines, part: ast.expr) -> bool:
    """Whether a part of the class is a sinusoidal embedding, as its arguments tell."""
    begun = lines.source.methods.get("__init__")
    made = [n for n in ast.walk(begun) if isinstance(n, ast.Assign)] if begun is not None else []
    values = [n.value for n in made if ast.unparse(n.targets[0]) == ast.unparse(part)]
    return any(isinstance(v, ast.Call) and _keyword(v, "flip_sin_to_cos") is not None for v in values)


def _constant(lines: MethodLines) -> Iterator[LineEdit]:
    """What is computed on the CPU of sizes alone, and sent in each step: computed and sent once."""
    if lines.row.kind != "host-to-device" or not lines.row.constant:
        return
    for node in lines.at(ast.Call):
        assert isinstance(node, ast.Call)
        if not (isinstance(node.func, ast.Attribute) and node.func.attr == "to"):
            continue
        names = {n.id for n in ast.walk(node.func.value) if isinstance(n, ast.Name)} - {"self", "torch"}
        sizes = [
            n
            for n in names
            if (made := lines.stored(n)) and all(".shape[" in lines.text(m.value) for m in made)
        ]
        if names and len(sizes) == len(names):
            places = [lines.text(each) for each in (*node.args, *(k.value for k in node.keywords))]
            key = f"({', '.join([*sorted(names), *places])})"
            yield LineEdit(node, f"_once(self, {key}, lambda: {lines.text(node)})")


def _of_a_mask(lines: MethodLines) -> Iterator[LineEdit]:
    """`mask.sum(dim=1).tolist()`, `nonzero(mask)` of a mask that a model is given in each step, and each of
    its blocks: asked once, as long as it is that tensor."""
    if lines.row.kind not in ("value-read", "data-dependent-shape") or not lines.row.modules:
        return
    given = {each.arg for each in lines.method.args.args if "mask" in each.arg}
    loops = [n.target for n in ast.walk(lines.method) if isinstance(n, ast.For)]
    counters = {each.id for each in loops if isinstance(each, ast.Name)}
    for node in lines.at(ast.Call):
        if not isinstance(next(lines.above(node)), ast.Assign):
            continue
        text = _spelled_out(lines, node)
        names = {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)} - {"torch"}
        masks, places = names & given, sorted(names & counters)
        if len(masks) == 1 and names == masks | set(places):
            key = ", ".join([quoted(f"{lines.source.name}:{lines.line}"), *places])
            key = f"({key})" if places else key
            yield LineEdit(node, f"_once_of({masks.pop()}, {key}, lambda: {text})")


def _spelled_out(lines: MethodLines, node: ast.expr) -> str:
    """An expression, with what its names stand for that are set once."""
    text = lines.text(node)
    for name in {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}:
        made = lines.stored(name)
        if len(made) == 1:
            value = lines.text(made[0].value)
            text = _put(text, name, value)
    return text


# --- results of the device -------------------------------------------------------------------------------


def _stays(lines: MethodLines) -> Iterator[LineEdit]:
    """`self.masks[i] = mask.detach().cpu()`, stored for who wants to look: stored on the device."""
    stored = _stored_copy(lines) if lines.row.kind == "device-to-host" else None
    if stored is None or not (lines.stored("latents") or "latents" in ast.unparse(lines.method.args)):
        return
    value, buffer = stored
    nodes = [n for n in ast.walk(lines.method) if isinstance(n, ast.Assign)]
    made = [n.value for n in nodes if lines.text(n.targets[0]) == buffer]
    made = [each for each in made if not isinstance(each, ast.Constant)]
    fresh = [
        e for e in made if isinstance(e, ast.Call) and lines.text(e.func) in ("torch.zeros", "torch.empty")
    ]
    if made and len(fresh) == len(made):
        yield LineEdit(value, lines.text(value.func.value))  # type: ignore[attr-defined]
        for each in fresh:
            yield LineEdit(each, f"{lines.text(each)[:-1].rstrip().rstrip(',')}, device=latents.device)")


def _stored_copy(lines: MethodLines) -> tuple[ast.Call, str] | None:
    """(`mask.cpu()`, `self.masks`) of `self.masks[i] = mask.cpu()` in the line."""
    for node in ast.walk(lines.method):
        if isinstance(node, ast.Assign) and node.lineno <= lines.line <= (node.end_lineno or node.lineno):
            value, target = node.value, node.targets[0]
            copies = isinstance(value, ast.Call) and getattr(value.func, "attr", "") == "cpu"
            if copies and isinstance(target, ast.Subscript):
                return value, lines.text(target.value)  # type: ignore[return-value]
    return None


# --- masks -----------------------------------------------------------------------------------------------


def _reordered(lines: MethodLines) -> Iterator[LineEdit]:
    """`torch.cat([a[m], b[n], a[~m], b[~n]])`, all entries in another order: taken by a stable sort, whose
    size is known."""
    if lines.row.kind != "data-dependent-shape":
        return
    for node in lines.at(ast.Call):
        listed = isinstance(node, ast.Call) and lines.text(node.func) == "torch.cat" and bool(node.args)
        elements = node.args[0].elts if listed and isinstance(node.args[0], ast.List) else []  # type: ignore[attr-defined]
        picks = [(lines.text(e.value), lines.text(e.slice)) for e in elements if isinstance(e, ast.Subscript)]
        places = {pick: n for n, pick in enumerate(picks)}
        pairs = [(of, mask) for of, mask in picks if not mask.startswith("~")]
        if not pairs or len(picks) != len(elements) or len(places) != 2 * len(pairs):
            continue
        if not all((of, f"~{mask}") in places for of, mask in pairs):
            continue
        parts = ", ".join(of for of, _ in pairs)
        ranks = ", ".join(
            f"torch.where({mask}, {places[of, mask]}, {places[of, f'~{mask}']})" for of, mask in pairs
        )
        order = f"order = torch.cat([{ranks}]).argsort(stable=True)"
        at = _where_known(lines, node, [mask for _, mask in pairs])
        yield LineEdit(node, f"torch.cat([{parts}])[order]", ahead=(at, order))


def _where_known(lines: MethodLines, node: ast.AST, names: list[str]) -> ast.stmt:
    """The statement before which names have their values: in the loop that sets all of them, its first."""
    for parent in lines.above(node):
        if isinstance(parent, ast.For):
            targets = {n.id for n in ast.walk(parent.target) if isinstance(n, ast.Name)}
            if targets >= set(names):
                return parent.body[0]
    return next(each for each in lines.above(node) if isinstance(each, ast.stmt))


def _clamped(lines: MethodLines) -> Iterator[LineEdit]:
    """`if scale < 0: scale = 0`, for a tensor of one number: a clamp on the device."""
    for node in ast.walk(lines.method):
        if not isinstance(node, ast.If) or node.lineno != lines.line or lines.row.kind != "value-read":
            continue
        compared = node.test if isinstance(node.test, ast.Compare) and len(node.test.ops) == 1 else None
        if compared is None or len(node.body) != 1 or node.orelse:
            continue
        bound = {ast.Lt: "min", ast.LtE: "min", ast.Gt: "max", ast.GtE: "max"}.get(type(compared.ops[0]))
        left, right = lines.text(compared.left), lines.text(compared.comparators[0])
        if bound and lines.text(node.body[0]) == f"{left} = {right}":
            yield LineEdit(node, f"{left} = torch.clamp(torch.as_tensor({left}), {bound}={right})")


_KINDS = (
    *(_timestep, _entry, _computed, _asked, _of_a_mask),
    *(_scalars, _few_numbers, _host_numbers, _one_number, _zeros, _constant),
    *(_stays, _reordered, _clamped),
)

ONCE = '''
def _once(owner, key, make):
    """What was made for the same key before, else what is made now."""
    made = owner.__dict__.setdefault("_made", {})
    if key not in made:
        made[key] = make()
    return made[key]
'''

ONCE_OF = '''
def _once_of(tensor, key, make):
    """What was made of the same tensor before, if nobody wrote to it since, else what is made now."""
    if tensor.is_inference():  # nothing tells whether it was written to
        return make()
    made, key = tensor.__dict__.setdefault("_made", {}), (key, tensor._version)
    if key not in made:
        made[key] = make()
    return made[key]
'''
