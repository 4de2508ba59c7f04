"""The timeline as inline SVG: phases, host and device, and every wait of the CPU as a mark."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from diffprof.judge.timeline import replay
from diffprof.model.recording import Recording
from diffprof.model.units import duration
from diffprof.views.html.templates import part
from diffprof.views.palette import NAMES, colour_of
from diffprof.views.timeline_bands import (
    FULL,
    IDLE,
    WAITS,
    Band,
    TimelineBands,
    one_step,
    said,
    ticks,
    whole_call,
)

COLUMNS = 1000
"""Of the picture; what is shorter than a column is summed up in it."""

_LEFT, _HEIGHT = 60, 148
_PHASE, _HOST, _DEVICE = (6, 20), (36, 34), (84, 34)
"""(top, height) of each track."""


def timeline_figures(recording: Recording, anchors: Mapping[int, str]) -> Markup:
    """Figures of the call and of one step; nothing where no timeline was recorded.

    anchors: sync row -> the id of the finding that rests on it.
    """
    timeline = recording.timeline
    if timeline is None or not timeline.host_us:
        return Markup()
    run = replay(timeline)
    whole = "The trace" if recording.target.kind == "trace" else "One call"
    shown: list[tuple[str, TimelineBands]] = [(whole, whole_call(timeline, run, COLUMNS))]
    step = one_step(timeline, run, COLUMNS)
    if step is not None:
        shown.append((f"Denoising step {step[0] + 1}", step[1]))
    pictures = [
        {
            "title": title,
            "length": duration((tracks.end_us - tracks.start_us) / 1e3),
            "grade": timeline.grade,
            **_picture(tracks, recording, anchors),
        }
        for title, tracks in shown
    ]
    whats = dict.fromkeys(band.what for _, tracks in shown for band in (*tracks.host, *tracks.device))
    return part("timeline", pictures, [(_fill(what), NAMES.get(what, what)) for what in whats])


def _picture(tracks: TimelineBands, recording: Recording, anchors: Mapping[int, str]) -> dict[str, object]:
    """What the macro `timeline` draws. Marks are triangles between tracks, which lead to their finding."""
    scale = COLUMNS / (tracks.end_us - tracks.start_us)

    def x(us: float) -> float:
        return round(_LEFT + (us - tracks.start_us) * scale, 1)

    rows = recording.syncs or ()
    track_of = (("phase", _PHASE), ("host", _HOST), ("device", _DEVICE))
    return {
        "wide": _LEFT + COLUMNS + 10,
        "high": _HEIGHT,
        "names": [(name, f"{top + height / 2 + 4:g}") for name, (top, height) in track_of],
        "phase": _PHASE,
        "phases": [_phase(band, x(band.start_us), x(band.end_us)) for band in tracks.phases],
        "paths": [
            path
            for bands, (top, height) in ((tracks.host, _HOST), (tracks.device, _DEVICE))
            for path in _track(bands, [(x(band.start_us), x(band.end_us)) for band in bands], top, height)
        ],
        "marks": [
            (
                colour_of(WAITS),
                f"{x(mark.at_us):g}",
                said(mark, rows),
                None if mark.row is None else anchors.get(mark.row),
            )
            for mark in tracks.marks
        ],
        "ticks": [
            (x(tracks.start_us + at), f"{at / 1e3:,.10g} ms") for at in ticks(tracks.end_us - tracks.start_us)
        ],
    }


def _phase(band: Band, left: float, right: float) -> tuple[str, float, str, bool]:
    """(name, left, width, whether there is room for the name)."""
    wide = max(right - left, 0.5)
    # 6.2: a character's width at 11 px, on average.
    return band.what, left, f"{wide:.1f}", len(band.what) * 6.2 < wide - 8


def _track(
    bands: Sequence[Band], places: Sequence[tuple[float, float]], top: int, height: int
) -> Iterator[tuple[str, str, str]]:
    """(colour, path, name) of everything of a colour: a tenth of the size of a shape for each band."""
    paths: dict[str, list[str]] = defaultdict(list)
    for band, (left, right) in zip(bands, places, strict=True):
        paths[band.what].append(f"M{left:g} {top}h{max(right - left, 0.3):.3g}v{height}h-{right - left:.3g}z")
    for what, parts in paths.items():
        yield _fill(what), "".join(parts), NAMES.get(what, what)


def _fill(what: str) -> str:
    """Its colour; none for what does no work."""
    return "" if what in (IDLE, FULL) else colour_of(what)
