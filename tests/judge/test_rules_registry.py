"""The registry tests itself: pages complete, codes in order, examples that fire one rule and no other."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module

import msgspec
import pytest

from diffprof.judge.registry import analyzers
from diffprof.judge.rules import HEADINGS, Rule, all_rules, judge
from diffprof.model.recording import Recording
from tests import builders

RULES = {rule.code: rule for rule in all_rules()}
OF_EVERY_ROW = {"GRB015"}
"""Rules on all that their section holds: well is where there is none of it in what was captured."""
by_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())


@cache
def examples(analyzer: str, kind: str) -> dict[str, Recording]:
    return getattr(import_module(f"tests.analyzers.{analyzer.replace('-', '_')}.examples"), kind)


def fired(recording: Recording) -> set[str]:
    return {finding.rule for finding in judge(recording)[0]}


@by_rule
def test_page_is_complete_and_in_order(rule: Rule) -> None:
    assert tuple(rule.sections) == HEADINGS
    for heading, text in rule.sections.items():
        assert text.strip(), heading
    assert rule.doc.split("\n")[1:2] == [""], "the summary is one line, then a blank one"
    assert rule.summary.endswith((".", "?", "!"))
    assert len(rule.summary) <= 100


@by_rule
def test_code_and_name(rule: Rule) -> None:
    assert re.fullmatch(r"[A-Z]{3}\d{3}", rule.code)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.name)
    assert rule.needs
    assert set(rule.needs) <= set(Recording.__struct_fields__)


def test_names_are_unique_and_each_analyzer_has_a_prefix_of_its_own() -> None:
    assert len({rule.name for rule in RULES.values()}) == len(RULES)
    prefixes = {(rule.analyzer, rule.code[:3]) for rule in RULES.values()}
    assert prefixes == {(each.name, each.prefix) for each in analyzers()}


@by_rule
def test_a_rule_of_lines_names_its_edit_or_says_why_there_is_none(rule: Rule) -> None:
    assert bool(rule.edit or rule.no_edit) is (rule.analyzer in ("syncs", "graph-breaks"))
    assert not rule.no_edit.endswith(".")


@by_rule
def test_the_bad_example_fires_this_rule_only(rule: Rule) -> None:
    assert fired(examples(rule.analyzer, "BAD")[rule.code]) == {rule.code}


@by_rule
def test_the_good_example_does_not_fire_it(rule: Rule) -> None:
    good = examples(rule.analyzer, "GOOD")[rule.code]
    findings, unchecked = judge(good)
    assert rule.code not in {each.rule for each in (*findings, *unchecked)}
    seen = ("captures",) if rule.code in OF_EVERY_ROW else rule.needs
    assert any(good.section(each) for each in seen), "what it reads is there, and not empty"


@by_rule
def test_without_evidence_it_is_unchecked(rule: Rule) -> None:
    blank = builders.make_recording(**dict.fromkeys(rule.needs))
    findings, unchecked = judge(blank)
    assert rule.code not in {finding.rule for finding in findings}
    (why,) = [each.why for each in unchecked if each.rule == rule.code]
    assert why


@by_rule
def test_findings_carry_code_name_and_a_way_out(rule: Rule) -> None:
    recording = examples(rule.analyzer, "BAD")[rule.code]
    for finding in judge(recording)[0]:
        assert (finding.rule, finding.name) == (rule.code, rule.name)
        assert finding.message
        assert finding.advice or finding.fixes


@pytest.mark.parametrize("analyzer", [each.name for each in analyzers()])
def test_examples_are_of_known_rules(analyzer: str) -> None:
    codes = {rule.code for rule in RULES.values() if rule.analyzer == analyzer}
    assert set(examples(analyzer, "BAD")) == codes
    assert set(examples(analyzer, "GOOD")) == codes


def test_a_trace_is_not_told_to_add_analyzers() -> None:
    target = msgspec.structs.replace(builders.make_recording().target, kind="trace")
    _, unchecked = judge(builders.make_recording(target=target))
    why = {each.rule: each.why for each in unchecked}
    assert why["GRB001"] == "a trace does not tell: scan the pipeline itself"
    assert why["KRN001"] == "timeline not in this trace"
    assert not any("--analyzers" in each for each in why.values())
