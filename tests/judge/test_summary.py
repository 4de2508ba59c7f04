"""What to do, in order: the same answer as the plan's, sums that add up, and nothing that is not to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from diffprof.judge.judging import load_judged
from diffprof.judge.judging import make_report as judge_recording
from diffprof.judge.plan import Choice, make_plan, predicted_ms
from diffprof.judge.setup_costs import after_their_base, most_first, uncovered_ms
from diffprof.judge.summary import WAITS, WORTH, summarized
from diffprof.judge.timeline import Without, total_us
from diffprof.model.finding import Evidence, Finding, Severity
from diffprof.model.fix import PlanStep, Safety, Stage
from diffprof.model.recording import Alternative, Change, Grade, Setup, SetupPart, Site, Timing
from diffprof.model.report import Report
from diffprof.views.verdict import verdict
from tests.analyzers.kernels.examples import BAD, recorded
from tests.analyzers.kernels.made_timeline import MadeTimeline
from tests.builders import make_finding, make_report, make_site, make_sync

SAMPLES = Path(__file__).parents[2] / "traces" / "samples"
SIMULATED = ("sdxl-ddim-a100", "sdxl-ddim-a100-fixed", "sdxl-ddim-h100")


@pytest.fixture(scope="module", params=SIMULATED)
def sample(request: pytest.FixtureRequest) -> Report:
    return load_judged(SAMPLES / request.param)


def test_savings_add_up_to_the_call_after_them(sample: Report) -> None:
    answer = sample.verdict
    assert answer is not None
    assert answer.call_ms is not None
    left = answer.call_ms
    for action in sample.actions:
        assert action.saves_ms is not None
        assert action.saves_ms > WORTH * answer.call_ms
        left = action.after_ms if action.after_ms is not None else left
    assert left == pytest.approx(answer.lossy_ms if answer.lossy_ms is not None else answer.kept_ms)


@pytest.fixture
def uncovering() -> Report:
    """A call whose waits cost 2.9 ms, and 20 ms once it is compiled."""
    recording = load_judged(SAMPLES / "sdxl-ddim-a100").recording
    assert recording.setup is not None
    assert recording.setup.alternatives is not None
    told = {each.changes: each for each in recording.setup.alternatives}
    now = told[()].ms
    costed = {
        (): (now, told[()].without_waits_ms),
        (Change.QKV,): (now - 15, now - 18),
        (Change.COMPILED,): (now - 100, now - 120),
        (Change.QKV, Change.COMPILED): (now - 103, now - 123),
    }
    alternatives = tuple(
        Alternative(changes=made, ms=ms, without_waits_ms=without) for made, (ms, without) in costed.items()
    )
    setup = replace(recording.setup, alternatives=alternatives)
    return judge_recording(replace(recording, setup=setup))


def test_what_compiling_uncovers_is_a_wait_s_saving_and_no_other_s(uncovering: Report) -> None:
    """Each row is the call with all rows above it, for the sets of changes that were costed: a wait that is
    hidden behind queued work now, and costs once the call is compiled, comes behind compiling."""
    assert uncovering.verdict is not None
    assert uncovering.verdict.call_ms is not None
    keeping = [action for action in uncovering.actions if not action.changes_picture]
    saved = {action.fix or action.rule: action.saves_ms for action in keeping}
    assert keeping[0].fix == "compile"
    assert saved["compile"] == pytest.approx(100, abs=0.1)
    assert saved["fuse-qkv"] == pytest.approx(3, abs=0.1)
    assert sum(ms or 0.0 for fix, ms in saved.items() if fix not in ("compile", "fuse-qkv")) == pytest.approx(
        20, rel=0.05
    )
    assert keeping[-1].after_ms == pytest.approx(uncovering.verdict.call_ms - 123, abs=1)
    assert "20 ms once it is compiled" in verdict(uncovering).why


@pytest.mark.parametrize(
    ("where", "times"),
    [
        ({"phase": "decode", "in_loop": False}, 1),
        ({"phase": "denoise"}, 2),
        ({"phase": None, "in_loop": False}, 2),
    ],
)
def test_at_the_model_cards_steps_only_what_a_step_saves_is_saved_more_often(
    uncovering: Report, where: dict[str, Any], times: int
) -> None:
    """Decoding's 2.3 s were saved with each of 50 steps: an image of 44 s was told to take 0.09 s."""
    target = uncovering.recording.target
    assert target.steps is not None
    twice = replace(uncovering.recording, target=replace(target, card_steps=2 * target.steps))
    found = make_finding("SET002", site=None, saves_ms=50.0, evidence=Evidence(), **where)
    answer = summarized(replace(uncovering, recording=twice, findings=(found,))).verdict
    assert answer is not None
    assert answer.card_ms is not None
    assert answer.card_kept_ms == pytest.approx(answer.card_ms - 50.0 * times)


def test_what_is_done_by_hand_is_at_the_model_cards_steps_what_it_was_costed_there(
    uncovering: Report,
) -> None:
    setup, target = uncovering.recording.setup, uncovering.recording.target
    assert setup is not None
    assert setup.alternatives is not None
    assert target.steps is not None
    told = tuple(
        replace(each, card_ms=12_345.0) if each.changes == (Change.QKV,) else each
        for each in setup.alternatives
    )
    recording = replace(
        uncovering.recording,
        setup=replace(setup, alternatives=told),
        target=replace(target, card_steps=2 * target.steps),
    )
    rests_on = Evidence(change=Change.QKV)
    found = make_finding("SET002", site=None, phase="decode", in_loop=False, saves_ms=15.0, evidence=rests_on)
    answer = summarized(replace(uncovering, recording=recording, findings=(found,))).verdict
    assert answer is not None
    assert answer.card_kept_ms == pytest.approx(12_345.0, abs=0.1)


def test_what_a_fix_would_resolve_that_gives_way_to_another_is_not_done_by_hand_beside_it(
    uncovering: Report,
) -> None:
    """Compiling with CUDA graphs was advice for a denoiser whose blocks are compiled, at the same saving."""
    assert uncovering.recording.setup is not None
    assert uncovering.recording.setup.alternatives is not None
    assert uncovering.verdict is not None
    assert uncovering.verdict.call_ms is not None
    blocks = Alternative(changes=(Change.COMPILED_BLOCKS,), ms=uncovering.verdict.call_ms - 150)
    setup = replace(
        uncovering.recording.setup, alternatives=(*uncovering.recording.setup.alternatives, blocks)
    )
    bound = make_finding(
        "KRN001",
        "launch-bound",
        site=None,
        evidence=Evidence(),
        fixes=("compile",),
        saves_ms=100.0,
        advice="Compile with CUDA graphs.",
    )
    apart = make_finding(
        "SET011",
        "not-compiled",
        site=None,
        evidence=Evidence(),
        fixes=("compile", "compile-blocks"),
        saves_ms=150.0,
    )
    report = replace(
        uncovering, recording=replace(uncovering.recording, setup=setup), findings=(apart, bound)
    )
    assert [action.fix or action.rule for action in summarized(report).actions] == ["compile-blocks"]


def test_waits_that_no_fix_removes_are_one_row_where_each_hides_behind_the_next(uncovering: Report) -> None:
    by_hand = tuple(replace(f, fixes=()) if f.evidence.syncs else f for f in uncovering.findings)
    actions = summarized(replace(uncovering, findings=by_hand)).actions
    (waits,) = [action for action in actions if action.fix is None and action.saves_ms]
    assert waits.title == WAITS
    assert waits.place.startswith("diffusers/schedulers/scheduling_ddim.py:")
    assert waits.saves_ms == pytest.approx(20, rel=0.05)


def test_a_fix_goes_before_the_advice_to_remove_all_waits(uncovering: Report) -> None:
    looped = [f for f in uncovering.findings if f.in_loop and f.evidence.syncs]
    assert len(looped) > 1
    rows = tuple(wait for finding in looped for wait in finding.evidence.syncs)
    whole = make_finding("KRN002", "sync-bubble", site=None, evidence=Evidence(syncs=rows), saves_ms=25.0)
    left = replace(looped[0], fixes=())
    findings = (whole, *(left if finding is looped[0] else finding for finding in uncovering.findings))
    actions = summarized(replace(uncovering, findings=findings)).actions
    order = [action.fix or action.rule for action in actions if action.saves_ms]
    (fix,) = {key for finding in looped[1:] for key in finding.fixes} & set(order)
    assert "KRN002" not in order[: order.index(fix)]


def test_advice_about_several_waits_names_the_lines_that_wait_most_often() -> None:
    made = MadeTimeline().launch("embed", 1.0, 300.0).launch("linear", 400.0, times=10, family="gemm").wait(1)
    waits = (make_sync(site=make_site("b.py", 7)), make_sync(count=9, site=make_site("a.py", 3)))
    judged = judge_recording(replace(recorded(made), syncs=waits))
    (whole,) = (finding for finding in judged.findings if finding.rule == "KRN002")
    both = replace(whole, evidence=replace(whole.evidence, syncs=(0, 1)))
    (action,) = summarized(replace(judged, findings=(both,))).actions
    assert (action.title, action.place) == (
        "Remove the waits in the denoising loop.",
        "a.py:3 and 1 more place",
    )


@pytest.mark.parametrize("gap_us", [5.0, 400.0])
def test_a_step_gains_nothing_while_one_of_its_waits_is_left(gap_us: float) -> None:
    """gap_us: host time behind the waits, which queued work hides or does not."""
    made = MadeTimeline().launch("linear", 100.0, 5.0, times=40, family="gemm").wait(0).wait(1)
    made.launch("add", 1.0, gap_us, part="between")
    base = recorded(made)
    assert base.timeline is not None
    now = total_us(base.timeline) / 1e3
    free = total_us(base.timeline, Without(waits=frozenset({0, 1}))) / 1e3
    alternatives = (
        Alternative(changes=(), ms=now, without_waits_ms=free),
        Alternative(changes=(Change.COMPILED,), ms=now / 2, without_waits_ms=now / 2 - 3.0),
    )
    rows = (make_sync(site=make_site(line=1)), make_sync(site=make_site(line=2)))
    setup = Setup(parts=(SetupPart(name="unet", role="denoiser"),), alternatives=alternatives)
    recording = replace(base, syncs=rows, setup=setup)
    findings = tuple(make_finding(evidence=Evidence(syncs=some)) for some in ((0,), (0, 1)))
    report = replace(judge_recording(recording), findings=findings)

    def left(*found: int) -> float:
        steps = [PlanStep(fix=f"{n}", title="", safety=Safety.ADVICE, stage=0, findings=(n,)) for n in found]
        compiling = PlanStep(fix="compile", title="", safety=Safety.NUMERIC, stage=Stage.COMPILE)
        after = predicted_ms(report, [compiling, *steps], ["compile", *(f"{n}" for n in found)], before=now)
        assert after is not None
        return after

    assert left() - left(0) == pytest.approx(0.0, abs=0.15)
    assert left() - left(1) == pytest.approx(3.0)


def test_what_a_change_makes_as_well_goes_before_it() -> None:
    """Fusing projections brings processors that compute attention in one kernel: most of it is theirs."""
    order = [Change.COMPILED, Change.QKV, Change.ATTENTION, Change.SDPA]
    assert after_their_base(order, lambda change: change) == [
        *(Change.COMPILED, Change.ATTENTION, Change.SDPA, Change.QKV)
    ]
    saved = {Change.QKV: 3.0, Change.SDPA: 2.0, Change.INT8: 2.5, Change.COMPILED: 1.0}
    assert most_first(saved, saved) == [Change.SDPA, Change.QKV, Change.COMPILED, Change.INT8]


def test_the_last_of_waits_that_hide_each_other_saves_what_they_cost(uncovering: Report) -> None:
    """With a wait of the user's own that no fix removes the others save next to nothing."""
    looped = [f for f in uncovering.findings if f.in_loop and f.evidence.syncs]
    own = looped[-1]
    findings = tuple(replace(f, fixes=()) if f is own else f for f in uncovering.findings)
    keeping = [a for a in summarized(replace(uncovering, findings=findings)).actions if not a.changes_picture]
    waits = [a for a in keeping if any(f.evidence.syncs for f in map(findings.__getitem__, a.findings))]
    assert len(waits) > 1
    assert waits[-1].fix is None
    *others, last = [each.saves_ms or 0.0 for each in waits]
    assert sum(others) < 5.0
    assert sum(others) + last == pytest.approx(20, rel=0.05)


def test_waits_that_may_be_offloading_s_are_not_told_to_cost_more_compiled(uncovering: Report) -> None:
    recording = uncovering.recording
    assert uncovered_ms(recording) == pytest.approx(20, rel=0.05)
    first, *others = recording.syncs or ()
    assert uncovered_ms(replace(recording, syncs=(replace(first, offload=True), *others))) is None


def test_the_end_is_what_the_plans_expect(sample: Report) -> None:
    answer = sample.verdict
    assert answer is not None
    for lossy, reached in ((False, answer.kept_ms), (True, answer.lossy_ms)):
        expected = make_plan(sample, Choice(lossy=lossy)).after_ms
        assert reached == pytest.approx(expected, rel=WORTH)


def test_the_first_action_is_the_first_fix_and_the_first_finding(sample: Report) -> None:
    first = sample.actions[0]
    assert first.findings[0] == 0
    assert sample.verdict is not None
    assert sample.verdict.finding == 0
    plan = make_plan(sample, Choice(lossy=first.changes_picture))
    assert plan.listed[0].fix == first.fix


def test_what_changes_the_picture_comes_after_what_does_not(sample: Report) -> None:
    kinds = [action.changes_picture for action in sample.actions]
    assert kinds == sorted(kinds)


def test_each_finding_is_in_one_place(sample: Report) -> None:
    named = [n for action in sample.actions for n in action.findings]
    assert len(named) == len(set(named))
    assert not set(named) & set(sample.rest.findings)


def test_decisions_that_all_is_well_are_no_findings() -> None:
    report = load_judged(SAMPLES / "sdxl-ddim-a100")
    assert {fact.rule for fact in report.facts} == {"QNT002", "SYN004"}
    assert not any(finding.fact for finding in report.findings)


def test_a_finding_without_a_fix_is_done_by_hand_and_a_cheap_one_is_not_named() -> None:
    report = make_report(
        make_finding("SYN001", fixes=(), advice="Read it once before the loop."),
        make_finding("SYN005", fixes=(), in_loop=False, severity=Severity.LOW),
    )
    found = summarized(report)
    assert [(a.rule, a.fix, a.safety, a.title) for a in found.actions] == [
        ("SYN001", None, None, "Read it once before the loop.")
    ]
    assert found.rest.findings == (1,)
    assert found.rest.saves_ms is None
    assert found.rest.unknown == 1


def test_findings_that_ask_for_the_same_are_one_row_with_their_places() -> None:
    def upload(
        line: int, saves_ms: float, advice: str = "Make it on the GPU.", file: str = "a.py"
    ) -> Finding:
        site = Site(file=file, line=line, function="f")
        more = {"fixes": (), "advice": advice, "site": site, "saves_ms": saves_ms}
        return make_finding("SYN005", **more)

    def rows(*findings: Finding) -> list[tuple[str, tuple[int, ...], float | None]]:
        found = summarized(replace(make_report(*findings), recording=timed))
        return [(a.place, a.findings, a.saves_ms) for a in found.actions]

    timed = replace(make_report().recording, timing=Timing(grade=Grade.MEASURED, median=0.1), timeline=None)
    assert rows(upload(7, 10.0), upload(3, 10.0), upload(9, 5.0, "Pin it.")) == [
        ("a.py:3, 7", (0, 1), pytest.approx(20.0)),
        ("a.py:9", (2,), pytest.approx(4.0)),  # 5 % of what is left
    ]
    many = [upload(line, 1.0) for line in (1, 2, 3, 4)] + [upload(1, 1.0, file="b.py")]
    assert [row[0] for row in rows(*many)] == ["a.py:1, 2, 3 and 2 more places"]
    small = [upload(line, 0.02) for line in (1, 2)]
    rest = summarized(replace(make_report(*small), recording=timed)).rest
    assert (rest.findings, rest.saves_ms) == ((0, 1), pytest.approx(0.04))
    said = verdict(summarized(replace(make_report(upload(7, 10.0), upload(3, 10.0)), recording=timed)))
    assert "SYN005 value-read at a.py:3, 7; saves about 20 ms a call" in said.why


@pytest.mark.parametrize(("alone", "named"), [(0.96, "SYN004"), (0.9, "KRN002")])
def test_one_wait_that_accounts_for_nearly_all_is_named_instead_of_all(alone: float, named: str) -> None:
    made = MadeTimeline().launch("embed", 1.0, 300.0).launch("linear", 400.0, times=10, family="gemm").wait(0)
    judged = judge_recording(recorded(made))
    (whole,) = (finding for finding in judged.findings if finding.rule == "KRN002")
    assert whole.saves_ms is not None
    line = make_finding("SYN004", fixes=(), saves_ms=alone * whole.saves_ms, evidence=whole.evidence)
    found = summarized(replace(judged, findings=(whole, line)))
    assert found.actions[0].rule == named
    assert found.findings[0].rule == named


def test_who_asks_for_waits_is_told_of_them_however_small() -> None:
    report = load_judged(SAMPLES / "sdxl-ddim-a100")
    found = summarized(report, about=("SYN",))
    assert found.actions
    assert {action.rule[:3] for action in found.actions} == {"SYN"}
    assert found.actions[0].safety is Safety.EXACT
    assert found.verdict is not None
    assert found.verdict.waits_in_loop == 16


def test_a_step_saves_no_more_than_the_idle_time_that_its_finding_claims() -> None:
    """The timeline without its events would be shorter by host work of other kinds too."""
    judged = judge_recording(BAD["KRN010"])
    (full,) = (finding for finding in judged.findings if finding.rule == "KRN010")
    assert full.saves_ms is not None
    claimed = replace(full, saves_ms=full.saves_ms / 4, fixes=())
    found = summarized(replace(judged, findings=(claimed,)))
    (action,) = found.actions
    assert found.verdict is not None
    assert action.saves_ms == pytest.approx(claimed.saves_ms)
    assert action.after_ms == found.verdict.kept_ms
