"""What torch.compile makes of the pipeline: components, their graph breaks and recompiles, as a tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widgets import Tree
from textual.widgets.tree import TreeNode

from diffprof.model.plain import clean, cut
from diffprof.model.recording import CaptureRow, GraphBreakRow, RecompileRow, Recording
from diffprof.model.units import NOT_MEASURED, milliseconds, number, place, plural
from diffprof.views.tui.article import Article
from diffprof.views.tui.styles import Span, Writing, line_style

Item = CaptureRow | GraphBreakRow | RecompileRow | str | None
_MOST_NAME = 160


@dataclass(frozen=True)
class _TreeLine:
    """A line of the tree: what it stands for, and its text."""

    item: Item
    spans: tuple[Span, ...]

    @property
    def text(self) -> Text:
        return Text(cut(clean("".join(text for _, text in self.spans)), _MOST_NAME), no_wrap=True)


class GraphTree(Tree[_TreeLine]):
    """component > break > hints; component > recompile."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
        Binding("space", "toggle_node", "Fold"),
        Binding("left", "fold", "Fold", show=False),
        Binding("right", "unfold", "Unfold", show=False),
        Binding("f", "toggle_all", "Fold all"),
    ]

    def __init__(self, recording: Recording) -> None:
        super().__init__(Text("torch.compile"))
        self.recording = recording
        self.show_root = False
        self.guide_depth = 3
        self._folded = False

    def on_mount(self) -> None:
        recording = self.recording
        breaks: dict[str, list[GraphBreakRow]] = {}
        for row in recording.graph_breaks or ():
            breaks.setdefault(row.component, []).append(row)
        again: dict[str, list[RecompileRow]] = {}
        for recompile in recording.recompiles or ():
            again.setdefault(recompile.component, []).append(recompile)
        captures = {row.component: row for row in recording.captures or ()}
        for name in dict.fromkeys((*captures, *breaks, *again)):
            capture = captures.get(name)
            entry = _TreeLine(capture or name, _capture_label(name, capture))
            node = self.root.add(entry.text, entry, expand=True)
            for broken in sorted(breaks.get(name, ()), key=lambda b: -(b.per_step or 0.0)):
                self._break(node, broken)
            for recompile in again.get(name, ()):
                entry = _TreeLine(recompile, _recompile_label(recompile))
                node.add_leaf(entry.text, entry)
            node.allow_expand = bool(node.children)
        self.root.expand()
        self.move_cursor_to_line(0)

    def _break(self, node: TreeNode[_TreeLine], row: GraphBreakRow) -> None:
        entry = _TreeLine(row, _break_label(row))
        branch = node.add(entry.text, entry, expand=False)
        lines = [("muted", f"↳ {frame.file}:{frame.line} in {frame.function}") for frame in row.site.chain]
        lines += [("", f"hint: {hint}") for hint in row.hints]
        for line in lines:
            entry = _TreeLine(row, (line,))
            branch.add_leaf(entry.text, entry)
        branch.allow_expand = bool(lines)

    def render_label(self, node: TreeNode[_TreeLine], base_style: Style, style: Style) -> Text:
        """The entry's text in the theme's colours; plain where the cursor is."""
        sign = (
            "  " * (node.parent is self.root) if not node.allow_expand else "▼ " if node.is_expanded else "▶ "
        )
        text = Text(sign, style=base_style, no_wrap=True)
        room = _MOST_NAME
        for name, data in node.data.spans if node.data else ():
            shown = cut(clean(data), room)
            room -= len(shown)
            own = line_style(self, name)
            front = Style(color=own.color, bold=own.bold)
            text.append(shown, style if node is self.cursor_node or not name else style + front)
            if room <= 0:
                break
        return text

    def action_fold(self) -> None:
        node = self.cursor_node
        if node is None:
            return
        if node.is_expanded and node.children:
            node.collapse()
        elif node.parent and node.parent is not self.root:
            self.move_cursor(node.parent)

    def action_unfold(self) -> None:
        if self.cursor_node:
            self.cursor_node.expand()

    def action_toggle_all(self) -> None:
        """Fold or unfold every break."""
        self._folded = not self._folded
        for component in self.root.children:
            for node in component.children:
                if self._folded:
                    node.expand()
                else:
                    node.collapse()


def _capture_label(name: str, row: CaptureRow | None) -> tuple[Span, ...]:
    if row is None:
        return (("strong", name),)
    if row.failure:
        state = ("bad", "could not be captured")
    elif row.fullgraph_ready:
        state = ("good", "✓ fullgraph ready")
    else:
        state = ("warn", plural(row.breaks, "graph break"))
    return (("strong", f"{name}  "), state, ("muted", f"  {plural(row.graphs, 'graph')}, {row.ops:,} ops"))


def _break_label(row: GraphBreakRow) -> tuple[Span, ...]:
    often = "" if row.per_step is None else f"{number(row.per_step)}/step  "
    return (("", f"{often}{row.code or 'break'} {row.cause}  "), ("muted", place(row.site)))


def _recompile_label(row: RecompileRow) -> tuple[Span, ...]:
    return (("warn", f"recompiles {row.count:,}x  {row.variation}  "), ("muted", row.guard))


class GraphsPane(Container):
    """The tab of graph breaks and recompiles of a recording that has them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "detail", "Details"),
        Binding("escape", "back", "Back", show=False),
    ]

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self.recording = recording

    def compose(self) -> ComposeResult:
        yield GraphTree(self.recording)
        yield Article()

    def on_mount(self) -> None:
        self.query_one(GraphTree).focus()

    @on(Tree.NodeHighlighted)
    def _moved(self, event: Tree.NodeHighlighted[_TreeLine]) -> None:
        event.stop()
        self.query_one(Article).show(
            page_of(event.node.data.item if event.node.data else None, self.recording)
        )

    def action_detail(self) -> None:
        self.query_one(Article).focus()

    def action_back(self) -> None:
        self.query_one(GraphTree).focus()


def page_of(item: Item, recording: Recording) -> Writing:
    """Everything about a row of the tree."""
    page = Writing()
    if isinstance(item, CaptureRow):
        _capture(page, item)
    elif isinstance(item, GraphBreakRow):
        _graph_break(page, item)
    elif isinstance(item, RecompileRow):
        _recompile(page, item)
    else:
        page.flow("Graph breaks: " + (NOT_MEASURED if recording.graph_breaks is None else "none of these."))
    return page


def _capture(page: Writing, row: CaptureRow) -> None:
    page.flow(("strong", row.component))
    if row.failure:
        page.flow(("bad", row.failure))
    elif row.fullgraph_ready:
        page.flow(("good", "One graph: compiles with fullgraph=True."))
    page.fact("graphs", f"{row.graphs:,}, {row.ops:,} operations, {plural(row.breaks, 'break')}")
    page.fact("calls", f"{row.calls:,} per pipeline call, {number(row.per_step)} per step")
    if row.regions_per_call is not None:
        page.fact("launched", f"{plural(row.regions_per_call, 'compiled region')} in each call")
    folded = ", ".join(f"{count:,} {name}" for name, count in row.folded.items())
    page.fact("folded", folded and f"equal blocks captured once: {folded}")
    cached = ", from the cache" if row.cached else ""
    page.fact("captured", f"in {number(row.seconds)} s{cached}")


def _graph_break(page: Writing, row: GraphBreakRow) -> None:
    page.flow(("warn", row.code or "graph break"), " ", ("strong", row.cause))
    page.flow(("place", place(row.site)), ("muted", f" in {row.site.function}"))
    if row.site.excerpt:
        page.excerpt(row.site.excerpt, row.site.line)
    if row.raised_at:
        page.fact("raised at", f"{row.raised_at.file}:{row.raised_at.line} in {row.raised_at.function}")
    page.fact("why", row.explanation)
    page.fact("met", row.context)
    often = [] if row.count is None else [f"{row.count:,} per call"]
    often += [] if row.per_step is None else [f"{number(row.per_step)} per step"]
    page.fact("often", ", ".join(often) or "not counted", ("muted", f" ({row.grade})"))
    page.fact("ends", f"{plural(row.graphs, 'graph')} of {row.ops:,} operations")
    page.fact("modules", ", ".join(row.modules))
    if row.in_hook:
        page.fact("hook", "the line is in a forward hook")
    if row.skipped_frame:
        page.fact("skipped", f"{row.skipped_frame} runs as plain Python")
    page.fact("hidden by", row.hidden_by or "")
    if row.hints:
        page.heading("Hints")
        for hint in row.hints:
            page.flow(hint, indent=2)
    page.calls(row.site.chain)


def _recompile(page: Writing, row: RecompileRow) -> None:
    page.flow(("warn", f"recompiles {row.count:,} times"), f" when {row.variation}")
    page.flow(("place", place(row.site)), ("muted", f" in {row.site.function}"))
    if row.site.excerpt:
        page.excerpt(row.site.excerpt, row.site.line)
    page.fact("guard", row.guard, ("muted", f" ({row.kind}, {row.grade})"))
    page.fact("stopped by", ", ".join(row.stopped_by) or "nothing that was tried")
    page.fact("tried", ", ".join(row.tried))
    if row.entries is not None:
        limit = "" if row.limit is None else f" of at most {row.limit}"
        page.fact("versions", f"{row.entries}{limit}")
    cost = row.cost
    if cost is not None:
        page.fact("capture", milliseconds(cost.capture_ms), ("muted", " of one compile, Dynamo's part"))
        page.fact("compile", milliseconds(cost.compile_ms), ("muted", " of one, with its backend"))
    if row.limit_hit:
        page.flow(("bad", "The limit was reached: later inputs run as plain Python, or raise (fullgraph)."))
        if cost is not None and cost.eager_ms is not None and cost.compiled_ms is not None:
            page.fact("such a call", f"{milliseconds(cost.eager_ms)} (simulated)")
            page.fact("compiled", f"{milliseconds(cost.compiled_ms)} (simulated)")
