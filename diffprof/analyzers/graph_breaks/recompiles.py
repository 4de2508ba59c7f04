"""Call a component again with other inputs, and see which guards fail; try what would stop that."""

from __future__ import annotations

import gc
import inspect
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch._dynamo
from msgspec.structs import replace
from torch.utils import _pytree as pytree

from diffprof.analyzers.graph_breaks.capture import Compiled, captured, plain_name
from diffprof.analyzers.graph_breaks.component import ready, restore
from diffprof.analyzers.graph_breaks.observe import CallSignature, Compilable
from diffprof.analyzers.graph_breaks.python_state import PythonState
from diffprof.analyzers.graph_breaks.repeats import SeenModule, equal_blocks, rebuildable
from diffprof.analyzers.graph_breaks.signature import Given
from diffprof.analyzers.graph_breaks.storageless import Emptier, Storageless
from diffprof.model.callsite import Place, is_machinery, make_site
from diffprof.model.pipeline import replaced
from diffprof.model.recording import Grade, RecompileCost, RecompileRow, Site, median

CURES = ("dynamic=True", "mark_dynamic", "use_duck_shape=False")
"""Settings that may stop a recompile, in the order in which people reach for them."""

SCHEDULER_CALLS = 4
"""Steps of a scheduler that are made in a row: its own counters change between them."""

DISTINCT_CALLS = 8
"""Different inputs of one pipeline call; the recompile limit is 8."""

WITHIN = "within one call"
NEXT = "in the next call"
"""What nothing was varied for: of a component that is called several times in a pipeline call, and of one
that is called once."""

_LOCATION = re.compile(r"#\s*(?P<file>\S+\.py):(?P<line>\d+) in (?P<name>[\w<>.]+)")
_MODULE = re.compile(
    r"(?:\.__dict__\['_(?:modules|parameters|buffers)'\]|\._(?:modules|parameters|buffers))\['(\w+)'\]"
)
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<name>\S+)')
_KINDS = (
    ("scalar", r"_isnan\("),  # of a NaN, which equals nothing: `type(x) is float and __math_isnan(x)`
    ("shape", r"(size|stride|rank) mismatch|dispatch key|\.size\(\)|\.stride\(\)|Ne\(|Eq\(|Mod\("),
    ("dtype", r"dtype mismatch|device mismatch"),
    ("type", r"requires_grad mismatch"),
    ("mode", r"grad_mode|GLOBAL_STATE|autocast|deterministic|stance"),
    ("identity", r"___check_obj_id| is | is not |\bid\("),
    ("type", r"___check_type_id|type\(|isinstance|hasattr|len\(|^not |keys|DICT|dict[_(]"),
    ("scalar", r"==|!=|<=|>=|<|>|float|int"),
)


@dataclass
class Varied:
    """What came of calling a component again. by_variation: its recompiles; entries: versions of each
    function in the end; seconds: of each compile; left_out: seconds that capturing the equal blocks takes,
    which were left out of these; marked: argument -> dimensions that mark_dynamic was told of; refused: what
    ran as plain Python, beyond the limit."""

    setting: str
    by_variation: dict[str, list[Compiled]] = field(default_factory=dict)
    limits: list[str] = field(default_factory=list)
    entries: list[tuple[Place, int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    left_out: float = 0.0
    marked: dict[str, tuple[int, ...]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    failure: str | None = None


Applying = Callable[[str], AbstractContextManager[Any]]
"""Label of a variation -> a context in which the pipeline is changed that way (its adapters, say)."""


def call_again(
    part: Compilable,
    variations: Sequence[tuple[str, Compilable]],
    *,
    setting: str = "",
    applying: Applying = lambda label: nullcontext(),
    fold: bool = True,
    cold: PythonState | None = None,
) -> Varied:
    """Call a component as it was called, then as in each variation, all with the same compiled code.

    For the child. setting: one of CURES, or empty for torch.compile's defaults. cold: the state to begin
    with; None: as it is now. fold: leave equal blocks out; one of each kind is called again on its own, and
    if that is compiled again where the whole is not, everything is done without folding.
    """
    gc.disable()
    emptier = Emptier()
    ready(part, emptier, cold)
    begin = PythonState([part.owner])
    with torch.set_grad_enabled(not part.no_grad), Storageless(), _settings(setting):
        blocks = _foldable(part, variations) if fold and not part.compiled else []
        with ExitStack() as stand_ins:
            for block in blocks:
                forward = _following(block.forms, single=block.single)
                for module in block.modules:
                    stand_ins.enter_context(replaced(module, "forward", forward))
            result = _calls(part, variations, setting, emptier, applying)
        for block in blocks:
            begin.restore()
            alone = _calls(*block.alone, setting, emptier, applying)
            result.files |= alone.files
            if alone.failure or any(
                len(alone.by_variation[x]) > len(result.by_variation.get(x, ())) for x in alone.by_variation
            ):
                begin.restore()
                return _calls(part, variations, setting, emptier, applying)
            if alone.seconds:
                result.left_out += len(block.modules) * median(alone.seconds)
    return result


def _calls(
    part: Compilable,
    variations: Sequence[tuple[str, Compilable]],
    setting: str,
    emptier: Emptier,
    applying: Applying,
) -> Varied:
    changing = _changing_dims([part, *(p for _, p in variations)])
    result = Varied(setting)
    if setting == "mark_dynamic":
        result.marked = _named(changing, part)
    into, run = captured(dynamic=True if setting == "dynamic=True" else None, as_compiled=bool(part.compiled))
    unvaried = NEXT if part.called_once and part.keeps_state else WITHIN
    for label, which in ((unvaried, part), *variations):
        found = result.by_variation.setdefault(label, [])
        restore(which, emptier)
        runs = sum(graph.runs for graph in into.graphs)
        with nullcontext() if which is part else applying(label):
            usual, again = _sequence(which), found
            for number, at in enumerate([*usual, *_more(which)]):
                if number >= len(usual) and not again:
                    break
                before = len(into.compiles)
                args, kwargs = which.calls[at].inputs.values(emptier)
                if setting == "mark_dynamic":
                    _mark((args, kwargs), changing)
                run(part.owner, part.method, args, kwargs)
                if into.failure:
                    result.failure = result.failure or into.failure
                    into.failure = None
                again = [c for c in into.compiles[before:] if c.again]
                found += again
        if into.limits and not found and runs == sum(graph.runs for graph in into.graphs):
            result.refused.append(label)
    result.seconds = [c.seconds for c in into.compiles if c.seconds is not None and not c.failure]
    result.entries = list(Counter(c.place for c in into.compiles if c.failure is None).items())
    result.limits, result.files = into.limits, into.sources
    return result


# --- equal blocks --------------------------------------------------------------------------------------


@dataclass
class _Folded:
    """Equal blocks whose results have the forms of tensors that they are given, in every variation. forms: of
    each result, the number of that tensor. single: they return one, in no tuple. alone: one of them as a part
    of its own, with its variations."""

    modules: list[torch.nn.Module]
    forms: tuple[int, ...]
    single: bool
    alone: tuple[Compilable, list[tuple[str, Compilable]]]


def _foldable(part: Compilable, variations: Sequence[tuple[str, Compilable]]) -> list[_Folded]:
    if not part.blocks:
        return []
    seen = [{id(s.module): s for s in p.blocks if s.steady} for p in (part, *(p for _, p in variations))]
    found = []
    for block in equal_blocks(part.blocks, frozenset(path for path, _ in part.owner.named_modules())):
        forms = {m: _forms([each.get(id(m)) for each in seen]) for m in block.modules}
        kept = next((form for form in forms.values() if form is not None), None)
        modules = [m for m in block.modules if forms[m] == kept]
        if kept is None or len(modules) < 2:
            continue
        first = modules[0]
        name = type(first).__name__
        alone = [
            Compilable(
                name,
                first,
                "forward",
                "other",
                calls=[CallSignature(each[id(first)].inputs, block.output)],
                order=[0] * max(1, len(part.order)),
                keeps_state=part.keeps_state,
            )
            for each in seen
        ]
        labels = [label for label, _ in variations]
        single = block.output.spec.is_leaf()
        found.append(_Folded(modules, kept, single, (alone[0], list(zip(labels, alone[1:], strict=True)))))
    return found


def _forms(calls: Sequence[SeenModule | None]) -> tuple[int, ...] | None:
    """Of each tensor that a block returned, the number of one among its arguments that had the same form in
    all of these calls; None where it returned anything else."""
    fitting: list[set[int]] | None = None
    for seen in calls:
        if seen is None or seen.output is None or not rebuildable(seen.output):
            return None
        inputs = pytree.tree_unflatten(list(seen.inputs.leaves), seen.inputs.spec)
        args, kwargs = inputs
        given = [str(each) for each in (*args, *kwargs.values()) if isinstance(each, Given)]
        alike = [{n for n, form in enumerate(given) if form == str(leaf)} for leaf in seen.output.leaves]
        fitting = alike if fitting is None else [a & b for a, b in zip(fitting, alike, strict=True)]
    return tuple(map(min, fitting)) if fitting and all(fitting) else None


@torch._dynamo.allow_in_graph
def _like(tensor: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor)


def _following(forms: tuple[int, ...], *, single: bool) -> Callable[..., object]:
    """Stands for a block: one operation for each result, which has the form of the tensor of this number."""

    def forward(*args: object, **kwargs: object) -> object:
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
        made = [_like(tensors[n], *tensors) for n in forms]
        return made[0] if single else tuple(made)

    return forward


# --- inputs --------------------------------------------------------------------------------------------


def _sequence(part: Compilable) -> list[int]:
    """Which of the part's calls to make, in order: each kind once, and the first ones again."""
    if isinstance(part.owner, torch.nn.Module):
        chosen = [*part.order[:1], *part.next_calls()]
    else:
        chosen = part.order[:SCHEDULER_CALLS]
    for at in part.order[len(chosen) :]:
        if at not in chosen and len(set(chosen)) < DISTINCT_CALLS:
            chosen.append(at)
    return chosen


def _more(part: Compilable) -> list[int]:
    """Further calls, which are made as long as each is compiled again: what a loop does to a scheduler that
    burns in another number in every step."""
    if isinstance(part.owner, torch.nn.Module):
        return []
    return part.order[SCHEDULER_CALLS : torch._dynamo.config.recompile_limit + 2]


def _changing_dims(parts: Sequence[Compilable]) -> dict[int, set[int]]:
    """Tensor number -> dimensions in which the calls differ."""
    shapes = [call.inputs.shapes for part in parts for call in part.calls]
    found: dict[int, set[int]] = {}
    for other in shapes[1:]:
        for at, (a, b) in enumerate(zip(shapes[0], other, strict=False)):
            if len(a) == len(b):
                found.setdefault(at, set()).update(d for d in range(len(a)) if a[d] != b[d])
    return found


def _named(changing: dict[int, set[int]], part: Compilable) -> dict[str, tuple[int, ...]]:
    """The tensors by the arguments that hold them, those without a change left out."""
    inputs, names = part.calls[0].inputs, positional_names(part)
    leaves, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(inputs.leaves), inputs.spec))
    found = [path for path, leaf in leaves if isinstance(leaf, Given)]
    named = {}
    for at, dims in changing.items():
        if not dims:
            continue
        which, first, *inner = found[at]
        own = names[first.idx : first.idx + 1] if which.idx == 0 else [first.key]
        if own:
            named[own[0] + pytree.keystr(tuple(inner))] = tuple(sorted(dims))
    return named


def _mark(arguments: object, changing: dict[int, set[int]]) -> None:
    tensors = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, torch.Tensor)]
    for at, tensor in enumerate(tensors):
        for dim in changing.get(at, ()):
            torch._dynamo.mark_dynamic(tensor, dim)


@contextmanager
def _settings(setting: str) -> Iterator[None]:
    """What a cure sets beside the inputs; `dynamic=True` also for what the user compiled without it."""
    import torch.fx.experimental._config as shapes

    duck = shapes.use_duck_shape and setting != "use_duck_shape=False"
    static = torch._dynamo.config.assume_static_by_default and setting != "dynamic=True"
    with shapes.patch(use_duck_shape=duck), torch._dynamo.config.patch(assume_static_by_default=static):
        yield


def may_be_cured(plain: Varied) -> bool:
    """Whether a guard on a size or a number failed: the settings are about nothing else."""
    reasons = (c.recompile_reason or "" for found in plain.by_variation.values() for c in found)
    return any(guard_kind(_bare(reason)) in ("shape", "scalar") for reason in reasons)


# --- rows ----------------------------------------------------------------------------------------------


def recompile_rows(
    part: Compilable,
    plain: Varied,
    cures: Sequence[Varied],
    *,
    limit: int,
    grade: Grade,
    compile_ms: float | None = None,
) -> tuple[RecompileRow, ...]:
    """One row a guard, function and variation. compile_ms: of one compile with its backend, where known."""
    rows = []
    marked = next((c.marked for c in cures if c.marked), {})
    for label, compiled in plain.by_variation.items():
        groups: dict[tuple[str, Place], list[Compiled]] = {}
        inner = [c for c in compiled if not is_machinery(c.place[0])]
        # The function that makes the call is compiled again with what it calls: once is enough.
        for each in inner or compiled:
            groups.setdefault((_condition(each.recompile_reason or "", part), each.place), []).append(each)
        stopped = tuple(c.setting for c in cures if not c.by_variation.get(label, ()) and not c.failure)
        for (guard, place), each_time in groups.items():
            hit = any(place[2] in text for text in plain.limits)
            cost = _cost(each_time, plain, compile_ms, whole=len(groups) == 1)
            if hit and not _is_all(place, part):
                cost = replace(cost, unpriced=_A_PART)
            rows.append(
                RecompileRow(
                    component=part.name,
                    guard=guard,
                    kind=guard_kind(guard),
                    site=_site(each_time[0].recompile_reason or "", place, part),
                    variation=label,
                    count=len(each_time),
                    stopped_by=stopped,
                    tried=tuple(c.setting for c in cures),
                    marked=marked,
                    limit_hit=hit,
                    refused=tuple(plain.refused) if hit else (),
                    entries=dict(plain.entries).get(place),
                    limit=limit,
                    cost=cost,
                    grade=grade,
                )
            )
    return tuple(rows)


_A_PART = "the function is a part of the component, and nothing says how much of it"


def _is_all(place: Place, part: Compilable) -> bool:
    """Whether the function is the part's own call."""
    own = _definition(part)
    return is_machinery(place[0]) or (own is not None and place[:2] == own[:2])


def _cost(
    compiles: Sequence[Compiled], plain: Varied, compile_ms: float | None, *, whole: bool
) -> RecompileCost:
    """Of one of these compiles. whole: they are all that was compiled again, so that the equal blocks which
    were left out belong to them; else nothing says which function the blocks are in."""
    times = [c.seconds for c in compiles if c.seconds is not None]
    capture = None
    if times and (whole or not plain.left_out):
        capture = 1e3 * (sum(times) / len(times) + plain.left_out)
    return RecompileCost(
        capture_ms=capture,
        from_blocks=capture is not None and plain.left_out > 0.0,
        compile_ms=compile_ms if whole else None,
    )


def _condition(reason: str, part: Compilable) -> str:
    """The guard alone, in the names of the component's own arguments."""
    text = _bare(reason)
    text = re.sub(r"kwargs\['(\w+)'\]", r"\1", text)
    names = positional_names(part)
    text = re.sub(r"args\[(\d+)\]", lambda m: names[int(m[1])] if int(m[1]) < len(names) else m[0], text)
    return re.sub(r"\bowner\b", part.name.partition(".")[0], text)


def _bare(reason: str) -> str:
    """The condition as Dynamo words it, with modules named by their path."""
    text = reason.partition("\nUser stack trace:")[0].partition(": ")[2] or reason
    text = text.partition("  # ")[0].partition(". Guard failed on a parameter")[0].strip()
    return _MODULE.sub(lambda m: "" if m[1] == "_orig_mod" else f".{m[1]}", text)


def positional_names(part: Compilable) -> list[str]:
    """Names of the positional arguments of what is called."""
    function = getattr(part.owner, "forward" if part.method == "__call__" else part.method)
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def guard_kind(guard: str) -> str:
    """What a guard looks at: shape, dtype, scalar, identity, type, global, mode or other."""
    if guard.startswith("G["):
        return "global"
    return next((kind for kind, pattern in _KINDS if re.search(pattern, guard)), "other")


def _site(reason: str, place: Place, part: Compilable) -> Site:
    """Where the guard was made, if Dynamo says so; else the function that was compiled again."""
    found = (*_FRAME.finditer(reason), *_LOCATION.finditer(reason))
    stack = [(m["file"], int(m["line"]), plain_name(m["name"])) for m in found]
    # Dynamo shortens the names of torch's own files to relative ones.
    kept = tuple(p for p in reversed(stack) if os.path.isabs(p[0]) and not is_machinery(p[0]))
    if kept:
        return make_site(kept, part.name)
    if is_machinery(place[0]):
        place = _definition(part) or place
    return make_site((place,), part.name)


def _definition(part: Compilable) -> Place | None:
    owner = type(part.owner)
    function = inspect.unwrap(getattr(owner, "forward" if part.method == "__call__" else part.method))
    code = getattr(function, "__code__", None)
    return (code.co_filename, code.co_firstlineno, code.co_qualname) if code else None
