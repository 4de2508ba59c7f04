"""Logs that PyTorch's compiler writes to the folder TORCH_TRACE: what `tlparse` reads.

A line is a time and a place as glog writes them, then JSON: `V1129 09:54:52.362000 12902 x.py:50] {...}`.
Lines of a payload follow, each after a tab (torch/_logging/_internal.py, `trace_structured`).
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffprof import __version__
from diffprof.fleet.sources import Source, local
from diffprof.model.compiles import BreakLine, CompileRow, RecompileLine
from diffprof.model.errors import UsageError

TABLE = "compiles"

_HEAD = re.compile(r"^[VDIWEC]\d{4} [\d:.]+ \d+ \S+\] (\{.*)$")
_BREAK = re.compile(r"^Graph break in user code at (.+:\d+)")
_REASON = re.compile(r"^(?:Graph Break )?Reason: (.+)")
_CACHE = re.compile(r"^(\w+_cache)_(hit|miss|bypass)(?:_\d+)?$")
_PHASES = ("dynamo", "aot_autograd", "inductor")
"""Outer ones first: the clock of each runs while the next one's does."""


def is_log(source: Source) -> bool:
    """Whether a file is such a log, by its name."""
    return source.name.endswith(".log")


def compile_row(source: Source) -> CompileRow:
    """What one log tells; in a worker. Raises UsageError for what is none."""
    started = time.perf_counter()
    log = _Log()
    with local(source) as path:
        for head, payload in entries(path, log):
            log.add(head, payload)
    if not log.entries:
        raise UsageError(f"{source.url} is no log of TORCH_TRACE.", "Make one: TORCH_TRACE=FOLDER python ...")
    return CompileRow(
        key=source.key,
        path=source.url,
        folder=source.folder,
        bytes=source.bytes,
        **log.figures(),
        took_s=time.perf_counter() - started,
        diffprof=__version__,
    )


def entries(path: Path, log: _Log) -> Iterator[tuple[dict[str, object], list[str]]]:
    """Each entry with the lines of its payload."""
    head: dict[str, object] | None = None
    payload: list[str] = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("\t"):
                payload.append(line[1:].rstrip("\n"))
                continue
            found = _HEAD.match(line)
            if found is None:
                log.damaged += bool(line.strip())
                continue
            if head is not None:
                yield head, payload
            head, payload = log.decoded(found[1]), []
    if head is not None:
        yield head, payload


class _Log:
    """What was found until now."""

    def __init__(self) -> None:
        self.entries = self.damaged = self.compiles = 0
        self.seconds = 0.0
        self.torch = ""
        self._breaks: Counter[tuple[str, str]] = Counter()
        self._recompiles: Counter[tuple[object, str]] = Counter()
        self._functions: dict[Any, str] = {}
        self._inclusive: dict[str, float] = defaultdict(float)
        self._cache: Counter[str] = Counter()

    def decoded(self, text: str) -> dict[str, object]:
        """The JSON of a line; empty where it is cut off."""
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            self.damaged += 1
            return {}
        self.entries += 1
        return found

    def add(self, head: dict[str, object], payload: list[str]) -> None:
        """An entry."""
        artifact, metrics = head.get("artifact"), head.get("compilation_metrics")
        if isinstance(artifact, dict):
            self._artifact(str(artifact.get("name")), head.get("frame_id"), payload)
        elif isinstance(metrics, dict):
            self._metrics(metrics, head.get("frame_id"))

    def _artifact(self, name: str, frame: object, payload: list[str]) -> None:
        if name == "dynamo_graph_break_reason":
            line = next((m[1] for text in payload if (m := _BREAK.match(text))), "unknown")
            reason = next((m[1] for text in payload if (m := _REASON.match(text))), "")
            self._breaks[(line, reason)] += 1
        elif name == "recompile_reasons":
            parts = (text.strip().strip('[]",').partition(": ") for text in payload)
            # A guard that two versions of the code have failed for both.
            for guard in {guard for _, colon, guard in parts if colon}:
                self._recompiles[(frame, guard)] += 1
        elif found := _CACHE.match(name):
            self._cache[f"{found[1]} {found[2]}"] += 1

    def _metrics(self, metrics: dict[str, Any], frame: object) -> None:
        self.compiles += 1
        self.seconds += metrics.get("entire_frame_compile_time_s") or 0.0
        self.torch = metrics.get("pytorch_version") or self.torch
        where = f"{metrics.get('co_filename')}:{metrics.get('co_firstlineno')}"
        self._functions[frame] = f"{metrics.get('co_name')} ({where})"
        for phase in _PHASES:
            self._inclusive[phase] += (metrics.get(f"{phase}_cumulative_compile_time_us") or 0) / 1e6

    def figures(self) -> dict[str, Any]:
        """The fields of a row."""
        inner = [*(self._inclusive[phase] for phase in _PHASES[1:]), 0.0]
        own = {
            phase: max(self._inclusive[phase] - after, 0.0)
            for phase, after in zip(_PHASES, inner, strict=True)
        }
        return {
            "compiles": self.compiles,
            "seconds": self.seconds,
            "phases": own,
            "cache": dict(self._cache),
            "breaks": tuple(
                BreakLine(line=line, reason=reason, count=count)
                for (line, reason), count in self._breaks.most_common()
            ),
            "recompiles": tuple(
                RecompileLine(function=self._functions.get(frame, "unknown"), guard=guard, count=count)
                for (frame, guard), count in self._recompiles.most_common()
            ),
            "torch": self.torch,
            "damaged": self.damaged,
        }
