"""What a part found, stored after each item: a process that is killed leaves all items before it."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

TRACEBACK = 4000
"""Characters of a traceback that are kept, its end."""

Work = Callable[[], dict[str, Any]]


class Log:
    """The file of one part. A part's items have keys; those that were stored before are not done again."""

    def __init__(self, folder: Path, part: str) -> None:
        self.path = folder / "parts" / f"{part}.json"
        self.content: dict[str, Any] = read(self.path) or {"part": part, "items": []}

    @property
    def items(self) -> list[dict[str, Any]]:
        return self.content["items"]

    def run(self, items: Iterable[tuple[str, Work]], left_s: Callable[[], float]) -> None:
        """Do the items in order, while there is time; one that raises is kept with its traceback."""
        done = {item["key"] for item in self.items}
        left_out: list[str] = []
        for key, work in items:
            if key in done:
                continue
            if left_s() <= 0:
                left_out.append(key)
                continue
            self.content["running"] = key
            self.save()
            self.items.append(_done(key, work))
            self.content.pop("running")
            self.save()
        self.content |= {"finished": not left_out, "left_out": left_out}
        self.save()

    def save(self) -> None:
        write(self.path, json.dumps(self.content, indent=1, default=str).encode())


def _done(key: str, work: Work) -> dict[str, object]:
    begin = time.perf_counter()
    try:
        found: dict[str, object] = {"status": "ok", "data": work()}
    except (Exception, SystemExit) as error:
        text = "".join(traceback.format_exception(error))[-TRACEBACK:]
        found = {"status": "failed", "error": f"{type(error).__name__}: {error}"[:400], "traceback": text}
    return {"key": key, "seconds": round(time.perf_counter() - begin, 3), **found}


def paired(predicted: object, measured: object) -> dict[str, object]:
    """A figure by the model of the simulated GPU, and on the device."""
    return {"predicted": predicted, "measured": measured}


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and onto the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def read(path: Path) -> dict[str, Any] | None:
    """A stored part; None where there is none, or what is there can't be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
