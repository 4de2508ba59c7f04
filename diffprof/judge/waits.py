"""What belongs together among the waits of a recording."""

from __future__ import annotations

import re
from collections.abc import Iterator

from diffprof.model.recording import Recording, SyncRow

_KEPT = re.compile(r"\s*self\.(\w+)\s*(?::[^=]+)?=[^=]")


def readers(recording: Recording, file: str, line: str) -> Iterator[SyncRow]:
    """Reads in the loop, from the device, of the attribute that a line of this file keeps:
    `self.sigmas = sigmas.to(device)`."""
    if (kept := _KEPT.match(line)) is None:
        return
    for row in recording.syncs or ():
        owner = (row.owner or "").rpartition(".")[2]
        if row.in_loop and row.owner_device == "device" and owner == kept[1] and row.site.file == file:
            yield row
