"""From the Python frames in a trace to the line that a person would edit."""

from __future__ import annotations

import functools
import re
import sys

from diffprof.chrome_trace.links import Links
from diffprof.model.recording import Frame, Site

CHAIN_LIMIT = 40
"""Frames kept above a site."""

_FRAME = re.compile(r"^(?P<file>.+)\((?P<line>\d+)\): (?P<function>.*)$")
_MACHINERY = frozenset(
    {"torch", "diffprof", "accelerate", "numpy", "functorch", "tqdm", "torchvision", "triton"}
)
_PROFILER = ("torch/profiler/", "torch/autograd/profiler.py")
_PACKAGES = re.compile(r"^.*/(?:site|dist)-packages/")


@functools.lru_cache(maxsize=65536)
def parse_frame(name: str) -> Frame | None:
    """`diffusers/schedulers/x.py(12): step` as a frame; None for anything else, such as `nn.Module: ...`."""
    found = _FRAME.match(name)
    if not found:
        return None
    file = _PACKAGES.sub("", found["file"])
    return Frame(file=file, line=int(found["line"]), function=found["function"])


def is_machinery(file: str) -> bool:
    """Whether a person would look past this file for the cause of a wait."""
    top = file.split("/", 1)[0].removesuffix(".py")
    if file.startswith("<"):
        return True
    if "/" in file and top in _MACHINERY:
        return True
    return top in sys.stdlib_module_names


def frames_at(links: Links, call: int) -> tuple[Frame, ...]:
    """The Python frames around a runtime call, innermost first; empty if the trace has none."""
    trace = links.trace
    ts, track = trace.calls.ts[call : call + 1], trace.calls.track[call : call + 1]
    frames: list[Frame] = []
    if len(trace.frames):
        row = int(links.frame_nest.at(ts, track)[0])
        for each in links.frame_nest.chain(row):
            frame = parse_frame(trace.name(trace.frames, each))
            if frame is not None:
                frames.append(frame)
    if frames:
        return tuple(frames)
    for op in links.op_nest.chain(int(links.op_of_call[call])):
        stack = trace.details[int(trace.ops.detail[op])].stack
        if stack:
            parsed = (parse_frame(part.strip()) for part in stack.split(";"))
            return tuple(frame for frame in parsed if frame is not None)
    return ()


def from_profiler(frames: tuple[Frame, ...]) -> bool:
    """Whether the profiler itself made the call, as it does when it stops."""
    return any(frame.file.startswith(_PROFILER) for frame in frames[:6])


def site_of(frames: tuple[Frame, ...], *, instead: str, module: str | None) -> Site:
    """The innermost frame that is neither PyTorch's nor the standard library's.

    instead: what stands for the place when there are no frames (the op or call), with line 0.
    """
    index = next((i for i, frame in enumerate(frames) if not is_machinery(frame.file)), None)
    if index is None:
        if not frames:
            return Site(file=instead, line=0, function="", module=module)
        index = 0
    frame = frames[index]
    return Site(
        file=frame.file,
        line=frame.line,
        function=frame.function,
        module=module,
        user_code=frame.file.startswith(("/", "./")) or "/" not in frame.file,
        chain=frames[index + 1 : index + 1 + CHAIN_LIMIT],
    )
