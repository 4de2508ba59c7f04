"""Every format but JSON (see test_json_contract) over every hard report, against stored files.
DIFFPROF_UPDATE_GOLDEN=1 writes them anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from diffprof.judge import plan
from diffprof.judge.rules import Rule
from diffprof.views import FORMATS, render, sarif
from tests import builders

GOLDEN = Path(__file__).parent / "golden"


def _check(recording: object) -> object:
    """The one rule that SARIF knows here.

    What it does:
    Finds `x`.

    Why it is slow:
    It waits.

    Example:
    x.item()

    Use instead:
    y

    Fix safety:
    Exact.
    """


@pytest.mark.parametrize("name", builders.HARD)
@pytest.mark.parametrize("form", ["brief", *(form for form in FORMATS if form != "json")])
def test_output_is_as_stored(form: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = Rule("SYN001", "value-read", "syncs", ("syncs",), _check)  # type: ignore[arg-type]
    monkeypatch.setattr(sarif, "all_rules", lambda: (rule,))
    monkeypatch.setattr(plan, "recipes", dict)
    shown = render(builders.HARD[name](), "text" if form == "brief" else form, verbose=form == "text")
    file = GOLDEN / form / name
    if os.environ.get("DIFFPROF_UPDATE_GOLDEN"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(shown, encoding="utf-8")
    assert shown == file.read_text(encoding="utf-8")
