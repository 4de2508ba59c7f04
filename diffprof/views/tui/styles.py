"""Text of the viewer: data made harmless before it is styled, styles by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.style import Style as RichStyle
from textual.content import Content
from textual.style import Style
from textual.widget import Widget

from diffprof.model.plain import clean, clean_lines, cut
from diffprof.model.recording import Frame

Span = tuple[str, str]
"""(style, text). The style is a key of STYLES or empty; the text is data."""

STYLES = {
    "": "",
    "strong": "bold",
    "muted": "$foreground 62%",
    "head": "bold $text-primary",
    "place": "$text-primary",
    "good": "$text-success",
    "warn": "$text-warning",
    "bad": "$text-error",
    "accent": "$text-accent",
}
"""Names that widgets use, and what they are in the theme's terms."""

_MOST_CODE = 400
"""Cells of a source line shown; generated code has lines of megabytes."""
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def styled(*parts: str | Span) -> Content:
    """Parts as one piece of text; every one is data, so markup and escapes in it show as typed."""
    pairs = [("", part) if isinstance(part, str) else part for part in parts]
    return Content.assemble(*((clean(text), STYLES[style]) for style, text in pairs))


def line_style(widget: Widget, name: str) -> RichStyle:
    """A style for widgets that draw their lines themselves, on the widget's own background. Not a component
    class of Textual's: those are matched anew against the whole style sheet whenever the focus moves."""
    return (widget.visual_style + Style.parse(STYLES[name])).rich_style


def bar(share: float, cells: int) -> str:
    """A bar of that many cells, filled to `share` (0..1) in eighths of a cell; something is never nothing."""
    filled = round(max(0.0, min(share, 1.0)) * cells * 8)
    if share > 0.0:
        filled = max(filled, 1)
    full, rest = divmod(filled, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(cells)


_NONE = Content("")


@dataclass(frozen=True)
class Paragraph:
    """A paragraph: `text` filled into lines beside its label, or kept as it is (code)."""

    text: Content
    label: Content = _NONE
    indent: int = 0
    fill: bool = True
    marked: bool = False
    """Stands out over its whole width."""


class Writing:
    """Blocks of a page, in order; what `Article` shows."""

    LABEL = 10
    """Cells of the labels' column."""

    def __init__(self) -> None:
        self.blocks: list[Paragraph] = []

    def blank(self) -> None:
        if self.blocks and self.blocks[-1].text.plain:
            self.blocks.append(Paragraph(Content("")))

    def heading(self, text: str) -> None:
        self.blank()
        self.blocks.append(Paragraph(styled(("head", text))))

    def flow(self, *parts: str | Span, indent: int = 0) -> None:
        """One paragraph a line of the text. Styled parts belong to the first line's paragraph."""
        if len(parts) == 1 and isinstance(parts[0], str):
            self.blocks += [Paragraph(styled(line), indent=indent) for line in clean_lines(parts[0])]
        else:
            self.blocks.append(Paragraph(styled(*parts), indent=indent))

    def fact(self, label: str, *parts: str | Span) -> None:
        """A labelled paragraph; none for an empty text."""
        if any(part if isinstance(part, str) else part[1] for part in parts):
            self.blocks.append(Paragraph(styled(*parts), styled(("muted", label))))

    def kept(self, *parts: str | Span, indent: int = 0) -> None:
        """One line that is never filled; cut where the screen ends."""
        self.blocks.append(Paragraph(styled(*parts), indent=indent, fill=False))

    def code(self, text: str, *, indent: int = 2) -> None:
        """Source text, line by line."""
        for line in clean_lines(text):
            self.kept(cut(line, _MOST_CODE), indent=indent)

    def diff(self, text: str, *, indent: int = 2) -> None:
        """A unified diff."""
        styles = {"+": "good", "-": "bad", "@": "muted"}
        for line in clean_lines(text):
            style = "muted" if line.startswith(("+++", "---")) else styles.get(line[:1], "")
            self.kept((style, cut(line, _MOST_CODE)), indent=indent)

    def calls(self, chain: Sequence[Frame]) -> None:
        """The calls that led to a place, innermost first."""
        if chain:
            self.heading("Called from")
        for frame in chain:
            self.kept(("place", f"{frame.file}:{frame.line}"), ("muted", f" in {frame.function}"), indent=2)
            if frame.code:
                self.kept(frame.code.strip(), indent=4)

    def excerpt(self, lines: Sequence[tuple[int, str]], marked: int) -> None:
        """Source around a line, that line marked."""
        digits = max((len(str(number)) for number, _ in lines), default=0)
        texts = [cut(clean(code.expandtabs(4).rstrip()), _MOST_CODE) for _, code in lines]
        for (number, _), text, shown in zip(lines, texts, _highlighted(texts), strict=True):
            here = number == marked
            gutter = styled(("warn" if here else "muted", f"{'▶' if here else ' '} {number:>{digits}} │ "))
            if here:
                shown = Content.styled(text, STYLES["strong"])
            self.blocks.append(Paragraph(gutter + shown, indent=1, fill=False, marked=here))


def _highlighted(lines: Sequence[str]) -> list[Content]:
    """Python source with its tokens coloured; plain where that goes wrong."""
    from textual.highlight import highlight

    text = "\n".join(lines)
    try:
        shown = highlight(text, language="python").split("\n", allow_blank=True)
    except Exception:  # any lexer's trouble with a fragment of code
        shown = []
    return shown if len(shown) == len(lines) else [Content(line) for line in lines]


def laid_out(blocks: Iterable[Paragraph], columns: int) -> list[Content]:
    """Blocks in lines of at most that many cells."""
    lines: list[Content] = []
    for block in blocks:
        label = block.label
        lead = max(Writing.LABEL, len(label) + 1) if label.plain else block.indent
        room = max(columns - lead, 10)
        if block.fill:
            wrapped = block.text.wrap(room) if block.text.plain else [block.text]
        else:
            wrapped = [block.text.truncate(room, ellipsis=True)]
        for number, line in enumerate(wrapped):
            if block.marked:
                line = line.pad_right(room - line.cell_length).stylize("on $warning 15%")
            first = label.pad_right(lead - len(label)) if number == 0 and label.plain else Content(" " * lead)
            lines.append(first + line)
    return lines
