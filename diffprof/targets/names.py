"""Names of targets."""

from __future__ import annotations

import re
from collections.abc import Sequence

CORPUS = "corpus:"
"""What names of the tiny pipelines that come with the package begin with."""


def nearest(word: str, known: Sequence[str]) -> str:
    """`Did you mean a, b?`, or nothing where no known word is near."""
    import difflib

    folded = {name.lower(): name for name in known}
    near = [folded[name] for name in difflib.get_close_matches(word.lower(), folded, n=3, cutoff=0.6)]
    return f"Did you mean {', '.join(near)}?" if near else ""


def slug(text: str) -> str:
    """Letters, digits, dot, dash and underscore only, for file names."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "target"
