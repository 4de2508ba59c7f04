"""What is allowed on purpose: a wait, or any other finding, that somebody has looked at and keeps."""

from __future__ import annotations

from diffprof.model.recording.row import Row
from diffprof.model.recording.site import Site


class Allowance(Row, frozen=True, kw_only=True):
    """Findings of these rules, at this place, are meant to be there."""

    rules: tuple[str, ...]
    """Codes, names or beginnings of codes, as written."""
    reason: str
    """Why, in the words of whoever allowed it; empty: none was given, and it allows nothing."""
    by: str
    """comment, block (`with diffprof.allowed(...)`) or configuration."""
    site: Site | None = None
    """Where it is written."""
    file: str | None = None
    """The file that it is for, as `Site.file`, or the end of its path; None: any."""
    function: str | None = None
    """The function, or the end of its qualified name; None: any."""
    first: int | None = None
    last: int | None = None
    """Lines that it is for, both included; None: any."""
