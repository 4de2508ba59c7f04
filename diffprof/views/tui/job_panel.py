"""A job as it runs: its stages with their times, a bar for the current one, what it says."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.geometry import Region
from textual.message import Message
from textual.widgets import Static

from diffprof.views.tui.job import Ended, Job
from diffprof.views.tui.styles import Writing, bar, laid_out

_BAR = 24
_MOST_STAGES = 12
_MOST_WITHIN = 4
"""Stages shown of the current part."""
_MOST_TALK = 4


@dataclass
class JobStage:
    """A piece of work, with the seconds at which it began and ended."""

    name: str
    total: int | None
    began: float
    done: int = 0
    detail: str = ""
    ended: float | None = None


class JobPanel(VerticalScroll, can_focus=False):
    """Runs a job and shows it; posts `Over` when it has ended."""

    class Over(Message):
        def __init__(self, job: Job, ended: Ended) -> None:
            super().__init__()
            self.job = job
            self.ended = ended

    def __init__(
        self, job: Job, *, parts: Mapping[str, str] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """parts: beginnings of the names of stages to which those after them belong, with what each is called
        while it is left."""
        super().__init__()
        self.job = job
        self.parts = dict(parts or {})
        self.clock = clock
        self.began = clock()
        self.stages: list[JobStage] = []
        self._shown_lines = (0, 0, 0)
        """That of the stage that runs, the last below it of its part and of what is left, and the height."""

    def compose(self) -> ComposeResult:
        yield Static(markup=False)

    def on_mount(self) -> None:
        self.set_interval(0.1, self._draw)
        self.run_worker(self._work(), exit_on_error=True)

    async def _work(self) -> None:
        ended = await self.job.run(self.tell)
        if self.stages and self.stages[-1].ended is None:
            self.stages[-1].ended = self.clock()
        self._draw()
        self.post_message(self.Over(self.job, ended))

    def on_unmount(self) -> None:
        self.job.stop()

    def tell(self, entry: dict | None) -> None:
        """A piece of progress; None: the job said something."""
        if entry is None:
            return
        if "stage" in entry:
            if self.stages:
                self.stages[-1].ended = self.clock()
            total = entry.get("total")
            self.stages.append(
                JobStage(str(entry["stage"]), total if isinstance(total, int) else None, self.clock())
            )
        elif "step" in entry and self.stages:
            amount = entry.get("amount", 1)
            self.stages[-1].done += amount if isinstance(amount, int) else 1
            self.stages[-1].detail = str(entry["step"])

    def _draw(self) -> None:
        columns = max(self.size.width - 2, 20)
        lines = laid_out(self.page().blocks, columns)
        self.query_one(Static).update(Content("\n").join(lines))
        running = max((n for n, line in enumerate(lines) if line.plain.lstrip().startswith("▶")), default=0)
        below = len(self._said()) + 1 if self._said() else 0
        last = max(running, len(lines) - 1 - below)
        where = running, last, self.size.height
        if where != self._shown_lines:
            self._shown_lines = where
            region = Region(0, running, 1, last - running + 1)
            self.call_after_refresh(self.scroll_to_region, region, animate=False)

    def page(self) -> Writing:
        page = Writing()
        state = " stopping…" if self.job.stopping else ""
        page.flow(
            ("strong", self.job.title),
            ("muted", f"  {self.clock() - self.began:,.1f} s"),
            ("warn", state) if state else ("muted", "  Esc stops it" if self.parts else ""),
        )
        page.blank()
        heads = [n for n, stage in enumerate(self.stages) if stage.name.startswith(tuple(self.parts))]
        for n, after in zip(heads, [*heads[1:], None], strict=False):
            head = self.stages[n]
            self._stage(page, replace(head, ended=None if after is None else self.stages[after].began))
        within = self.stages[heads[-1] + 1 if heads else 0 :]
        most = _MOST_WITHIN if self.parts else _MOST_STAGES
        if len(within) > most and not heads:
            page.flow(("muted", f"  {len(within) - most:,} stages before"))
        for stage in within[-most:]:
            self._stage(page, stage, indent=2 if heads else 0)
        if left := self._left():
            page.flow(("muted", f"left: {', '.join(left)}"), indent=2)
        if said := self._said():
            page.blank()
            for line in said:
                page.kept(("muted", line), indent=2)
        return page

    def _said(self) -> list[str]:
        """The last lines of the job's stderr."""
        return self.job.talk[-_MOST_TALK:]

    def _left(self) -> list[str]:
        """Parts that have not begun."""
        begun = [stage.name for stage in self.stages]
        return [what for part, what in self.parts.items() if not any(n.startswith(part) for n in begun)]

    def _stage(self, page: Writing, stage: JobStage, *, indent: int = 0) -> None:
        seconds = f"{(stage.ended or self.clock()) - stage.began:>7,.1f} s  "
        if stage.ended is not None:
            page.kept(("good", "✓ "), ("muted", seconds), stage.name, indent=indent)
            return
        if stage.total:
            share = f" {stage.done:,}/{stage.total:,} "
            page.kept(
                ("accent", "▶ "),
                ("muted", seconds),
                f"{stage.name} ",
                ("place", bar(stage.done / stage.total, _BAR)),
                share,
                ("muted", stage.detail),
                indent=indent,
            )
        else:
            detail = f": {stage.detail}" if stage.detail else ""
            page.kept(("accent", "▶ "), ("muted", seconds), stage.name, ("muted", detail), indent=indent)
