"""The lines of source that launch operations: those that change the type of tensors, with what the device
spends on each, and those that launch one small operation after the other."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import groupby
from types import CodeType, FrameType

from diffprof.analyzers.kernels.line_rules import MANY
from diffprof.gpu.altered import is_cast
from diffprof.gpu.assembly import HOST_COPIES
from diffprof.gpu.cost import CostModel
from diffprof.gpu.signatures import OpSignature
from diffprof.model.callsite import Place, caller, function_name, is_command_line, make_site
from diffprof.model.recording import LineRow

Launched = tuple[OpSignature, Place]


class LaunchLines:
    """Where operations come from. Asked for each of them: what was seen of a function's code is kept."""

    def __init__(self) -> None:
        self._past: set[int] = set()
        """Code, by its id, that a person would look past."""
        self._places: dict[tuple[int, int], Place | None] = {}
        """By the code's id and the instruction; None where the command line is all that is above."""
        self._held: list[CodeType] = []
        """So that no other code has its id."""

    def here(self) -> Place | None:
        """The line that launches an operation now."""
        frame: FrameType | None = sys._getframe(1)
        past, places = self._past, self._places
        while frame is not None:
            code = id(frame.f_code)
            if code not in past:
                key = code, frame.f_lasti
                if key in places:
                    return places[key]
                self._look(frame, key)
            else:
                frame = frame.f_back
        return None

    def _look(self, frame: FrameType, key: tuple[int, int]) -> None:
        """Note what the code of a frame is that is met there for the first time."""
        code = frame.f_code
        self._held.append(code)
        if caller((frame,)) is not None:
            self._places[key] = code.co_filename, frame.f_lineno, function_name(frame)
        elif is_command_line(code.co_filename):
            self._places[key] = None
        else:
            self._past.add(key[0])


def cast_rows(launched: Counter[Launched], model: CostModel) -> tuple[LineRow, ...]:
    """A row a line that changes types, that with most of the device's time first. launched: how often each
    was."""
    casts: dict[int, bool] = {}

    def changes_type(signature: OpSignature) -> bool:
        if signature.id not in casts:
            casts[signature.id] = signature.direction in (None, "d2d") and is_cast(signature)
        return casts[signature.id]

    return _rows(Counter({each: times for each, times in launched.items() if changes_type(each[0])}), model)


def burst_rows(stretches: Iterable[Sequence[Launched]], model: CostModel) -> tuple[LineRow, ...]:
    """A row a line that launches MANY operations in one stay in its function, that with most of the device's
    time first. What the function calls and launches is a stay elsewhere; copies over the link are none of
    it: their waits are told by themselves. stretches: what was launched, in order; those that come again are
    one object, and looked at once."""
    found: Counter[Launched] = Counter()
    known: dict[int, _Stays] = {}
    here: list[Launched] = []
    for stretch in filter(len, stretches):
        stays = known.get(id(stretch)) or known.setdefault(id(stretch), _Stays(stretch))
        if here and _function(here[0]) != _function(stays.first[0]):
            found.update(_many(here))
            here = []
        here = [*here, *stays.first]
        if stays.last:
            found.update([*_many(here), *stays.inside])
            here = stays.last
    return _rows(found + Counter(_many(here)), model)


class _Stays:
    """Of a stretch: its first stay in a function, its last if that is another, and what was launched in large
    numbers between them. The stretch is held, so that no other has its id."""

    def __init__(self, stretch: Sequence[Launched]) -> None:
        self.stretch = stretch
        self.first, *between = (list(stay) for _, stay in groupby(stretch, key=_function))
        self.last = between.pop() if between else []
        self.inside = [each for stay in between for each in _many(stay)]


def _function(launched: Launched) -> tuple[str, str]:
    file, _, function = launched[1]
    return file, function


def _many(stay: Sequence[Launched]) -> list[Launched]:
    """What lines launch in this stay that launch MANY."""
    if len(stay) < MANY:
        return []
    often = Counter(line for signature, line in stay if signature.direction not in HOST_COPIES)
    return [each for each in stay if often[each[1]] >= MANY and each[0].direction not in HOST_COPIES]


def _rows(launched: Counter[Launched], model: CostModel) -> tuple[LineRow, ...]:
    """Times are summed as fractions, which do not round: where steps are replayed, launches come in another
    order and grouping."""
    count: Counter[Place] = Counter()
    spent: dict[Place, Fraction] = {}
    for (signature, line), times in launched.items():
        one = sum(kernel.device_us for kernel in model.kernels(signature))
        count[line] += times
        spent[line] = spent.get(line, Fraction()) + Fraction(one) * times
    rows = (
        LineRow(site=make_site((line,), None), count=count[line], device_us=float(each))
        for line, each in spent.items()
    )
    return tuple(sorted(rows, key=lambda row: (-row.device_us, row.site.file, row.site.line)))
