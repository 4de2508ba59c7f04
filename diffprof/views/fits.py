"""Recipes that make a call fit, as a table with the code of the one that is taken, or as JSON."""

from __future__ import annotations

import textwrap
from typing import Any

import msgspec

from diffprof.judge.fitting import PHASES
from diffprof.model.errors import UsageError
from diffprof.model.fitting import FitCheck, FitRow, Fitted, Loss
from diffprof.model.plain import clean
from diffprof.model.report import as_json
from diffprof.model.units import number, plural
from diffprof.views.listing import render_list
from diffprof.views.verdict import where_left_out

_LOSSES = {
    Loss.ROUNDING: "last bits",
    Loss.TILES: "tiles are blended",
    Loss.INT8: "INT8",
    Loss.FP8: "FP8",
    Loss.INT8_WEIGHTS: "weights to 8 bits",
    Loss.NF4_WEIGHTS: "weights to 4 bits",
}
_COLUMNS = {
    "mark": "",
    "recipe": "recipe",
    "seconds": "seconds",
    "gpu": "GPU GiB",
    "host": "host GiB",
    "loses": "the picture loses",
}
NOTE = (
    "* is taken. Simulated, once everything is warm; host: weights that the host keeps. Others that fit are "
    "slower and no smaller; --all lists them (`diffprof docs fit`)."
)

CHECKED = (
    "its code: what it did to a small copy of the pipeline with random weights, on the simulated GPU, where "
    "compiled parts ran eagerly; dB: PSNR of the output, against the same tiles where it is decoded in tiles "
    "and against weights of the same values where they are in four bits."
)

WORTH_TELLING = 0.9
"""Share of the time that is taken below which a recipe that loses more is told."""


def render_fit(
    found: Fitted, form: str, *, everything: bool = False, width: int | None = None, colour: bool = False
) -> str:
    """As text or markdown (the frontier, or with `everything` all recipes), or JSON (`rows[]`, `chosen`)."""
    if form == "json":
        return as_json(msgspec.to_builtins(found)).decode()
    failed = [row for row in found.rows if row.check is not None and not row.check.holds]
    shown = [row for row in found.rows if everything or row.frontier or row == found.chosen or row in failed]
    head = f"{_verdict(found)}\n{_beside(found)}{_emulated(found)}{_halved(found)}{_left_out(found)}"
    if not shown:
        return head
    rows = [_cells(row, row == found.chosen, everything) for row in shown]
    checked = any(row.check is not None for row in shown)
    columns = _COLUMNS | ({"code": "its code"} if checked else {})
    note = f"{NOTE} {CHECKED}" if checked else NOTE
    table = render_list(columns, rows, form, width=width, colour=colour, note=note)
    code = "" if found.chosen is None else f"\n{_fenced(found.chosen.code, form)}"
    return f"{head}\n{table}{code}"


def _fenced(code: str, form: str) -> str:
    return f"```python\n{code}```\n" if form == "markdown" else code


def _verdict(found: Fitted) -> str:
    steps = "" if found.steps is None else f", {plural(found.steps, 'step')}"
    where = f"{number(found.limit_gib)} GiB of {found.gpu}"
    if found.chosen is not None and found.chosen.seconds is not None:
        return f"{found.target} fits {where}{steps}: {_told(found.chosen)}."
    if any(row.fits for row in found.rows):
        return f"{found.target}: of what fits {where}{steps}, no recipe has a time and code that holds."
    least = found.smallest if found.lacking_gib > 0 else found.lightest
    lack = (
        f"the smallest takes {number(least.gpu_gib)} GiB in {PHASES.get(least.phase, least.phase)}, "
        f"{number(found.lacking_gib)} more than can be used"
        if found.lacking_gib > 0
        else f"of those that the GPU has room for, none keeps less than {number(least.host_gib)} GiB on the "
        f"host, where {number(found.host_limit_gib or 0.0)} are allowed"
    )
    return f"{found.target} does not fit {where}{steps}: {lack} ({least.words})."


def _beside(found: Fitted) -> str:
    """What the recipe that is taken needs, what the call takes unchanged, and what it is worth to lose more,
    or less."""
    taken = found.chosen
    if taken is None or taken.seconds is None:
        return ""
    host = f", and {_gib(taken.host_gib)} GiB of the host for weights" if taken.host_gib else ""
    needs = f"It takes {_gib(taken.gpu_gib)} GiB of the GPU{host}"
    unchanged = next((row for row in found.rows if not row.recipe), taken)
    if unchanged != taken and unchanged.seconds is not None:
        time = f"takes {number(unchanged.seconds)} s and" if unchanged.fits else "needs"
        needs += f"; unchanged the call {time} {_gib(unchanged.gpu_gib)} GiB"
    fitting = sum(row.fits for row in found.rows)
    said = [f"{needs}. {plural(fitting, 'recipe')} {'fit' if fitting != 1 else 'fits'}"]
    usable = [row for row in found.rows if row.usable]
    mild = next((row for row in usable if row.lossless), None)
    if mild is None:
        said.append(f"The picture loses: {_lost(taken)}. Nothing that loses less fits")
    elif not taken.lossless:
        said.append(f"The picture loses: {_lost(taken)}. Nothing that one sees is lost in {_told(mild)}")
    if usable and (usable[0].seconds or 0.0) < WORTH_TELLING * taken.seconds:
        said.append(f"Faster with --lossy: {_told(usable[0])} (the picture loses: {_lost(usable[0])})")
    return "".join(f"{each}.\n" for each in said)


def _gib(size: float) -> str:
    """Leaves take less than one."""
    return f"{size:.2f}" if 0 < size < 1 else f"{size:.1f}"


def _told(row: FitRow) -> str:
    return f"{number(row.seconds or 0.0)} s with {row.words}"


def _lost(row: FitRow) -> str:
    return ", ".join(_LOSSES[each] for each in row.loses) or "nothing"


def _emulated(found: Fitted) -> str:
    if found.emulated is None:
        return ""
    return (
        f"{found.gpu} has no units for {found.emulated}, which the denoiser is in: it computes at float32's "
        "speed. "
        "Where the model's values stay in float16's range (65,504), `--dtype float16` is faster.\n"
    )


def _halved(found: Fitted) -> str:
    return f"No recipe has half precision: in it, {found.halved}.\n" if found.halved else ""


def _left_out(found: Fitted) -> str:
    return "".join(f"Left out: {where_left_out(row)}; {row.why}.\n" for row in found.left_out)


def _cells(row: FitRow, chosen: bool, everything: bool) -> dict[str, Any]:
    return {
        "mark": "*" if chosen else "" if row.fits or not everything else "too large",
        "recipe": row.words,
        "seconds": "-" if row.seconds is None else number(row.seconds),
        "gpu": _gib(row.gpu_gib),
        "host": _gib(row.host_gib),
        "loses": _lost(row),
        "code": "" if row.check is None else check_words(row.check),
    }


def check_words(check: FitCheck) -> str:
    """`same bits`, `61 dB`, `unchecked: bitsandbytes is not installed`."""
    if check.status == "checked" and check.bit_equal:
        return "same bits"
    figure = "" if check.psnr_db is None else f"{check.psnr_db:.0f} dB"
    if check.status == "checked":
        return figure
    return ": ".join(filter(None, (check.status, ", ".join(filter(None, (figure, check.why))))))


def module_of(found: Fitted) -> str:
    """The code of the chosen recipe as a file of its own. Raises UsageError where none fits."""
    chosen = found.chosen
    if chosen is None or chosen.seconds is None:
        raise UsageError(f"{' '.join(_verdict(found).split())} Nothing was written.", "See --memory, --all.")
    lines = [
        f"{found.target} on {found.gpu}, {number(found.limit_gib)} GiB: {chosen.words}.",
        f"{number(chosen.seconds)} s and {_gib(chosen.gpu_gib)} GiB, simulated; "
        f"{_gib(chosen.host_gib)} GiB of weights on the host.",
    ]
    if chosen.check is not None:
        lines.append(f"Its code on a small copy with random weights: {check_words(chosen.check)}.")
    text = "\n\n".join("\n".join(textwrap.wrap(clean(line), 100)) for line in lines)
    text = text.replace("\\", "\\\\").replace('"', "'")
    return f'"""{text}\n"""\n\n{chosen.code}'
