"""What belongs to what: which call launched a kernel, which op made the call, which module ran it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from diffprof.chrome_trace.events import MODULE_PREFIX, Spans, Trace
from diffprof.chrome_trace.nesting import Nest

_MODULE_FRAME = "nn.Module: "


@dataclass
class Links:
    """Relations between the rows of a trace. -1 stands for none."""

    trace: Trace

    @cached_property
    def call_of_work(self) -> np.ndarray:
        """For each piece of device work, the call that launched it.

        By correlation id; where an id occurs again, the latest call that began before the work did.
        """
        calls, work = self.trace.calls, self.trace.work
        found = np.full(len(work), -1)
        usable: np.ndarray = np.flatnonzero(calls.correlation >= 0)
        if not len(usable) or not len(work):
            return found
        order: np.ndarray = usable[np.lexsort((calls.ts[usable], calls.correlation[usable]))]
        keys, starts = calls.correlation[order], calls.ts[order]
        low: Any = np.searchsorted(keys, work.correlation, side="left")
        high: Any = np.searchsorted(keys, work.correlation, side="right")
        matched: np.ndarray = np.flatnonzero((high > low) & (work.correlation >= 0))
        pick: np.ndarray = low[matched]
        for index in np.flatnonzero(high[matched] - low[matched] > 1).tolist():
            row = matched[index]
            group = starts[low[row] : high[row]]
            pick[index] += max(0, int(np.searchsorted(group, work.ts[row], side="right")) - 1)
        found[matched] = order[pick]
        return found

    @cached_property
    def linked_share(self) -> float:
        """Share of device work whose launch is known, 0..1."""
        found = self.call_of_work
        return float((found >= 0).mean()) if len(found) else 0.0

    @cached_property
    def op_nest(self) -> Nest:
        return Nest(self.trace.ops.ts, self.trace.ops.dur, self.trace.ops.track)

    @cached_property
    def frame_nest(self) -> Nest:
        return Nest(self.trace.frames.ts, self.trace.frames.dur, self.trace.frames.track)

    @cached_property
    def annotation_nest(self) -> Nest:
        spans = self.trace.annotations
        return Nest(spans.ts, spans.dur, spans.track)

    @cached_property
    def op_of_call(self) -> np.ndarray:
        """For each call, the innermost op that was running on its thread.

        Where a call takes no time by the trace's clock, as the kernels of a simulated CUDA graph, so does its
        op, and others at the same moment: then the one that has its External id.
        """
        calls, ops = self.trace.calls, self.trace.ops
        found = self.op_nest.at(calls.ts, calls.track)
        instant = np.flatnonzero((calls.dur <= 0.0) & (calls.external >= 0))
        if len(instant) and len(ops):
            by_id = {external: row for row, external in enumerate(ops.external.tolist())}
            for call in instant.tolist():
                op = by_id.get(int(calls.external[call]), -1)
                if op >= 0 and ops.ts[op] == calls.ts[call] and ops.track[op] == calls.track[call]:
                    found[call] = op
        return found

    @cached_property
    def op_of_work(self) -> np.ndarray:
        """For each piece of device work, the op that launched it: by its call, else by External id."""
        calls = self.call_of_work
        found = np.full(len(calls), -1)
        has = calls >= 0
        found[has] = self.op_of_call[calls[has]]
        lost = np.flatnonzero((found < 0) & (self.trace.work.external >= 0))
        if len(lost) and len(self.trace.ops):
            by_id = {external: row for row, external in enumerate(self.trace.ops.external.tolist())}
            # Older Kineto writes the correlation id as External id of device work: that names no op.
            own = self.trace.work.external[lost] != self.trace.work.correlation[lost]
            for row in lost[own].tolist():
                found[row] = by_id.get(int(self.trace.work.external[row]), -1)
        return found

    @cached_property
    def _module_paths(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """(paths; for each frame, its innermost nn.Module frame; for each frame, the path's index)."""
        trace = self.trace
        is_module_name = np.array([name.startswith(_MODULE_FRAME) for name in trace.names], dtype=bool)
        wanted = is_module_name[trace.frames.name] if len(trace.frames) else np.empty(0, bool)
        nearest = self.frame_nest.nearest(wanted)
        parent = self.frame_nest.parent
        rows = np.flatnonzero(wanted)
        above = np.where(parent[rows] >= 0, nearest[np.maximum(parent[rows], 0)], -1)
        paths: dict[str, int] = {"": 0}
        place: np.ndarray = np.zeros(len(trace.frames), dtype=np.int64)
        texts = [""]
        # Rows are sorted by start, so a module comes before what it calls.
        for row, up in zip(rows.tolist(), above.tolist(), strict=True):
            name = trace.names[int(trace.frames.name[row])][len(_MODULE_FRAME) :]
            path = f"{texts[place[up]]}.{name}" if up >= 0 and place[up] else name
            place[row] = paths.setdefault(path, len(paths))
            if place[row] == len(texts):
                texts.append(path)
        return texts, nearest, place

    @cached_property
    def modules(self) -> tuple[list[str], np.ndarray]:
        """(module paths, first the empty one; for each call, the index of the module that was running)."""
        return self.modules_of(self.trace.calls)

    def modules_of(self, calls: Spans) -> tuple[list[str], np.ndarray]:
        """As `modules`, for any spans of the CPU."""
        texts = [""]
        index: np.ndarray = np.zeros(len(calls), dtype=np.int64)
        if len(self.trace.frames):
            texts, nearest, place = self._module_paths
            frame = self.frame_nest.at(calls.ts, calls.track)
            module = np.where(frame >= 0, nearest[np.maximum(frame, 0)], -1)
            index = np.where(module >= 0, place[np.maximum(module, 0)], 0)
        named = [
            name.removeprefix(MODULE_PREFIX) if name.startswith(MODULE_PREFIX) else None
            for name in self.trace.names
        ]
        if any(named) and len(calls) and len(self.trace.annotations):
            texts = list(texts)
            known = {text: at for at, text in enumerate(texts)}
            wanted = np.array([name is not None for name in named])[self.trace.annotations.name]
            inside = self.annotation_nest.at(calls.ts, calls.track)
            nearest = self.annotation_nest.nearest(wanted)
            rows = np.where(inside >= 0, nearest[np.maximum(inside, 0)], -1)
            index = index.copy()
            for call in np.flatnonzero(rows >= 0).tolist():
                text = named[int(self.trace.annotations.name[rows[call]])] or ""
                if text not in known:
                    known[text] = len(texts)
                    texts.append(text)
                index[call] = known[text]
        return texts, index
