"""Linears timed side by side: a round runs the original and every scheme once, so noise hits all alike."""

from __future__ import annotations

import itertools
import statistics
import time
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from diffprof.analyzers.quantization.schemes import ORIGINAL
from diffprof.devices.stopwatches import Runner, Work
from diffprof.gpu.inductor_flags import FLAGS, INT8_FLAGS
from diffprof.model.recording import Grade, SchemeTiming


class Budget:
    """Seconds that may be spent, by an injected clock."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds = seconds
        self.clock = clock
        self._begin = clock()

    @property
    def spent(self) -> float:
        return self.clock() - self._begin

    @property
    def left(self) -> float:
        return self.seconds - self.spent


@dataclass(frozen=True)
class Patience:
    """How long a comparison goes on.

    enough: rounds that even a spent budget pays for. least: rounds before a loser is dropped. most: rounds of
    a first comparison. again: rounds of one that is near a tie. hopeless: a scheme this many times slower is
    dropped after `sure` rounds. slices: a scheme that takes longer for 1/slices of the rows than the
    original takes for all is settled by that; not under `smallest_slice` rows.
    """

    enough: int = 3
    least: int = 5
    most: int = 11
    again: int = 31
    hopeless: float = 3.0
    sure: int = 2
    slices: int = 8
    smallest_slice: int = 16
    near: float = 2.0
    """A gain within so many spreads of zero is near a tie."""
    settled: float = 4.0
    """One that is further away needs no more rounds."""


@dataclass
class SchemeTimings:
    """Times in microseconds, round by round. A scheme dropped early has fewer rounds than the original."""

    times: dict[str, list[float]] = field(default_factory=dict)

    def timing(self, scheme: str, mode: str) -> SchemeTiming:
        """The scheme against the original, over the rounds in which both ran."""
        mine = self.times[scheme]
        original = self.times[ORIGINAL][: len(mine)]
        differences = [before - after for before, after in zip(original, mine, strict=True)]
        return SchemeTiming(
            scheme=scheme,
            mode=mode,
            grade=Grade.MEASURED,
            original_us=statistics.median(original),
            median_us=statistics.median(mine),
            spread_us=spread(mine),
            gain_us=statistics.median(differences),
            gain_spread_us=spread(differences),
            rounds=len(mine),
        )


def spread(values: Sequence[float]) -> float:
    """Half the interquartile range; the half range of fewer than four values."""
    if len(values) < 4:
        return (max(values) - min(values)) / 2
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2


def clear_gain(timing: SchemeTiming) -> bool:
    """Whether it is faster by more than the spread of the difference."""
    return _beyond(timing, 1)


def clear_loss(timing: SchemeTiming) -> bool:
    """Whether it is slower by more than the spread of the difference."""
    return _beyond(timing, -1)


def near_tie(timing: SchemeTiming, near: float) -> bool:
    """Whether another, longer look could turn the verdict."""
    if timing.gain_us is None or timing.gain_spread_us is None or timing.rows is not None:
        return False
    return abs(timing.gain_us) < near * timing.gain_spread_us


def _beyond(timing: SchemeTiming, sign: int) -> bool:
    if timing.gain_us is None:
        return False
    gain = sign * timing.gain_us
    return gain > 0 and gain > (timing.gain_spread_us or 0.0)


def compare(
    contestants: Mapping[str, Work],
    runner: Runner,
    patience: Patience,
    *,
    rounds: int,
    may_go_on: Callable[[], bool] = lambda: True,
) -> SchemeTimings:
    """Time works in rounds; one of them is ORIGINAL. Every other round runs in the opposite order.

    Clear losers are dropped on the way. It ends when every verdict is settled, or when `may_go_on` says so,
    but not before `patience.enough` rounds.
    """
    result = SchemeTimings()
    for name in contestants:
        result.times.setdefault(name, [])
    running = [name for name in contestants if name != ORIGINAL]
    for turn in range(rounds):
        order = [ORIGINAL, *running]
        if turn % 2:
            order.reverse()
        taken = {name: runner.microseconds(contestants[name]) for name in order}
        for name, value in taken.items():
            result.times[name].append(value)
        done = len(result.times[ORIGINAL])
        running = [n for n in running if not _is_lost(result, n, patience, done)]
        settled = done >= patience.least and all(
            not near_tie(result.timing(name, ""), patience.settled) for name in running
        )
        if settled or not running or (done >= patience.enough and not may_go_on()):
            break
    return result


def _is_lost(result: SchemeTimings, name: str, patience: Patience, done: int) -> bool:
    timing = result.timing(name, "")
    # The fastest runs are compared, so that one interruption does not settle it.
    fastest, original = min(result.times[name]), min(result.times[ORIGINAL][:done])
    if done >= patience.sure and fastest > patience.hopeless * original:
        return True
    return done >= patience.least and clear_loss(timing)


_names = itertools.count()


def compiled_as_recommended(module: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The module's call with the kernels that the fix which compiles, and the ladder, give it on a GPU."""
    return compiled(module, kernel_options())


def kernel_options() -> dict[str, object]:
    """Options of `torch.compile` with which a layer gets the kernels that it gets in a model compiled as
    recommended.

    Without CUDA graphs: a graph of one layer would copy the layer's input at each call, which a whole model's
    graph does for the model's input alone.
    """
    import torch._inductor.config as inductor

    found = {**torch._inductor.list_mode_options("max-autotune-no-cudagraphs"), **FLAGS, **INT8_FLAGS}
    return {name: value for name, value in found.items() if hasattr(inductor, name.split(".")[0])}


def compiled(
    module: torch.nn.Module, options: dict[str, object] | None = None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The module's call under `torch.compile`, as a function with code of its own: Dynamo's limit of
    recompiles counts by code object, and all linears share theirs."""

    def call(given: torch.Tensor) -> torch.Tensor:
        return module(given)

    code = call.__code__.replace(co_name=f"timed_layer_{next(_names)}")
    own = types.FunctionType(code, call.__globals__, code.co_name, None, call.__closure__)
    return torch.compile(own, dynamic=False, options=options)
