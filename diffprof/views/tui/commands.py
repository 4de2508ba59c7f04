"""The command palette: tabs, the findings of the report, themes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from textual.command import DiscoveryHit, Hit, Hits, Provider

from diffprof.model.finding import Finding
from diffprof.model.plain import cut
from diffprof.model.units import place
from diffprof.views.tui.styles import styled
from diffprof.views.words import how_often

Entry = tuple[str, str, Callable[[], object]]
"""What is done, a sentence about it, and what does it."""


class ViewerCommands(Provider):
    """Asks the screen what there is: `palette()` gives entries, `findings` can be jumped to."""

    def _entries(self) -> Iterable[Entry]:
        palette = getattr(self.screen, "palette", None)
        yield from palette() if palette else ()

    async def discover(self) -> Hits:
        for name, text, action in self._entries():
            yield DiscoveryHit(styled(name), action, text=name, help=text)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for name, text, action in self._entries():
            if (score := matcher.match(name)) > 0:
                yield Hit(score, styled(name), action, text=name, help=text)
        words = query.casefold().split()
        jump = getattr(self.screen, "open_finding", None)
        if jump is None or not words:
            return
        found = 0
        for finding in self.screen.report.findings:  # type: ignore[attr-defined]
            name = finding_name(finding)
            if all(word in name.casefold() for word in words):
                shown = styled("Finding ", ("muted", cut(name, 200)))
                yield Hit(0.5, shown, partial(jump, finding), text=name, help=cut(how_often(finding), 80))
                found += 1
                if found == 20:
                    return


def finding_name(finding: Finding) -> str:
    return f"{finding.rule} {finding.name} {place(finding.site)}"
