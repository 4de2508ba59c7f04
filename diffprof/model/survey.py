"""One pipeline of a survey as a row, and what differs between two surveys."""

from __future__ import annotations

import msgspec


class SurveyLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line where the host waits in the loop, a graph breaks or is compiled again. what: wait, break or
    recompile. code: the line's text: line numbers move between releases. count: in a step for waits."""

    what: str
    file: str
    line: int
    code: str
    kind: str
    count: float


class SurveyRow(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline on the simulated GPU. None: not measured.

    key: of target and versions. waits: of the whole call; in_loop: in a step. grows_bytes: memory that the
    last step ends with beyond the second. host_us: time of the call in which the device has nothing to do
    while the host works: Python and launches.
    """

    key: str
    target: str
    pipeline: str = ""
    waits: int | None = None
    in_loop: float | None = None
    breaks: int | None = None
    recompiles: int | None = None
    grows_bytes: int | None = None
    host_us: float | None = None
    lines: tuple[SurveyLine, ...] = ()
    status: str = "ok"
    reason: str = ""
    took_s: float | None = None
    diffprof: str = ""
    torch: str = ""
    diffusers: str = ""


class SurveyChange(msgspec.Struct, frozen=True, kw_only=True):
    """What is not as it was. before, after: the line's count; None where it is not there. where: the line as
    it is, or was."""

    target: str
    what: str
    where: str
    code: str
    before: float | None
    after: float | None
