"""The keys of the JSON output that others build on. A failure here breaks them: add, never rename."""

from __future__ import annotations

import json
from typing import Any

from diffprof.judge.judging import make_report
from diffprof.model.recording import SCHEMA
from diffprof.model.report import from_json
from diffprof.views import render
from tests import builders

FINDING = {
    *("rule", "name", "kind", "message", "site", "phase", "in_loop", "count", "per_step", "first_step_only"),
    *("grade", "blocked_ms", "saves_ms", "fixes"),
}  # fmt: skip
SITE = {"file", "line", "function", "module"}
SYNC = {"kind", "site", "phase", "in_loop", "count", "per_step"}


def document(report: Any) -> dict[str, Any]:
    return json.loads(render(report, "json"))


def test_keys_of_report_finding_site_and_sync() -> None:
    shown = document(make_report(builders.make_recording(builders.make_sync())))
    assert shown["schema"] == SCHEMA
    assert {"recording", "findings", "unchecked"} <= shown.keys()
    (finding,) = shown["findings"]
    assert finding.keys() >= FINDING
    assert finding["site"].keys() >= SITE
    (row,) = shown["recording"]["syncs"]
    assert row.keys() >= SYNC
    assert row["site"].keys() >= SITE


def test_values_of_a_finding() -> None:
    finding = document(builders.make_report(builders.make_finding(fixes=("host-timesteps",))))["findings"][0]
    assert finding["rule"] == "SYN001"
    assert finding["name"] == "value-read"
    assert finding["kind"] == "value-read"
    assert finding["site"]["file"] == "diffusers/schedulers/scheduling_ddim.py"
    assert finding["site"]["line"] == 448
    assert finding["site"]["function"] == "step"
    assert finding["site"]["module"] == "scheduler"
    assert finding["phase"] == "denoise"
    assert finding["in_loop"] is True
    assert finding["count"] == 4
    assert finding["per_step"] == 1.0
    assert finding["first_step_only"] is False
    assert finding["grade"] == "simulated"
    assert finding["fixes"] == ["host-timesteps"]


def test_unknown_figures_are_null_not_missing_and_not_zero() -> None:
    finding = document(builders.make_report(builders.make_finding()))["findings"][0]
    assert finding["blocked_ms"] is None
    assert finding["saves_ms"] is None


def test_not_measured_is_null_and_clean_is_empty() -> None:
    assert document(builders.nothing_measured())["recording"]["syncs"] is None
    assert document(builders.empty())["recording"]["syncs"] == []


def test_what_is_printed_can_be_read_back() -> None:
    report = builders.one_of_everything()
    assert from_json(render(report, "json").encode()) == report
