"""`diffprof import`: a report on a trace that was recorded elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from diffprof.cli.delivery import FORMS, apply_gate, deliver, fail_on_option, need_baseline
from diffprof.cli.options import format_option, redact_option, traces_option, verbose_option


@click.command("import")
@click.argument("trace", type=click.Path(path_type=Path), metavar="TRACE.json[.gz]")
@format_option(FORMS)
@fail_on_option()
@traces_option(written=True)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@verbose_option()
@redact_option()
def command(
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
    """Report on a trace of PyTorch's profiler, made on any machine.

    Kernels, waits with their Python site, idle time of the GPU and its causes, pageable copies and phases,
    each as far as TRACE tells: record with `with_stack=True` for sites and `record_shapes=True` for shapes.
    Of a trace that a scan left, the report is the scan's. Needs no GPU and no PyTorch. Ctrl-C stops reading,
    and the report is on what was read; a second one ends at once.
    """
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
