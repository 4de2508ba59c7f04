"""The command group: finds commands by name without importing the others, and turns errors into exit
codes."""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

import click

import diffprof
from diffprof.cli.interrupts import Signals, heard
from diffprof.cli.output import complain, reserve_descriptors, say
from diffprof.model.errors import DiffprofError, ExitCode, Stopped
from diffprof.targets.exits import ProcessExit

LONGEST = 200
"""Characters of a file name that is shown in an error."""

COMMANDS = {
    "scan": "diffprof.cli.scan",
    "import": "diffprof.cli.import_",
    "show": "diffprof.cli.show",
    "fix": "diffprof.cli.fix",
    "compare": "diffprof.cli.compare",
    "check": "diffprof.cli.check",
    "baseline": "diffprof.cli.baseline",
    "init": "diffprof.cli.init",
    "view": "diffprof.cli.view",
    "runs": "diffprof.cli.runs",
    "rules": "diffprof.cli.rules",
    "explain": "diffprof.cli.explain",
    "targets": "diffprof.cli.targets",
    "gpus": "diffprof.cli.gpus",
    "schedulers": "diffprof.cli.schedulers",
    "quantize-table": "diffprof.cli.quantize_table",
    "attention-table": "diffprof.cli.attention_table",
    "ladder": "diffprof.cli.ladder",
    "predict": "diffprof.cli.predict",
    "sweep": "diffprof.cli.sweep",
    "survey": "diffprof.cli.survey",
    "calibrate": "diffprof.cli.calibrate",
    "fit": "diffprof.cli.fit",
    "export": "diffprof.cli.export",
    "tensorboard": "diffprof.cli.tensorboard",
    "record": "diffprof.cli.record",
    "mcp": "diffprof.cli.mcp",
    "doctor": "diffprof.cli.doctor",
    "docs": "diffprof.cli.pages",
}
"""Command -> module with a click command `command`, in the order of the help."""


class Commands(click.Group):
    """A group whose commands are modules."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return import_module(COMMANDS[cmd_name]).command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=2)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(error.message + hint, ctx) from error

    def invoke(self, ctx: click.Context) -> object:
        with heard() as signals:
            code = self._ended(ctx, signals)
        if signals.came is not None:
            # Whatever the command, or the code that it ran, made of it.
            code = 128 + signals.came
        raise click.exceptions.Exit(code)

    def _ended(self, ctx: click.Context, signals: Signals) -> int:
        """Run the command; its exit status, once what went wrong is said."""
        try:
            super().invoke(ctx)
        except click.exceptions.Exit as end:
            return end.exit_code
        except click.ClickException:
            raise
        except (KeyboardInterrupt, click.Abort) as end:
            number = end.number if isinstance(end, Stopped) else signals.came or signal.SIGINT
            by_hand = number == signal.SIGINT
            complain("stopped by Ctrl-C." if by_hand else f"ended by {signal.Signals(number).name}.")
            return 128 + number
        except BaseException as error:
            code = _said(error)
            if ctx.params.get("debug"):
                say("".join(traceback.format_exception(error)).rstrip())
            return code
        return ExitCode.CLEAN


def _said(error: BaseException) -> ExitCode:
    """Say what went wrong; whose fault it is, as an exit status."""
    if isinstance(error, DiffprofError):
        complain(error.what, error.hint)
        return error.exit_code
    if isinstance(error, SystemExit | ProcessExit):
        complain(
            f"The target ended the process with status {error.code if error.code is not None else 0!r}.",
            "What is run has to come to its end: take the exit out, or go around it.",
        )
        return ExitCode.TARGET_FAILED
    if isinstance(error, ModuleNotFoundError) and (missing := _dependency(error)):
        complain(
            f"{missing} is not installed.",
            "`pip install diffprof` brings all that scans need; show, view, import and compare do without.",
        )
        return ExitCode.USAGE
    if isinstance(error, OSError):
        # What the system refuses is no bug: a name that is too long, a folder that may not be read.
        name = str(error.filename or "")
        name = name if len(name) <= LONGEST else f"{name[:LONGEST]}... ({len(name):,} characters)"
        complain(f"{name or type(error).__name__}: {error.strerror or error}.", "Check the path.")
        return ExitCode.USAGE
    if isinstance(error, ImportError | AttributeError) and (file := _hiding(error)):
        complain(f"{file} hides Python's own module {file.stem!r}: {error}.", "Rename the file.")
        return ExitCode.USAGE
    complain(
        f"diffprof itself failed: {type(error).__name__}: {error}",
        "This is a bug. Please report it with the traceback that `diffprof --debug ...` prints.",
    )
    return ExitCode.INTERNAL


def _hiding(error: BaseException) -> Path | None:
    """The file that was imported in place of a module of the standard library when this was raised."""
    ran = (Path(f.filename) for f in traceback.extract_tb(error.__traceback__) if f.name == "<module>")
    named = (path for path in ran if path.stem in sys.stdlib_module_names and str(path.parent) in sys.path)
    return next((path for path in named if path.parent != Path(os.__file__).parent), None)


def _dependency(error: ModuleNotFoundError) -> str:
    """The package of diffprof's dependencies that can't be imported; empty where it is another's."""
    from importlib.metadata import requires

    package = str(error.name).partition(".")[0]
    declared = {re.split(r"[^\w-]", line, maxsplit=1)[0] for line in requires("diffprof") or ()}
    return package if package.replace("_", "-") in declared | {"PIL"} else ""


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 clean, 1 found what --fail-on names, 2 usage, 3 the target failed, "
    "4 --fail-on could not be judged, 70 a bug in diffprof, 128 + N ended by signal N (130 Ctrl-C).",
)
@click.version_option(diffprof.__version__, prog_name="diffprof")
@click.option("--debug", is_flag=True, envvar="DIFFPROF_DEBUG", help="Print tracebacks of errors.")
def app(debug: bool) -> None:
    """Find what makes a diffusers pipeline slow, with or without the GPU."""
    del debug  # read from the context when an error is caught
    reserve_descriptors()
    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe that can't take a character gets its escape, not a UnicodeEncodeError.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="backslashreplace")
