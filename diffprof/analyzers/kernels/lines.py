"""The lines of source that launch operations: those that change the type of tensors, with what the device
spends on each, and those that launch one small operation after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from types import CodeType

from diffprof.analyzers.kernels.line_rules import MANY
from diffprof.gpu.altered import is_cast
from diffprof.gpu.cost import CostModel
from diffprof.gpu.signatures import OpSignature
from diffprof.model.callsite import Place, caller, function_name, make_site, stack
from diffprof.model.recording import LineRow

Launched = tuple[OpSignature, Place]


class LaunchLines:
    """Where operations come from."""

    def __init__(self) -> None:
        self._places: dict[tuple[CodeType, int], Place] = {}

    def here(self) -> Place | None:
        """The line that launches an operation now."""
        frame = caller(stack())
        if frame is None:
            return None
        key = frame.f_code, frame.f_lineno
        if key not in self._places:
            self._places[key] = frame.f_code.co_filename, frame.f_lineno, function_name(frame)
        return self._places[key]


def cast_rows(launched: Counter[Launched], model: CostModel) -> tuple[LineRow, ...]:
    """A row a line that changes types, that with most of the device's time first. launched: how often each
    was."""
    casts: dict[int, bool] = {}

    def changes_type(signature: OpSignature) -> bool:
        if signature.id not in casts:
            casts[signature.id] = signature.direction in (None, "d2d") and is_cast(signature)
        return casts[signature.id]

    return _rows(Counter({each: times for each, times in launched.items() if changes_type(each[0])}), model)


def burst_rows(launched: Iterable[Launched], model: CostModel) -> tuple[LineRow, ...]:
    """A row a line that launches MANY operations in one stay in its function, that with most of the device's
    time first. What the function calls and launches is a stay elsewhere."""
    return _rows(Counter(_bursts(launched)), model)


def _bursts(launched: Iterable[Launched]) -> Iterator[Launched]:
    for _, stay in groupby(launched, key=lambda each: (each[1][0], each[1][2])):
        own = list(stay)
        if len(own) < MANY:
            continue
        often = Counter(line for _, line in own)
        yield from (each for each in own if often[each[1]] >= MANY)


def _rows(launched: Counter[Launched], model: CostModel) -> tuple[LineRow, ...]:
    totals: dict[Place, tuple[int, float]] = {}
    for (signature, line), times in launched.items():
        count, spent = totals.get(line, (0, 0.0))
        one = sum(kernel.device_us for kernel in model.kernels(signature))
        totals[line] = count + times, spent + one * times
    rows = (
        LineRow(site=make_site((line,), None), count=count, device_us=spent)
        for line, (count, spent) in totals.items()
    )
    return tuple(sorted(rows, key=lambda row: -row.device_us))
