"""The denoising loop and its steps, decided while a call runs.

The denoising loop is the loop whose iterations reach the scheduler's `step` and a denoiser, through any
number of calls, and each bring one timestep, another than the iteration before. One iteration of it is one
step. Loops inside a step (over prompts, views, tiles, frames) bring the same timestep again; one iteration of
a loop around the steps (over chunks, stages, prompts) brings many. A call can have several denoising loops:
its steps are numbered through.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import CodeType, FrameType
from typing import Any

from diffprof.model.callsite import values_in
from diffprof.targets.loops import Function, Loop, function_of, nearest

DENOISER, SCHEDULER = "denoiser", "scheduler"
_GENERATOR = 0x20 | 0x80 | 0x200
"""`CO_GENERATOR`, `CO_COROUTINE`, `CO_ASYNC_GENERATOR`: such a frame goes on after it was left."""


class StepDoubt(Enum):
    """Why it can't be told for certain what a step is."""

    NO_LOOP = "no loop was seen around it"
    SEVERAL_LOOPS = "several loops are around it"


@dataclass(eq=False)
class _LoopRun:
    """A loop, once from its beginning to its end. iteration: the one that it stands in; turns: how many have
    reached a part of the pipeline."""

    loop: Loop
    iteration: int = 0
    turns: int = 0
    _reached: tuple[int, frozenset[str]] = (-1, frozenset())
    _timesteps: dict[Hashable, tuple[int, Hashable]] = field(default_factory=dict)
    _steps: tuple[int, int] = (-1, 0)
    """(iteration, calls of `step` in it), of the iteration that it stands in."""
    usual: int | None = None
    """Calls of `step` in the iteration before."""

    def reach(self, part: str) -> bool:
        """Note a part that ran in this iteration; whether both did."""
        again = self._reached[0] == self.iteration
        before = self._reached[1] if again else frozenset()
        self.turns += not again
        self._reached = self.iteration, before | {part}
        return len(self._reached[1]) > 1

    def stepped(self) -> None:
        """Note a call of `step`."""
        at, calls = self._steps
        if at != self.iteration:
            self.usual, calls = (calls or None), 0
        self._steps = self.iteration, calls + 1

    def steps_here(self) -> int:
        """Calls of `step` in this iteration."""
        return self._steps[1] if self._steps[0] == self.iteration else 0

    def compare(self, who: Hashable, timestep: Hashable) -> tuple[bool, bool | None]:
        """Whether the timestep is the first in this iteration, and whether it is another than the first: that
        of this iteration, or where it is the first itself, of the one before (None: unknown)."""
        before = self._timesteps.get(who)
        first = before is None or before[0] != self.iteration
        if first:
            self._timesteps[who] = self.iteration, timestep
        if before is None or before[1] is None or timestep is None:
            return first, None
        return first, before[1] != timestep


Turn = tuple[_LoopRun, int]
"""One iteration of a run."""
Path = tuple[Turn, ...]
"""The iterations around a place, outermost first."""


@dataclass
class _Evidence:
    """What was seen of a loop. complete: an iteration reached both denoiser and scheduler; varies, repeats:
    an iteration brought another, or the same, timestep as the one before; turns: most in one run; told: the
    parts whose timesteps are known; mixed: those that were given several in one iteration."""

    complete: bool = False
    varies: bool = False
    repeats: bool = False
    turns: int = 0
    told: frozenset[str] = frozenset()
    mixed: frozenset[str] = frozenset()

    def one_timestep(self) -> bool:
        """Whether each iteration brings one timestep. A denoiser's is asked first: an iteration may call
        `step` for frames that are not equally noisy."""
        part = DENOISER if DENOISER in self.told else SCHEDULER
        return part not in self.mixed

    def state(self) -> tuple[object, ...]:
        """What a decision rests on."""
        return self.complete, self.varies, self.repeats, min(self.turns, 2), self.told, self.mixed


@dataclass
class _Level:
    """A frame in loops, as it stood. child: the frame that it has called, of a person's code; direct: the
    instruction that has last called a part of the pipeline itself, in this iteration."""

    frame: FrameType
    function: Function
    instruction: int
    child: FrameType | None
    loops: tuple[Loop, ...]
    targets: tuple[tuple[object, ...], ...]
    own: tuple[tuple[Any, ...], ...]
    runs: tuple[_LoopRun, ...] = ()
    direct: int | None = None


NOWHERE = Loop("", "", 0, 0, (0, 0), (0, 0))
"""Stands for what repeats `step` where no loop is seen: recursion, `map`, statements one after another."""


class StepCounter:
    """Follows one call. A *moment* is a number for a place and its iterations: what is noted under it can be
    asked for its step when the call is over and everything is known.

    timesteps of real tensors are compared by their address: their values are not read.
    """

    def __init__(self) -> None:
        self.moments: list[Path] = [()]
        self.moment = 0
        self.doubt: StepDoubt | None = None
        self._levels: dict[int, _Level] = {}
        self._bottom: FrameType | None = None
        self._calls: frozenset[CodeType] = frozenset()
        self._evidence: dict[Loop, _Evidence] = {}
        self._chains: dict[str, dict[tuple[Loop, ...], None]] = {DENOISER: {}, SCHEDULER: {}}
        self._reached: dict[Path, None] = {}
        self._ordinals: dict[Turn, int] = {}
        self._turns: dict[_LoopRun, list[int]] = {}
        self._chosen: frozenset[Loop] = frozenset()
        self._doubtful: frozenset[Loop] = frozenset()
        self._loose = _LoopRun(NOWHERE)
        self._loose_is_open = False
        self._loose_steps: Counter[tuple[CodeType, int]] = Counter()

    # --- what happens ---------------------------------------------------------------------------------

    def begin(self, bottom: FrameType | None, calls: Iterable[CodeType]) -> None:
        """A call is about to come. bottom: the frame from which; calls: the code of pipelines' `__call__`."""
        self._bottom, self._calls = bottom, frozenset(calls)

    def end(self) -> None:
        """The call is over: no frame is held any more."""
        self._levels, self._bottom = {}, None

    def note(self) -> int:
        """The moment now."""
        path = self._follow()
        if not path and self._loose_is_open:
            path = ((self._loose, self._loose.iteration),)
        return self._go(path)

    def leave(self) -> None:
        """What follows comes after the denoising, unless a loop is around it."""
        self._loose_is_open = False

    def reach(self, part: str, who: Hashable, timestep: Hashable) -> int:
        """A denoiser or a scheduler's `step` begins; the moment. who: what is called; timestep: which it is
        given, None where that can't be told."""
        path = self._follow(reaching=True) or self._loose_path(part, who, timestep)
        chain = tuple(run.loop for run, _ in path)
        news = chain not in self._chains[part]
        self._chains[part][chain] = None
        for run, _ in path:
            news |= self._learn(run, part, who, timestep)
        self._go(path)
        self._reached[path] = None
        if news:
            self._decide()
        self._number(path)
        return self.moment

    def over(self) -> bool:
        """A scheduler's `step` has ended: whether that ends the denoising step as far as one can see."""
        path = self.moments[self.moment]
        if path and path[0][0] is self._loose:
            self._loose.iteration += 1
            return True
        turn = self._step_turn(path)
        if turn is None:
            return True
        run = turn[0]
        if run.usual is not None:
            return run.steps_here() >= run.usual
        return run is path[-1][0] and not self._steps_again(run)

    def _steps_again(self, run: _LoopRun) -> bool:
        level = next(level for level in self._levels.values() if run in level.runs)
        return run.loop.steps_again(level.function.position(level.instruction))

    # --- where the stack stands -----------------------------------------------------------------------

    def _follow(self, *, reaching: bool = False) -> Path:
        now = {id(level.frame): level for level in self._read_levels()}
        for key, level in now.items():
            before = self._levels.get(key)
            kept = _kept(before, level, reaching) if before is not None else ()
            level.runs = (*kept, *(_LoopRun(loop) for loop in level.loops[len(kept) :]))
            level.direct = _direct(before, level, reaching)
        path = tuple((run, run.iteration) for level in now.values() for run in level.runs)
        left = {key: level for key, level in self._levels.items() if key not in now and _goes_on(level.frame)}
        self._levels = now | left
        return path

    def _read_levels(self) -> Iterator[_Level]:
        frames = self._frames()
        for number, (frame, function) in enumerate(frames):
            if not function.loops:
                continue
            loops = function.loops_at(frame.f_lasti)
            if loops:
                child = frames[number + 1][0] if number + 1 < len(frames) else None
                yield _Level(frame, function, frame.f_lasti, child, loops, *_values(frame, loops))

    def _frames(self) -> list[tuple[FrameType, Function]]:
        """The frames of a person's code from the pipeline's call, or where that can't be told from the one
        that began to watch, outermost first."""
        found: list[tuple[FrameType, Function]] = []
        last = 0
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            function = function_of(frame)
            if not function.machinery:
                found.append((frame, function))
                if frame.f_code in self._calls:
                    last = len(found)
            if frame is self._bottom:
                break
            frame = frame.f_back
        return (found[:last] if last else found)[::-1]

    def _loose_path(self, part: str, who: Hashable, timestep: Hashable) -> Path:
        """Where there is no loop: every `step` ends an iteration; without one, a new timestep begins one."""
        loose = self._loose
        before = loose._timesteps.get(who)
        self._loose_is_open = True
        if part == DENOISER and not self._chains[SCHEDULER] and before is not None:
            loose.iteration += timestep is not None and before[1] is not None and before[1] != timestep
        if part == SCHEDULER:
            frame, _ = self._frames()[-1] if self._frames() else (sys._getframe(), None)
            self._loose_steps[frame.f_code, frame.f_lasti] += 1
        return ((loose, loose.iteration),)

    def _go(self, path: Path) -> int:
        if path != self.moments[self.moment]:
            self.moment = len(self.moments)
            self.moments.append(path)
        return self.moment

    # --- which loop it is -----------------------------------------------------------------------------

    def _learn(self, run: _LoopRun, part: str, who: Hashable, timestep: Hashable) -> bool:
        """Whether that was new."""
        seen = self._evidence.setdefault(run.loop, _Evidence())
        before = seen.state()
        seen.complete |= run.reach(part)
        if part == SCHEDULER:
            run.stepped()
        first, differs = run.compare(who, timestep)
        if timestep is not None:
            seen.told |= {part}
        if not first and differs:
            seen.mixed |= {part}
        seen.varies |= first and differs is True
        seen.repeats |= first and differs is False
        seen.turns = max(seen.turns, run.turns)
        return before != seen.state()

    def _decide(self) -> None:
        before = self._chosen
        self.doubt, self._doubtful = None, frozenset()
        chosen: set[Loop] = set()
        for part in (SCHEDULER, DENOISER):
            for chain in self._chains[part]:
                if NOWHERE in chain or (part == DENOISER and chosen & set(chain)):
                    continue
                loop, others = self._pick(chain)
                if part == DENOISER and self._chains[SCHEDULER] and not self._evidence[loop].varies:
                    continue  # a model that is called in some other loop
                chosen.add(loop)
                self._doubtful |= others
        if self._doubtful:
            self.doubt = StepDoubt.SEVERAL_LOOPS
        if self._repeats_nowhere(bool(chosen)):
            chosen.add(NOWHERE)
            if self._evidence[NOWHERE].turns > 1:
                self.doubt = StepDoubt.NO_LOOP
        self._chosen = frozenset(chosen)
        if self._chosen != before:
            self._ordinals, self._turns = {}, {}
            for path in self._reached:
                self._number(path)

    def _repeats_nowhere(self, elsewhere: bool) -> bool:
        if NOWHERE not in self._evidence:
            return False
        return max(self._loose_steps.values(), default=0) > 1 or not elsewhere

    def _pick(self, chain: tuple[Loop, ...]) -> tuple[Loop, frozenset[Loop]]:
        """The loop among those around one place, which are given outermost first; and where that can't be
        told, those of which one is it."""
        seen = {loop: self._evidence[loop] for loop in chain}
        able = [loop for loop in chain if seen[loop].complete] or list(chain)
        varying = [loop for loop in able if seen[loop].varies]
        if varying:
            return next((loop for loop in varying if seen[loop].one_timestep()), varying[-1]), frozenset()
        left = [loop for loop in able if not seen[loop].repeats] or able
        turning = [loop for loop in left if seen[loop].turns > 1]
        return (turning or left)[-1], frozenset(turning if len(turning) > 1 else ())

    # --- steps ----------------------------------------------------------------------------------------

    def _number(self, path: Path) -> None:
        turn = self._step_turn(path)
        if turn is not None and turn not in self._ordinals:
            self._ordinals[turn] = len(self._ordinals)
            self._turns.setdefault(turn[0], []).append(turn[1])

    def _step_turn(self, path: Path) -> Turn | None:
        return next((turn for turn in reversed(path) if turn[0].loop in self._chosen), None)

    @property
    def total(self) -> int:
        """Steps of all denoising loops so far."""
        return len(self._ordinals)

    def now(self) -> int:
        """The step of this moment: while the call runs, the one to come where none has begun."""
        step = self._step(self.moment)
        return self.total if step is None else step

    def inside(self) -> bool:
        """Whether this moment is in a denoising loop."""
        return self.step_of(self.moment) is not None

    def step_of(self, moment: int) -> int | None:
        """The step of a moment; None outside of denoising loops. What comes in an iteration that denoises
        nothing belongs to the next step of its loop, or to the last."""
        path = self.moments[moment]
        if path and path[0][0] is self._loose and self._loose.turns < 2:
            return None  # a single step without a loop
        step = self._step(moment)
        in_doubt = step is None and self._doubtful & {run.loop for run, _ in path}
        return self._in_doubt(moment) if in_doubt else step

    def _step(self, moment: int) -> int | None:
        turn = self._step_turn(self.moments[moment])
        if turn is None or turn[0] not in self._turns:
            return None
        return self._ordinals[turn[0], nearest(self._turns[turn[0]], turn[1])]

    def _in_doubt(self, moment: int) -> int:
        """Of a moment between loops of which one is the denoising loop: the step before, or the first."""
        before = (self._step_turn(self.moments[n]) for n in range(moment, -1, -1))
        turn = next((turn for turn in before if turn in self._ordinals), None)
        return self._ordinals[turn] if turn is not None else 0

    def loops_around(self, moment: int) -> tuple[Loop, ...]:
        """The loops of a moment, outermost first."""
        return tuple(run.loop for run, _ in self.moments[moment])

    def loops(self, steps: Iterable[int]) -> tuple[Loop, ...]:
        """The denoising loops that these steps are of."""
        wanted = set(steps)
        return tuple(dict.fromkeys(run.loop for (run, _), n in self._ordinals.items() if n in wanted))

    def runs(self, steps: Iterable[int]) -> tuple[tuple[int, ...], ...]:
        """All steps of the denoising loops that these steps are of, by the loops' runs."""
        loops = self.loops(steps)
        found: dict[_LoopRun, list[int]] = {}
        for (run, _), step in self._ordinals.items():
            if run.loop in loops:
                found.setdefault(run, []).append(step)
        return tuple(tuple(sorted(each)) for each in found.values())


def _kept(before: _Level, now: _Level, reaching: bool) -> tuple[_LoopRun, ...]:
    """The runs of a frame that go on, the innermost of them perhaps with its next iteration."""
    common = 0
    for one, other in zip(before.loops, now.loops, strict=False):
        if one is not other:
            break
        common += 1
    turned = _turned(before, now, common, reaching)
    if turned is None:
        return before.runs[:common]
    before.runs[turned].iteration += 1
    return before.runs[: turned + 1]


def _turned(before: _Level, now: _Level, common: int, reaching: bool) -> int | None:
    """The outermost of the loops that both positions are in which has begun another iteration."""
    again = now.instruction == before.instruction
    if not common or (
        again and now.child is not None and now.child is before.child and not _goes_on(now.child)
    ):
        return None
    further = now.instruction > before.instruction
    if further and before.function.turns(before.instruction):
        return None  # from where the loop takes its next value into its body
    for number in range(common):
        if before.targets[number] != now.targets[number]:
            return number
    if further:
        return None
    if again and now.child is None and not (reaching and before.direct == now.instruction):
        return None  # of one call come several waits, but never a part of the pipeline twice
    if again and now.child is not None and now.loops[common - 1].targets:
        return None  # a call that calls back several times (`map`): the loop's targets would have changed
    others = (n for n in range(common - 1) if before.own[n] != now.own[n])
    return next(others, common - 1)


def _direct(before: _Level | None, now: _Level, reaching: bool) -> int | None:
    if reaching and now.child is None:
        return now.instruction
    return before.direct if before is not None and before.runs == now.runs else None


def _goes_on(frame: FrameType) -> bool:
    """Whether a frame can be entered again where it stands."""
    return bool(frame.f_code.co_flags & _GENERATOR)


Values = tuple[tuple[Any, ...], ...]


def _values(frame: FrameType, loops: Sequence[Loop]) -> tuple[Values, Values]:
    """What the targets of each loop, and what else it sets, stand for: numbers and text by value, others by
    identity."""
    names = values_in(frame)
    targets = tuple(tuple(_sign(names.get(name)) for name in loop.targets) for loop in loops)
    own = tuple(tuple(_sign(names.get(name)) for name in loop.own) for loop in loops)
    return targets, own


def _sign(value: object) -> object:
    return value if isinstance(value, (int, float, str)) else id(value)
