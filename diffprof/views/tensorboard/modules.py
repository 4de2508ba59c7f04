"""nn.Module spans for the plugin's module view, from the module annotations of a trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffprof.chrome_trace.events import MODULE_PREFIX, parse_phase

Event = dict[str, Any]

_NO_PARENT = -1


@dataclass
class _Open:
    """A module whose span is not closed yet. end: of the last annotation inside it."""

    path: str
    number: int
    parent: int
    start: float
    end: float


def module_events(events: list[Event]) -> list[Event]:
    """One `python_function` event for each call of each module, outer before inner.

    A trace names the innermost module of each operation. A module is open while operations of it or of what
    is below it follow each other, within one phase: two calls in a row in the same phase are one span.
    """
    found: list[Event] = []
    lanes: dict[tuple[Any, Any], list[Event]] = {}
    edges: dict[tuple[Any, Any], set[float]] = {}
    for event in events:
        if event.get("cat") != "user_annotation":
            continue
        lane = event.get("pid"), event.get("tid")
        name = str(event.get("name", ""))
        if name.startswith(MODULE_PREFIX):
            lanes.setdefault(lane, []).append(event)
        elif parse_phase(name) is not None:
            edges.setdefault(lane, set()).update((event["ts"], event["ts"] + event["dur"]))
    numbers: dict[str, int] = {}
    for lane, spans in lanes.items():
        spans.sort(key=lambda event: event["ts"])
        found.extend(_of_lane(spans, sorted(edges.get(lane, ())), lane, numbers, len(found)))
    return found


def _of_lane(
    spans: list[Event], edges: list[float], lane: tuple[Any, Any], numbers: dict[str, int], first: int
) -> list[Event]:
    closed: list[_Open] = []
    stack: list[_Open] = []
    made = first
    edge = 0
    for span in spans:
        start, end = span["ts"], span["ts"] + span["dur"]
        crossed = False
        while edge < len(edges) and edges[edge] <= start:
            crossed, edge = True, edge + 1
        path = span["name"][len(MODULE_PREFIX) :]
        keep = 0 if crossed else _common(stack, path)
        closed.extend(reversed(stack[keep:]))
        del stack[keep:]
        for each in stack:
            each.end = max(each.end, end)
        for prefix in _prefixes(path)[keep:]:
            made += 1
            parent = stack[-1].number if stack else _NO_PARENT
            stack.append(_Open(prefix, made, parent, start, end))
    closed.extend(reversed(stack))
    closed.sort(key=lambda each: each.number)
    return [_event(each, lane, numbers) for each in closed]


def _prefixes(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _common(stack: list[_Open], path: str) -> int:
    """How many of the open modules enclose the path."""
    for count, each in enumerate(stack):
        if path != each.path and not path.startswith(each.path + "."):
            return count
    return len(stack)


def _event(each: _Open, lane: tuple[Any, Any], numbers: dict[str, int]) -> Event:
    return {
        "ph": "X",
        "cat": "python_function",
        "name": f"nn.Module: {each.path.rpartition('.')[2]}",
        "pid": lane[0],
        "tid": lane[1],
        "ts": each.start,
        "dur": each.end - each.start,
        "args": {
            "Python id": each.number,
            "Python parent id": each.parent,
            # The plugin tells modules apart by name and this number.
            "Python module id": numbers.setdefault(each.path, len(numbers)),
        },
    }
