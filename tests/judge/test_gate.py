from __future__ import annotations

import pytest

from diffprof.judge.gate import Gate, parse_gate
from diffprof.judge.rules import all_rules
from diffprof.model.errors import UsageError
from diffprof.model.recording import TargetInfo
from tests import builders
from tests.builders import make_finding, make_recording, make_report


def test_codes_names_prefixes_and_in_loop() -> None:
    assert (
        parse_gate("SYN001")
        == parse_gate("syn001")
        == parse_gate("value-read")
        == Gate(frozenset({"SYN001"}))
    )
    assert parse_gate("SYN").codes == {r.code for r in all_rules() if r.code.startswith("SYN")}
    assert parse_gate(" in-loop , SYN001,") == Gate(frozenset({"SYN001"}), in_loop=True)
    assert not parse_gate("")


@pytest.mark.parametrize("text", ["SYN999", "value_reed", "SYN001,foo"])
def test_unknown_rules_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no rule is called") as caught:
        parse_gate(text)
    assert "diffprof rules" in caught.value.hint


def test_near_matches() -> None:
    with pytest.raises(UsageError) as caught:
        parse_gate("value-reed")
    assert "value-read" in caught.value.hint


def test_hits() -> None:
    looped, once = make_finding(), make_finding("SYN005", in_loop=False)
    report = make_report(looped, once)
    assert parse_gate("in-loop").hits(report) == (looped,)
    assert parse_gate("SYN005").hits(report) == (once,)
    assert parse_gate("SYN").hits(report) == (looped, once)
    assert parse_gate("SYN003").hits(report) == ()
    slow = make_report(make_finding("KRN005"))
    assert parse_gate("in-loop").hits(slow) == (), "it is in the loop, and does not block it"
    assert parse_gate("KRN005").hits(slow) == slow.findings


def test_what_the_gate_rests_on_and_was_not_judged() -> None:
    report = builders.nothing_measured()
    assert [each.rule for each in parse_gate("SYN001").unjudged(report)] == ["SYN001"]
    assert parse_gate("SYN002").unjudged(report) == ()
    assert parse_gate("in-loop").unjudged(report) == report.unchecked


def test_words_that_stand_for_nothing_that_was_checked() -> None:
    report = builders.nothing_measured()
    assert {each.rule for each in report.unchecked} == {"SYN001"}
    assert parse_gate("SYN001").blind(report) == ("SYN001",)
    assert parse_gate("value-read, SYN002").blind(report) == ("value-read",)
    assert parse_gate("SYN").blind(report) == (), "the others of the family were"
    assert parse_gate("").blind(report) == ()


def test_waits_of_a_trace_that_does_not_tell_its_steps_count_as_in_the_loop() -> None:
    wait, kernel = make_finding(in_loop=False), make_finding("KRN001", in_loop=False)
    for kind, steps, expected in (("trace", None, (wait,)), ("trace", 4, ()), ("builtin", None, ())):
        target = TargetInfo(spec="x", kind=kind, pipeline="", steps=steps)
        report = make_report(wait, kernel, recording=make_recording(target=target))
        assert parse_gate("in-loop").hits(report) == expected
