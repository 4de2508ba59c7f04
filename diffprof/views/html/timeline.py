"""The timeline as inline SVG: phases, host and device, and every wait of the host as a mark."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from diffprof.judge.timeline import replay
from diffprof.model.recording import Recording
from diffprof.model.units import duration
from diffprof.views.html.text import text
from diffprof.views.lanes import (
    FULL,
    IDLE,
    WAITS,
    Band,
    LaneColumns,
    WaitMark,
    one_step,
    said,
    ticks,
    whole_call,
)
from diffprof.views.palette import NAMES, colour_of

COLUMNS = 1000
"""Of the picture; what is shorter than a column is summed up in it."""

_LEFT, _HEIGHT = 60, 148
_PHASE, _HOST, _DEVICE = (6, 20), (36, 34), (84, 34)
"""(top, height) of each lane."""


def timeline_figures(recording: Recording, anchors: Mapping[int, str]) -> Iterator[str]:
    """Figures of the call and of one step; nothing where no timeline was recorded.

    anchors: sync row -> the id of the finding that rests on it.
    """
    timeline = recording.timeline
    if timeline is None or not timeline.host_us:
        return
    run = replay(timeline)
    whole = "The trace" if recording.target.kind == "trace" else "One call"
    shown: list[tuple[str, LaneColumns]] = [(whole, whole_call(timeline, run, COLUMNS))]
    step = one_step(timeline, run, COLUMNS)
    if step is not None:
        shown.append((f"Denoising step {step[0] + 1}", step[1]))
    for title, lanes in shown:
        length = duration((lanes.end_us - lanes.start_us) / 1e3)
        yield f"<figure>\n<figcaption>{title}, {text(length)} ({timeline.grade})</figcaption>\n"
        yield from _drawn(title, lanes, recording, anchors)
        yield "</figure>\n"
    yield from _legend([lanes for _, lanes in shown])


def _drawn(title: str, lanes: LaneColumns, recording: Recording, anchors: Mapping[int, str]) -> Iterator[str]:
    scale = COLUMNS / (lanes.end_us - lanes.start_us)

    def x(us: float) -> float:
        return round(_LEFT + (us - lanes.start_us) * scale, 1)

    yield f'<svg viewBox="0 0 {_LEFT + COLUMNS + 10} {_HEIGHT}" role="img" aria-label="{title}">\n'
    for name, (top, height) in (("phase", _PHASE), ("host", _HOST), ("device", _DEVICE)):
        yield f'<text class="dim" x="0" y="{top + height / 2 + 4:g}">{name}</text>\n'
    for band in lanes.phases:
        yield from _phase(band, x(band.start_us), x(band.end_us))
    for bands, (top, height) in ((lanes.host, _HOST), (lanes.device, _DEVICE)):
        yield from _lane(bands, [(x(band.start_us), x(band.end_us)) for band in bands], top, height)
    for mark in lanes.marks:
        yield from _mark(mark, x(mark.at_us), recording, anchors)
    for at in ticks(lanes.end_us - lanes.start_us):
        left = x(lanes.start_us + at)
        anchor = "middle" if at else "start"
        yield f'<line class="tick" x1="{left}" x2="{left}" y1="118" y2="124"/>'
        yield f'<text class="dim" x="{left}" y="138" text-anchor="{anchor}">{at / 1e3:,.10g} ms</text>\n'
    yield "</svg>\n"


def _phase(band: Band, left: float, right: float) -> Iterator[str]:
    top, height = _PHASE
    wide = max(right - left, 0.5)
    yield f'<g><title>{text(band.what)}</title><rect class="phase" x="{left}" y="{top}" '
    yield f'width="{wide:.1f}" height="{height}"/>'
    # 6.2: a character's width at 11 px, on average.
    if len(band.what) * 6.2 < wide - 8:
        yield f'<text x="{left + 5}" y="{top + 14}">{text(band.what)}</text>'
    yield "</g>\n"


def _lane(
    bands: Sequence[Band], places: Sequence[tuple[float, float]], top: int, height: int
) -> Iterator[str]:
    """One path for everything of a colour: a tenth of the size of a shape for each band."""
    paths: dict[str, list[str]] = defaultdict(list)
    for band, (left, right) in zip(bands, places, strict=True):
        paths[band.what].append(f"M{left:g} {top}h{max(right - left, 0.3):.3g}v{height}h-{right - left:.3g}z")
    for what, parts in paths.items():
        name = text(NAMES.get(what, what))
        yield f'<path{_fill(what)} d="{"".join(parts)}"><title>{name}</title></path>\n'


def _fill(what: str) -> str:
    """What does no work has its colour by the theme, so that it is never what the eye meets first."""
    return ' class="quiet"' if what in (IDLE, FULL) else f' fill="{colour_of(what)}"'


def _mark(mark: WaitMark, at: float, recording: Recording, anchors: Mapping[int, str]) -> Iterator[str]:
    """A triangle between the lanes, which leads to the finding."""
    shape = f'<path fill="{colour_of(WAITS)}" d="M{at:g} 82l-4.5 -8h9z"/>'
    title = f"<title>{text(said(mark, recording.syncs or ()))}</title>"
    target = anchors.get(mark.row) if mark.row is not None else None
    yield f'<a href="#{target}">{title}{shape}</a>\n' if target else f"<g>{title}{shape}</g>\n"


def _legend(shown: Sequence[LaneColumns]) -> Iterator[str]:
    whats = dict.fromkeys(band.what for lanes in shown for band in (*lanes.host, *lanes.device))
    yield '<div class="legend">\n'
    for what in whats:
        square = f'<svg viewBox="0 0 10 10"><rect{_fill(what)} width="10" height="10"/></svg>'
        yield f"<span>{square}{text(NAMES.get(what, what))}</span>\n"
    yield "<span>▼ a wait of the host begins; leads to its finding</span>\n</div>\n"
