"""Each threshold of the choice lies between two figures, one on each side of it."""

from __future__ import annotations

import pytest

from diffprof.analyzers.quantization.choice import choose
from diffprof.judge.judging import make_report
from diffprof.model.finding import Severity
from tests.analyzers.quantization.examples import MODULE, make_row, make_selection, make_timing, recorded
from tests.analyzers.quantization.test_choice import candidate, rows


@pytest.mark.parametrize(("call_us", "chosen"), [(145_000.0, True), (175_000.0, False)])
def test_a_thousandth_of_the_call_is_worth_a_line(call_us: float, chosen: bool) -> None:
    """Four calls of a layer save 160 us."""
    found = choose([candidate("a", int8_dynamic=40)], rows(make_timing(40)), "compiled", 20, call_us=call_us)
    assert bool(found.schemes) is chosen


@pytest.mark.parametrize(("share", "severity"), [(0.018, Severity.MEDIUM), (0.022, Severity.HIGH)])
def test_a_fiftieth_of_the_call_is_a_high_matter(share: float, severity: Severity) -> None:
    row = make_row(make_timing(), worth_it=True, share=share, sqnr_db={f"unet.{MODULE}": 38.0})
    findings = make_report(recorded(row, selections=(make_selection(),))).findings
    assert {each.severity for each in findings if each.rule == "QNT001"} == {severity}
