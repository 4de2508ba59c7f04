"""The plan of fixes: boxes to check, what they would buy together, and applying them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.message import Message
from textual.widgets import Static

from diffprof.judge.consent import doubts, what_is_run
from diffprof.judge.plan import predicted_ms
from diffprof.model import units
from diffprof.model.errors import DiffprofError, ExitCode
from diffprof.model.fix import Outcome, Plan, PlanStep, Safety, Status
from diffprof.model.recording import Grade
from diffprof.model.report import Report, load_report
from diffprof.views import tuning
from diffprof.views.tui.article import Article
from diffprof.views.tui.comparison_page import comparison_of
from diffprof.views.tui.finding_page import source_of
from diffprof.views.tui.job import Ended, Job, can_run
from diffprof.views.tui.job_panel import JobPanel
from diffprof.views.tui.styles import Span, Writing, bar, styled
from diffprof.views.tui.table import TableColumn, TableView

_BAR = 10
_STATUS = {
    Status.KEPT: "good",
    Status.KEPT_UNCHECKED: "warn",
    Status.UNCHECKED: "warn",
    Status.UNDONE: "warn",
    Status.FAILED: "bad",
    Status.INTERRUPTED: "bad",
    Status.SKIPPED: "muted",
    Status.ADVICE: "muted",
}
_SAFETY = {Safety.EXACT: "good", Safety.NUMERIC: "", Safety.LOSSY: "warn", Safety.ADVICE: "muted"}


def can_be_tried(step: PlanStep) -> bool:
    """Advice and what does not apply here have no box."""
    return not step.is_advice and bool(step.code)


class PlanPane(Container):
    """The tab of the fixes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "check", "Check"),
        Binding("a", "all", "All"),
        Binding("r", "reset", "As planned"),
        Binding("A", "apply", "Apply"),
        Binding("c", "compare", "Compare"),
        Binding("escape", "back", "Back", show=False),
    ]

    class Applied(Message):
        """A run of `diffprof fix --apply` has ended."""

    def __init__(
        self, whole: Report, plan: Plan, traces: Path, own: Path | None = None, number: int = 0
    ) -> None:
        """number: which of a script's pipelines the plan is for, counted from 0."""
        super().__init__()
        self.number = number
        self.only = ["--pipeline", str(number + 1)] if whole.pipelines else []
        self.report = report = whole.alone[number]
        self.plan = plan
        self.traces = traces
        self.doubts = doubts(report, own or traces)
        self.agreed = False
        """Whether the question before applying is on the screen."""
        self.chosen = {step.fix for step in plan.selected}
        self.outcomes = {outcome.fix: outcome for outcome in report.outcomes or ()}
        self.after = report.after

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        """Compare is offered once there is something to compare with."""
        return action != "compare" or self.after is not None

    def compose(self) -> ComposeResult:
        yield Static(classes="title", markup=False)
        with Vertical(id="plan"):
            yield TableView[PlanStep](
                self._columns(), self.plan.listed, empty="No finding of this run names a fix."
            )
            yield Article()

    def on_mount(self) -> None:
        table = self.query_one(TableView)
        table.focus()
        self._total()
        self._write(table.row)

    def _columns(self) -> tuple[TableColumn[PlanStep], ...]:
        return (
            TableColumn("", self._box, 3),
            TableColumn("fix", lambda s: s.fix, 18, grow=True, value=lambda s: s.fix),
            TableColumn("what", lambda s: [("muted", s.title)], 20, grow=True, drop=3),
            TableColumn(
                "safety", lambda s: [(_SAFETY[s.safety], str(s.safety))], 7, value=lambda s: s.safety
            ),
            TableColumn("for", lambda s: [("muted", ",".join(s.rules))], 8, value=lambda s: s.rules, drop=2),
            *self._tried_column(),
            TableColumn("saves ms", _saves, 9, right=True, value=lambda s: s.saves_ms),
            TableColumn("grade", lambda s: [("muted", str(s.grade or "–"))], 9, drop=1),
        )

    def _tried_column(self) -> list[TableColumn[PlanStep]]:
        if not self.outcomes:
            return []
        return [TableColumn("tried", self._became, max(len(each.status) for each in self.outcomes.values()))]

    def _box(self, step: PlanStep) -> list[Span]:
        if not can_be_tried(step):
            return [("muted", " · ")]
        return [("good", "[x]")] if step.fix in self.chosen else [("", "[ ]")]

    def _became(self, step: PlanStep) -> list[Span]:
        outcome = self.outcomes.get(step.fix)
        return [("", "")] if outcome is None else [(_STATUS[outcome.status], str(outcome.status))]

    # --- choosing ------------------------------------------------------------------------------------

    def action_check(self) -> None:
        """Check or uncheck; what can't stand beside it is unchecked."""
        step = self.query_one(TableView).row
        if step is None:
            return
        if not can_be_tried(step):
            self.notify(f"{step.fix}: {step.why_not}", markup=False, timeout=4)
            return
        if step.fix in self.chosen:
            self.chosen.discard(step.fix)
        else:
            for other, why in step.conflicts.items():
                if other in self.chosen:
                    self.chosen.discard(other)
                    self.notify(f"{other} is unchecked: {why}", markup=False, timeout=4)
            self.chosen.add(step.fix)
        self._total()

    def action_all(self) -> None:
        """Every fix that can stand beside the ones before it; none where all are checked."""
        wanted: set[str] = set()
        for step in self.plan.listed:
            if can_be_tried(step) and step.safety is not Safety.LOSSY and not wanted & set(step.conflicts):
                wanted.add(step.fix)
        self.chosen = set() if wanted <= self.chosen else wanted
        self._total()

    def action_reset(self) -> None:
        self.chosen = {step.fix for step in self.plan.selected}
        self._total()

    def _total(self) -> None:
        """What came of the fixes that were tried, and the predicted length of a call with what is checked."""
        self.query_one(TableView).refresh_rows()
        after = predicted_ms(self.report, self.plan.steps, self.chosen)
        line = total_line(self.plan, self.chosen, after)
        if gained := tuning.gained(tuple(self.outcomes.values())):
            line = beside_tried(line, gained)
        self.query_one(".title", Static).update(styled(*line), layout=False)

    # --- the current step ----------------------------------------------------------------------------

    @on(TableView.Moved)
    def _moved(self, event: TableView.Moved) -> None:
        event.stop()
        if isinstance(event, TableView.Chosen):
            self.action_check()
        else:
            self._write(event.row)

    def _write(self, step: PlanStep | None) -> None:
        self.agreed = False
        page = Writing()
        if step is not None:
            page = step_page(step, self.report, self.outcomes.get(step.fix))
        if step is None and not self.plan.steps:
            page.flow(("muted", "Fixes come from findings; findings with advice only have none."))
        self.query_one(Article).show(page)

    def action_back(self) -> None:
        """Stop applying, if that goes on; what was tried until then is shown."""
        for panel in self.query(JobPanel):
            panel.job.stop()
        self.query_one(TableView).focus()

    # --- applying ------------------------------------------------------------------------------------

    def command(self) -> list[str]:
        """What is run for the checked fixes."""
        steps = [step for step in self.plan.steps if step.fix in self.chosen]
        args = ["fix", str(self.report.path), "--apply", *self.only, "--traces", str(self.traces)]
        for step in steps:
            args += ["--select", step.fix]
        if any(step.safety is Safety.LOSSY for step in steps):
            args.append("--lossy")
        if self.doubts:
            args.append("--yes")  # asked here
        return args

    async def action_apply(self) -> None:
        """Try the checked fixes, one after the other, in a process of its own."""
        if self.query(JobPanel):
            self.notify("Fixes are being applied; escape stops it.", timeout=3)
        elif not can_run():
            self.notify("On this system: leave the viewer, and run `diffprof fix --apply`.", timeout=6)
        elif not self.report.path:
            self.notify("Only a stored run can be fixed.", severity="warning", timeout=4)
        elif not self.chosen:
            self.notify("No fix is checked.", severity="warning", timeout=3)
        elif not self.agreed:
            self.agreed = True
            self.query_one(Article).show(self._question())
        else:
            self.agreed = False
            count = units.plural(len(self.chosen), "fix", "fixes")
            parts = {f"{step.fix}: ": step.fix for step in self.plan.steps if step.fix in self.chosen}
            parts["kept: "] = "a scan of what is kept"
            job = Job(self.command(), f"Applying {count}", columns=self.query_one(Article).room)
            await self.query_one("#plan").mount(JobPanel(job, parts=parts))
            self.add_class("-applying")

    def _question(self) -> Writing:
        """What is asked before minutes of work, and before what may be somebody else's code is run."""
        page = Writing()
        for line in (*self.doubts, what_is_run(self.report)):
            page.flow(("warn", line))
        count = units.plural(len(self.chosen), "fix", "fixes")
        page.flow(
            f"{count} to try, one after the other: each is applied, the call is run again and its output "
            "compared. That can take minutes; esc stops it, and what was tried until then is kept."
        )
        page.flow(("strong", "Press A once more to begin."))
        return page

    @on(JobPanel.Over)
    async def _over(self, event: JobPanel.Over) -> None:
        event.stop()
        page = Writing()
        if event.ended.code == ExitCode.INTERRUPTED:
            page.flow(("warn", f"Stopped. {_kept(event.ended)}"))
        elif event.ended.code and event.job.stopping:
            page.flow(("warn", f"Ended at once. {_kept(event.ended)}"))
        elif event.ended.code:
            page.flow(("bad", f"diffprof fix ended with status {event.ended.code}."))
            for line in event.ended.talk[-12:]:
                page.flow(line, indent=2)
        for line in event.ended.output.decode(errors="replace").splitlines():
            page.kept(line)
        await self.query(JobPanel).remove()
        self.remove_class("-applying")
        article = self.query_one(Article)
        article.show(page)
        article.focus()
        said = page if event.ended.code else None
        self.run_worker(lambda: self._read(said), thread=True, exclusive=True, group="outcomes")
        self.post_message(self.Applied())

    def _read(self, said: Writing | None) -> None:
        """The outcomes, which were stored in the run. said: the page of a command that failed; it stays."""
        try:
            report = load_report(str(self.report.path)).alone[self.number]
        except (DiffprofError, IndexError):
            return
        if report.outcomes:
            self.app.call_from_thread(self._tried, report, said)

    def _tried(self, report: Report, said: Writing | None) -> None:
        if not self.is_attached:
            return
        outcomes = report.outcomes or ()
        self.outcomes = {outcome.fix: outcome for outcome in outcomes}
        self.after = report.after
        self.refresh_bindings()
        table = self.query_one(TableView)
        place = table.cursor
        table.set_columns(self._columns(), self.plan.listed)
        table.action_move(place)
        if said is None:
            self.notify(tuning.total(outcomes), markup=False, timeout=8)
        else:
            self.call_after_refresh(self.query_one(Article).show, said)

    def action_compare(self) -> None:
        """This run beside the scan of what was kept."""
        if self.after is None or self.report.path is None:
            return
        before = Path(self.report.path)
        after = before.parent / self.after
        self.run_worker(lambda: self._compare(before, after), thread=True, exclusive=True, group="compare")

    def _compare(self, before: Path, after: Path) -> None:
        self.app.call_from_thread(self._compared, comparison_of(before, after))

    def _compared(self, page: Writing) -> None:
        if not self.is_attached:
            return
        article = self.query_one(Article)
        article.show(page)
        article.focus()


def _kept(ended: Ended) -> str:
    """What a command that was stopped has stored: the outcomes that it prints when they are."""
    if ended.output.strip():
        return "What was tried until then is stored."
    return "Nothing was tried to its end: the run is as it was."


def _saves(step: PlanStep) -> list[Span] | str:
    if step.saves_ms is None:
        return [("muted", "–")]
    shown = f"{step.saves_ms:,.3f}"
    return shown if shown.strip("-0.") else [("muted", "0")]


def total_line(plan: Plan, chosen: Sequence[str] | set[str], after: float | None) -> list[Span]:
    """One call now and with the checked fixes."""
    count = units.plural(len(chosen), "fix", "fixes")
    if plan.before_ms is None or after is None:
        return [("strong", f"{count} checked"), ("muted", "; how long a call takes was not measured")]
    known = [step.saves_ms is not None for step in plan.steps if step.fix in chosen]
    if known and not any(known):
        now = f": {units.milliseconds(plan.before_ms)}"
        return [("strong", count + " checked"), ("", now), ("muted", " now; what is saved shows when tried")]
    ratio = f", {plan.before_ms / after:.2f}x" if after else ""
    grade = "from what was measured" if plan.grade is Grade.MEASURED else plan.grade or "grade unknown"
    saved = max(plan.before_ms - after, 0.0)
    share = after / plan.before_ms if plan.before_ms else 0.0
    return [
        ("strong", f"{count} checked: "),
        ("", f"{units.milliseconds(plan.before_ms)} → "),
        ("good" if saved > 0 else "strong", units.milliseconds(after)),
        ("good", ratio),
        ("muted", f", predicted ({grade})  "),
        ("place", bar(share, _BAR)),
    ]


def beside_tried(line: Sequence[Span], gained: str) -> list[Span]:
    """The total without its bar and before what was gained, a grade of both said once: fits 80 columns."""
    short = [(style, text.replace(" fixes ", " ").replace(" fix ", " ")) for style, text in line[:-1]]
    style, text = short[-1]
    words, _, grade = text.rstrip().partition(" (")
    told = words if grade and gained.endswith(f"({grade}") else text.rstrip()
    return [*short[:-1], (style, f"{told}; tried: "), ("good", gained)]


def _outcome(page: Writing, outcome: Outcome) -> None:
    """What happened when the fix was tried."""
    page.fact("tried", (_STATUS[outcome.status], str(outcome.status)), f" {outcome.why}".rstrip())
    if outcome.status is Status.SKIPPED:
        return
    page.fact("one call", tuning.change(outcome))
    page.fact("output", tuning.output_change(outcome.difference))
    if outcome.in_loop_before is not None and outcome.in_loop_after is not None:
        page.fact("waits", f"{outcome.in_loop_before} → {outcome.in_loop_after} in the denoising loop")
    page.fact("resolved", ", ".join(outcome.resolved))
    page.fact("remaining", ", ".join(outcome.remaining))


def step_page(step: PlanStep, report: Report, outcome: Outcome | None = None) -> Writing:
    """What a fix does, why that is safe, what it resolves, what became of it, its code and its diff."""
    page = Writing()
    page.flow(("strong", step.title))
    page.fact("safety", tuning.safety(step))
    page.fact("saves", tuning.saving(step))
    if step.why_not:
        page.fact("advice" if step.is_advice else "left out", ("warn", step.why_not))
    for other, why in step.conflicts.items():
        page.fact("not with", f"{other}: {why}")
    if outcome is not None and outcome.status is not Status.ADVICE:
        _outcome(page, outcome)
    page.fact("why", step.why)
    page.fact("resolves", tuning.resolves(step))
    for n in step.findings[:8]:
        if n < len(report.findings):
            finding = report.findings[n]
            where = ("place", units.place(finding.site)) if finding.site else ("", finding.message)
            page.kept(f"{finding.rule} ", where, indent=Writing.LABEL)
    source_of(page, step)
    return page
