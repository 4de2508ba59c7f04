"""Where the tasks of a fleet run: options that its commands share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from diffprof.cli.options import Command


def engine_options(function: Command) -> Command:
    """`--workers` and `--ray`."""
    for option in (
        click.option(
            "--ray",
            is_flag=False,
            flag_value="local",
            metavar="[ADDRESS]",
            help="Run on a Ray cluster; without an address, on one started here.",
        ),
        click.option("--workers", type=click.IntRange(1), help="Processes.  [default: one a core]"),
    ):
        function = option(function)
    return function


def engine_of(ray: str | None, workers: int | None, preload: Sequence[str] = ()) -> Any:
    """What the options name."""
    if ray is not None:
        from diffprof.fleet.ray_engine import RayCluster

        return RayCluster(ray, workers)
    from diffprof.fleet.engine import Processes, cores

    return Processes(workers or cores(), preload=preload)


def time_left(seconds: float) -> str:
    """`about 2:05 left`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"about {minutes}:{rest:02} left"
