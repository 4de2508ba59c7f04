"""Places: lines of source, and what the probes passed over there."""

from __future__ import annotations

from diffprof.model.recording.row import Row


class Frame(Row, frozen=True, kw_only=True):
    """One line on the call stack. file: importable path (`diffusers/schedulers/x.py`) for installed
    packages, else the path as the user would type it."""

    file: str
    line: int
    function: str
    code: str = ""


class Site(Row, frozen=True, kw_only=True):
    """The line that a person would edit, and how the run came there."""

    file: str
    line: int
    function: str
    module: str | None = None
    """Path of the nn.Module or component that was running, such as `unet.mid_block.attentions.0`."""
    user_code: bool = False
    """True if the file is the user's own, not an installed package's."""
    excerpt: tuple[tuple[int, str], ...] = ()
    """(line number, source text) around the line."""
    chain: tuple[Frame, ...] = ()
    """The frames above the site, innermost first, ending at the pipeline's caller."""


NOT_REACHED = "not-reached"


class Unseen(Row, frozen=True, kw_only=True):
    """Something the probes passed over, and why: a compiled part, a custom op, a device branch."""

    what: str
    why: str
    site: Site | None = None
    kind: str = "gap"
    """gap (no evidence there), untimed (its device time is in no figure), branch (other side taken than on
    CUDA), value (assumed values followed), not-reached (a pipeline that the scan of a script was left
    before), left-out (the user's code asks for it, and the figures are of a call without it)."""
