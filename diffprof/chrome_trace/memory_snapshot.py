"""PyTorch's memory snapshot: what `torch.cuda.memory._dump_snapshot` writes and `memory_viz` shows.

A pickle of plain containers. It is read without looking up a single class, so that a file from anywhere can
run nothing.
"""

from __future__ import annotations

import io
import pickle
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from diffprof.model.callsite import is_machinery, make_site
from diffprof.model.errors import UsageError
from diffprof.model.recording import Grade, MemoryHolder, MemoryKind, MemoryPoint, MemoryUse, Site

PICKLE = b"\x80"
"""How a pickle of protocol 2 and later begins."""

LARGEST = 1 << 30
"""Bytes of a file that is read."""

POINTS = 160
"""Of the curve that is stored."""

MOST_EVENTS = 10_000_000
"""Of one device. A small file may hold one event many times."""

LARGEST_SIZE = 1 << 50
"""Bytes of a block, and of all together."""

BASE = 0x7F0000000000
"""Address of the first block that is written."""

Frames = Sequence[tuple[str, int, str]]
"""(file, line, function), innermost first."""


class BlockEvent(NamedTuple):
    """A block that comes (nbytes > 0) or goes. number: of the block."""

    at: int
    nbytes: int
    number: int
    frames: Frames = ()


# --- writing --------------------------------------------------------------------------------------------


def snapshot(events: Iterable[BlockEvent]) -> dict[str, object]:
    """The snapshot of a device's memory after these events, in one segment. `at` becomes `time_us`.

    What is freed before it was allocated is left out.
    """
    trace: list[dict[str, object]] = []
    live: dict[int, tuple[int, BlockEvent]] = {}
    spare: dict[int, list[int]] = defaultdict(list)
    top = BASE
    for event in events:
        if event.nbytes > 0:
            free = spare[event.nbytes]
            address = free.pop() if free else top
            top = max(top, address + event.nbytes)
            live[event.number] = address, event
            trace.append(_entry("alloc", address, event.nbytes, event))
        elif event.number in live:
            address, made = live.pop(event.number)
            spare[made.nbytes].append(address)
            freed = event._replace(frames=made.frames)
            trace.extend(
                _entry(f"free_{how}", address, made.nbytes, freed) for how in ("requested", "completed")
            )
    if trace:
        trace.insert(0, _entry("segment_alloc", BASE, top - BASE, BlockEvent(0, 0, 0)))
    return {
        "segments": [_segment(top, live.values())] if top > BASE else [],
        "device_traces": [trace],
        "allocator_settings": {},
        "external_annotations": [],
    }


def _entry(action: str, address: int, size: int, event: BlockEvent) -> dict[str, object]:
    return {
        "action": action,
        "addr": address,
        "size": size,
        "stream": 0,
        "time_us": event.at,
        "frames": _frames(event.frames),
    }


def _frames(frames: Frames) -> list[dict[str, object]]:
    return [{"filename": file, "line": line, "name": name} for file, line, name in frames]


def _segment(top: int, live: Iterable[tuple[int, BlockEvent]]) -> dict[str, object]:
    blocks: list[dict[str, Any]] = []
    at = BASE
    for address, event in sorted(live):
        if address > at:
            blocks.append(_block(at, address - at, "inactive", ()))
        blocks.append(_block(address, event.nbytes, "active_allocated", event.frames))
        at = address + event.nbytes
    if top > at:
        blocks.append(_block(at, top - at, "inactive", ()))
    used = sum(block["size"] for block in blocks if block["state"] == "active_allocated")
    return {
        "device": 0,
        "address": BASE,
        "total_size": top - BASE,
        "allocated_size": used,
        "active_size": used,
        "requested_size": used,
        "stream": 0,
        "segment_type": "large",
        "segment_pool_id": (0, 0),
        "is_expandable": False,
        "frames": [],
        "blocks": blocks,
    }


def _block(address: int, size: int, state: str, frames: Frames) -> dict[str, object]:
    return {
        "address": address,
        "size": size,
        "requested_size": size,
        "state": state,
        "frames": _frames(frames),
    }


# --- reading --------------------------------------------------------------------------------------------


class _PlainOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        raise pickle.UnpicklingError(f"it wants {module}.{name}")

    def persistent_load(self, pid: object) -> object:
        raise pickle.UnpicklingError("it refers to something outside")


_BROKEN = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


def is_snapshot(path: Path) -> bool:
    """Whether a file begins as a pickle does."""
    with path.open("rb") as file:
        return file.read(1) == PICKLE


def read_snapshot(path: Path) -> MemoryUse:
    """What a memory snapshot says of a device's memory.

    Raises UsageError for a file that is too large, is no snapshot, or asks for a class.
    """
    if path.stat().st_size > LARGEST:
        raise UsageError(
            f"{path} is larger than {LARGEST >> 20:,} MiB.", "Record fewer events (max_entries=...)."
        )
    try:
        data = _PlainOnly(io.BytesIO(path.read_bytes())).load()
    except _BROKEN as error:
        raise _none(path, str(error) or type(error).__name__) from error
    try:
        return memory_of(data)
    except ValueError as error:
        raise _none(path, str(error)) from error
    except _BROKEN as error:
        raise _none(path, "it does not hold the traces and segments of one") from error


def _none(path: Path, why: str) -> UsageError:
    return UsageError(
        f"{path} is no memory snapshot of PyTorch: {why.rstrip('.')}.",
        "Write one with torch.cuda.memory._dump_snapshot(path).",
    )


def memory_of(data: Mapping[str, Any]) -> MemoryUse:
    """Peak, who held it, and the curve, of the device with most events. Raises an error of lookup, type or
    value where the data is no snapshot."""
    traces = data["device_traces"]
    device = max(range(len(traces)), key=lambda n: len(traces[n]))
    trace = traces[device]
    if len(trace) > MOST_EVENTS:
        raise ValueError(f"it has {len(trace):,} events, more than {MOST_EVENTS:,}")
    before = _before(data, trace, device)
    live = sum(size for size, _ in before.values())
    peak, at = live, 0
    levels = [live]
    for number, entry in enumerate(trace, 1):
        live += _change(entry)
        levels.append(live)
        if live > peak:
            peak, at = live, number
    if peak > LARGEST_SIZE:
        raise ValueError(f"{peak} bytes were in use")
    return MemoryUse(
        grade=Grade.MEASURED,
        peak_bytes=peak,
        at_peak=_holders(before, trace[:at]),
        curve=tuple(_curve(levels)),
    )


def _change(entry: Mapping[str, object]) -> int:
    size = _size(entry)
    return {"alloc": size, "free_completed": -size}.get(str(entry["action"]), 0)


def _size(block: Mapping[str, Any]) -> int:
    size = int(block["size"])
    if not 0 <= size <= LARGEST_SIZE:
        raise ValueError(f"a block of {size} bytes")
    return size


def _before(
    data: Mapping[str, Any], trace: Sequence[Mapping[str, Any]], device: int
) -> dict[int, tuple[int, Site | None]]:
    """Blocks that were there before the first event: those at the end that no event made, and those freed
    that none made."""
    made: set[int] = set()
    found: dict[int, tuple[int, Site | None]] = {}
    for entry in trace:
        address = int(entry["addr"])
        if entry["action"] == "alloc":
            made.add(address)
        elif entry["action"] == "free_completed" and address not in made:
            found[address] = _size(entry), _site(entry.get("frames", ()))
    for segment in data["segments"]:
        for block in segment["blocks"] if segment.get("device", 0) == device else ():
            address = int(block.get("address", 0))
            if block["state"] == "active_allocated" and address not in made:
                found[address] = _size(block), _site(block.get("frames", ()))
    return found


def _holders(
    before: Mapping[int, tuple[int, Site | None]], trace: Sequence[Mapping[str, Any]]
) -> tuple[MemoryHolder, ...]:
    live: dict[int, tuple[int, Site | None, MemoryKind]] = {
        address: (size, site, MemoryKind.OTHER) for address, (size, site) in before.items()
    }
    for entry in trace:
        if entry["action"] == "alloc":
            live[int(entry["addr"])] = _size(entry), _site(entry["frames"]), MemoryKind.ACTIVATIONS
        elif entry["action"] == "free_completed":
            live.pop(int(entry["addr"]), None)
    sums: dict[tuple[Site | None, MemoryKind], list[int]] = defaultdict(lambda: [0, 0])
    for size, site, kind in live.values():
        sums[site, kind][0] += size
        sums[site, kind][1] += 1
    rows = (
        MemoryHolder(
            kind=kind,
            site=site,
            bytes=nbytes,
            count=count,
            phase="before" if kind is MemoryKind.OTHER else None,
        )
        for (site, kind), (nbytes, count) in sums.items()
    )
    return tuple(sorted(rows, key=lambda row: -row.bytes))


def _site(frames: Iterable[Mapping[str, Any]]) -> Site | None:
    """The innermost line of a person's code."""
    for frame in frames:
        file, line = str(frame["filename"]), int(frame["line"])
        if line > 0 and file.endswith(".py") and not is_machinery(file):
            return replace(make_site(((file, line, str(frame["name"])),), None), excerpt=())
    return None


def _curve(levels: Sequence[int]) -> Iterator[MemoryPoint]:
    width = max(1, -(-len(levels) // POINTS))
    for at in range(0, len(levels), width):
        yield MemoryPoint(op=at, bytes=max(levels[at : at + width]))
