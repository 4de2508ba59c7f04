"""An allowance that allows nothing, and one that does."""

from __future__ import annotations

from diffprof.model.recording import Allowance, Site
from tests.builders import make_recording, make_site, make_sync


def allowance(line: int) -> Allowance:
    """Of value reads on one line of the user's scheduler."""
    return Allowance(
        rules=("SYN001",),
        reason="the length is needed",
        by="comment",
        file="my/scheduler.py",
        first=line,
        last=line,
        site=Site(file="my/scheduler.py", line=line, function="step", user_code=True),
    )


READ = make_sync(site=make_site("my/scheduler.py", 12, user_code=True, module=None))
BAD = {"ALW001": make_recording(allowances=(allowance(12),))}
GOOD = {"ALW001": make_recording(READ, allowances=(allowance(12),))}
