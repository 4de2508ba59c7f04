"""`diffprof tensorboard`: stored runs in TensorBoard, without the internet."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
from pathlib import Path

import click

from diffprof.cli.interrupts import signals
from diffprof.cli.options import traces_option
from diffprof.cli.output import emit, say
from diffprof.model.errors import DiffprofError, UsageError
from diffprof.model.ladder import LADDER_FILE
from diffprof.model.units import plural


@click.command("tensorboard")
@click.argument("runs", nargs=-1)
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port to listen on.  [default: 6006 or a free one]"
)
@click.option("--no-serve", is_flag=True, help="Write the files into the runs' folders and stop.")
@traces_option()
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def command(runs: tuple[str, ...], port: int | None, no_serve: bool, traces: Path, quiet: bool) -> None:
    """Show stored runs in TensorBoard, on this machine alone and without the internet.

    RUNS are runs as `diffprof show` takes them, or folders of runs; without any, all stored ones. Under
    Profiler: operators, kernels, trace, memory, modules, and the difference of two runs. On TensorBoard's own
    pages: scalars, hparams, histograms, pictures and the findings. The files are written once, into the
    folders of the runs, so that `tensorboard --logdir traces` shows the same. Ctrl-C ends it.
    """
    from diffprof.model.progress import progress_on

    folders = _folders(runs, traces)
    with progress_on(sys.stderr, quiet=quiet) as progress:
        progress.stage("writing files for TensorBoard", total=len(folders))
        from diffprof.views.tensorboard.files import prepare

        written, unwritten = 0, []
        for folder in folders:
            progress.step(folder.name)
            try:
                written += prepare(folder)
            except DiffprofError as error:
                unwritten.append(error)
    none_written = len(unwritten) == len(folders)
    for failed in unwritten[none_written:]:
        say(f"warning: {failed.what}")
    if unwritten and none_written:
        raise unwritten[0]  # which says the first
    say(f"{plural(len(folders), 'run')}; files written for {written}.")
    if no_serve:
        return
    with contextlib.ExitStack() as stack:
        _serve(_logdir(runs, traces, folders, stack), port)


def _serve(logdir: Path, port: int | None) -> None:
    from diffprof.views.tensorboard.profiler.version import another_version
    from diffprof.views.tensorboard.server import start, stop

    if trouble := another_version():
        say(f"warning: {trouble}")
    try:
        emit(f"{start(logdir, port)}\n")
        say("Ctrl-C ends it.")
        threading.Event().wait()
    except KeyboardInterrupt:
        # Whoever ends a service asks this way; what parses traces is to end as well.
        signals().taken()
        say("TensorBoard ended.")
    finally:
        stop()


def _folders(names: tuple[str, ...], traces: Path) -> list[Path]:
    """Folders of the runs that are meant, each once.

    Raises UsageError for what is no run, and when there is none.
    """
    from diffprof.model import runs
    from diffprof.model.report import REPORT_FILE

    found: dict[Path, None] = {}
    for name in names:
        inside = _inside(Path(name)) if Path(name).is_dir() else []
        if inside:
            found.update(dict.fromkeys(inside))
            continue
        if (Path(name) / LADDER_FILE).is_file():
            found[Path(name)] = None
            continue
        place = runs.find(traces, name)
        if place.is_file():
            if place.name != REPORT_FILE:
                raise UsageError(
                    f"{place} is a report without a folder of its own.",
                    f"Put it into a folder as {REPORT_FILE} and name the folder.",
                )
            place = place.parent
        found[place] = None
    if not names:
        found.update(dict.fromkeys(_inside(traces)))
    if not found:
        raise UsageError(
            f"No run is stored in {traces}.",
            "Make one with `diffprof scan TARGET`, or name its folder with --traces.",
        )
    return list(found)


def _inside(traces: Path) -> list[Path]:
    """The runs and ladders that are stored in a folder."""
    from diffprof.model import runs

    reports = runs.folders(traces)
    return [
        *reports,
        *(file.parent for file in traces.glob(f"*/{LADDER_FILE}") if file.parent not in reports),
    ]


def _logdir(names: tuple[str, ...], traces: Path, folders: list[Path], stack: contextlib.ExitStack) -> Path:
    """A folder with these runs and no others: the one they lie in, or one with links to them."""
    if not names:
        return traces
    if len(names) == 1 and folders != [Path(names[0])] and Path(names[0]).is_dir():
        return Path(names[0])
    links = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="diffprof-")))
    for folder in folders:
        name, number = folder.resolve().name, 1
        while (links / name).is_symlink():
            number += 1
            name = f"{folder.resolve().name}-{number}"
        try:
            (links / name).symlink_to(folder.resolve(), target_is_directory=True)
        except OSError as error:
            raise UsageError(
                f"Single runs are shown through links, and none can be made: {error.strerror or error}.",
                "Name the folder that holds the runs.",
            ) from error
    return links
