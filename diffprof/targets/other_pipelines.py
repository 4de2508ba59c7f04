"""The pipelines of a script beside the first: a refiner after a base, a decoder after a prior. The script
goes on after a call with what it gave, until each has been called once."""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from msgspec.structs import replace

from diffprof.model.callsite import is_machinery, make_site, stack
from diffprof.model.errors import DiffprofError
from diffprof.model.pipeline import Pipeline, is_pipeline
from diffprof.model.recording import NOT_REACHED, Unseen
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
    of the same pipeline gives what the first one gave.
    """

    def __init__(
        self,
        file: Path,
        namespace: dict[str, Any],
        play: Callable[[PipelineCall], T],
        further: Callable[[PipelineCall], T] | None,
    ) -> None:
        self.file = file
        self.namespace = namespace
        self.play = play
        self.further = further
        self.played: list[T] = []
        self.why = _NOT_CALLED
        self._outputs: dict[int, tuple[Any, Any]] = {}  # the pipeline is held: its id stays its own
        self._others: list[Unseen] = []
        self._repeats = 0
        self._after = ExitStack()
        self._running_on = RunningOn(file, self._refused)
        self._thread = threading.current_thread()

    def __enter__(self) -> ScriptCalls[T]:
        return self

    def __exit__(self, *_: Any) -> None:
        self._running_on.watching = False
        self._after.close()

    def take(self, pipe: Pipeline, made_ready: Callable[[], PipelineCall]) -> GoOn | None:
        """A call of a pipeline; None: the script is to be left."""
        self._running_on.watching = False
        answer = self._taken(pipe, made_ready)
        self._running_on.watching = answer is not None
        return answer

    def _taken(self, pipe: Pipeline, made_ready: Callable[[], PipelineCall]) -> GoOn | None:
        if id(pipe) in self._outputs:
            return self._again(pipe)
        if not self.played:
            scene = self._ready(pipe, made_ready)
            self.played.append(self.play(scene))
            return self._go_on(pipe, scene)
        try:
            scene = self._ready(pipe, made_ready)
            assert self.further is not None
            self.played.append(self.further(scene))
        except DiffprofError as error:
            # It costs the report only what comes after.
            self.why = f"the call of {type(pipe).__name__} failed: {error.what}"
            return None
        return self._go_on(pipe, scene)

    def _ready(self, pipe: Pipeline, made_ready: Callable[[], PipelineCall]) -> PipelineCall:
        scene = made_ready()
        held = [held for held, _ in self._outputs.values()]
        self._others = list(others_of([pipe, *held], self.namespace, self.file))
        if self.further is None:
            scene.unseen += self._others
        scene.unseen += later_calls(pipe, self.namespace, self.file)
        scene.keeps_output = bool(self.further and self._others)
        return scene

    def _again(self, pipe: Pipeline) -> GoOn | None:
        self._repeats += 1
        if self._repeats > MOST_REPEATS:
            self.why = f"the script called those before it {MOST_REPEATS} times more, and was left"
            return None
        return GoOn(self._outputs[id(pipe)][1])

    def _go_on(self, pipe: Pipeline, scene: PipelineCall) -> GoOn | None:
        if not scene.keeps_output:
            return None
        if threading.current_thread() is not self._thread:
            self.why = _ELSEWHERE
            return None
        if not self._outputs:
            self._after.enter_context(self._running_on.held_back())
        self._outputs[id(pipe)] = pipe, scene.output
        return GoOn(scene.output)

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
        return tuple(replace(row, why=self.why, kind=kind) for row in self._others)


def others_of(pipes: Iterable[Any], namespace: dict[str, Any], file: Path) -> Iterator[Unseen]:
    """The pipelines that the script has made beside these, and those that it would make after this call."""
    frames = [f for f in stack() if not is_machinery(f.f_code.co_filename)]
    own = {id(each) for pipe in pipes for each in (pipe, *getattr(pipe, "components", {}).values())}
    made: dict[int, tuple[str, Any]] = {}
    for scope in (*(f.f_locals for f in frames), namespace):
        for name, value in list(scope.items()):
            if id(value) not in own and not isinstance(value, type) and is_pipeline(value):
                made.setdefault(id(value), (name, value))
    for name, value in made.values():
        yield Unseen(what=f"another pipeline of the script, {name} ({type(value).__name__})", why=_FIRST_ONLY)
    at = next((f.f_lineno for f in frames if Path(f.f_code.co_filename) == file), None)
    if at is not None:
        made_later = (node for node in _calls_after(file, at) if _makes_a_pipeline(node))
        yield from _named(file, "another pipeline of the script, made later by", _FIRST_ONLY, made_later)


def later_calls(pipe: Pipeline, namespace: dict[str, Any], file: Path) -> Iterator[Unseen]:
    """The calls of this pipeline below the one that is made now, which may only warm it up."""
    at = next((f for f in stack() if Path(f.f_code.co_filename) == file), None)
    if at is not None:
        scope = {**namespace, **at.f_locals}
        again = (node for node in _calls_after(file, at.f_lineno) if _value(node.func, scope) is pipe)
        yield from _named(file, "a later call of the pipeline,", _FIRST_CALL, again)


def _named(file: Path, what: str, why: str, calls: Iterable[ast.Call]) -> Iterator[Unseen]:
    for node in calls:
        site = make_site(((str(file), node.lineno, "<module>"),), None)
        yield Unseen(what=f"{what} {ast.unparse(node.func)}", why=why, site=site)


def _calls_after(file: Path, line: int) -> list[ast.Call]:
    """The calls below the one that holds a line, from top to bottom."""
    calls = [node for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, ast.Call)]
    ends = ((node.lineno, node.end_lineno or node.lineno) for node in calls)
    below = max((end for begin, end in ends if begin <= line <= end), default=line)
    return sorted((node for node in calls if node.lineno > below), key=lambda node: node.lineno)


def _value(node: ast.expr, scope: dict[str, Any]) -> Any:
    """What a name or an attribute of one stands for, without running any code of it."""
    if isinstance(node, ast.Name):
        return scope.get(node.id)
    if isinstance(node, ast.Attribute):
        return getattr(_value(node.value, scope), "__dict__", {}).get(node.attr)
    return None


def _makes_a_pipeline(node: ast.Call) -> bool:
    """By the names that diffusers gives its classes."""
    function = node.func
    if isinstance(function, ast.Attribute) and function.attr in _MAKERS:
        function = function.value
    name = ast.unparse(function).rsplit(".", 1)[-1]
    return name.endswith("Pipeline") or name.startswith("AutoPipeline")
