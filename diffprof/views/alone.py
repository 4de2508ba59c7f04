"""Results that are stored without a report: a ladder, predictions, recipes that fit."""

from __future__ import annotations

from pathlib import Path

from diffprof.model.errors import UsageError
from diffprof.model.fitting import load_fit
from diffprof.model.ladder import load_ladder
from diffprof.model.prediction import load_predictions
from diffprof.views.fits import render_fit
from diffprof.views.ladder import FORMS, render_ladder
from diffprof.views.predictions import render_predictions


def render_alone(
    folder: Path, form: str = "text", *, width: int | None = None, colour: bool = False
) -> str | None:
    """The table of what a folder holds; None where it holds none.

    Raises UsageError when it can't be read, or has no such form.
    """
    if (ladder := load_ladder(folder)) is not None:
        return render_ladder(ladder, _known(form, "A ladder has"), width=width, colour=colour)
    if (found := load_predictions(folder)) is not None:
        rows = found.rows
        return render_predictions(rows, _known(form, "Predictions have"), width=width, colour=colour)
    if (fitted := load_fit(folder)) is not None:
        return render_fit(fitted, _known(form, "A fit has"), width=width, colour=colour)
    return None


def _known(form: str, what: str) -> str:
    if form not in FORMS:
        raise UsageError(f"{what} no {form} form.", f"Ask for {', '.join(FORMS)}.")
    return form
