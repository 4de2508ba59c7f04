"""Scan every built-in architecture and print `diffprof/docs/targets-table.md`.

    python tests/benchmarks/targets_table.py [--device sim:h100] [NAME ...] > diffprof/docs/targets-table.md

One process; a few CPU seconds each.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Sequence

from diffprof.model.report import Report
from diffprof.scanning.scan import scan_target
from diffprof.targets.builtin import BuiltinInfo, builtin_named, builtin_targets
from diffprof.views.markdown import table
from diffprof.views.words import parameters

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
with all components on the GPU. Nothing here was measured. Printed by `tests/benchmarks/targets_table.py`.

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


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("names", nargs="*")
    asked.add_argument("--device", default="sim:h100")
    given = asked.parse_args()
    infos = [builtin_named(name) for name in given.names] if given.names else builtin_targets()
    rows = []
    for info in infos:
        assert info is not None
        started = time.process_time()
        report = scan_target(info.name, device=given.device)
        print(f"{info.name}: {time.process_time() - started:.1f} s", file=sys.stderr, flush=True)
        rows.append(row(info, report))
        del report
        # A pipeline goes with the collector only, and would count as memory in use.
        gc.collect()
    print(PAGE.format(device=given.device.removeprefix("sim:"), rows=table(HEADINGS, rows)), end="")


if __name__ == "__main__":
    main()
