"""Linears by shape: which quantization was timed, how fast it is, and what the choice is."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.widgets import Static

from diffprof.model.recording import LinearRow, Quantization, Recording, SchemeTiming
from diffprof.model.units import NOT_MEASURED, milliseconds, number, plural
from diffprof.views.quantization import summary
from diffprof.views.tui.article import Article
from diffprof.views.tui.finding_list import SHORT_GRADE
from diffprof.views.tui.styles import Span, Writing, bar, styled
from diffprof.views.tui.table import TableColumn, TableView

_BAR = 24
_CELL_BAR = 10
_MOST_MODULES = 40
_SAME = 0.01
"""A speed-up that differs less from 1 is none."""


def deciding(row: LinearRow, choice: Quantization | None) -> SchemeTiming | None:
    """The timing of the best scheme, in the mode that decides."""
    return row.timing(row.scheme, choice.mode) if choice else None


def linear_columns(choice: Quantization | None) -> tuple[TableColumn[LinearRow], ...]:
    def speedup(row: LinearRow) -> float | None:
        timing = deciding(row, choice)
        return timing.speedup if timing else None

    def speed_bar(row: LinearRow) -> list[Span]:
        """Twice as fast fills it."""
        fast = speedup(row)
        if fast is None:
            return [("muted", "")]
        return [(_style(fast), bar(fast / 2.0, _CELL_BAR))]

    def grade(row: LinearRow) -> list[Span]:
        timing = deciding(row, choice)
        return [("muted", SHORT_GRADE[timing.grade] if timing else "–")]

    return (
        TableColumn("rows", lambda r: f"{r.m:,}", 7, right=True, value=lambda r: r.m),
        TableColumn("in", lambda r: f"{r.in_features:,}", 6, right=True, value=lambda r: r.in_features),
        TableColumn("out", lambda r: f"{r.out_features:,}", 6, right=True, value=lambda r: r.out_features),
        TableColumn("kind", lambda r: [("muted", r.kind)], 7, value=lambda r: r.kind, drop=5),
        TableColumn("dtype", lambda r: [("muted", r.dtype)], 8, value=lambda r: r.dtype, drop=6),
        TableColumn("calls", lambda r: f"{r.count:,}", 6, right=True, value=lambda r: r.count, drop=4),
        TableColumn("share", lambda r: _share(r.share), 6, right=True, value=lambda r: r.share),
        TableColumn(
            "best", lambda r: r.quantized or r.scheme or NOT_MEASURED, 14, grow=True, value=lambda r: r.scheme
        ),
        TableColumn("speed", lambda r: _times(speedup(r)), 6, right=True, value=speedup),
        TableColumn("", speed_bar, _CELL_BAR, drop=2),
        TableColumn("grade", grade, 5, drop=1),
        TableColumn("choice", _choice, 9, value=lambda r: str(r.worth_it)),
    )


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _style(speedup: float | None) -> str:
    if speedup is None or abs(speedup - 1.0) < _SAME:
        return "muted"
    return "good" if speedup > 1.0 else "bad"


def _times(speedup: float | None) -> str:
    return "" if speedup is None else f"{speedup:.2f}x"


def _choice(row: LinearRow) -> list[Span]:
    if row.worth_it is None:
        return [("muted", "not timed" if row.timings is None else "–")]
    return [("good", "quantize")] if row.worth_it else [("muted", "leave")]


class QuantizationPane(Container):
    """The tab of the linears of a recording that has them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "code", "Code"),
        Binding("escape", "back", "Back", show=False),
    ]

    def __init__(self, recording: Recording, linears: tuple[LinearRow, ...]) -> None:
        super().__init__()
        self.recording = recording
        self.linears = linears

    def compose(self) -> ComposeResult:
        yield Static(styled(*_title(self.recording.quantization)), classes="title", markup=False)
        with Vertical(id="linears"):
            yield TableView[LinearRow](
                linear_columns(self.recording.quantization), self.linears, empty="The call has no linear."
            )
            yield Article()

    def on_mount(self) -> None:
        table = self.query_one(TableView)
        table.focus()
        self._write(table.row)

    @on(TableView.Moved)
    def _moved(self, event: TableView.Moved) -> None:
        event.stop()
        if isinstance(event, TableView.Chosen):
            self.query_one(Article).focus()
        else:
            self._write(event.row)

    def _write(self, row: LinearRow | None) -> None:
        page = Writing()
        if row is not None:
            linear_page(page, row, self.recording.quantization)
        page.heading("The choice")
        for sentence in summary(self.recording):
            page.flow(sentence)
        self.query_one(Article).show(page)

    def action_code(self) -> None:
        """The source that makes the choice."""
        choice = self.recording.quantization
        page = Writing()
        if choice is None or choice.script is None:
            page.flow("No linear is worth quantizing here.")
        else:
            page.heading("The choice as code, for a pipeline called pipe")
            page.code(choice.script)
        article = self.query_one(Article)
        article.show(page)
        article.focus()

    def action_back(self) -> None:
        table = self.query_one(TableView)
        table.focus()
        self._write(table.row)


def _title(choice: Quantization | None) -> list[Span]:
    if choice is None:
        return [("muted", "the choice was not made")]
    of = f" of {milliseconds(choice.call_ms)}" if choice.call_ms else ""
    return [
        ("", "the choice saves "),
        ("good" if choice.saves_ms > 0 else "strong", milliseconds(choice.saves_ms)),
        ("muted", f"{of} per call ({choice.mode}, {choice.grade})"),
    ]


def linear_page(page: Writing, row: LinearRow, choice: Quantization | None) -> None:
    """Bars of every scheme beside the original, and the layers of the shape."""
    kind = "1x1 convolution" if row.kind == "conv1x1" else "linear"
    page.flow(
        ("strong", f"{kind} {row.in_features:,} → {row.out_features:,}"),
        f" on {row.m:,} rows of {row.dtype}{', with bias' if row.bias else ''}",
    )
    page.flow(row.why)
    if row.adapter:
        page.flow(("muted", "Part of a LoRA adapter."))
    if row.timings is None:
        page.fact("timings", NOT_MEASURED)
    timings = [t for t in row.timings or () if t.why_not is None]
    longest = max((us for t in timings for us in (t.original_us, t.median_us) if us), default=0.0)
    for mode in dict.fromkeys(t.mode for t in timings):
        page.heading(f"{mode}, us a call")
        shown_original = False
        for timing in (t for t in timings if t.mode == mode):
            if not shown_original:
                _bar(page, "original", timing.original_us, longest, "muted", "")
                shown_original = True
            _scheme(page, timing, longest, chosen=timing.scheme == row.scheme)
    refused = {t.scheme: t.why_not for t in row.timings or () if t.why_not}
    if refused:
        page.heading("Not available")
        for scheme, why in refused.items():
            page.flow(f"{scheme}: {why}", indent=2)
    page.heading(plural(len(row.modules), "layer"))
    for module in row.modules[:_MOST_MODULES]:
        ratio = row.sqnr_db.get(module)
        page.kept(module, ("muted", "" if ratio is None else f"  {ratio:.0f} dB"), indent=2)
    if len(row.modules) > _MOST_MODULES:
        page.flow(("muted", f"and {len(row.modules) - _MOST_MODULES:,} more"), indent=2)


def _scheme(page: Writing, timing: SchemeTiming, longest: float, *, chosen: bool) -> None:
    notes = [_times(timing.speedup), str(timing.grade)]
    if timing.spread_us is not None:
        notes.append(f"± {number(timing.spread_us)}")
    if timing.sqnr_db is not None:
        notes.append(f"{timing.sqnr_db:.0f} dB")
    if timing.cached:
        notes.append("timed earlier")
    name = f"{'▶ ' if chosen else ''}{timing.scheme}"
    _bar(page, name, timing.median_us, longest, _style(timing.speedup), ", ".join(filter(None, notes)))


def _bar(page: Writing, name: str, us: float | None, longest: float, style: str, note: str) -> None:
    share = us / longest if us is not None and longest else 0.0
    figure = NOT_MEASURED if us is None else f"{us:,.1f}"
    page.kept(f"{name:<22} {figure:>10} ", (style, bar(share, _BAR)), ("muted", f" {note}"), indent=2)
