"""The three lines on top: what was found, why, what to do next."""

from __future__ import annotations

from textual.events import Click

from diffprof.model.plain import clean, width
from diffprof.views.tui.article import Article
from diffprof.views.tui.styles import Paragraph, Writing, styled
from diffprof.views.verdict import Verdict


class VerdictBar(Article, can_focus=False):
    """One line each; a click or `v` shows them whole."""

    def __init__(self, verdict: Verdict, folded: Verdict) -> None:
        """folded: what stands in a line that has no room for the whole."""
        super().__init__()
        self.verdict = verdict
        self.folded = folded

    def toggle(self) -> None:
        """Whole, or a line each."""
        self.set_class(not self.has_class("-whole"), "-whole")
        self.show(self._lines())

    def on_click(self, event: Click) -> None:
        event.stop()
        self.toggle()

    def _fill(self) -> None:
        self.writing = self._lines()
        super()._fill()

    def _lines(self) -> Writing:
        whole = self.has_class("-whole")
        room = self.scrollable_content_region.width - Writing.LABEL - 1
        page = Writing()
        for label, part in (("Verdict", "headline"), ("Why", "why"), ("Next", "next")):
            text = getattr(self.verdict, part)
            if not whole and width(clean(text)) > room:
                text = getattr(self.folded, part)
            shown = styled(("strong" if label == "Verdict" else "", text))
            page.blocks.append(Paragraph(shown, styled(("muted", label)), fill=whole))
        return page
