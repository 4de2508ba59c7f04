"""Scan every built-in architecture and write `diffprof/docs/targets-table.md`.

    python -m tests.benchmarks.targets_table [NAME ...]

With names the rows of these alone are made anew, and the page keeps the others; with `--breaks` none but
their graph breaks. One process; a few CPU seconds each. Graph breaks are those that `docs/survey.md` has of
the tiny pipeline of the same class: capturing one at full size takes 20 to 90 CPU seconds and more. Where the
survey has none of a class, the target's own `tiny-` form is captured, which takes up to minutes.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from pathlib import Path

from diffprof.corpus import CASES
from diffprof.fleet.surveying import SETTINGS
from diffprof.model.report import Report
from diffprof.scanning.scan import scan_target
from diffprof.targets.builtin import BuiltinInfo, builtin_targets
from diffprof.views.markdown_text import table
from diffprof.views.words import parameters

FILE = Path(__file__).parents[2] / "diffprof" / "docs" / "targets-table.md"
DEVICE = "sim:h100"

SURVEY = FILE.parent / "survey.md"
BREAKS = "graph breaks"

HEADINGS = (
    "target",
    "steps",
    "waits in the loop",
    "elsewhere",
    "seconds",
    "GiB",
    BREAKS,
)
CHECKS = ("target", "parameters", "checked by")

PAGE = """\
# Built-in architectures, scanned

Simulated on {device}: a call with the model card's size, guidance and dtype, and as many denoising steps
as the table says. Waits are blocking operations of the whole call; seconds are of that call; GiB is the peak,
with all components on the GPU. Graph breaks are those of the denoiser and the decoder of a tiny pipeline of
the same class in the [survey](survey.md), or of the `tiny-` form of the target where the corpus holds none of
that class; `-` where neither was captured. Nothing here was measured. Written by
`tests/benchmarks/targets_table.py`.

{rows}
## Parameters

{checks}"""


def row(report: Report) -> dict[str, str]:
    """The cells that a scan fills, by their headings."""
    syncs = report.recording.syncs or ()
    memory, answer = report.recording.memory, report.verdict
    peak = memory.peak_bytes if memory else None
    seconds = answer.call_ms if answer else None
    return {
        "steps": str(report.recording.target.steps),
        "waits in the loop": str(sum(sync.count for sync in syncs if sync.in_loop)),
        "elsewhere": str(sum(sync.count for sync in syncs if not sync.in_loop)),
        "seconds": "" if seconds is None else f"{seconds / 1000:.2f}",
        "GiB": "" if peak is None else f"{peak / 2**30:.1f}",
    }


def breaks() -> dict[str, str]:
    """Graph breaks in the survey, by the pipeline's class; of several tiny pipelines of a class the first."""
    found: dict[str, str] = {}
    for name, cells in rows_of(SURVEY.read_text()).items():
        case = CASES.get(name.removeprefix("corpus:"))
        if case is not None and name.startswith("corpus:"):
            found.setdefault(type(case.build().pipe).__name__, cells[BREAKS])
    return found


def captured(info: BuiltinInfo) -> str:
    """Graph breaks of a target's small form, looked for as the survey does; `-` where a capture failed: it
    came to no more than some."""
    assert info.tiny is not None
    report = scan_target(info.tiny, device=DEVICE, analyzers=("graph-breaks",), settings=SETTINGS)
    assert report.recording.graph_breaks is not None
    failed = any(row.failure for row in report.recording.captures or ())
    return "-" if failed else str(len(report.recording.graph_breaks))


def checked(info: BuiltinInfo) -> str:
    """What the parameter counts are checked by, in words."""
    told = [f"{figure}: {where}" if figure else where for figure, where in info.checked_by.values()]
    stated = [f"{figure}: {where}" if figure else where for figure, where in info.stated.values()]
    unread = f"unverified ({'; '.join(dict.fromkeys(stated))})" if stated else "unverified"
    return "; ".join(dict.fromkeys(told)) or unread


def rows_of(page: str, number: int = 0) -> dict[str, dict[str, str]]:
    """The cells of a table of the page by target and heading."""
    blocks = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    lines = [line.split("|")[1:-1] for line in blocks[number]]
    heads, _, *rows = [[cell.strip().replace("\\", "") for cell in line] for line in lines]
    return {cells[0].strip("`"): dict(zip(heads, cells, strict=True)) for cells in rows}


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("names", nargs="*")
    asked.add_argument("--breaks", action="store_true")
    given = asked.parse_args()
    known = rows_of(FILE.read_text()) if given.names or given.breaks else {}
    surveyed = breaks()
    for info in builtin_targets():
        if given.names and info.name not in given.names:
            continue
        started = time.process_time()
        if not given.breaks:
            known[info.name] = row(scan_target(info.name, device=DEVICE))
        found = surveyed.get(info.pipeline)
        known[info.name][BREAKS] = captured(info) if found is None else found
        # A pipeline goes with the collector only, and would count as memory in use.
        gc.collect()
        print(f"{info.name}: {time.process_time() - started:.1f} s", file=sys.stderr, flush=True)
    rows, checks = [], []
    for info in builtin_targets():
        target = f"`{info.name}`"
        rows.append([{**known[info.name], "target": target}[head] for head in HEADINGS])
        checks.append([target, parameters(sum(info.parameters.values())), checked(info)])
    page = PAGE.format(
        device=DEVICE.removeprefix("sim:"), rows=table(HEADINGS, rows), checks=table(CHECKS, checks)
    )
    FILE.write_text(page)


if __name__ == "__main__":
    main()
