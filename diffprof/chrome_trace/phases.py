"""Which part of the pipeline's call a moment belongs to, told from annotations or from Python frames."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from diffprof.chrome_trace.events import CallPart, Trace, parse_phase, profiler_step
from diffprof.chrome_trace.links import Links
from diffprof.chrome_trace.nesting import Nest

Span = tuple[float, float, CallPart]
"""(start, end, phase), microseconds."""

LOOP = "denoise"

_ROLES = (
    ("encode", re.compile(r"^(?:encode_prompt|text_encod\w*|vae_encode|encode_image)$")),
    ("decode", re.compile(r"^(?:vae_decode|decode_latents|decode)$")),
    ("scheduler", re.compile(r"^(?:scheduler_step|scheduler\.step)$")),
    ("denoiser", re.compile(r"^(?:transformer|unet|denoiser|controlnet|prior)(?:_2|_forward|\.forward)*$")),
    ("call", re.compile(r"^(?:pipeline_call|pipeline)$")),
)
"""Labels as the profiling guide of diffusers gives them (examples/profiling), and near relatives."""

_PIPELINE = re.compile(r"(?:^|/)(?:pipeline_\w+|pipelines/.+)\.py\(\d+\): __call__$")
_SCHEDULER_STEP = re.compile(r"(?:^|/)(?:schedulers/|scheduling_)\w+\.py\(\d+\): step(?:_pred|_correct)?$")
_FUNCTIONS = (
    ("encode", re.compile(r"\): (?:encode_prompt|_encode_prompt|encode_image|_get_\w*prompt_embeds)$")),
    ("decode", re.compile(r"(?:^|/)autoencoders?/\w+\.py\(\d+\): decode$|\): decode_latents$")),
    ("postprocess", re.compile(r"\): (?:postprocess|postprocess_video)$")),
)


@dataclass
class Phases:
    """Nested phases of the call, and where they were told from. times: microseconds."""

    spans: list[Span]
    source: str | None
    """annotations, frames, labels, or None when nothing tells phases."""

    def __post_init__(self) -> None:
        self.spans.sort(key=lambda span: (span[0], -span[1]))
        starts = np.array([span[0] for span in self.spans])
        lengths = np.array([span[1] - span[0] for span in self.spans])
        self._nest = Nest(starts, lengths, np.zeros(len(self.spans), np.int8))

    def at(self, ts: np.ndarray) -> np.ndarray:
        """For each moment the index into `spans` of the innermost phase, or -1."""
        return self._nest.at(ts, np.zeros(len(ts), np.int8))

    def phase(self, index: int) -> CallPart | None:
        """The phase, with the step of its surroundings where it has none itself."""
        return self.spans[index][2] if index >= 0 else None

    @property
    def window(self) -> tuple[float, float] | None:
        """From the first phase's start to the last one's end."""
        if not self.spans:
            return None
        return self.spans[0][0], max(span[1] for span in self.spans)

    @property
    def steps(self) -> int:
        """Denoising steps of one call."""
        return len({span[2].step for span in self.spans if span[2].name == LOOP and span[2].step is not None})

    @cached_property
    def step_spans(self) -> list[tuple[float, float]]:
        """Start and end of each denoising step, over all calls in the trace."""
        found: list[tuple[float, float]] = []
        current: int | None = None
        for start, end, phase in self.spans:
            if phase.name != LOOP or phase.step is None:
                continue
            if phase.step == current:
                found[-1] = (found[-1][0], max(found[-1][1], end))
            else:
                found.append((start, end))
                current = phase.step
        return found

    def step_at(self, ts: float) -> int:
        """How many steps had begun before, not counting the one at ts; -1 before the first."""
        return bisect_right(self.step_spans, (ts, float("inf"))) - 1


def find_phases(trace: Trace, links: Links) -> Phases:
    """diffprof's own annotations, else the pipeline's frames, else known labels, else plain annotations."""
    for source, spans in (
        ("annotations", _own(trace)),
        ("frames", _from_frames(trace, links)),
        ("labels", _from_labels(trace)),
        ("labels", _plain(trace, links)),
    ):
        if spans:
            return Phases(spans, source)
    return Phases([], None)


def _own(trace: Trace) -> list[Span]:
    parsed = [parse_phase(name) for name in trace.names]
    spans = []
    for row, name in enumerate(trace.annotations.name.tolist()):
        phase = parsed[name]
        if phase is not None:
            start = float(trace.annotations.ts[row])
            spans.append((start, start + float(trace.annotations.dur[row]), phase))
    return list(_without_tails(sorted(spans, key=lambda span: span[:2])))


def _without_tails(spans: list[Span]) -> Iterator[Span]:
    """After its last scheduler step a loop goes on for a moment, under the number of a step that does not
    come, or that another loop begins with: that is no step of its own. spans: in the order of time."""
    if not any(phase.part for _, _, phase in spans):
        yield from spans
        return
    begun: set[int | None] = set()
    following = [phase.step for _, _, phase in spans[1:]]
    for (start, end, phase), after in zip(spans, [*following, None], strict=True):
        if phase.part is not None:
            begun.add(phase.step)
        goes_on = phase.step in begun or phase.step == after
        yield start, end, phase if goes_on else phase._replace(step=None)


def _plain(trace: Trace, links: Links) -> list[Span]:
    """The outermost annotations; `ProfilerStep#N` gives those inside it their step."""
    spans = []
    steps = [profiler_step(name) for name in trace.names]
    parent = links.annotation_nest.parent
    names = trace.annotations.name.tolist()
    for row, name in enumerate(names):
        above = int(parent[row])
        if above >= 0 and steps[names[above]] is None:
            continue
        start = float(trace.annotations.ts[row])
        step = steps[name]
        phase = (
            CallPart("step", step)
            if step is not None
            else CallPart(trace.names[name], steps[names[above]] if above >= 0 else None)
        )
        spans.append((start, start + float(trace.annotations.dur[row]), phase))
    return spans


def _from_labels(trace: Trace) -> list[Span]:
    roles: dict[str, list[tuple[float, float]]] = {}
    of_name: list[str | None] = [
        next((role for role, pattern in _ROLES if pattern.match(name)), None) for name in trace.names
    ]
    for row, name in enumerate(trace.annotations.name.tolist()):
        role = of_name[name]
        if role:
            start = float(trace.annotations.ts[row])
            roles.setdefault(role, []).append((start, start + float(trace.annotations.dur[row])))
    if not roles.get("scheduler"):
        return []
    return _assemble(roles)


def _from_frames(trace: Trace, links: Links) -> list[Span]:
    """The pipeline's `__call__`, the functions it calls, and the modules between its scheduler's steps."""
    if not len(trace.frames):
        return []
    names = trace.frames.name
    is_pipeline = np.array([bool(_PIPELINE.search(n)) for n in trace.names])[names]
    is_step = np.array([bool(_SCHEDULER_STEP.search(n)) for n in trace.names])[names]
    nest = links.frame_nest
    owner = nest.nearest(is_pipeline)
    steps = np.flatnonzero(is_step & (owner >= 0))
    if not len(steps):
        return []
    # A step inside a step (Heun, a wrapper) is the same step.
    above = nest.parent[steps]
    outer = nest.nearest(is_step)
    steps = steps[(above < 0) | (outer[np.maximum(above, 0)] < 0)]
    matches = [(role, np.array([bool(p.search(n)) for n in trace.names])[names]) for role, p in _FUNCTIONS]
    is_module = np.array([n.startswith("nn.Module: ") for n in trace.names])[names]
    module_above = nest.nearest(is_module)
    parent = nest.parent
    spans: list[Span] = []
    for call in np.unique(owner[steps]).tolist():
        inside = np.flatnonzero((owner == call) & (np.arange(len(owner)) != call))
        mine = steps[owner[steps] == call]
        tops = inside[is_module[inside]]
        tops = tops[(parent[tops] < 0) | (module_above[np.maximum(parent[tops], 0)] < 0)]
        roles = {role: _times(trace, inside[match[inside]]) for role, match in matches}
        roles["call"] = _times(trace, np.array([call]))
        roles["scheduler"] = _times(trace, mine)
        roles["denoiser"] = _denoisers(trace, tops, mine)
        spans += _assemble(roles)
    return spans


def _times(trace: Trace, rows: np.ndarray) -> list[tuple[float, float]]:
    return list(zip(trace.frames.ts[rows].tolist(), trace.frames.end[rows].tolist(), strict=True))


def _denoisers(trace: Trace, tops: np.ndarray, steps: np.ndarray) -> list[tuple[float, float]]:
    """The modules called right before a scheduler step: by name, those that run between steps.

    With one step only, the last module before it.
    """
    start = trace.frames.ts
    first, last = float(start[steps[0]]), float(start[steps[-1]])
    between = tops[(start[tops] >= first) & (start[tops] < last)]
    if not len(between):
        before = tops[start[tops] < first]
        between = before[-1:]
    names = set(trace.frames.name[between].tolist())
    rows = tops[np.isin(trace.frames.name[tops], list(names)) & (start[tops] < last)]
    return _times(trace, rows)


def _assemble(roles: dict[str, list[tuple[float, float]]]) -> list[Span]:
    """Phases from the spans of their parts: the loop begins with the first denoiser call and each step
    ends with its scheduler's."""
    steps = sorted(roles.get("scheduler", []))
    denoisers = sorted(roles.get("denoiser", []))
    begin = denoisers[0][0] if denoisers and denoisers[0][0] < steps[0][0] else steps[0][0]
    spans: list[Span] = []
    at = begin
    for number, (start, end) in enumerate(steps):
        spans.append((at, end, CallPart(LOOP, number)))
        spans.append((start, end, CallPart(LOOP, number, "scheduler")))
        spans += [(s, e, CallPart(LOOP, number, "denoiser")) for s, e in denoisers if at <= s < end]
        at = end
    outside = [
        (s, e, CallPart(role))
        for role in ("encode", "decode", "postprocess")
        for s, e in roles.get(role, [])
        if e <= begin or s >= at
    ]
    calls = [span for span in roles.get("call", []) if span[0] <= begin and span[1] >= at]
    if calls:
        # What no part claims: before the loop it prepares, after it it is the decode's surroundings.
        low, high = calls[0]
        spans.append((low, begin, CallPart("prepare")))
        spans.append(
            (at, high, CallPart("postprocess" if any(o[2].name == "decode" for o in outside) else "decode"))
        )
    return spans + outside
