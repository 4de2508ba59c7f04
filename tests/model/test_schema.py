"""JSON is a promise: the keys of 0.1.0 keep name and type, the schema in the wheel is that of the code, and
reports of 0.1.0 open."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from diffprof.judge.judging import judge_again
from diffprof.model.ladder import Ladder
from diffprof.model.report import Report, from_json, to_json
from diffprof.model.runs import StoredRun
from diffprof.model.schema import as_text, schema, shipped
from diffprof.views import FORMATS, render
from tests import builders
from tests.views.tui import reports

OLD = Path(__file__).parent / "json_0_1_0"
KEYS: dict[str, Any] = json.loads((OLD / "keys.json").read_text())
"""Struct -> key -> types, and enumeration -> values, as 0.1.0 had them."""


def kinds(of: dict[str, Any]) -> set[str]:
    """The types that a schema allows, each as a word."""
    if "$ref" in of:
        return {of["$ref"].rpartition("/")[2]}
    if "anyOf" in of:
        return {kind for each in of["anyOf"] for kind in kinds(each)}
    if of.get("type") == "array":
        if isinstance(of.get("items"), dict):
            return {"array of " + "|".join(sorted(kinds(of["items"])))}
        inner = ["|".join(sorted(kinds(each))) for each in of.get("prefixItems", ())]
        return {"array of " + ",".join(inner) if inner else "array"}
    if of.get("type") == "object":
        held = of.get("additionalProperties")
        return {"object of " + ("|".join(sorted(kinds(held))) if isinstance(held, dict) and held else "any")}
    return {of.get("type", "any")}


@pytest.fixture(scope="module")
def now() -> dict[str, Any]:
    found = msgspec.json.schema_components(
        [Report, Ladder, StoredRun], schema_hook=lambda kind: {"type": "string"}
    )[1]
    return {**found, "Run": found["StoredRun"]}  # its name in 0.1.0; files hold keys, not names of classes


@pytest.mark.parametrize("struct", KEYS)
def test_keys_of_0_1_0_keep_name_and_type(struct: str, now: dict[str, Any]) -> None:
    assert struct in now
    if isinstance(KEYS[struct], list):
        assert set(KEYS[struct]) <= set(now[struct]["enum"])
        return
    for key, types in KEYS[struct].items():
        assert key in now[struct]["properties"], f"{struct}.{key} is gone"
        assert set(types) <= kinds(now[struct]["properties"][key]), f"{struct}.{key} has another type"
    added = set(now[struct]["properties"]) - set(KEYS[struct])
    assert not added & set(now[struct].get("required", ())), "what is added has a default: old reports open"


def test_the_file_in_the_wheel_is_that_of_the_code() -> None:
    assert shipped() == as_text(), "write it anew: python -m diffprof.cli.docs"


@pytest.mark.parametrize(
    "report",
    [builders.one_of_everything(), builders.nothing_measured(), builders.ugly(), reports.full()],
    ids=["everything", "nothing", "ugly", "full"],
)
def test_reports_are_valid(report: Report) -> None:
    checker = jsonschema.Draft202012Validator(schema())
    assert [error.message for error in checker.iter_errors(json.loads(to_json(report)))] == []
    broken = {**json.loads(to_json(report)), "findings": [{"rule": 1}]}
    assert list(checker.iter_errors(broken))


def old_report() -> Report:
    return from_json(gzip.decompress((OLD / "report.json.gz").read_bytes()))


def test_a_report_of_0_1_0_opens_and_is_judged() -> None:
    report = old_report()
    assert report.recording.environment.diffprof == "0.1.0"
    assert len(report.recording.syncs or ()) == 6
    found = {"SET001", "SET005", "SET010", "SET011", "SYN004", "SYN005"}
    assert {finding.rule for finding in report.findings} == found
    assert {finding.rule for finding in judge_again(report).findings} >= {"SYN004", "SYN005"}


@pytest.mark.parametrize("form", FORMATS)
def test_a_report_of_0_1_0_is_shown(form: str) -> None:
    assert render(old_report(), form)
