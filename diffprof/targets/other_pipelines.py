"""The pipelines of a script beside the first: a refiner after a base, a decoder after a prior. The script
goes on after a call with what it gave, until each has been called once."""

from __future__ import annotations

import ast
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Generic, NamedTuple, TypeVar

from msgspec.structs import replace

from diffprof.model.callsite import is_machinery, make_site, stack, values_in
from diffprof.model.errors import DiffprofError
from diffprof.model.pipeline import Pipeline, components
from diffprof.model.recording import NOT_REACHED, Unseen
from diffprof.targets.held_pipelines import MadePipelines, in_reach, is_own, parts_of, script_frames
from diffprof.targets.left_to_run import calls_ahead, files_of
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.targets.side_effects import RunningOn

T = TypeVar("T")

MOST_REPEATS = 100
"""Calls of pipelines that were scanned already, after which the others are not waited for."""

_MAKERS = ("from_pretrained", "from_pipe", "from_single_file", "from_config")

_FIRST_ONLY = (
    "the first call of a pipeline is what is scanned, and the script is left after it. Scan this one through "
    "a factory that returns it with its call (file.py:function)"
)
_FIRST_CALL = (
    "the first call of a pipeline is what is scanned; this one may have other arguments. Scan it through a "
    "factory that returns the pipeline with them (file.py:function)"
)
_NOT_CALLED = "the script ended without calling it"
_ELSEWHERE = (
    "a call was made on a thread, and the script is left after it. Scan this one through a factory "
    "that returns it with its call (file.py:function)"
)


class GoOn(NamedTuple):
    """The script goes on after a call, with this for what the call gives."""

    output: Any


class ScriptCalls(Generic[T]):
    """Plays the first call of each pipeline of a script. played: what came of them, in their order.

    play: for the first. further: for those after it; None: the script is left after the first. A later call
    of the same pipeline, or of one that the same lines have made anew since, gives what the first one gave.
    """

    def __init__(
        self,
        file: Path,
        namespace: dict[str, object],
        play: Callable[[PipelineCall], T],
        further: Callable[[PipelineCall], T] | None,
    ) -> None:
        self.file = file
        self.namespace = namespace
        self.play = play
        self.further = further
        self.played: list[T] = []
        self.why = _NOT_CALLED
        self.made = MadePipelines(namespace)
        self._outputs: dict[int, tuple[object, object]] = {}  # the pipeline is held: its id stays its own
        self._alike: dict[object, tuple[int, int]] = {}  # id, and how many had been made at its call
        self._anew: list[weakref.ref[object]] = []
        self._others: list[Unseen] = []
        self._makers: list[Unseen] = []
        self._repeats = 0
        self._after = ExitStack()
        self._running_on = RunningOn(file, self._refused)
        self._thread = threading.current_thread()

    def __enter__(self) -> ScriptCalls[T]:
        self._after.enter_context(self.made.noted())
        return self

    def __exit__(self, *_: object) -> None:
        self._running_on.watching = False
        self._after.close()

    def take(self, pipe: Pipeline, made_ready: Callable[[], PipelineCall]) -> GoOn | None:
        """A call of a pipeline; None: the script is to be left."""
        self._running_on.watching = self.made.watching = False
        answer = self._taken(pipe, made_ready)
        self._running_on.watching = self.made.watching = answer is not None
        return answer

    def _taken(self, pipe: Pipeline, made_ready: Callable[[], PipelineCall]) -> GoOn | None:
        if (known := self._known(pipe)) is not None:
            return self._again(known)
        if not self.played:
            call = self._ready(pipe, made_ready)
            self.played.append(self.play(call))
            return self._go_on(pipe, call)
        try:
            call = self._ready(pipe, made_ready)
            assert self.further is not None
            self.played.append(self.further(call))
        except DiffprofError as error:
            # It costs the report only what comes after.
            self.why = f"the call of {type(pipe).__name__} failed: {error.what}"
            return None
        return self._go_on(pipe, call)

    def _known(self, pipe: Pipeline) -> int | None:
        """The id of the pipeline whose output this call gives; None of one that was not called yet."""
        if id(pipe) in self._outputs:
            return id(pipe)
        alike, how = _alike(pipe, self.made), self.made.how(pipe)
        if alike is None or how is None:
            return None
        known, count = self._alike.setdefault(alike, (id(pipe), self.made.count))
        if known not in self._outputs or how.turn < count:
            return None
        self._anew.append(weakref.ref(pipe))
        return known

    def _called(self) -> list[Any]:
        anew = (each() for each in self._anew)
        return [*(held for held, _ in self._outputs.values()), *(pipe for pipe in anew if pipe is not None)]

    def _ready(self, pipe: Pipeline, made_ready: Callable[[], PipelineCall]) -> PipelineCall:
        call = made_ready()
        self._others = list(others_of([pipe, *self._called()], self.namespace, self.made))
        self._makers = list(made_later(self.namespace, self.file))
        if self.further is None:
            call.unseen += [*self._others, *self._makers]
        call.unseen += later_calls(pipe, self.namespace, self.file)
        call.keeps_output = bool(self.further and (self._others or self._makers))
        return call

    def _again(self, known: int) -> GoOn | None:
        self._repeats += 1
        if self._repeats > MOST_REPEATS:
            self.why = f"the script called those before it {MOST_REPEATS} times more, and was left"
            return None
        return GoOn(self._outputs[known][1])

    def _go_on(self, pipe: Pipeline, call: PipelineCall) -> GoOn | None:
        if not call.keeps_output:
            return None
        if threading.current_thread() is not self._thread:
            self.why = _ELSEWHERE
            return None
        if not self._outputs:
            self._after.enter_context(self._running_on.held_back())
        self._outputs[id(pipe)] = pipe, call.output
        return GoOn(call.output)

    def _refused(self, deed: str) -> None:
        self.why = (
            f"the script was left before it called it, at {deed}: what it does after a scanned call must not "
            "reach outside. Scan this one through a factory that returns it with its call (file.py:function)"
        )

    def stopped(self, why: str) -> None:
        """The script is left between two calls."""
        self.why = why

    def not_called(self, end: BaseException | None) -> tuple[Unseen, ...]:
        """The pipelines that were not scanned. end: what the script ended with."""
        if self.further is None:
            return ()
        well = end is None or (isinstance(end, SystemExit) and end.code in (None, 0))
        if self.why == _NOT_CALLED and not well:
            self.why = f"the script ended before it called it: {type(end).__name__}: {end}"
        kind = "gap" if self.why == _NOT_CALLED else NOT_REACHED
        called = self._called()
        since = list(others_of(called, self.namespace, self.made)) if called else []
        # What a script that has come to its end did not make is none of its pipelines.
        makers = self._makers if kind == NOT_REACHED else []
        rows = {row.what: row for row in (*self._others, *since, *makers)}
        return tuple(replace(row, why=self.why, kind=kind) for row in rows.values())


def _alike(pipe: Pipeline, made: MadePipelines) -> object:
    """What a pipeline has in common with those that the same lines make anew, in a loop; None: nothing."""
    how = made.how(pipe)
    if how is None or not how.by:
        return None
    parts = tuple(
        (name, type(part), repr(getattr(part, "config", None))) for name, part in components(pipe).items()
    )
    return how.by, type(pipe), parts


def others_of(pipes: Iterable[object], namespace: dict[str, object], made: MadePipelines) -> Iterator[Unseen]:
    """The pipelines that the script has beside these, by the names that it has for them, or by the line that
    made them."""
    own = parts_of(pipes)
    if any(id(pipe) not in own for pipe in made.there()):
        gc.collect()  # one that was let go may hold itself
    there = {id(pipe): pipe for pipe in made.there() if id(pipe) not in own}
    scopes = [values_in(frame) for frame in _frames(namespace)]
    for name, value in in_reach([*scopes, namespace]):
        # What holds one of them is its user's, and no other.
        inside = parts_of([value]) if id(value) not in own and id(value) not in there else {}
        if id(value) not in own and not inside.keys() & {*own, *there}:
            there.pop(id(value), None)
            own |= {id(value): value}
            what = f"another pipeline of the script, {name} ({type(value).__name__})"
            yield Unseen(what=what, why=_FIRST_ONLY)
    for pipe in there.values():
        what = f"another pipeline of the script, a {type(pipe).__name__} that it has made"
        yield Unseen(what=what, why=_FIRST_ONLY, site=made.site(pipe))


def _frames(namespace: dict[str, object]) -> list[FrameType]:
    """Those of the script, of a library that it calls too: on this thread, and on the main one."""
    frames = [*script_frames(namespace)]
    main = sys._current_frames().get(threading.main_thread().ident or 0)
    if threading.current_thread() is not threading.main_thread():
        frames += list(script_frames(namespace, main))
    return [frame for frame in frames if not is_machinery(frame.f_code.co_filename)]


def made_later(namespace: dict[str, object], file: Path) -> Iterator[Unseen]:
    """The pipelines that the script would make after this call."""
    frames = [frame for frame in _frames(namespace) if is_own(frame.f_code.co_filename)]
    ahead = [at for at in calls_ahead(files_of(file), frames) if _makes_a_pipeline(at[1])]
    yield from _named("another pipeline of the script, made later by", _FIRST_ONLY, ahead)


def later_calls(pipe: Pipeline, namespace: dict[str, object], file: Path) -> Iterator[Unseen]:
    """The calls of this pipeline below the one that is made now, which may only warm it up."""
    at = next((f for f in stack() if Path(f.f_code.co_filename) == file), None)
    if at is not None:
        scope = {**namespace, **values_in(at)}
        below = _calls_after(file, at.f_lineno)
        again = [(str(file), node) for node in below if _value(node.func, scope) is pipe]
        yield from _named("a later call of the pipeline,", _FIRST_CALL, again, kind="left-out")


def _named(what: str, why: str, calls: Iterable[tuple[str, ast.Call]], kind: str = "gap") -> Iterator[Unseen]:
    for file, node in calls:
        site = make_site(((file, node.lineno, "<module>"),), None)
        yield Unseen(what=f"{what} {ast.unparse(node.func)}", why=why, site=site, kind=kind)


def _calls_after(file: Path, line: int) -> list[ast.Call]:
    """The calls below the one that holds a line, from top to bottom."""
    calls = [node for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, ast.Call)]
    ends = ((node.lineno, node.end_lineno or node.lineno) for node in calls)
    below = max((end for begin, end in ends if begin <= line <= end), default=line)
    return sorted((node for node in calls if node.lineno > below), key=lambda node: node.lineno)


def _value(node: ast.expr, scope: dict[str, object]) -> Any:
    """What a name, or an attribute or item of one, stands for, without running any code of it."""
    if isinstance(node, ast.Name):
        return scope.get(node.id)
    if isinstance(node, ast.Attribute):
        return getattr(_value(node.value, scope), "__dict__", {}).get(node.attr)
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        held = _value(node.value, scope)
        if type(held) in (dict, list, tuple):
            with suppress(LookupError, TypeError):
                return held[node.slice.value]
    return None


def _makes_a_pipeline(node: ast.Call) -> bool:
    """By the names that diffusers gives its classes."""
    function = node.func
    if isinstance(function, ast.Attribute) and function.attr in _MAKERS:
        function = function.value
    name = ast.unparse(function).rsplit(".", 1)[-1]
    return name.endswith("Pipeline") or name.startswith("AutoPipeline")
