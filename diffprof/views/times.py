"""Where the time of a call goes: per kernel, phase and module, and where the device idles."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from diffprof.judge.figures import call_ms, device_busy
from diffprof.model.recording import GapRow, KernelRow, PhaseTime, Recording
from diffprof.model.units import NOT_MEASURED, number, plural, seconds, size
from diffprof.views.table import MOST_ROWS, Table
from diffprof.views.words import doubts

UNKNOWN = "unknown"
"""Phase or module of work that none could be told for."""


def call_table(recording: Recording) -> Table | None:
    """Time and memory of one call."""
    rows: list[tuple[str, ...]] = []
    if timing := recording.timing:
        length = call_ms(recording)
        spread = "" if timing.spread is None else f" ± {seconds(timing.spread)}"
        passes = f", {plural(len(timing.seconds), 'pass', 'passes')}" if timing.seconds else ""
        rows.append(
            (
                f"{call_words(recording)}, {timing.mode}{passes}",
                f"{seconds(None if length is None else length / 1e3)}{spread}",
                _of(length, timing.grade),
            )
        )
        if timing.doubts:
            rows.append(("not to be trusted", doubts(timing), ""))
        if timing.margin is not None and timing.median is not None:
            low, high = (timing.median * (1 + sign * timing.margin) for sign in (-1, 1))
            rows.append(("range", f"{seconds(low)} to {seconds(high)}", timing.grade))
        if timing.origin:
            rows.append(("kernel times", origins(timing.origin), timing.grade))
        if not on_cpu(recording):
            share = device_busy(recording)
            busy = NOT_MEASURED if share is None else f"{number(share * 100)} %"
            rows.append(("device busy", busy, _of(share, timing.grade)))
    if memory := recording.memory:
        of = "" if memory.capacity_bytes is None else f" of {size(memory.capacity_bytes)}"
        rows.append(("memory, peak", size(memory.peak_bytes) + of, _of(memory.peak_bytes, memory.grade)))
        rows.append(("memory, weights", size(memory.weights_bytes), _of(memory.weights_bytes, memory.grade)))
    return Table("One call", ("figure", "value", "grade"), tuple(rows)) if rows else None


ORIGINS = {
    "measured": "measured on this GPU",
    "sibling": "from one of its kind, scaled",
    "modelled": "modelled",
    "inferred": "inferred from kernels run another way",
}


def origins(shares: Mapping[str, float]) -> str:
    """Share of device time by where its kernels' times come from."""
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    return ", ".join(f"{share:.0%} {ORIGINS[name]}" for name, share in ranked if share >= 0.005)


def call_words(recording: Recording) -> str:
    """What the length of the recorded call is called."""
    return "length of the trace" if recording.target.kind == "trace" else "time of one call"


def _of(value: float | None, grade: str) -> str:
    """The grade of a figure; what is not measured has none."""
    return "" if value is None else grade


def on_cpu(recording: Recording) -> bool:
    """Whether the kernels are operators of the CPU."""
    return recording.device.kind == "cpu"


def _title(recording: Recording, what: str = "") -> str:
    return ("Time of the CPU's operators" if on_cpu(recording) else "Device time") + what


def _grade(recording: Recording) -> str:
    return recording.timeline.grade if recording.timeline else recording.device.grade


def kernels_table(recording: Recording) -> Table | None:
    """Where device time goes, summed over modules and phases."""
    if not recording.kernels:
        return None
    totals: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    for row in recording.kernels:
        entry = totals[row.name, row.family]
        entry[0] += row.count
        entry[1] += row.device_us
    everything = _whole_us(recording.kernels)
    ranked = sorted(totals.items(), key=lambda item: -item[1][1])
    rows = tuple(
        (number(us / 1e3), _share(us, everything), f"{count:,.0f}", family, name)
        for (name, family), (count, us) in ranked[:MOST_ROWS]
    )
    left = len(ranked) - len(rows)
    where = "in operators, each without those it calls," if on_cpu(recording) else "of device time"
    note = f"{number(everything / 1e3)} ms {where} per call ({_grade(recording)})"
    if left:
        note += f"; {plural(left, 'more kernel')} not shown"
    return Table(_title(recording), ("ms", "share", "calls", "family", "kernel"), rows, note)


def phases_table(recording: Recording) -> Table | None:
    """Device time and launches of each phase, in the call's order; the clock's time, where no kernels are
    known."""
    if not recording.kernels or not any(row.phase for row in recording.kernels):
        return _clocked(recording)
    totals = _sums(recording.kernels, lambda row: row.phase)
    order = ["encode", "prepare", "denoise", "decode", "postprocess"]
    names = sorted(totals, key=lambda name: order.index(name) if name in order else len(order))
    everything = _whole_us(recording.kernels)
    steps = recording.target.steps
    rows = []
    for name in names:
        us, count = totals[name]
        each = number(us / 1e3 / steps) if name == "denoise" and steps else ""
        rows.append((number(us / 1e3), _share(us, everything), f"{count:,.0f}", each, name))
    columns = ("ms", "share", "calls", "ms per step", "phase")
    return Table(_title(recording, " by phase"), columns, tuple(rows), f"({_grade(recording)})")


def _clocked(recording: Recording) -> Table | None:
    timing = recording.timing
    if timing is None or not timing.phases:
        return None
    whole, steps = sum(each.seconds for each in timing.phases), recording.target.steps
    rows = []
    for each in timing.phases:
        ms = each.seconds * 1e3
        one = number(ms / steps) if each.phase == "denoise" and steps else ""
        rows.append((number(ms), _share(each.seconds, whole), one, phase_words(each)))
    columns = ("ms", "share", "ms per step", "phase")
    return Table("Time of the call by phase", columns, tuple(rows), f"({timing.grade})")


def phase_words(time: PhaseTime) -> str:
    """`denoise: scheduler`, `encode`."""
    return f"{time.phase}: {time.part}" if time.part else time.phase


def modules_table(recording: Recording) -> Table | None:
    """Device time and launches of the largest blocks: components down to the first numbered level. Blocks of
    one kind are one row, with their number."""
    if not recording.kernels or not any(row.module for row in recording.kernels):
        return None
    names = names_of_kinds(recording.kernels)
    totals = _sums(recording.kernels, lambda row: names.get(block_of(row.module)))
    ranked = sorted(totals.items(), key=lambda item: -item[1][0])
    everything = _whole_us(recording.kernels)
    rows = tuple(
        (number(us / 1e3), _share(us, everything), f"{count:,.0f}", name)
        for name, (us, count) in ranked[:MOST_ROWS]
    )
    left = len(ranked) - len(rows)
    note = f"({_grade(recording)})" + (f"; {plural(left, 'more block')} not shown" if left else "")
    return Table(_title(recording, " by module"), ("ms", "share", "calls", "module"), rows, note)


def names_of_kinds(kernels: Iterable[KernelRow]) -> dict[str | None, str | None]:
    """Block -> `transformer.transformer_blocks.* x 19` for those that run the same kernels as often, in the
    same modules of theirs; a block that is like no other has its own name. Kinds that are as many as another
    are told apart by their first block's number."""
    work: dict[str | None, set[tuple[str, ...]]] = defaultdict(set)
    for row in kernels:
        block = block_of(row.module)
        inside = (row.module or "").removeprefix(block or "")
        work[block].add((inside, row.name, row.op, row.shape, row.dtype, row.phase or "", str(row.count)))
    kinds: dict[tuple[str, frozenset[tuple[str, ...]]], list[str | None]] = defaultdict(list)
    for block, found in work.items():
        kinds[pattern_of(block), frozenset(found)].append(block)
    many = Counter((pattern, len(alike)) for (pattern, _), alike in kinds.items())
    names: dict[str | None, str | None] = {}
    for (pattern, _), alike in kinds.items():
        name = f"{pattern} x {len(alike)}"
        if many[pattern, len(alike)] > 1:
            name += f" (as {(alike[0] or '').rpartition('.')[2]})"
        names |= dict.fromkeys(alike, name if len(alike) > 1 else alike[0])
    return names


def pattern_of(block: str | None) -> str:
    """`unet.up_blocks.*` of `unet.up_blocks.0`."""
    return ".".join("*" if part.isdecimal() else part for part in (block or "").split("."))


def block_of(module: str | None) -> str | None:
    """`unet.up_blocks.0` of `unet.up_blocks.0.attentions.1.proj_in`."""
    if not module:
        return None
    parts = module.split(".")
    numbered = next((n for n, part in enumerate(parts) if part.isdecimal()), None)
    return ".".join(parts[: 2 if numbered is None else numbered + 1])


def _sums(
    kernels: Iterable[KernelRow], key: Callable[[KernelRow], str | None]
) -> dict[str, tuple[float, float]]:
    """(microseconds, calls) by key."""
    totals: dict[str, tuple[float, float]] = {}
    for row in kernels:
        name = key(row) or UNKNOWN
        us, count = totals.get(name, (0.0, 0.0))
        totals[name] = (us + row.device_us, count + row.count)
    return totals


def _whole_us(kernels: Iterable[KernelRow]) -> float:
    return sum(row.device_us for row in kernels)


def _share(us: float, everything: float) -> str:
    return f"{us / everything:.1%}" if everything else "0%"


def gaps_table(recording: Recording) -> Table | None:
    """Device idle time by cause, with the place of the longest gap."""
    if not recording.gaps:
        return None
    causes: dict[str, list[GapRow]] = defaultdict(list)
    for gap in recording.gaps:
        causes[gap.cause].append(gap)
    rows: list[tuple[str, ...]] = []
    for cause, found in sorted(causes.items(), key=lambda item: -sum(gap.duration_us for gap in item[1])):
        single = [gap for gap in found if gap.count == 1]
        longest = max(single, key=lambda gap: gap.duration_us) if single else None
        rows.append(
            (
                number(sum(gap.duration_us for gap in found) / 1e3),
                f"{sum(gap.count for gap in found):,}",
                number(longest.duration_us) if longest else "",
                cause,
                _where(recording, longest) if longest else "",
            )
        )
    columns: tuple[str, ...] = ("ms", "gaps", "longest us", "cause", "longest is")
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Table("Device idle", columns, tuple(rows), f"per call ({_grade(recording)})")


def _where(recording: Recording, gap: GapRow) -> str:
    """`denoise, step 2, at file.py:3`, as far as it is known, else the kernel before which it lies."""
    parts = []
    if gap.phase:
        parts.append(gap.phase + ("" if gap.step is None else f", step {gap.step + 1}"))
    site = gap.site
    if site is None and gap.sync is not None and recording.syncs and gap.sync < len(recording.syncs):
        site = recording.syncs[gap.sync].site
    if site is not None:
        parts.append(f"at {site.file}:{site.line}" if site.line else f"in {site.file}")
    elif gap.during:
        parts.append(f"in {gap.during}")
    elif gap.before:
        parts.append(f"before {gap.before}")
    elif gap.after:
        parts.append(f"after {gap.after}")
    return ", ".join(parts)


TIMES: tuple[Callable[[Recording], Table | None], ...] = (
    call_table,
    phases_table,
    modules_table,
    kernels_table,
    gaps_table,
)
