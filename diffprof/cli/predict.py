"""`diffprof predict`: seconds and memory of a target on GPUs that are not here."""

from __future__ import annotations

import datetime
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffprof.cli.options import format_option, traces_option
from diffprof.cli.output import emit, say, stdout_to_stderr, terminal
from diffprof.cli.scan import SHEETS, make_options, target_options
from diffprof.model.errors import UsageError

if TYPE_CHECKING:
    from diffprof.model.prediction import Prediction
    from diffprof.model.progress import Progress


DEFAULT, DEFAULT_OF_SEVERAL = "a100-80gb", "h100"
"""GPUs that are asked about where none is named."""


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str, option: str = "--batch") -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _listed(text))
    except ValueError as error:
        raise UsageError(f"{option} {text!r} is no list of numbers.", f"Write it as {option} 2,4.") from error


def prices(given: str | None) -> float | dict[str, float] | None:
    """Of a GPU hour: a number, or those in a file, by name of the data sheet.

    Raises UsageError where it is neither, or names a device that is not there.
    """
    from diffprof.gpu.specs import load_spec

    if given is None:
        return None
    try:
        return float(given)
    except ValueError:
        pass
    try:
        table = tomllib.loads(Path(given).read_text(encoding="utf-8"))
        return {load_spec(device).key: float(hourly) for device, hourly in table.items()}
    except (OSError, tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise UsageError(
            f"--price {given!r} is no number, and no file of prices: {error}",
            "Write a line such as `h100 = 1.99` for each device.",
        ) from error


def _options_of_targets(function: Any) -> Any:
    """Those that every command which runs a target has; `--batch` takes several numbers here."""
    function = target_options(
        function,
        device=f"{SHEETS}; several as A,B, or all; `cuda`: the GPU here.  "
        f"[default: {DEFAULT}, with --gpus {DEFAULT_OF_SEVERAL}]",
    )
    function.__click_params__ = [each for each in function.__click_params__ if each.name != "batch"]
    return function


@click.command("predict")
@click.argument("target")
@_options_of_targets
@click.option(
    "--mode", default="eager", show_default=True, help="eager, compiled, int8, fp8; several as A,B."
)
@click.option("--batch", "batches", default="1", show_default=True, metavar="N,M", help="Prompts in a call.")
@click.option("--gpus", metavar="N,M", help="Split the denoiser's tokens over 2, 4 or 8 GPUs of one kind.")
@click.option(
    "--parallel", default="ulysses,ring,unified", show_default=True, help="How they are split (with --gpus)."
)
@click.option(
    "--price", metavar="P", help="Of one GPU hour, or a TOML file of them by device: cost of 1,000 images."
)
@click.option(
    "--from",
    "measured_from",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Price its GPU, and those of its architecture, by what `calibrate --export` wrote there.",
)
@format_option(("text", "json", "markdown"))
@traces_option(written=True)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def command(
    target: str,
    device: str | None,
    mode: str,
    batches: str,
    gpus: str | None,
    parallel: str,
    price: str | None,
    measured_from: Path | None,
    form: str,
    traces: Path,
    quiet: bool,
    **options: object,
) -> None:
    """Predict seconds, memory and what bounds a target on other GPUs.

    The pipeline's own code runs once a batch on the simulated GPU and is priced for every device and mode. A
    call that does not fit a device has no time there. Modes other than eager compile the denoiser and the VAE
    as `torch.compile` does with max-autotune; `diffprof docs python` tells how others are predicted.

    With --gpus the denoiser runs on several as diffusers' context parallelism splits it: seconds, memory and
    the share that collectives take, by degree and way (`diffprof docs several-gpus`). A call that does not
    fit has the seconds there that it took if it did.

    The rows are stored: `diffprof runs` lists them, `diffprof show` prints them again.
    """
    from diffprof.model.prediction import Predictions, save_predictions
    from diffprof.model.progress import progress_on
    from diffprof.model.runs import new_folder
    from diffprof.views.predictions import render_predictions

    with progress_on(sys.stderr, quiet=quiet) as progress, stdout_to_stderr():
        progress.stage("importing torch and diffusers")
        modes, wanted = _listed(mode), {**options, "device": device}
        if gpus is None:
            wanted |= {"price": prices(price), "measured_from": measured_from}
            rows = _on_one(target, modes, _numbers(batches), wanted, progress)
        elif measured_from is not None:
            raise UsageError("--from prices one GPU.", "Leave out --gpus.")
        else:
            rows = _on_several(target, modes, _numbers(gpus, "--gpus"), _listed(parallel), wanted, progress)
    screen = terminal()
    emit(render_predictions(rows, form, width=screen.columns, colour=screen.colour))
    folder = new_folder(traces, f"{target}-prediction", now=datetime.datetime.now(datetime.UTC))
    say(f"Stored in {save_predictions(Predictions(target=target, rows=tuple(rows)), folder)}")


def _on_one(
    target: str,
    modes: tuple[str, ...],
    batches: tuple[int, ...],
    options: dict[str, Any],
    progress: Progress,
) -> Sequence[Prediction]:
    from diffprof.scanning.predicting import predict

    return predict(
        target,
        devices=_listed(options.pop("device") or DEFAULT),
        modes=modes,
        batches=batches,
        steps=options.pop("steps", None),
        price=options.pop("price"),
        measured_from=options.pop("measured_from"),
        options=make_options(**options),
        on_run=lambda batch: progress.stage(f"running a batch of {batch}"),
    )


def _on_several(
    target: str,
    modes: tuple[str, ...],
    gpus: tuple[int, ...],
    parallel: tuple[str, ...],
    options: dict[str, Any],
    progress: Progress,
) -> Sequence[Prediction]:
    from diffprof.scanning.parallel import predict_parallel

    return predict_parallel(
        target,
        devices=_listed(options.pop("device") or DEFAULT_OF_SEVERAL),
        gpus=gpus,
        parallel=parallel,
        modes=modes,
        steps=options.pop("steps", None),
        options=make_options(**options),
        on_stage=progress.stage,
    )
