"""The page of differences: which two runs it shows first, and its rows side by side."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from diffprof.model.errors import UNREADABLE
from diffprof.model.report import REPORT_FILE


class _Target(msgspec.Struct, frozen=True):
    spec: str = ""


class _Recording(msgspec.Struct, frozen=True):
    created: str = ""
    target: _Target = _Target()


class _Header(msgspec.Struct, frozen=True):
    """What a choice needs; everything else in the file is skipped unread."""

    recording: _Recording = _Recording()
    after: str | None = None


def newest_first(folders: Mapping[str, Path]) -> list[str]:
    """Names of runs, by when they were recorded. folders: name -> folder of the run."""
    headers = {name: _header(folder) for name, folder in folders.items()}
    return sorted(headers, key=lambda name: (headers[name].recording.created, name), reverse=True)


def pair(folders: Mapping[str, Path]) -> tuple[str, str] | None:
    """(before, after) of the newest run whose fixes were applied and are scanned; without one, the newest run
    and the one of the same target before it, else simply the one before it. None with fewer than two runs.

    folders: name -> folder of the run.
    """
    headers = {name: _header(folder) for name, folder in folders.items()}
    order = newest_first(folders)
    places = {folder.resolve(): name for name, folder in folders.items()}
    for name in order:
        after = headers[name].after
        # The name is data: what it leads to counts only if it is one of the runs.
        found = places.get(folders[name].resolve().parent / after) if after else None
        if found is not None and found != name:
            return name, found
    for newest, target in ((name, headers[name].recording.target.spec) for name in order):
        older = order[order.index(newest) + 1 :]
        alike = next((name for name in older if headers[name].recording.target.spec == target), None)
        if alike is not None:
            return alike, newest
    return (order[1], order[0]) if len(order) > 1 else None


def aligned(node: Mapping[str, Any]) -> dict[str, object]:
    """A node of the plugin's comparison, with the same operators in the same order on both sides; what one
    side lacks has zeros there.

    The page pairs the two lists by position, and breaks off where one is longer.
    """
    sides = {side: {row["name"]: row for row in node[side]["aggs"]} for side in ("left", "right")}
    names = list(dict.fromkeys([*sides["left"], *sides["right"]]))
    blank = {key: 0 for rows in sides.values() for row in rows.values() for key in row}
    found = dict(node)
    for side, rows in sides.items():
        aggs = [rows.get(name, {**blank, "name": name}) for name in names]
        found[side] = {**node[side], "aggs": aggs}
    found["children"] = [aligned(child) for child in node.get("children") or ()]
    return found


def _header(folder: Path) -> _Header:
    file = folder / REPORT_FILE
    try:
        return _read(file, file.stat().st_mtime_ns)
    except (OSError, *UNREADABLE):
        return _Header()


@lru_cache(maxsize=1_000)
def _read(file: Path, changed: int) -> _Header:
    """The page asks every few seconds. changed: when the file was, so that it is read again then."""
    return msgspec.json.decode(file.read_bytes(), type=_Header)
