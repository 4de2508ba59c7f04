"""Two reports side by side: pairing of findings, figures, verdict, regressions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from diffprof.judge.comparing import Direction, compare
from diffprof.judge.judging import load_judged
from diffprof.model.finding import Evidence, Severity, Unchecked
from diffprof.model.recording import Grade, GraphBreakRow, MemoryUse, Timing
from diffprof.model.report import Report
from diffprof.views.comparison import FORMS, FindingGroup, is_bad_group, render_comparison
from diffprof.views.tui.comparison_page import comparison_page
from diffprof.views.tui.styles import STYLES, Writing
from tests.builders import (
    HARD,
    make_finding,
    make_recording,
    make_report,
    make_site,
    make_sync,
    replace_target,
)

SAMPLES = Path(__file__).parents[2] / "traces" / "samples"


def timed(seconds, spread=None, grade=Grade.MEASURED, **more):
    timing = Timing(grade=grade, seconds=(seconds,), median=seconds, spread=spread)
    return make_report(recording=make_recording(timing=timing, **more))


def figure(comparison, name):
    return next(f for f in comparison.figures if f.name == name)


def at(line, text="x = table[t]", function="step", **more):
    site = make_site(line=line, function=function, excerpt=((line, text),))
    return make_finding(site=site, **more)


def test_a_report_against_itself_has_no_change():
    for name, build in HARD.items():
        if name == "ugly":  # it says of a rule with a finding that it was not checked
            continue
        found = compare(build(), build())
        assert (found.appeared, found.went, found.better, found.worse) == ((), (), (), ())
        assert found.regressions == ()
        assert found.unchanged == len(build().findings)


def test_a_line_that_moved_is_the_same():
    found = compare(make_report(at(10), at(20, "other")), make_report(at(14), at(24, "other")))
    assert (found.unchanged, found.appeared, found.went) == (2, (), ())


def test_an_edited_line_is_matched_by_its_function():
    found = compare(make_report(at(10, "x = a[t]")), make_report(at(10, "x = a[t] * 2")))
    assert (found.unchanged, found.appeared, found.went) == (1, (), ())


def test_the_same_text_in_another_function_is_another_finding():
    found = compare(make_report(at(10)), make_report(at(10, function="set_timesteps")))
    assert [f.site.function for f in found.went] == ["step"]
    assert [f.site.function for f in found.appeared] == ["set_timesteps"]
    assert found.headline == "Mixed: 1 finding gone, 1 new finding."


def test_fewer_per_step_is_better_and_more_is_worse():
    found = compare(make_report(at(10, per_step=2.0)), make_report(at(10, per_step=1.0)))
    assert [s.why for s in found.better] == ["2 -> 1 per step"]
    found = compare(make_report(at(10, count=4)), make_report(at(10, count=8)))
    assert [s.why for s in found.worse] == ["4 -> 8 per call"]
    assert found.regressions[0].endswith("4 -> 8 per call")


def test_times_within_the_spread_are_the_same():
    assert figure(compare(timed(1.0, 0.05), timed(0.96)), "time of one call").direction is Direction.SAME
    faster = compare(timed(1.0, 0.05), timed(0.5))
    assert figure(faster, "time of one call").direction is Direction.BETTER
    assert faster.headline == "Faster: 2.00x as fast (measured)."
    slower = compare(timed(1.0), timed(1.5))
    assert slower.headline == "Worse: 1.50x as long (measured)."
    assert slower.regressions == ("time of one call: 1,000 ms -> 1,500 ms",)


@pytest.mark.parametrize(
    ("other", "note"),
    [
        (timed(9.0, grade=Grade.SIMULATED), "measured against simulated"),
        (
            make_report(
                recording=make_recording(
                    timing=Timing(grade=Grade.MEASURED, median=9.0),
                    target=make_recording().target.__class__(
                        spec="sdxl", kind="builtin", pipeline="P", steps=50, call={}
                    ),
                )
            ),
            "4 steps against 50",
        ),
    ],
)
def test_times_of_different_things_are_not_compared(other, note):
    found = compare(timed(1.0), other)
    assert figure(found, "time of one call").direction is Direction.UNKNOWN
    assert figure(found, "time of one call").note == note
    assert not [r for r in found.regressions if "time" in r]


def test_what_only_one_run_checked_neither_appeared_nor_went():
    unchecked = (Unchecked(rule="SYN001", name="value-read", why="syncs not recorded"),)
    found = compare(make_report(unchecked=unchecked), make_report(at(10)))
    assert (found.appeared, found.went) == ((), ())
    assert found.not_comparable == ("SYN001: not checked in the first run (syncs not recorded).",)


def test_counts_and_memory():
    def recording(reads, breaks, peak):
        site = make_site()
        return make_recording(
            *(make_sync(site=make_site(line=n)) for n in range(reads)),
            graph_breaks=tuple(
                GraphBreakRow(component="unet", code=None, cause="c", site=site, grade=Grade.SIMULATED)
                for _ in range(breaks)
            ),
            memory=MemoryUse(grade=Grade.SIMULATED, peak_bytes=peak),
        )

    one = make_report(recording=recording(2, 3, 1000))
    other = make_report(recording=recording(0, 1, 2000))
    found = compare(one, other)
    loop = figure(found, "blocking operations in the loop")
    assert (loop.before, loop.after, loop.direction) == (2.0, 0.0, Direction.BETTER)
    assert figure(found, "graph breaks").direction is Direction.BETTER
    assert figure(found, "memory, peak").direction is Direction.WORSE
    assert found.regressions == ("memory, peak: 1,000 B -> 1.95 KiB",)
    assert found.headline == "Mixed: blocking operations per step 2 -> 0."


def test_what_was_not_measured_is_not_zero():
    found = compare(make_report(recording=make_recording(syncs=None)), make_report(at(1)))
    loop = figure(found, "blocking operations in the loop")
    assert (loop.before, loop.direction) == (None, Direction.UNKNOWN)
    assert "not measured" in render_comparison(found)


def test_an_informative_finding_is_no_regression():
    recording = make_recording()
    found = compare(make_report(), make_report(at(10, severity=Severity.INFO), recording=recording))
    assert len(found.appeared) == 1
    assert found.regressions == ()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", HARD)
def test_every_view_gets_through_every_report(form, name):
    shown = render_comparison(compare(HARD["empty"](), HARD[name]()), form)
    assert shown.endswith("\n")
    assert "\x1b" not in shown
    if form == "json":
        assert json.loads(shown)["after"]
    if form == "github":
        assert all(line.startswith(("::warning", "::notice")) for line in shown.splitlines())


@pytest.mark.parametrize(
    ("seconds", "read_before_it", "headline"), [(1.0, 2, "Faster"), (1.0, 3, "Mixed"), (2.0, 2, "Mixed")]
)
def test_a_faster_call_may_read_once_what_it_read_in_every_step(
    seconds: float, read_before_it: int, headline: str
) -> None:
    """Two waits a step go: no more than two may come before the loop, and only where time is won."""
    looped = make_sync(count=8, per_step=2.0, by_step=(2, 2, 2, 2))
    once = make_sync(count=read_before_it, in_loop=False, per_step=0.0, by_step=())
    new = make_finding(in_loop=False, evidence=Evidence(syncs=(0,)))
    found = compare(
        timed(2.0, syncs=(looped,)),
        replace(timed(seconds, syncs=(once,)), findings=(new,)),
    )
    assert found.headline.startswith(headline)
    assert bool(found.regressions) == (headline == "Mixed")
    assert is_bad_group(FindingGroup.NEW, found) == (headline == "Mixed")
    assert ("given for a faster call" in render_comparison(found)) == (headline != "Mixed")
    assert ("::warning" in render_comparison(found, "github")) == (headline == "Mixed")


def test_more_chances_are_no_regression_and_a_new_wait_is_one() -> None:
    chance = make_finding("QNT001", "unquantized-linear", site=None, evidence=Evidence())
    assert compare(make_report(), make_report(chance)).regressions == ()
    new = make_finding()
    recording = make_recording()
    worse = compare(make_report(recording=recording), make_report(new, recording=recording))
    assert worse.regressions == (f"SYN001 value-read is new: {new.where}",)


@pytest.mark.parametrize(("after", "regressions"), [(1090, 0), (1110, 1)])
def test_a_faster_call_may_take_a_little_more_memory(after: int, regressions: int) -> None:
    slow = timed(2.0, memory=MemoryUse(grade=Grade.MEASURED, peak_bytes=1000))
    fast = timed(1.0, memory=MemoryUse(grade=Grade.MEASURED, peak_bytes=after))
    assert len(compare(slow, fast).regressions) == regressions


def test_the_samples_before_and_after_are_faster_and_nothing_is_bad():
    """What the fixes cost, a tenth of the memory at most, is part of what they are for."""
    before, after = (load_judged(SAMPLES / name) for name in ("sdxl-ddim-a100", "sdxl-ddim-a100-fixed"))
    found = compare(before, after)
    ratio = before.verdict.call_ms / after.verdict.call_ms
    assert found.headline.startswith(f"Faster: {ratio:.2f}x as fast (simulated)")
    assert found.regressions == ()
    page = Writing()
    comparison_page(page, found)
    styles = {span.style for block in page.blocks for span in block.text.spans}
    assert STYLES["good"] in styles
    assert STYLES["bad"] not in styles


# --- several pipelines ------------------------------------------------------------------------------------


def named(pipeline: str, seconds: float) -> Report:
    return replace_target(timed(seconds), pipeline=pipeline)


def test_of_scripts_the_pipelines_of_one_name_are_compared() -> None:
    before = replace(named("Base", 2.0), pipelines=(named("Refiner", 1.0),))
    after = replace(named("Refiner", 3.0), pipelines=(named("Base", 1.0), named("Upscaler", 1.0)))
    found = compare(before, after)
    assert [each.pipeline for each in found.each] == ["Base", "Refiner"]
    assert [figure(each, "time of one call").ratio for each in found.each] == [0.5, 3.0]
    assert found.not_comparable[-1] == "Upscaler is in the second run alone."
    (worse,) = found.regressions
    assert worse.startswith("Refiner: time of one call")
    assert "Base: Faster" in found.headline
    for form in FORMS:
        assert "Refiner" in render_comparison(found, form)
    page = Writing()
    comparison_page(page, found)
    assert "Refiner" in str([getattr(block, "text", block) for block in page.blocks])


def test_of_scripts_without_a_common_name_the_order_counts() -> None:
    before = replace(named("Base", 2.0), pipelines=(named("Refiner", 1.0),))
    found = compare(before, named("Distilled", 1.0))
    assert found.pipeline == "Base"
    assert figure(found, "time of one call").ratio == 0.5
    assert found.not_comparable[-1] == "Refiner is in the first run alone."
    alone = compare(before, named("Refiner", 0.5))
    assert (alone.pipeline, alone.pipelines) == ("Refiner", ())
