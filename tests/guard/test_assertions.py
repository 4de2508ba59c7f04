"""Assertions hold on evidence only."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec import structs

from diffprof.guard.assertions import parse_size
from diffprof.judge.judging import make_report
from diffprof.model.errors import UsageError
from diffprof.model.recording import (
    CaptureRow,
    Grade,
    GraphBreakRow,
    MemoryUse,
    RecompileRow,
    Recording,
    Timing,
)
from diffprof.model.report import Report
from tests.builders import make_recording, make_site, make_sync

SITE = make_site("app.py", 7, user_code=True, module=None)
WHOLE = CaptureRow(
    component="transformer", graphs=1, fullgraph_ready=True, tried=("within one call", "height=768")
)
BROKEN = CaptureRow(component="vae", graphs=2, breaks=1, tried=())
BREAK = GraphBreakRow(
    component="vae", code="GB0001", cause="Data-dependent branch", site=SITE, grade=Grade.SIMULATED
)


def report(**more: object) -> Report:
    return make_report(make_recording(**more))


def test_a_wait_in_the_loop_fails_with_its_line() -> None:
    found = make_report(make_recording(make_sync(site=SITE)))
    with pytest.raises(
        AssertionError, match=r"app\.py:7: SYN001 value-read: (.|\n)*1 wait in the denoising loop"
    ):
        found.assert_no_waits()


def test_a_wait_before_the_loop_fails_only_on_the_whole_call() -> None:
    found = make_report(make_recording(make_sync("host-to-device", in_loop=False, site=SITE)))
    found.assert_no_waits()
    with pytest.raises(AssertionError, match="1 wait in the call"):
        found.assert_no_waits(in_loop=False)


def test_the_reports_path_is_named() -> None:
    found = structs.replace(make_report(make_recording(make_sync())), path="traces/x")
    with pytest.raises(AssertionError, match="report: traces/x"):
        found.assert_no_waits()


def test_one_graph() -> None:
    found = report(captures=(WHOLE, BROKEN), graph_breaks=(BREAK,), recompiles=())
    found.assert_fullgraph("transformer")
    with pytest.raises(
        AssertionError, match=r"app\.py:7: GRB\d+ (.|\n)*Not one graph: vae: 2 graphs, 1 break"
    ):
        found.assert_fullgraph("transformer", "vae")
    with pytest.raises(AssertionError):
        found.assert_fullgraph()
    failed = report(captures=(CaptureRow(component="vae", failure="it took too long"),), graph_breaks=())
    with pytest.raises(AssertionError, match="could not be captured"):
        failed.assert_fullgraph("vae")


def test_recompiles() -> None:
    again = RecompileRow(
        component="transformer",
        guard="height == 128",
        site=SITE,
        variation="height=768",
        count=2,
        grade=Grade.SIMULATED,
    )
    quiet = report(captures=(WHOLE,), graph_breaks=(), recompiles=())
    quiet.assert_no_recompiles()
    quiet.assert_no_recompiles(vary={"height": [768]})
    with pytest.raises(AssertionError, match="Compiled again: transformer 2 times for height=768"):
        report(captures=(WHOLE,), graph_breaks=(), recompiles=(again,)).assert_no_recompiles()
    with pytest.raises(UsageError, match=r"height=1024 was not tried(.|\n)*vary=\{'height': \[768, 1024\]\}"):
        quiet.assert_no_recompiles(vary={"height": [768, 1024]})


def test_the_value_of_the_call_itself_was_tried() -> None:
    target = structs.replace(make_recording().target, call={"height": 1024})
    found = report(captures=(WHOLE,), graph_breaks=(), recompiles=(), target=target)
    found.assert_no_recompiles(vary={"height": [768, 1024]})


def test_memory() -> None:
    memory = MemoryUse(
        grade=Grade.SIMULATED, peak_bytes=3 * 2**30, by_phase={"decode": 3 * 2**30, "encode": 2**20}
    )
    report(memory=memory).assert_max_memory("3GiB")
    with pytest.raises(
        AssertionError, match=r"3 GiB at the peak .*2\.9 GiB allowed; over it in decode 3 GiB:"
    ):
        report(memory=memory).assert_max_memory("2.9GiB")


@pytest.mark.parametrize(
    ("text", "size"), [("8GiB", 2**33), ("1.5 mib", 1_572_864), ("8GB", 8 * 10**9), (12, 12), ("7", 7)]
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


def test_a_size_that_is_none() -> None:
    with pytest.raises(UsageError, match="8 apples"):
        parse_size("8 apples")


def timed(seconds: float, **more: object) -> Report:
    return report(timing=Timing(grade=Grade.SIMULATED, median=seconds), **more)


def test_a_ratio_of_times() -> None:
    timed(0.9).assert_time_ratio(timed(1.0), at_most=0.97)
    with pytest.raises(AssertionError, match=r"980 ms a call, 0\.980 of the baseline's 1 s \(simulated\)"):
        timed(0.98).assert_time_ratio(timed(1.0), at_most=0.97)
    other = structs.replace(make_recording().device, spec="sim:h100")
    with pytest.raises(UsageError, match="on other devices"):
        timed(0.9).assert_time_ratio(timed(1.0, device=other), at_most=0.97)


NOTHING = make_recording(syncs=None)
NO_LOOP = make_recording(target=structs.replace(make_recording().target, steps=None))
PARTIAL = make_recording(captures=(WHOLE,), recompiles=(), graph_breaks=(), partial=True, failure="stopped")


@pytest.mark.parametrize("recording", [NOTHING, PARTIAL], ids=["nothing recorded", "partial"])
@pytest.mark.parametrize(
    "asserts",
    [
        lambda r: r.assert_no_waits(),
        lambda r: r.assert_no_waits(in_loop=False),
        lambda r: r.assert_fullgraph(),
        lambda r: r.assert_fullgraph("transformer"),
        lambda r: r.assert_no_recompiles(),
        lambda r: r.assert_max_memory("8GiB"),
        lambda r: r.assert_time_ratio(timed(1.0), at_most=1.0),
    ],
)
def test_nothing_passes_without_evidence(recording: Recording, asserts: Callable[[Report], None]) -> None:
    with pytest.raises(UsageError):
        asserts(make_report(recording))


def test_no_loop_and_no_such_component_are_errors() -> None:
    with pytest.raises(UsageError, match="No denoising loop was seen"):
        make_report(NO_LOOP).assert_no_waits()
    make_report(NO_LOOP).assert_no_waits(in_loop=False)
    with pytest.raises(UsageError, match="'unet' was not captured"):
        report(captures=(WHOLE,), graph_breaks=()).assert_fullgraph("unet")
