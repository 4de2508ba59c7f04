"""What stands in a tab whose evidence was not recorded: that, and how to get it."""

from __future__ import annotations

from diffprof.views.tui.article import Article
from diffprof.views.tui.styles import Writing


class EmptyState(Article):
    """Not measured is not clean, and is said."""

    def __init__(self, what: str, how: str) -> None:
        """what: was not recorded. how: what records it."""
        page = Writing()
        page.flow(("strong", f"{what}: not recorded in this run."))
        page.flow(("muted", how))
        super().__init__(page)

    def on_mount(self) -> None:
        self.focus()
