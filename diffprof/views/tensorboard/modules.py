"""nn.Module spans for the plugin's module view, from the module annotations of a trace."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from diffprof.chrome_trace.events import MODULE_PREFIX

Event = dict[str, Any]

_NO_PARENT = -1


def module_events(events: list[Event]) -> list[Event]:
    """One `python_function` event for each annotated call of a module; its parent is the call around it."""
    tracks: dict[tuple[object, object], list[Event]] = defaultdict(list)
    for event in events:
        annotates = event.get("cat") == "user_annotation" and event.get("ph") == "X"
        if annotates and str(event.get("name", "")).startswith(MODULE_PREFIX):
            tracks[event.get("pid"), event.get("tid")].append(event)
    numbers: dict[str, int] = {}
    found: list[Event] = []
    for track in tracks.values():
        # Of calls that begin and end together, the outer one stands first in the trace.
        track.sort(key=lambda event: (event["ts"], -event["dur"]))
        open_: list[tuple[float, int, str]] = []
        for event in track:
            while open_ and open_[-1][0] <= event["ts"]:
                open_.pop()
            path = event["name"][len(MODULE_PREFIX) :]
            _, parent, around = open_[-1] if open_ else (0.0, _NO_PARENT, "")
            number = len(found) + 1
            found.append(
                {
                    **event,
                    "cat": "python_function",
                    "name": f"nn.Module: {path.removeprefix(around + '.')}",
                    "args": {
                        "Python id": number,
                        "Python parent id": parent,
                        # The plugin tells modules apart by name and this number.
                        "Python module id": numbers.setdefault(path, len(numbers)),
                    },
                }
            )
            open_.append((event["ts"] + event["dur"], number, path))
    return found
