"""What code hosts ask of SARIF beyond its schema."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from diffprof.views import render
from tests import builders


def run_of(report: Any) -> dict[str, Any]:
    document = json.loads(render(report, "sarif"))
    assert document["version"] == "2.1.0"
    (run,) = document["runs"]
    return run


@pytest.mark.parametrize("name", builders.HARD)
def test_every_result_has_a_rule_a_place_and_a_fingerprint(name: str) -> None:
    report = builders.HARD[name]()
    run = run_of(report)
    rules = run["tool"]["driver"]["rules"]
    assert len(run["results"]) == len(report.findings)
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"]
        assert place["artifactLocation"]["uri"].isascii()
        assert place["region"]["startLine"] >= 1
        assert result["message"]["text"]
        assert len(result["partialFingerprints"]["diffprofSite/v1"]) == 32


@pytest.mark.parametrize("name", builders.HARD)
def test_values_are_those_that_the_schema_lists(name: str) -> None:
    run = run_of(builders.HARD[name]())
    ids = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(ids) == len(set(ids))
    notes = run["invocations"][0]["toolExecutionNotifications"]
    assert {each["level"] for each in (*run["results"], *notes)} <= {"none", "note", "warning", "error"}
    for result in run["results"]:
        for place in (*result["locations"], *result.get("relatedLocations", ())):
            uri = urlsplit(place["physicalLocation"]["artifactLocation"]["uri"])
            assert not uri.netloc
            assert not uri.scheme
            assert not uri.path.startswith("/"), "code hosts look for it in the repository"


def test_rules_carry_their_page() -> None:
    (rule,) = run_of(builders.make_report(builders.make_finding()))["tool"]["driver"]["rules"]
    assert rule["id"] == "SYN001"
    assert "Why it is slow" in rule["help"]["markdown"]


def test_the_fingerprint_survives_a_moved_line_but_not_another_function() -> None:
    def fingerprint(**site: Any) -> str:
        finding = builders.make_finding(site=builders.make_site(**site))
        return run_of(builders.make_report(finding))["results"][0]["partialFingerprints"]["diffprofSite/v1"]

    here = fingerprint(line=448)
    assert fingerprint(line=450) == here
    assert fingerprint(line=448, function="other") != here
    assert fingerprint(line=448, excerpt=((448, "y = 1"),)) != here


def test_a_partial_run_is_not_a_successful_execution() -> None:
    report = builders.make_report(recording=builders.make_recording(partial=True, failure="boom"))
    assert run_of(report)["invocations"][0]["executionSuccessful"] is False
    assert run_of(builders.empty())["invocations"][0]["executionSuccessful"] is True


def test_unchecked_rules_are_notifications() -> None:
    (note,) = run_of(builders.nothing_measured())["invocations"][0]["toolExecutionNotifications"]
    assert note["message"]["text"] == "SYN001 value-read not checked: syncs not recorded"


def test_a_finding_without_place_in_a_script_points_at_the_script() -> None:
    recording = builders.make_recording()
    target = msgspec.structs.replace(recording.target, spec="my run.py", kind="script")
    recording = msgspec.structs.replace(recording, target=target)
    report = builders.make_report(builders.make_finding(site=None), recording=recording)
    location = run_of(report)["results"][0]["locations"][0]["physicalLocation"]
    assert location["artifactLocation"]["uri"] == "my%20run.py"


@pytest.mark.parametrize("name", builders.HARD)
def test_a_message_has_no_line_with_two_full_stops(name: str) -> None:
    for result in run_of(builders.HARD[name]())["results"]:
        assert not [line for line in result["message"]["text"].splitlines() if line.endswith("..")]


def test_a_cost_that_is_a_sentence_ends_once() -> None:
    finding = builders.make_finding(saves_ms=1.0, cost_note="Hidden behind queued GPU work.")
    text = run_of(builders.make_report(finding))["results"][0]["message"]["text"]
    assert "Hidden behind queued GPU work." in text
    assert ".." not in text
