"""Scan every built-in architecture and write `diffprof/docs/targets-table.md`.

    python -m tests.benchmarks.targets_table [NAME ...]

With names the rows of these alone are made anew, and the page keeps the others. One process; a few CPU
seconds each.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from diffprof.model.report import Report
from diffprof.scanning.scan import scan_target
from diffprof.targets.builtin import BuiltinInfo, builtin_targets
from diffprof.views.markdown import table
from diffprof.views.words import parameters

FILE = Path(__file__).parents[2] / "diffprof" / "docs" / "targets-table.md"
DEVICE = "sim:h100"

HEADINGS = (
    "target",
    "parameters",
    "steps",
    "waits in the loop",
    "elsewhere",
    "seconds",
    "GiB",
    "checked by",
)

PAGE = """\
# Built-in architectures, scanned

Simulated on {device}: a call with the model card's size, guidance and dtype, and as many denoising steps
as the table says. Waits are blocking operations of the whole call; seconds are of that call; GiB is the peak,
with all components on the GPU. Nothing here was measured. Written by `tests/benchmarks/targets_table.py`.

{rows}"""


def row(info: BuiltinInfo, report: Report) -> Sequence[str]:
    syncs = report.recording.syncs or ()
    memory, answer = report.recording.memory, report.verdict
    peak = memory.peak_bytes if memory else None
    seconds = answer.call_ms if answer else None
    return (
        f"`{info.name}`",
        parameters(sum(info.parameters.values())),
        str(report.recording.target.steps),
        str(sum(sync.count for sync in syncs if sync.in_loop)),
        str(sum(sync.count for sync in syncs if not sync.in_loop)),
        "" if seconds is None else f"{seconds / 1000:.2f}",
        "" if peak is None else f"{peak / 2**30:.1f}",
        checked(info),
    )


def checked(info: BuiltinInfo) -> str:
    """What the parameter counts are checked by, in words."""
    told = [f"{figure}: {where}" if figure else where for figure, where in info.checked_by.values()]
    stated = [f"{figure}: {where}" if figure else where for figure, where in info.stated.values()]
    unread = f"unverified ({'; '.join(dict.fromkeys(stated))})" if stated else "unverified"
    return "; ".join(dict.fromkeys(told)) or unread


def rows_of(page: str) -> dict[str, str]:
    """The lines of the page's table, by target."""
    lines = (line for line in page.splitlines(keepends=True) if line.startswith("| `"))
    return {line.split("`")[1]: line for line in lines}


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("names", nargs="*")
    given = asked.parse_args()
    lines = rows_of(FILE.read_text()) if given.names else {}
    for info in builtin_targets():
        if given.names and info.name not in given.names:
            continue
        started = time.process_time()
        report = scan_target(info.name, device=DEVICE)
        print(f"{info.name}: {time.process_time() - started:.1f} s", file=sys.stderr, flush=True)
        lines[info.name] = table(HEADINGS, [row(info, report)]).splitlines(keepends=True)[-1]
        del report
        # A pipeline goes with the collector only, and would count as memory in use.
        gc.collect()
    rows = "".join(lines[info.name] for info in builtin_targets() if info.name in lines)
    page = PAGE.format(device=DEVICE.removeprefix("sim:"), rows=table(HEADINGS, []) + rows)
    FILE.write_text(page)


if __name__ == "__main__":
    main()
