"""The plan of a report: order, selection, conflicts, and what is expected of it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from diffprof.judge import plan as planning
from diffprof.judge.plan import Choice, make_plan, predicted_ms
from diffprof.judge.recipes import recipes
from diffprof.model.errors import UsageError
from diffprof.model.finding import Evidence
from diffprof.model.fix import Code, Fix, Recipe, Safety, Skipped, Stage
from diffprof.model.recording import Grade, KernelKind, Timeline, Timing
from tests.builders import make_finding, make_recording, make_report

NONE = -1


def recipe(key, stage=Stage.SCHEDULER, safety=Safety.EXACT, code=None, **more):
    made = code or Code(optimize=f"pipe.{key.replace('-', '_')} = True")
    return Recipe(Fix(key, f"Do {key}", safety, stage, **more), lambda recording, findings: made)


@pytest.fixture
def offered(monkeypatch):
    """Sets the fixes that there are."""

    def offer(*given):
        table = {r.fix.key: r for r in sorted(given, key=lambda r: r.fix.stage)}
        monkeypatch.setattr(planning, "recipes", lambda: table)

    return offer


def timeline(*device_us):
    """One kernel of each kind, issued at once."""
    return Timeline(
        grade=Grade.SIMULATED,
        kinds=tuple(
            KernelKind(name=f"k{n}", op="aten::mm", family="gemm", device_us=us)
            for n, us in enumerate(device_us)
        ),
        kind=tuple(range(len(device_us))),
        module=(-1,) * len(device_us),
        host_us=(0.0,) * len(device_us),
        device_us=tuple(device_us),
        stream=(0,) * len(device_us),
        sync=(NONE,) * len(device_us),
    )


def finding(*keys, kinds=(), becomes=(), saves_ms=None, compiled_ms=None, rule="KRN001"):
    return make_finding(
        rule=rule,
        fixes=keys,
        saves_ms=saves_ms,
        compiled_ms=compiled_ms,
        evidence=Evidence(kinds=kinds, becomes_us=becomes),
    )


def test_steps_come_in_the_order_of_application(offered):
    offered(recipe("last", Stage.COMPILE), recipe("first", Stage.DTYPE))
    plan = make_plan(make_report(finding("last"), finding("first"), finding("first")))
    assert [(s.fix, s.findings) for s in plan.steps] == [("first", (1, 2)), ("last", (0,))]


def test_a_report_without_timeline_expects_nothing(offered):
    offered(recipe("a"))
    plan = make_plan(make_report(finding("a", saves_ms=3.0)))
    assert plan.before_ms is None
    assert plan.after_ms is None
    assert plan.steps[0].saves_ms is None


def test_ratios_of_two_fixes_of_one_kernel_multiply(offered):
    offered(recipe("a"), recipe("b"))
    found = (
        finding("a", kinds=(0,), becomes=(5_000.0,), saves_ms=5.0),
        finding("b", kinds=(0,), becomes=(2_000.0,), saves_ms=8.0),
    )
    report = make_report(*found, recording=make_recording(timeline=timeline(10_000.0, 1_000.0)))
    plan = make_plan(report)
    assert plan.before_ms == pytest.approx(11.0)
    assert plan.after_ms == pytest.approx(10.0 * 0.5 * 0.2 + 1.0)
    assert [s.saves_ms for s in plan.steps] == pytest.approx([5.0, 8.0])
    assert predicted_ms(report, plan.steps, ["a"]) == pytest.approx(6.0)
    assert predicted_ms(report, plan.steps, []) == pytest.approx(11.0)


def test_a_share_of_the_compiled_call_counts_once_it_is_compiled(offered):
    offered(recipe("whole-graph", Stage.GRAPH), recipe("compile", Stage.COMPILE))
    found = (
        finding("whole-graph", saves_ms=1.0, compiled_ms=4.0),
        finding("compile", kinds=(0,), becomes=(5_000.0,), saves_ms=5.0),
    )
    report = make_report(*found, recording=make_recording(timeline=timeline(10_000.0, 1_000.0)))
    plan = make_plan(report)
    assert [(s.saves_ms, s.once_compiled) for s in plan.steps] == [(1.0, True), (pytest.approx(5.0), False)]
    assert predicted_ms(report, plan.steps, ["whole-graph"]) == pytest.approx(11.0)
    assert plan.after_ms == pytest.approx(6.0 * 0.75)


def test_what_no_event_stands_for_is_a_share_of_the_call(offered):
    offered(recipe("a"), recipe("compile", Stage.COMPILE))
    found = (
        finding("a", kinds=(0,), becomes=(5_000.0,), saves_ms=5.0),
        finding("compile", saves_ms=2.0),
    )
    plan = make_plan(make_report(*found, recording=make_recording(timeline=timeline(10_000.0))))
    assert plan.after_ms == pytest.approx(5.0 * 0.8)


@pytest.mark.parametrize(
    ("choice", "selected"),
    [
        (Choice(), ["exact"]),
        (Choice(lossy=True), ["exact", "lossy"]),
        (Choice(ignore=("exact",)), []),
        (Choice(select=("lossy",), lossy=True), ["lossy"]),
        (Choice(select=("SYN",)), []),
        (Choice(select=("krn001",)), ["exact", "small"]),
        (Choice(goal="memory"), ["small"]),
    ],
)
def test_selection(offered, choice, selected):
    offered(
        recipe("exact"),
        recipe("lossy", safety=Safety.LOSSY),
        recipe("told", safety=Safety.ADVICE),
        recipe("small", goals=("memory",)),
        recipe("unfit", code=Skipped("no such switch")),
    )
    report = make_report(finding("exact", "lossy", "told", "small", "unfit"))
    plan = make_plan(report, choice)
    assert [s.fix for s in plan.selected] == selected
    assert all(s.why_not for s in plan.steps if not s.selected)


def test_of_two_in_conflict_the_better_stays(offered):
    offered(
        recipe("a", conflicts={"b": "both patch step"}),
        recipe("b"),
    )
    found = (finding("a", kinds=(0,), saves_ms=1.0), finding("b", kinds=(1,), saves_ms=10.0))
    plan = make_plan(make_report(*found, recording=make_recording(timeline=timeline(1e3, 10e3))))
    assert [s.fix for s in plan.selected] == ["b"]
    dropped = next(s for s in plan.steps if s.fix == "a")
    assert dropped.why_not == "conflicts with b: both patch step"
    assert plan.steps[0].conflicts == {"b": "both patch step"}


def test_an_unknown_selection_is_refused_with_near_ones(offered):
    offered(recipe("host-timesteps"))
    with pytest.raises(UsageError) as caught:
        make_plan(make_report(), Choice(select=("host-timestep",)))
    assert "host-timesteps" in caught.value.hint
    with pytest.raises(UsageError, match="no goal 'speed'"):
        make_plan(make_report(), Choice(goal="speed"))


def test_every_fix_says_why_and_has_a_key_of_its_own():
    for key, each in recipes().items():
        assert each.fix.key == key
        assert each.fix.title
        assert each.fix.why
        assert (each.fix.tolerance is not None) == (each.fix.safety is Safety.NUMERIC)


def test_shares_count_whole_and_multiply(offered):
    """Without a timeline each fix saves its share of the call."""
    offered(recipe("one"), recipe("two"))
    recording = make_recording(timing=Timing(grade=Grade.MEASURED, seconds=(1.0,), median=1.0))
    found = [
        make_finding(fixes=(key,), saves_ms=saves, evidence=Evidence())
        for key, saves in (("one", 100.0), ("two", 200.0))
    ]
    plan = make_plan(make_report(*found, recording=recording))
    assert [step.saves_ms for step in plan.steps] == [pytest.approx(100.0), pytest.approx(200.0)]
    assert plan.after_ms == pytest.approx(1000.0 * 0.9 * 0.8)
    assert plan.saves_ms == pytest.approx(280.0)


def test_what_removes_waits_stays_in_the_plan_of_no_waits_although_it_lengthens(offered, monkeypatch):
    offered(recipe("a"))
    finding = make_finding(rule="SYN008", fixes=("a",), in_loop=True, saves_ms=-1.0)
    monkeypatch.setattr(planning, "call_ms", lambda recording: 10.0)
    monkeypatch.setattr(planning, "predicted_ms", lambda report, steps, keys, **more: 10.0 + len(list(keys)))
    plans = {goal: make_plan(make_report(finding), Choice(goal=goal)) for goal in ("latency", "no-waits")}
    assert [step.why_not for step in plans["latency"].steps] == [planning.LONGER]
    assert [step.selected for step in plans["no-waits"].steps] == [True]


def test_interpreters_are_code_only_where_they_are_allowed(offered):
    plain = recipe("a", code=Skipped("no plain code"))
    shim = Code(optimize="pipe.x = 1", shim=True)
    offered(replace(plain, shim=lambda recording, findings: shim))
    report = make_report(make_finding(fixes=("a",)))
    (step,) = make_plan(report, Choice()).steps
    assert step.why_not == "no plain code. `--shims` allows an interpreter (lines: 1)"
    (step,) = make_plan(report, Choice(shims=True)).steps
    assert step.selected
    assert step.code == "pipe.x = 1"
