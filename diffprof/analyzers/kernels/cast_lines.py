"""The lines of source that change the type of tensors, and what the device spends on each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from diffprof.gpu.altered import is_cast
from diffprof.gpu.cost import CostModel
from diffprof.gpu.signatures import OpSignature
from diffprof.model.callsite import Place, caller, function_name, make_site, stack
from diffprof.model.recording import CastRow


class CastLines:
    """Where casts come from; of other operations it is not asked."""

    def __init__(self) -> None:
        self._casts: dict[int, bool] = {}

    def of(self, signature: OpSignature) -> Place | None:
        """The line that launches it now; what a signature is is remembered, for this is asked of each."""
        casts = self._casts.get(signature.id)
        if casts is None:
            casts = self._casts[signature.id] = signature.direction in (None, "d2d") and is_cast(signature)
        frame = caller(stack()) if casts else None
        return None if frame is None else (frame.f_code.co_filename, frame.f_lineno, function_name(frame))


def cast_rows(launched: Iterable[tuple[OpSignature, Place]], model: CostModel) -> tuple[CastRow, ...]:
    """A row a line, that with most of the device's time first."""
    totals: dict[Place, tuple[int, float]] = {}
    for (signature, line), times in Counter(launched).items():
        count, spent = totals.get(line, (0, 0.0))
        one = sum(kernel.device_us for kernel in model.kernels(signature))
        totals[line] = count + times, spent + one * times
    rows = (
        CastRow(site=make_site((line,), None), count=count, device_us=spent)
        for line, (count, spent) in totals.items()
    )
    return tuple(sorted(rows, key=lambda row: -row.device_us))
