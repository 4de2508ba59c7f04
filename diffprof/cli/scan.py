"""`diffprof scan`: run a target once under the probes, store the report, show it."""

from __future__ import annotations

import ast
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffprof.cli.delivery import FORMS, apply_gate, deliver, fail_on_option, need_baseline
from diffprof.cli.interrupts import signals
from diffprof.cli.options import Command, format_option, redact_option, traces_option, verbose_option
from diffprof.cli.output import say, stdout_to_stderr
from diffprof.devices import DEFAULT_SIMULATED
from diffprof.judge.registry import analyzers as known_analyzers
from diffprof.judge.registry import default_names, names
from diffprof.model.collection import collection, paused_collection
from diffprof.model.errors import ExitCode, UsageError, reported

if TYPE_CHECKING:
    from diffprof.model.analyzer import Option
    from diffprof.model.report import Report


def call_arguments(pairs: tuple[str, ...], option: str = "--set") -> dict[str, Any]:
    """`key=value` pairs; a value that reads as a Python literal is one, anything else is text.

    Raises UsageError for a pair without a name.
    """
    found: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(
                f"{option} {pair!r} is not of the form key=value.",
                f"Write the call argument's name, such as {option} num_images_per_prompt=2.",
            )
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = value
    return found


def varied(pairs: tuple[str, ...]) -> dict[str, list[Any]]:
    """`--vary height=768,1024` as {"height": [768, 1024]}.

    Raises UsageError for a pair without a name or without values.
    """
    found: dict[str, list[object]] = {}
    for key, value in call_arguments(pairs, option="--vary").items():
        values = list(value) if isinstance(value, tuple) else [value]
        found[key] = [_literal(part) for text in values for part in _parts(text)]
    return found


def _parts(value: object) -> list[Any]:
    return value.split(",") if isinstance(value, str) else [value]


def _literal(value: object) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _choose_host(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """The host holds until the command ends."""
    if value is not None:
        from diffprof.gpu.hosts import on_host

        ctx.with_resource(on_host(value))


SHEETS = "Data sheet of a GPU, such as h100 (`diffprof gpus`)"
"""What `--device` is where nothing runs on the device."""


def target_options(
    function: Command,
    *,
    device: str = "cuda, cpu, or sim:GPU such as sim:h100.  "
    f"[default: cuda if present, else {DEFAULT_SIMULATED}]",
) -> Command:
    """The options that say where and how a target runs; shared by every command that runs one. device: what
    is said of it."""
    for option in reversed(
        (
            click.option("--device", help=device),
            click.option(
                "--host",
                metavar="NAME",
                expose_value=False,
                callback=_choose_host,
                help="CPU that issues the calls of a simulated GPU: cloud, desktop, or this (measures this "
                "machine, 3 s, once).  [default: cloud]",
            ),
            click.option("--scheduler", metavar="NAME", help="Scheduler class, such as DDIMScheduler."),
            click.option("--steps", type=click.IntRange(1), help="Denoising steps."),
            click.option("--height", type=click.IntRange(1), metavar="PX", help="Height in pixels."),
            click.option("--width", type=click.IntRange(1), metavar="PX", help="Width in pixels."),
            click.option("--batch", type=click.IntRange(1), help="Prompts in the call."),
            click.option("--dtype", help="float16, bfloat16, float32, ... of all components."),
            click.option("--guidance-scale", type=float, help="Guidance scale."),
            click.option(
                "--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Any other call argument."
            ),
            click.option("--no-weights", is_flag=True, help="Read the configurations only."),
            click.option(
                "--baseline",
                is_flag=True,
                default=None,
                help="Attention without SDPA, matmuls in TF32: where the published guide starts.",
            ),
        )
    ):
        function = option(function)
    return function


def make_options(pairs: tuple[str, ...], no_weights: bool, **named: Any) -> Any:
    """The library's form of `target_options`."""
    from diffprof.targets import Options

    return Options(call=call_arguments(pairs), weights=not no_weights, **named)


_KINDS: dict[str, object] = {
    "text": str,
    "number": float,
    "count": click.IntRange(1),
    "seconds": click.FloatRange(0, min_open=True),
    "pairs": str,
    "flag": bool,
}
"""Kind of an analyzer's option -> how it is parsed."""


def _own_options() -> Iterator[Option]:
    for analyzer in known_analyzers():
        yield from analyzer.options


def analyzer_options(function: Command) -> Command:
    """The options that analyzers bring, each as a parameter with its setting's name."""
    for option in reversed(tuple(_own_options())):
        function = click.option(
            option.flag,
            option.setting,
            type=click.Choice(option.choices) if option.choices else _KINDS[option.kind],
            multiple=option.kind == "pairs",
            is_flag=option.kind == "flag",
            default=None if option.kind != "pairs" else (),
            metavar=option.metavar,
            help=option.help,
        )(function)
    return function


def taken_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Takes the analyzers' settings out of what a command was given."""
    taken = {option: given.pop(option.setting) for option in _own_options()}
    return {
        option.setting: (varied(value) or None) if option.kind == "pairs" else value
        for option, value in taken.items()
    }


class Remembering(click.Command):
    """A command that keeps its arguments as they were typed, so that another process can be given them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[__name__] = list(args)
        return super().parse_args(ctx, args)


def in_viewer(typed: Sequence[str], target: str, traces: Path) -> None:
    """Run the same scan in a process of its own under the viewer, which then shows the report.

    Ends as the scan did: with its exit status, and what it said where it left no report.
    """
    from diffprof.cli.view import need_terminal
    from diffprof.model.report import from_json
    from diffprof.views.tui import watch_job

    need_terminal("Leave out --tui: the report is printed then.")
    end = typed.index("--") if "--" in typed else len(typed)
    own = [arg for arg in typed[:end] if arg != "--tui"]
    ended = watch_job(["scan", *own, "--format", "json", *typed[end:]], f"Scanning {target}", traces)
    if ended is None:
        raise click.exceptions.Exit(ExitCode.INTERRUPTED)
    try:
        say(f"stored in {from_json(ended.output).path}")
    except UsageError:
        say("\n".join(ended.talk))
    if ended.code:
        raise click.exceptions.Exit(ended.code if ended.code > 0 else ExitCode.INTERRUPTED)


@click.command("scan", cls=Remembering)
@click.argument("target")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@target_options
@click.option(
    "--analyzers",
    metavar="A,B",
    default="",
    help=f"{', '.join(names())}, or all.  [default: {','.join(default_names())}]",
)
@click.option(
    "--compiled", is_flag=True, help="Predict times as if denoiser and VAE were compiled (sim only)."
)
@analyzer_options
@click.option("--no-cache", is_flag=True, help="Capture and time again what an earlier scan did.")
@click.option("--every-step", is_flag=True, help="Run steps that repeat one before, too (sim only).")
@format_option(FORMS)
@click.option(
    "--select",
    metavar="RULE,...",
    default="",
    help="Report on these rules: codes, names, prefixes such as SYN.",
)
@fail_on_option()
@traces_option(written=True)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@click.option("--tui", is_flag=True, help="Watch it run and look through the report in the viewer.")
@verbose_option()
@redact_option()
def command(
    target: str,
    args: tuple[str, ...],
    device: str | None,
    form: str,
    select: str,
    fail_on: str,
    traces: Path,
    quiet: bool,
    verbose: bool,
    redact: bool,
    analyzers: str,
    compiled: bool,
    no_cache: bool,
    every_step: bool,
    tui: bool,
    baseline_file: Path | None,
    update: bool,
    **options: Any,
) -> None:
    """Scan a target: every place where it keeps a GPU waiting, with file and line.

    TARGET is a built-in architecture (`diffprof targets`), a checkpoint folder or hub id, a factory
    file.py:function, or a script; the script's own ARGS follow after --.
    """
    from diffprof.guard.configuration import load_configuration
    from diffprof.judge.gate import parse_gate

    gate = parse_gate(fail_on)
    known = need_baseline(baseline_file, update=update)
    allow = load_configuration(Path.cwd()).allowances()
    about = gate.about or parse_gate(select, option="--select").about
    if tui:
        in_viewer(click.get_current_context().meta[__name__], target, traces)
        return
    settings = {"compiled": compiled, "cache": False if no_cache else None, "every_step": every_step}
    settings |= taken_settings(options)
    chosen = make_options(**options)
    asked = signals()
    with paused_collection(), tempfile.TemporaryDirectory(prefix="diffprof-") as scratch:
        asked_for = {"args": args, "device": device, "options": chosen, "allow": allow}
        report, failure = _scanned(target, analyzers, settings, Path(scratch), quiet=quiet, **asked_for)
        profiled = next(Path(scratch).glob("*.json"), None)
        deliver(
            report,
            form,
            traces,
            verbose=verbose,
            failed=failure is not None,
            trace=profiled,
            redact=redact,
            about=about,
        )
    asked.release()
    if failure is not None:
        raise failure
    apply_gate(gate, report, fail_on, known=known, file=baseline_file, update=update)


def _scanned(
    target: str, analyzers: str, settings: dict[str, Any], scratch: Path, *, quiet: bool, **scan: Any
) -> tuple[Report, BaseException | None]:
    """A scan's report; that of what was recorded until then, with the failure, where it did not end. Signals
    are held from then on."""
    from diffprof.model.progress import progress_on

    asked = signals()
    with progress_on(sys.stderr, quiet=quiet) as progress, stdout_to_stderr():
        progress.stage("importing torch and diffusers")
        from diffprof.devices import resolve_device
        from diffprof.scanning.arguments import chosen_analyzers
        from diffprof.scanning.scan import scan_target

        try:
            chosen = chosen_analyzers(analyzers, settings)
            with collection(resolve_device(scan["device"]).wants_values):
                report = scan_target(
                    target,
                    analyzers=chosen,
                    settings=settings,
                    progress=progress,
                    trace_folder=scratch,
                    **scan,
                )
            asked.hold()
        except (Exception, KeyboardInterrupt) as error:
            asked.hold()
            if (partial := reported(error)) is None:
                raise
            return partial, error
    return report, None
