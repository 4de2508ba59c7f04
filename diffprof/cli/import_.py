"""`diffprof import`: a report on a trace that was recorded elsewhere."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffprof.cli.delivery import FORMS, apply_gate, deliver, fail_on_option, need_baseline
from diffprof.cli.fleet_options import engine_of, engine_options, time_left
from diffprof.cli.options import format_option, redact_option, traces_option, verbose_option
from diffprof.cli.output import emit, terminal
from diffprof.model.errors import ExitCode, UsageError
from diffprof.model.traces import FAILED
from diffprof.views.listing import LISTS

if TYPE_CHECKING:
    from diffprof.fleet.engine import Engine
    from diffprof.model.compiles import CompileRow
    from diffprof.model.traces import TraceRow

PRELOAD = ("diffprof.fleet.traces", "diffprof.analyzers")


@click.command("import")
@click.argument("found", nargs=-1, required=True, metavar="TRACE.json[.gz]...")
@format_option(FORMS)
@fail_on_option()
@traces_option(written=True)
@click.option(
    "--store", is_flag=True, help="Many: TRACE is a folder, pattern or address too; rows to diffprof.duckdb."
)
@click.option("--again", is_flag=True, help="With --store: read what failed before once more.")
@engine_options
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@verbose_option()
@redact_option()
def command(
    found: tuple[str, ...],
    store: bool,
    again: bool,
    ray: str | None,
    workers: int | None,
    form: str,
    fail_on: str,
    baseline_file: Path | None,
    update: bool,
    traces: Path,
    quiet: bool,
    verbose: bool,
    redact: bool,
) -> None:
    """Report on a trace of PyTorch's profiler, made on any machine.

    Kernels, waits with their Python site, idle time of the GPU and its causes, pageable copies and phases,
    each as far as TRACE tells: record with `with_stack=True` for sites and `record_shapes=True` for shapes.
    Of a trace that a scan left, the report is the scan's. Memory snapshots of PyTorch are read as well. Needs
    no GPU and no PyTorch. Ctrl-C stops reading, and the report is on what was read; a second one ends at
    once.

    With --store, many traces become rows of one table, and what they say together is shown: lines by their
    share of all, outliers, trends, the ranks of one run. What is there already is not read again.
    """
    if store:
        _many(found, traces, form, engine_of(ray, workers, PRELOAD), again=again, quiet=quiet)
        return
    _one(_single(found), form, fail_on, baseline_file, update, traces, quiet, verbose, redact)


def _single(found: tuple[str, ...]) -> Path:
    path = Path(found[0])
    if len(found) > 1 or path.is_dir() or (not path.exists() and any(mark in found[0] for mark in "*?[")):
        raise UsageError(
            "One report is made of one trace, and several are named.", "Add --store: each becomes a row."
        )
    return path


def _many(
    found: tuple[str, ...], traces: Path, form: str, engine: Engine, *, again: bool, quiet: bool
) -> None:
    """Rows to the store, and what all of them say."""
    from diffprof.fleet.gathering import Told
    from diffprof.fleet.sources import sources
    from diffprof.fleet.store import STORE_FILE, Store
    from diffprof.fleet.torch_trace import is_log
    from diffprof.fleet.traces import import_logs, import_traces
    from diffprof.model.progress import progress_on

    if form not in LISTS:
        raise UsageError(f"--format {form} is of one report.", f"With --store: {', '.join(LISTS)}.")
    store = Store(traces / STORE_FILE)
    listed = sources(found)
    logs = [source for source in listed if is_log(source)]
    started, read = time.monotonic(), 0
    with progress_on(sys.stderr, quiet=quiet) as progress:
        progress.stage("reading traces", total=len(listed))

        def told(now: Told) -> None:
            nonlocal read
            read += 1
            failed = f", {now.failed} failed" if now.failed else ""
            progress.step(f"{time_left(now.left_s)}{failed}")

        compiled = import_logs(logs, store, engine, again=again, told=told)
        rest = [source for source in listed if not is_log(source)]
        rows = import_traces(rest, store, engine, again=again, told=told)
    rate = read / (time.monotonic() - started) if read else None
    _say(rows, compiled, form, rate)
    if {row.status for row in rows} | {row.status for row in compiled} == {FAILED}:
        raise click.exceptions.Exit(ExitCode.USAGE)


def _say(rows: tuple[TraceRow, ...], compiled: tuple[CompileRow, ...], form: str, rate: float | None) -> None:
    from diffprof.judge.fleet import fleet
    from diffprof.views.compiles import render_compiles
    from diffprof.views.traces import render_fleet

    screen = terminal()
    width, colour = screen.columns, screen.colour
    if rows or form == "json":
        shown = fleet(rows)
        emit(render_fleet(shown, rows, form, compiled=compiled, width=width, colour=colour, rate=rate))
    if compiled and form != "json":
        emit(("\n" if rows else "") + render_compiles(compiled, form, width=width, colour=colour))


def _one(
    trace: Path,
    form: str,
    fail_on: str,
    baseline_file: Path | None,
    update: bool,
    traces: Path,
    quiet: bool,
    verbose: bool,
    redact: bool,
) -> None:
    """A report on one trace."""
    from diffprof.cli.interrupts import signals, stopping
    from diffprof.judge.gate import parse_gate
    from diffprof.model.errors import DiffprofError
    from diffprof.model.progress import progress_on
    from diffprof.scanning.importing import import_trace

    gate = parse_gate(fail_on)
    known = need_baseline(baseline_file, update=update)
    done = 0
    with progress_on(sys.stderr, quiet=quiet) as progress, stopping() as stop:
        progress.stage(f"reading {trace.name} (MB)")

        def read(size: int) -> None:
            nonlocal done
            progress.step(amount=(size >> 20) - done)
            done = size >> 20
            if stop.asked:
                progress.stage("making a report of what was read; Ctrl-C again ends at once")

        try:
            report = import_trace(trace, progress=read, stop=stop)
            signals().hold()
        except DiffprofError:
            if stop.asked:
                # Nothing was read yet that a report could be made of.
                raise KeyboardInterrupt from None
            raise
    partial = report.recording.partial and stop.asked
    deliver(report, form, traces, verbose=verbose, failed=partial, trace=trace, imported=True, redact=redact)
    signals().release()
    if stop.asked:
        raise KeyboardInterrupt
    apply_gate(gate, report, fail_on, known=known, file=baseline_file, update=update)
