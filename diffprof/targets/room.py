"""The memory that this process may still take."""

from __future__ import annotations

from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def room() -> tuple[int, int]:
    """(bytes that are available, bytes that there are): of the machine, or of a container that has less."""
    machine = psutil.virtual_memory()
    available, total = int(machine.available), int(machine.total)
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        files = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except OSError:
        return available, total
    if limit == "max":
        return available, total
    free = int(limit) - used + int(files.get("inactive_file", 0))
    return min(available, free), min(total, int(limit))
