"""A job as it runs: its stages with their times, a bar for the current one, what it says."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from textual.app import ComposeResult
from textual.containers import Container
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from diffprof.views.tui.ink import Writing, bar, laid_out
from diffprof.views.tui.job import Ended, Job

_BAR = 24
_MOST_STAGES = 12
_MOST_TALK = 4


@dataclass
class Stage:
    """A piece of work, with the seconds at which it began and ended."""

    name: str
    total: int | None
    began: float
    done: int = 0
    detail: str = ""
    ended: float | None = None


class JobPanel(Container):
    """Runs a job and shows it; posts `Over` when it has ended."""

    class Over(Message):
        def __init__(self, job: Job, ended: Ended) -> None:
            super().__init__()
            self.job = job
            self.ended = ended

    def __init__(self, job: Job, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.job = job
        self.clock = clock
        self.began = clock()
        self.stages: list[Stage] = []

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
                Stage(str(entry["stage"]), total if isinstance(total, int) else None, self.clock())
            )
        elif "step" in entry and self.stages:
            amount = entry.get("amount", 1)
            self.stages[-1].done += amount if isinstance(amount, int) else 1
            self.stages[-1].detail = str(entry["step"])

    def _draw(self) -> None:
        columns = max(self.size.width - 2, 20)
        lines = laid_out(self.page().blocks, columns)
        self.query_one(Static).update(Content("\n").join(lines))

    def page(self) -> Writing:
        page = Writing()
        state = " stopping…" if self.job.stopping else ""
        page.flow(
            ("strong", self.job.title), ("muted", f"  {self.clock() - self.began:,.1f} s"), ("warn", state)
        )
        page.blank()
        hidden = len(self.stages) - _MOST_STAGES
        if hidden > 0:
            page.flow(("muted", f"  {hidden:,} stages before"))
        for stage in self.stages[-_MOST_STAGES:]:
            self._stage(page, stage)
        if self.job.talk:
            page.blank()
            for line in self.job.talk[-_MOST_TALK:]:
                page.kept(("muted", line), indent=2)
        return page

    def _stage(self, page: Writing, stage: Stage) -> None:
        seconds = f"{(stage.ended or self.clock()) - stage.began:>7,.1f} s  "
        if stage.ended is not None:
            page.kept(("good", "✓ "), ("muted", seconds), stage.name)
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
            )
        else:
            detail = f": {stage.detail}" if stage.detail else ""
            page.kept(("accent", "▶ "), ("muted", seconds), stage.name, ("muted", detail))
