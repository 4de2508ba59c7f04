"""Figures with their units, and places, as every text writes them. Unknown is said, never shown as zero."""

from __future__ import annotations

from collections.abc import Sequence

from diffprof.model.recording import Site

NOT_MEASURED = "not measured"


def number(value: float) -> str:
    """Three significant digits, without a tail of zeros: 0.0123, 1.5, 24, 1,234."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.0001 else f"{value:.1e}"


def share(value: float) -> str:
    """Of one, in percent: 83.5 %, under 0.1 %."""
    return "under 0.1 %" if 0 < value < 0.001 else f"{number(value * 100)} %"


def milliseconds(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{number(value)} ms"


def seconds(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{number(value)} s"


def duration(milliseconds_: float | None) -> str:
    """A time in the unit that reads best: 2.68 s, 154 ms."""
    if milliseconds_ is None:
        return NOT_MEASURED
    return seconds(milliseconds_ / 1e3) if milliseconds_ >= 1000 else milliseconds(milliseconds_)


def gib(value: float) -> str:
    """GiB to a tenth, without the unit; of less than one, what there is."""
    return f"{value:.1f}" if value >= 1 else number(value)


def size(value: float | None) -> str:
    """Bytes in binary units, as PyTorch and the drivers count memory."""
    if value is None:
        return NOT_MEASURED
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= factor:
            return f"{number(value / factor)} {unit}"
    return f"{number(value)} B"


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def plural(count: int, noun: str, many: str | None = None) -> str:
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def place(site: Site | None) -> str:
    """`file:line`, the op alone where no line is known, or that there is no single place."""
    if not site:
        return "the whole call"
    return f"{site.file}:{site.line}" if site.line else site.file
