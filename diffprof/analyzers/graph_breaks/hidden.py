"""Breaks that Dynamo does not come to, because an earlier one made it skip the function.

A break inside a loop (or another place where Dynamo can't resume) makes it give up the whole function: what
else stands in that function is never looked at, and shows up only when the first break is cured. Here the
function is traced once more with its loops written out and no block around anything, so that Dynamo resumes
after each break. A loop makes a single pass, or as many as all of its lines take; where these lead astray, as
they do where each pass changes a shape, more. What is left all the same is told.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import CodeType, FrameType, FunctionType
from typing import Any

import torch

from diffprof.analyzers.graph_breaks.capture import Break, Capture, captured, is_code_of, site_place
from diffprof.analyzers.graph_breaks.rewrite import straightened
from diffprof.model.callsite import Place, is_machinery
from diffprof.model.collection import living

PASSES = (1, 2, 4, 8, 16)
"""Of each loop, tried until nothing is raised; from the fewest on that run what most of them run."""

Line = tuple[str, int]

ROUNDS = 3
"""How deep breaks may hide each other: functions that are skipped in the functions that were."""


def add_hidden_breaks(
    into: Capture, call: Callable[[Callable[..., object]], object], *, as_compiled: bool = False
) -> None:
    """Add the breaks that skipped functions hide. call: makes the captured call with the function given;
    as_compiled: as in `captured`."""
    known = {key(b) for b in into.breaks}
    skipped = _skipped(into)
    with _rewritten() as rewrite:
        for _ in range(ROUNDS):
            if not skipped:
                return
            fewest, never = _fewest_passes(skipped, call, rewrite)
            found: dict[Place, Place] = {}
            for passes in PASSES[PASSES.index(fewest) :]:
                if not rewrite(skipped, passes):
                    into.unsearched += skipped.items()
                    return
                again, run = captured(as_compiled=as_compiled)
                call(run)
                _add_new(into, again, skipped, known)
                found |= _skipped(again)
                if not again.failure:
                    break
            into.unsearched += (
                (place, at)
                for place, at in skipped.items()
                if again.failure or any(file == place[0] and line >= place[1] for file, line in never)
            )
            skipped = {p: at for p, at in found.items() if p not in skipped}
        into.unsearched += skipped.items()


def _fewest_passes(
    skipped: Collection[Place],
    call: Callable[[Callable[..., object]], object],
    rewrite: Callable[[Collection[Place], int], set[Line]],
) -> tuple[int, set[Line]]:
    """How many passes of each loop run what most of them run, and the lines that these do not come to."""
    ran = _lines_run(skipped, call)

    def left(passes: int) -> set[Line]:
        written = rewrite(skipped, passes)
        return (ran & written) - _lines_run(skipped, call)

    never = left(PASSES[-1])
    return next((passes for passes in PASSES if left(passes) <= never), PASSES[-1]), never


def _lines_run(places: Collection[Place], call: Callable[[Callable[..., object]], object]) -> set[Line]:
    """Lines of the functions at some places that the call runs, as plain Python and until something is
    raised."""
    found: set[Line] = set()
    wanted: dict[int, bool] = {}

    def entered(frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        if id(code) not in wanted:
            wanted[id(code)] = any(is_code_of(code, place) for place in places)
        return line_run if wanted[id(code)] else None

    def line_run(frame: FrameType, event: str, arg: object) -> object:
        if event == "line":
            found.add((frame.f_code.co_filename, frame.f_lineno))
        return line_run

    def run(owner: Callable[..., object], method: str, args: tuple, kwargs: dict[str, object]) -> None:
        before = sys.gettrace()
        sys.settrace(entered)
        try:
            getattr(owner, method)(*args, **kwargs)
        except Exception:
            return
        finally:
            sys.settrace(before)

    with torch.compiler.set_stance("force_eager"):
        call(run)
    return found


def _add_new(
    into: Capture, again: Capture, hiding: Mapping[Place, Place], known: set[tuple[str, int, str]]
) -> None:
    """Add the breaks of another capture that are not known. hiding: functions, and the breaks they hide them
    with."""
    into.files |= again.sources
    for each in again.breaks:
        if key(each) in known or _of_a_block(each):
            continue
        known.add(key(each))
        by = next((hiding[p] for p in hiding if _within(each, p)), None)
        into.breaks.append(replace(each, hidden_by=by or next(iter(hiding.values()))))


def key(each: Break) -> tuple[str, int, str]:
    """What makes two breaks the same: line and cause."""
    title = next((x for x in each.reason.split("\n") if x and "graph break" not in x.lower()), each.reason)
    return (*site_place(each.stack)[:2], title)


def _of_a_block(each: Break) -> bool:
    """It comes of entering or leaving a block by a call, as only the changed function does."""
    return "__enter__" in each.reason or "__exit__" in each.reason


def _skipped(capture: Capture) -> dict[Place, Place]:
    """Function that was skipped -> the line of the break that did it."""
    places = {c.frame: c.place for c in capture.compiles}
    return {
        places[b.frame]: site_place(b.stack)
        for b in capture.breaks
        if b.skipped and b.frame in places and not is_machinery(places[b.frame][0])
    }


def _within(each: Break, function: Place) -> bool:
    return any(place[0] == function[0] and place[2] == function[2] for place in each.stack)


@contextmanager
def _rewritten() -> Iterator[Callable[[Collection[Place], int], set[Line]]]:
    """A function that straightens the code of some places, each loop of so many passes, and tells the lines
    of what it could; what it changed is changed back in the end."""
    own: dict[FunctionType, CodeType] = {}
    """The code of those that were changed. What is written in its place begins below the decorators."""
    named: dict[tuple[str, str], list[FunctionType]] = {}
    """All functions, by file and name: looked for once, as there are hundreds of thousands of objects."""

    def rewrite(places: Collection[Place], passes: int) -> set[Line]:
        lines: set[Line] = set()
        if places and not named:
            for each in living():
                if type(each) is FunctionType:
                    code = each.__code__
                    named.setdefault((code.co_filename, code.co_name), []).append(each)
        for function in _functions(places, named, own):
            straight = straightened(own.get(function, function.__code__), passes)
            if straight is not None:
                own.setdefault(function, function.__code__)
                function.__code__ = straight
                lines |= {
                    (straight.co_filename, line) for *_, line in straight.co_lines() if line is not None
                }
        return lines

    try:
        yield rewrite
    finally:
        for function, code in own.items():
            function.__code__ = code


def _functions(
    places: Collection[Place],
    named: Mapping[tuple[str, str], Sequence[FunctionType]],
    own: Mapping[FunctionType, CodeType],
) -> list[FunctionType]:
    """Functions whose code is at one of them. own: the code that some had before."""
    by_name: dict[tuple[str, str], list[Place]] = {}
    for place in places:
        by_name.setdefault((place[0], place[2]), []).append(place)
    return [
        function
        for name, group in by_name.items()
        for function in named.get(name, ())
        if any(is_code_of(own.get(function, function.__code__), place) for place in group)
    ]
