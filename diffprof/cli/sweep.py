"""`diffprof sweep`: a grid of targets and settings, priced on many GPUs, into one store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffprof.cli.fleet_options import engine_of, engine_options, time_left
from diffprof.cli.options import Command, format_option, traces_option
from diffprof.cli.output import emit, say, stdout_to_stderr, terminal
from diffprof.cli.scan import call_arguments
from diffprof.cli.view import need_terminal
from diffprof.model.errors import ExitCode, UsageError
from diffprof.model.units import plural

if TYPE_CHECKING:
    from diffprof.fleet.grid import Case, Grid
    from diffprof.model.sweep import SweepRow

AXES = (
    ("--device", "GPUs by name, or all."),
    ("--mode", "eager, compiled, int8, fp8."),
    ("--batch", "Prompts in a call."),
    ("--size", "Height and width in pixels: 1024,768x1344."),
    ("--steps", "Denoising steps."),
    ("--scheduler", "Scheduler classes of diffusers."),
    ("--fix", "Fixes by key; several in one run as KEY+KEY; none for none."),
)


def _axes(function: Command) -> Command:
    for name, text in reversed(AXES):
        function = click.option(name, metavar="A,B", help=text)(function)
    return function


@click.command("sweep")
@click.argument("targets", required=False)
@_axes
@click.option("--dtype", help="float16, bfloat16, float32, ... of all components.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Any other call argument.")
@click.option("--price", metavar="P", help="Of a GPU hour; by device as h100=2.5,a10=0.6.")
@click.option("--again", is_flag=True, help="Run what failed before once more.")
@click.option("--sql", metavar="QUERY", help="Ask the store and do nothing else; its table is sweep.")
@click.option("--parquet", type=click.Path(path_type=Path), metavar="DIR", help="Export the store's tables.")
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with the figures."
)
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the rows as TensorBoard's hparams.",
)
@click.option("--tui", is_flag=True, help="Look through the rows in the viewer.")
@click.option("--show", metavar="A,B", default="", help="frontier, curves, table.")
@engine_options
@traces_option(written=True)
@format_option(("text", "json", "markdown"))
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def command(
    targets: str | None,
    sql: str | None,
    parquet: Path | None,
    html: Path | None,
    tensorboard: Path | None,
    tui: bool,
    show: str,
    traces: Path,
    form: str,
    quiet: bool,
    again: bool,
    ray: str | None,
    workers: int | None,
    **axes: object,
) -> None:
    """Predict every combination of TARGETS and settings.

    Each takes several, as A,B. Without TARGETS, what [tool.diffprof.sweep] of pyproject.toml says. The
    pipeline's own code runs once for each target, size, batch, scheduler and fix, and is priced for all
    devices, modes and steps. Rows go to diffprof.duckdb in the folder of the runs as they come; a sweep that
    is begun again goes on where it was stopped.
    """
    from diffprof.fleet.store import STORE_FILE, Store

    store = Store(traces / STORE_FILE)
    if sql is not None:
        emit(_answer(store, sql, form))
        return
    shown = _shown(show)
    if tui:
        need_terminal("Leave out --tui: the rows are printed then.")
    rows = _swept(_grids(targets, axes), store, engine_of(ray, workers, _preload()), again=again, quiet=quiet)
    if parquet is not None:
        say(f"exported {', '.join(map(str, store.export(parquet)))}")
    if html is not None:
        _write_page(html, rows)
    if tensorboard is not None:
        _write_hparams(tensorboard, rows)
    if tui:
        from diffprof.views.tui import view_sweep

        view_sweep(rows, traces)
    else:
        _emit(rows, form, shown)
    if rows and all(row.status == "failed" for row in rows):
        raise click.exceptions.Exit(ExitCode.TARGET_FAILED)


def _emit(rows: tuple[SweepRow, ...], form: str, shown: tuple[str, ...]) -> None:
    from diffprof.views.sweeps import render_sweep

    screen = terminal()
    emit(render_sweep(rows, form, show=shown, width=screen.columns, colour=screen.colour))


def _preload() -> tuple[str, ...]:
    from diffprof.fleet.sweeping import PRELOAD

    return PRELOAD


def _swept(grids: list[Grid], store: Any, engine: Any, *, again: bool, quiet: bool) -> tuple[SweepRow, ...]:
    from diffprof.fleet.gathering import Told
    from diffprof.fleet.sweeping import sweep
    from diffprof.model.progress import progress_on

    listed = _cases(grids)
    with progress_on(sys.stderr, quiet=quiet) as progress, stdout_to_stderr():
        progress.stage("importing torch and diffusers")

        def told(now: Told) -> None:
            if now.done == 1:
                progress.stage("runs", total=now.total)
            failed = f", {now.failed} failed" if now.failed else ""
            progress.step(f"{time_left(now.left_s)}{failed}; {now.last}")

        return sweep(listed, store, engine, again=again, told=told)


def _cases(grids: list[Grid]) -> list[Case]:
    """Of all grids; checked here, so that a wrong name is said before anything runs."""
    from diffprof.fleet.grid import cases, pixels
    from diffprof.gpu.specs import load_spec, spec_names
    from diffprof.model.modes import check_modes
    from diffprof.targets import resolve

    listed: list[Case] = []
    for grid in grids:
        check_modes(grid.mode)
        names = spec_names() if grid.device == ("all",) else grid.device
        devices = [load_spec(name.removeprefix("sim:")).key for name in names]
        for target in grid.targets:
            resolve(target)
        for size in grid.size:
            pixels(size)
        listed += cases(grid, devices)
    return listed


def _grids(targets: str | None, given: dict[str, object]) -> list[Grid]:
    import msgspec

    from diffprof.fleet.grid import Grid, grids_of

    own = _own(given)
    if targets is None:
        return [msgspec.structs.replace(grid, **own) for grid in grids_of(Path.cwd())]
    return [Grid(targets=_listed(targets), **own)]


def _own(given: dict[str, Any]) -> dict[str, Any]:
    """The options as fields of a grid; those that were not given are left out."""
    own: dict[str, object] = {
        name: _listed(text)
        for name in ("device", "mode", "size", "scheduler")
        if (text := given[name]) is not None
    }
    own |= {
        name: _numbers(text, f"--{name}") for name in ("batch", "steps") if (text := given[name]) is not None
    }
    if given["fix"] is not None:
        own["fix"] = tuple("" if each == "none" else each for each in _listed(given["fix"]))
    if given["dtype"] is not None:
        own["dtype"] = given["dtype"]
    if given["pairs"]:
        own["call"] = call_arguments(given["pairs"])
    if given["price"] is not None:
        own["price"] = _price(given["price"])
    return own


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str, option: str) -> tuple[int, ...]:
    parts = _listed(text)
    if not parts or not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"{option} {text!r} is no list of numbers.", f"Write it as {option} 1,4.")
    return tuple(map(int, parts))


def _price(text: str) -> float | dict[str, float]:
    try:
        if "=" not in text:
            return float(text)
        return {name: float(value) for name, value in (part.split("=", 1) for part in _listed(text))}
    except ValueError as error:
        raise UsageError(f"--price {text!r} is no price.", "Write 2.5, or h100=2.5,a10=0.6.") from error


def _shown(text: str) -> tuple[str, ...]:
    from diffprof.views.sweeps import SHOWN

    for part in _listed(text):
        if part not in SHOWN:
            raise UsageError(f"--show has no {part!r}.", f"Choose from: {', '.join(SHOWN)}.")
    return _listed(text)


def _answer(store: Any, sql: str, form: str) -> str:
    from diffprof.views.listing import render_list

    names, found = store.query(sql)
    cells = [dict(zip(names, row, strict=True)) for row in found]
    if form == "json":
        return render_list({}, cells, form)
    told = [{name: "" if value is None else str(value) for name, value in row.items()} for row in cells]
    screen = terminal()
    return render_list(dict(zip(names, names, strict=True)), told, form, width=screen.columns)


def _write_page(file: Path, rows: tuple[SweepRow, ...]) -> None:
    from diffprof.views.html.sweep import render_sweep_page

    try:
        file.write_text(render_sweep_page(rows), encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{file} can't be written: {error.strerror or error}.", "Name another file."
        ) from error
    say(f"written to {file}")


def _write_hparams(folder: Path, rows: tuple[SweepRow, ...]) -> None:
    from diffprof.views.tensorboard.sweep import write_sweep

    say(f"{plural(write_sweep(rows, folder), 'row')} written; tensorboard --logdir {folder} shows them")
