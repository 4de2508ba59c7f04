"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from diffprof.model.errors import UsageError
from diffprof.model.runs import TRACES, need_folder

Command = TypeVar("Command", bound=Callable[..., object])
"""A command, decorated."""

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def traces_option(*, written: bool = False) -> Decorator:
    """written: the command stores a run there, and is refused before it begins where it could not."""

    def checked(ctx: click.Context, parameter: click.Parameter, value: Path) -> Path:
        need_folder(value, written=written)
        return value

    return click.option(
        "--traces",
        type=click.Path(path_type=Path),
        default=TRACES,
        show_default=True,
        envvar="DIFFPROF_TRACES",
        show_envvar=True,
        metavar="DIR",
        callback=checked,
        help="Folder of the stored runs.",
    )


class NewFile(click.Path):
    """A file that a command writes in the end; it is refused before it begins where it could not."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False, writable=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(str(super().convert(value, param, ctx)))
        folder = path.absolute().parent
        if not folder.is_dir():
            raise UsageError(f"There is no folder {folder}.", f"Make it, or write {path.name} elsewhere.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError(f"{folder} can't be written to.", f"Write {path.name} elsewhere.")
        return path


def format_option(formats: Sequence[str]) -> Decorator:
    return click.option(
        "--format",
        "form",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="What to print on stdout.",
    )


def redact_option() -> Decorator:
    return click.option(
        "--redact", is_flag=True, help="Print without prompts, absolute paths and source: to be sent."
    )


def verbose_option() -> Decorator:
    return click.option(
        "-v", "--verbose", is_flag=True, help="Print every finding with its source, calls and tables (text)."
    )
