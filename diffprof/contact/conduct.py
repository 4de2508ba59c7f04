"""Run the parts one after the other, each in a process of its own, and write the report after each.

A process of its own: an illegal access on a GPU ends all work of the process that made it; memory that a part
leaves is gone with it; and what hangs can be ended. A child ends when its parent is gone, however that ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diffprof.contact.parts import PARTS, TOTAL_S, ContactPart, Place
from diffprof.contact.report import write_report
from diffprof.contact.store import Log, read

GRACE_S = 5.0
"""After its time a child may end the item that it is at, and is then ended."""

LEAST_S = 8.0
"""With less time than this no part is begun: importing PyTorch and diffusers takes about as long."""


def conduct(
    folder: Path, place: Place, only: Sequence[str], total_s: float, say: Callable[[str], None]
) -> int:
    """Run the parts that are not finished yet. Gives the number of those that still are not."""
    begin = time.monotonic()
    wanted = [part for part in PARTS if not only or part.key in only]
    for part in wanted:
        left = total_s - (time.monotonic() - begin)
        if finished(folder, part):
            say(f"{part.title}: done before")
            continue
        if left < LEAST_S:
            say(f"{part.title}: no time left")
            continue
        box = min(part.seconds, left) if total_s <= TOTAL_S else left
        say(f"{part.title}: at most {box:.0f} s")
        run_part(folder, place, part, box)
        write_report(folder, place)
    write_report(folder, place)
    return sum(1 for part in wanted if not finished(folder, part))


def finished(folder: Path, part: ContactPart) -> bool:
    return bool((read(folder / "parts" / f"{part.key}.json") or {}).get("finished"))


def run_part(folder: Path, place: Place, part: ContactPart, box: float) -> None:
    """One part in a child; what it says goes to a file beside what it found."""
    log = folder / "parts" / f"{part.key}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "diffprof.contact",
        str(folder),
        "--child",
        part.key,
        "--device",
        place.device,
    ]
    command += ["--beside", place.simulated, "--seconds", f"{box:.1f}", *(["--short"] if place.short else [])]
    begin = time.monotonic()
    with log.open("wb") as out:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out)
        try:
            ended = _wait(child, box + GRACE_S)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    _note_end(folder, part, child.returncode, ended, time.monotonic() - begin)


def _wait(child: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _note_end(folder: Path, part: ContactPart, code: int, ended: bool, seconds: float) -> None:
    """What the child could not write itself: how it ended, and which item ended it."""
    log = Log(folder, part.key)
    log.content |= {"title": part.title, "seconds": round(seconds, 1), "exit_code": code}
    at = log.content.pop("running", None)
    if at is not None:
        why = "it took longer than the part's time" if not ended else f"the process ended with {code}"
        log.items.append({"key": at, "status": "ended", "error": why, "seconds": None})
        log.content["finished"] = False
    log.content.setdefault("finished", False)
    log.save()


def child(folder: Path, place: Place, key: str, seconds: float) -> None:
    """In the child: do the items of a part until its time is over."""
    begin = time.monotonic()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    (part,) = (each for each in PARTS if each.key == key)
    log = Log(folder, key)
    log.content["title"] = part.title
    log.run(part.items(place), lambda: seconds - (time.monotonic() - begin))


def _end_with_parent() -> None:
    """The parent holds the other end of standard input; it closes when the parent is gone."""
    os.read(0, 1)  # not sys.stdin, whose lock the interpreter wants when it ends
    os._exit(1)


def place_of(device: str, beside: str | None, short: bool) -> Place:
    """Where the contact is made; the simulated GPU beside it is the device's own kind where it is known."""
    if beside is not None:
        return Place(device, beside, short)
    from diffprof.devices import DEFAULT_SIMULATED, resolve_device
    from diffprof.gpu.specs import spec_of_device

    info: Any = resolve_device(device).info()
    sheet = spec_of_device(info.name, info.memory_bytes) if info.kind == "cuda" else None
    return Place(info.spec, f"sim:{sheet.key}" if sheet else DEFAULT_SIMULATED, short)
