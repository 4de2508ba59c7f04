"""`diffprof docs`: the pages that come with the package, in the terminal."""

from __future__ import annotations

import click

from diffprof.cli.docs import pages
from diffprof.cli.output import emit, terminal
from diffprof.model.errors import UsageError


@click.command("docs")
@click.argument("page", required=False)
def command(page: str | None) -> None:
    """Show a page of the documentation; without PAGE, list them."""
    known = pages()
    if page is None:
        titles = {name: file.read_text(encoding="utf-8").partition("\n")[0] for name, file in known.items()}
        longest = max(map(len, titles))
        emit("".join(f"{name:<{longest}}  {title.removeprefix('# ')}\n" for name, title in titles.items()))
        return
    if page not in known:
        from difflib import get_close_matches

        near = get_close_matches(page, known, n=3, cutoff=0.4)
        hint = f"Did you mean {', '.join(near)}? " if near else ""
        raise UsageError(f"There is no page {page!r}.", f"{hint}`diffprof docs` lists them.")
    text = known[page].read_text(encoding="utf-8")
    screen = terminal()
    if screen.columns is not None:
        from diffprof.cli.terminal_pages import drawn

        text = drawn(text, screen.columns, colour=screen.colour)
    emit(text)
