"""The command group: finds commands by name without importing the others, and turns errors into exit
codes."""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from typing import Any

import click

import diffprof
from diffprof.cli.output import complain, say
from diffprof.model.errors import DiffprofError, ExitCode

COMMANDS = {
    "scan": "diffprof.cli.scan",
    "import": "diffprof.cli.import_",
    "show": "diffprof.cli.show",
    "fix": "diffprof.cli.fix",
    "compare": "diffprof.cli.compare",
    "view": "diffprof.cli.view",
    "runs": "diffprof.cli.runs",
    "rules": "diffprof.cli.rules",
    "explain": "diffprof.cli.explain",
    "targets": "diffprof.cli.targets",
    "schedulers": "diffprof.cli.schedulers",
    "quantize-table": "diffprof.cli.quantize_table",
    "ladder": "diffprof.cli.ladder",
    "tensorboard": "diffprof.cli.tensorboard",
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

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except DiffprofError as error:
            complain(error.what, error.hint)
            _trace(ctx)
            code = error.exit_code
        except KeyboardInterrupt:
            complain("stopped by Ctrl-C.")
            code = ExitCode.INTERRUPTED
        except Exception as error:
            complain(
                f"diffprof itself failed: {type(error).__name__}: {error}",
                "This is a bug. Please report it with the traceback that `diffprof --debug ...` prints.",
            )
            _trace(ctx)
            code = ExitCode.INTERNAL
        raise click.exceptions.Exit(int(code))


def _trace(ctx: click.Context) -> None:
    if ctx.params.get("debug"):
        say(traceback.format_exc().rstrip())


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 clean, 1 found what --fail-on names, 2 usage, 3 the target failed, "
    "70 a bug in diffprof, 130 interrupted.",
)
@click.version_option(diffprof.__version__, prog_name="diffprof")
@click.option("--debug", is_flag=True, envvar="DIFFPROF_DEBUG", help="Print tracebacks of errors.")
def app(debug: bool) -> None:
    """Find what makes a diffusers pipeline slow, with or without the GPU."""
    del debug  # read from the context when an error is caught
    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe that can't take a character gets its escape, not a UnicodeEncodeError.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="backslashreplace")
