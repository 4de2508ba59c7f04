"""Capture one component, in the child: its repeated blocks once each, then the whole."""

from __future__ import annotations

import copy
import gc
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

import torch

from diffprof.analyzers.graph_breaks.capture import Capture, StandsFor, captured, site_place
from diffprof.analyzers.graph_breaks.hidden import add_hidden_breaks
from diffprof.analyzers.graph_breaks.observe import CallSignature, Compilable
from diffprof.analyzers.graph_breaks.python_state import PythonState
from diffprof.analyzers.graph_breaks.repeats import RepeatedModules, equal_blocks, markers, stand_in
from diffprof.analyzers.graph_breaks.storageless import Emptier, Storageless
from diffprof.model.callsite import Place, is_machinery
from diffprof.model.pipeline import replaced


@dataclass
class Passed:
    """How often a line was come to in one call of plain Python, and of which modules, by path. raised: an
    exception went through it; phase: the most frequent one of the pipeline, where that was followed."""

    place: Place
    times: int
    modules: list[str]
    raised: bool = False
    phase: str | None = None


@dataclass
class CaptureResult:
    """What the child found out about one component. folded: (name, how many) of equal blocks that were
    captured once."""

    capture: Capture
    folded: list[tuple[str, int]] = field(default_factory=list)
    passed: list[Passed] = field(default_factory=list)
    recompiles: bool = False
    """It was compiled again when it was called as the pipeline calls it next."""
    seconds: float = 0.0


def capture_part(
    part: Compilable,
    *,
    fold: bool = True,
    cold: PythonState | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> CaptureResult:
    """Capture a component with the arguments of its first call, then make the calls that follow. Changes the
    component and Dynamo's state.

    cold: the state of the component to begin with; None: as it is now.
    """
    started = time.perf_counter()
    gc.disable()
    emptier = Emptier()
    ready(part, emptier, cold)
    as_compiled = bool(part.compiled)
    with torch.set_grad_enabled(not part.no_grad), Storageless():
        plain = PythonState([part.owner])
        folds = _Folds()
        with ExitStack() as stand_ins:
            if fold and part.blocks and not as_compiled:
                paths = frozenset(path for path, _ in part.owner.named_modules())
                for block in equal_blocks(part.blocks, paths):
                    say(f"{part.name}: {type(block.modules[0]).__name__}, {len(block.modules)} alike")
                    folds.fold(block, emptier, stand_ins)
            say(part.name)
            into, recompiles = _called_in_order(part, emptier, folds.weights)
        if folds.names and into.failure:
            plain.restore()
            folds = _Folds()
            into, recompiles = _called_in_order(part, emptier, folds.weights)
        into.files |= folds.files
        result = CaptureResult(into, folds.names, recompiles=recompiles)
        if into.breaks:
            say(f"{part.name}: what its breaks hide")

            def again(run: Callable[..., object]) -> Any:
                plain.restore()
                return run(part.owner, part.method, *part.calls[0].inputs.values(emptier))

            add_hidden_breaks(into, again, as_compiled=as_compiled)
            plain.restore()
            with counting({part.name: part.owner}, worth_counting(into), result):
                plain_call(part, part.calls[0], emptier)
    result.seconds = time.perf_counter() - started
    return result


def _called_in_order(
    part: Compilable, emptier: Emptier, weights: Mapping[object, StandsFor]
) -> tuple[Capture, bool]:
    """A capture of the component's first call, and whether it, or one of those that follow, is compiled
    again. What later calls compile is no part of the capture."""
    into, run = captured(weights, as_compiled=bool(part.compiled))
    run(part.owner, part.method, *part.calls[0].inputs.values(emptier))
    first = copy.deepcopy(into)
    # One that keeps something is called again in any case: see `call_again`.
    for at in () if part.keeps_state else part.next_calls():
        if into.failure or any(each.again for each in into.compiles):
            break
        run(part.owner, part.method, *part.calls[at].inputs.values(emptier))
    return first, not first.failure and any(each.again for each in into.compiles)


class _Folds:
    """Equal blocks that markers stand for. weights: of the markers; files: traced source files."""

    def __init__(self) -> None:
        self.weights: dict[object, StandsFor] = {}
        self.names: list[tuple[str, int]] = []
        self.files: set[str] = set()

    def fold(self, block: RepeatedModules, emptier: Emptier, stand_ins: ExitStack) -> None:
        """Capture one of them; if it is whole and pure, put markers in the place of those for which the code
        compiled for it is valid."""
        first = block.modules[0]
        before = PythonState([first])
        into, run = captured(self.weights)
        run(first, "forward", *block.inputs.values(emptier))
        if before.changed(first):
            before.restore()
            return
        if not (into.whole and into.pure):
            return
        ops, used = into.ops, tuple(into.graphs[0].complex)
        alike = [m for m in block.modules if m is first or _same_code(m, block, into, run, emptier)]
        if len(alike) < 2:
            return
        put = markers(block.output)
        self.weights.update(dict.fromkeys(put, StandsFor()))
        self.weights[put[0]] = StandsFor(ops - len(put) + 1, used)
        self.names.append((type(first).__name__, len(alike)))
        self.files |= into.sources
        forward = stand_in(block.output, put)
        for module in alike:
            stand_ins.enter_context(replaced(module, "forward", forward))


def _same_code(
    module: torch.nn.Module,
    block: RepeatedModules,
    into: Capture,
    run: Callable[..., object],
    emptier: Emptier,
) -> bool:
    """Whether the guards of what was compiled hold for this module too. No graph is run."""
    before = len(into.compiles)
    into.dry = True
    run(module, "forward", *block.inputs.values(emptier))
    return len(into.compiles) == before and not into.failure


def ready(part: Compilable, emptier: Emptier, cold: PythonState | None = None) -> None:
    """Bring a component into the state before its first call, without tensors; compiled code is taken off,
    unless the component is compiled in parts. cold: that state, of models."""
    if cold is not None:
        cold.restore()
    restore(part, emptier)
    emptier.empty(part.owner)
    if not part.compiled:
        forget_compiled(part.owner)


def restore(part: Compilable, emptier: Emptier) -> None:
    """Give a scheduler the attributes that it had before its first call."""
    if part.state is not None:
        state = dict(part.state)
        emptier.empty(state)
        vars(part.owner).clear()
        vars(part.owner).update(state)


def forget_compiled(owner: object) -> None:
    """Take compiled code off modules, so that their Python runs."""
    if not isinstance(owner, torch.nn.Module):
        return
    for module in owner.modules():
        module._compiled_call_impl = None
        for name, value in list(vars(module).items()):
            original = getattr(value, "_torchdynamo_orig_callable", None)
            if original is not None:
                setattr(module, name, original)
    for module in list(owner.modules()):
        for name, child in module._modules.items():
            inner = getattr(child, "_orig_mod", None)
            if inner is not None:
                module._modules[name] = inner


def plain_call(part: Compilable, call: CallSignature, emptier: Emptier) -> None:
    """Make the call in plain Python."""
    args, kwargs = call.inputs.values(emptier)
    try:
        getattr(part.owner, part.method)(*args, **kwargs)
    except Exception:
        # Made-up values can lead the plain run astray; then there are no counts.
        return


@contextmanager
def counting(
    owners: Mapping[str, object],
    places: set[Place],
    result: CaptureResult,
    phase: Callable[[], str] | None = None,
) -> Iterator[None]:
    """Count how often plain Python passes these lines, and in which modules of the owners, by name. phase:
    tells the one that the pipeline is in.

    A statement of several lines comes back to its first line: a pass is where it was entered.
    """
    lines: dict[str, set[int]] = {}
    for file, line, _ in places:
        lines.setdefault(file, set()).add(line)
    modules = {
        id(module): f"{name.partition('.')[0]}.{path}".removesuffix(".")
        for name, owner in owners.items()
        if isinstance(owner, torch.nn.Module)
        for path, module in owner.named_modules()
    }
    counts: Counter[tuple[CodeType, int]] = Counter()
    where: dict[tuple[str, int], list[str]] = {}
    raised: set[tuple[str, int]] = set()
    phases: dict[tuple[str, int], Counter[str]] = {}
    first: dict[tuple[CodeType, int], int] = {}

    def entered(frame: FrameType, event: str, arg: object) -> Any:
        return line_run if frame.f_code.co_filename in lines else None

    def line_run(frame: FrameType, event: str, arg: object) -> object:
        code, line = frame.f_code, frame.f_lineno
        if line not in lines[code.co_filename]:
            return line_run
        key = (code.co_filename, line)
        if event == "exception":
            raised.add(key)
        if event == "line" and first.setdefault((code, line), frame.f_lasti) == frame.f_lasti:
            counts[code, line] += 1
            if phase is not None:
                phases.setdefault(key, Counter())[phase()] += 1
            path = _module_around(frame, modules)
            if path is not None and path not in where.setdefault(key, []):
                where[key].append(path)
        return line_run

    before = sys.gettrace()
    sys.settrace(entered)
    try:
        yield
    finally:
        sys.settrace(before)
        # A comprehension is code of its own on the same line.
        passes = {(c.co_filename, line): 0 for c, line in counts}
        for (code, line), times in counts.items():
            key = (code.co_filename, line)
            passes[key] = max(passes[key], times)
        for place in sorted(places):
            key = place[:2]
            most = phases[key].most_common(1)[0][0] if key in phases else None
            result.passed.append(Passed(place, passes.get(key, 0), where.get(key, []), key in raised, most))


def worth_counting(capture: Capture, *, above: bool = False) -> set[Place]:
    """Of each break, the line that a person would edit and the innermost one; above: and the calls that lead
    there."""
    lines = {p for b in capture.breaks for p in (b.stack[0], site_place(b.stack))}
    calls = {p for b in capture.breaks for p in b.stack if not is_machinery(p[0])} if above else set()
    return lines | calls


def _module_around(frame: FrameType | None, modules: dict[int, str]) -> str | None:
    while frame is not None:
        if frame.f_code.co_varnames[:1] == ("self",):
            path = modules.get(id(frame.f_locals.get("self")))
            if path is not None:
                return path
        frame = frame.f_back
    return None
