"""The three lines on top: what was found, why, what to do next."""

from __future__ import annotations

from textual.events import Click

from diffprof.views.tui.article import Article
from diffprof.views.tui.styles import Block, Writing, styled
from diffprof.views.verdict import Verdict


class VerdictBar(Article, can_focus=False):
    """One line each; a click or `v` shows them whole."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(_lines(verdict, whole=False))
        self.verdict = verdict

    def toggle(self) -> None:
        """Whole, or a line each."""
        whole = not self.has_class("-whole")
        self.set_class(whole, "-whole")
        self.show(_lines(self.verdict, whole=whole))

    def on_click(self, event: Click) -> None:
        event.stop()
        self.toggle()


def _lines(verdict: Verdict, *, whole: bool) -> Writing:
    page = Writing()
    texts = {"Verdict": verdict.headline, "Why": verdict.why, "Next": verdict.next}
    for label, text in texts.items():
        shown = styled(("strong" if label == "Verdict" else "", text))
        page.blocks.append(Block(shown, styled(("muted", label)), fill=whole))
    return page
