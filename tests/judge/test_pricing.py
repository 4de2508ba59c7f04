from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffprof.judge import plan as planning
from diffprof.judge.judging import make_report
from diffprof.judge.pricing import GOES_WHOLE, HIDDEN, price, removal
from diffprof.judge.setup_costs import best_share, with_changes
from diffprof.judge.timeline import replay, total_us
from diffprof.model.finding import Evidence, Finding, sort_key
from diffprof.model.recording import Alternative, Change, Grade, KernelKind, Recording, Setup, Timeline
from tests.analyzers.kernels.made_timeline import MadeTimeline
from tests.builders import make_finding, make_recording, make_sync


def recorded(made: MadeTimeline, *syncs: Any) -> Recording:
    return make_recording(*(syncs or (make_sync(),)), timeline=made.timeline())


def priced(recording: Recording, **evidence: Any) -> Finding:
    (found,) = price([make_finding(evidence=Evidence(**evidence))], recording)
    return found


def gpu_bound(device_us: float = 1000.0) -> MadeTimeline:
    return MadeTimeline().launch("linear", device_us, times=20, family="gemm").wait(row=0)


def test_a_read_behind_a_full_queue_blocks_long_and_saves_little() -> None:
    found = priced(recorded(gpu_bound()), syncs=(0,))
    assert found.blocked_ms is not None
    assert found.saves_ms is not None
    # 20 ms of kernels a step, of which the host is 200 us ahead when it reads.
    assert found.blocked_ms == pytest.approx(4 * 19.8, rel=0.01)
    assert found.saves_ms < 0.02 * found.blocked_ms
    assert found.cost_note is not None
    assert found.cost_note.endswith(HIDDEN)


def test_the_same_read_costs_its_price_when_launches_are_the_bound() -> None:
    made = MadeTimeline().launch("add", 2.0, 40.0, times=20).wait(row=0, host_us=30.0)
    found = priced(recorded(made), syncs=(0,))
    # Four reads of 30 us to issue and 6 us to settle; the last one hid the end of the last kernel (7 us).
    assert found.saves_ms == pytest.approx((4 * (30 + 6) - 7) / 1e3)
    assert found.blocked_ms == pytest.approx(4 * 6 / 1e3)
    assert found.cost_note == GOES_WHOLE


def test_weights_that_are_moved_go_with_their_copies_and_modules_stay_called() -> None:
    made = MadeTimeline().launch("linear", 100.0, 10.0, times=3).launch("Memcpy HtoD", 500.0, 25.0, sync=0)
    timeline = msgspec.structs.replace(made.timeline(), op_us=10.0)
    moved, sent = (
        priced(make_recording(make_sync("host-to-device", offload=offload), timeline=timeline), syncs=(0,))
        for offload in (True, False)
    )
    without = MadeTimeline().launch("linear", 100.0, 10.0, times=3).python(15.0, part="denoiser").timeline()
    assert moved.saves_ms == pytest.approx((total_us(timeline) - total_us(without)) / 1e3)
    assert sent.saves_ms is not None
    assert sent.saves_ms < moved.saves_ms - 4 * 0.4


def test_modules_that_are_not_called_take_their_python_along() -> None:
    made = MadeTimeline().launch("linear", 2.0, 50.0, times=3).launch("lora", 2.0, 90.0)
    timeline = msgspec.structs.replace(made.timeline(), op_us=18.0)
    events = tuple(n for n, kind in enumerate(timeline.kind) if timeline.kinds[kind].name == "lora")
    stay, gone = (
        priced(make_recording(timeline=timeline), events=events, with_modules=gone) for gone in (False, True)
    )
    assert len(events) == 4
    assert stay.saves_ms == pytest.approx(4 * 18 / 1e3, abs=0.01)
    assert gone.saves_ms == pytest.approx(4 * 90 / 1e3, abs=0.01)
    ms = total_us(timeline) / 1e3
    setup = Setup(
        alternatives=(Alternative(changes=(), ms=ms), Alternative(changes=(Change.COMPILED,), ms=ms / 2))
    )
    recording = make_recording(timeline=timeline, setup=setup)
    for changes, same in (((), False), ((Change.COMPILED,), True)):
        after = [planning._replayed_ms([each], changes, ms, recording) for each in (stay, gone)]
        assert (after[0] == after[1]) is same, "compiled code calls no modules"
    measured = msgspec.structs.replace(timeline, grade=Grade.MEASURED)
    found = priced(make_recording(timeline=measured), events=events, with_modules=True)
    assert found.saves_ms == pytest.approx(4 * 50 / 1e3, abs=0.01)


def test_a_wrapper_that_goes_is_one_module_call_less_for_what_is_inside() -> None:
    """An adapter's own product runs in `to_q.lora_A`, the wrapper's sum in `to_q`, the layer's in
    `to_q.base_layer`."""
    made = MadeTimeline().launch("linear", 2.0, 60.0).launch("lora", 2.0, 40.0).launch("add", 2.0, 20.0)
    timeline = made.timeline()
    modules = ("to_q.base_layer", "to_q.lora_A", "to_q")
    timeline = msgspec.structs.replace(
        timeline, modules=modules, module=timeline.kind, op_us=20.0, module_us=15.0
    )
    events = tuple(n for n, kind in enumerate(timeline.kind) if timeline.kinds[kind].name != "linear")
    found = priced(make_recording(timeline=timeline), events=events, with_modules=True)
    assert found.saves_ms == pytest.approx(4 * (40 + 20 + 15) / 1e3, abs=0.01)


def test_a_measured_read_saves_no_more_than_it_blocks() -> None:
    """The host's time of its event holds everything since the last launch, not the read's own."""
    made = MadeTimeline().launch("add", 2.0, 40.0, times=20).wait(row=0, host_us=900.0)
    timeline = msgspec.structs.replace(made.timeline(), grade=Grade.MEASURED)
    found = priced(make_recording(make_sync(), timeline=timeline), syncs=(0,))
    assert found.saves_ms is not None
    assert found.blocked_ms is not None
    assert 0 < found.saves_ms <= found.blocked_ms


@pytest.mark.parametrize("by", ["kinds", "events"])
def test_a_measured_launch_takes_only_a_usual_launch_s_host_time_along(by: str) -> None:
    """The host was at something else for a second before it."""
    timeline = MadeTimeline(steps=1).launch("add", 2.0, 40.0, times=20).timeline(grade=Grade.MEASURED)
    host = (*timeline.host_us[:10], 1e6, *timeline.host_us[11:])
    timeline = msgspec.structs.replace(timeline, host_us=host)
    evidence = {"kinds": (0,)} if by == "kinds" else {"events": tuple(range(20))}
    found = priced(make_recording(make_sync(), timeline=timeline), **evidence)
    assert found.saves_ms == pytest.approx(20 * 0.04, rel=0.05)


def test_a_copy_stays_and_only_its_wait_goes() -> None:
    made = MadeTimeline().launch("copy", 50.0, 10.0, family="copy", sync=0)
    read, copy = make_sync("value-read"), make_sync("host-to-device")
    gone, kept = (priced(recorded(made, row), syncs=(0,)) for row in (read, copy))
    assert gone.saves_ms is not None
    assert kept.saves_ms is not None
    assert gone.saves_ms > kept.saves_ms > 0


def test_kinds_vanish_or_take_their_new_time() -> None:
    recording = recorded(MadeTimeline().launch("linear", 100.0, 1.0).launch("cast", 40.0, 1.0))
    assert priced(recording, kinds=(1,)).saves_ms == pytest.approx(4 * 0.04, rel=0.01)
    assert priced(recording, kinds=(1,), becomes_us=(10.0,)).saves_ms == pytest.approx(4 * 0.03, rel=0.01)
    assert priced(recording, kinds=(1,)).blocked_ms is None


def test_what_is_not_in_the_timeline_stays_unpriced() -> None:
    recording = recorded(MadeTimeline().launch("linear", 100.0))
    assert priced(recording, syncs=(0,)).saves_ms is None
    assert priced(recording).saves_ms is None
    assert priced(make_recording(make_sync()), syncs=(0,)).saves_ms is None
    assert not removal(Evidence(syncs=(0,)), make_recording(make_sync()))


def test_a_price_that_a_rule_has_set_is_kept() -> None:
    finding = make_finding(saves_ms=1.5, evidence=Evidence(syncs=(0,)))
    assert price([finding], recorded(gpu_bound())) == (msgspec.structs.replace(finding, alone=True),)


def copied(after_us: float) -> Finding:
    """The host waits for a copy behind 1 ms of work, then takes so long before it launches more."""
    timeline = Timeline(
        grade=Grade.SIMULATED,
        kinds=(KernelKind(name="add", op="add", family="pointwise"),),
        kind=(0, -1, 0),
        module=(-1, -1, -1),
        host_us=(0.0, 0.0, after_us),
        device_us=(1000.0, 0.0, 1000.0),
        stream=(0, 0, 0),
        sync=(-1, 0, -1),
    )
    return priced(make_recording(make_sync(kind="device-to-host"), timeline=timeline), syncs=(0,))


@pytest.mark.parametrize(("after_us", "note"), [(46.0, HIDDEN), (54.0, None), (100.0, None)])
def test_a_wait_is_hidden_below_a_twentieth_of_what_it_blocks(after_us: float, note: str | None) -> None:
    found = copied(after_us)
    assert found.blocked_ms == pytest.approx(1.0)
    assert found.saves_ms == pytest.approx(after_us / 1e3)
    assert found.cost_note == note


def test_what_would_make_the_call_longer_saves_nothing() -> None:
    recording = recorded(gpu_bound())
    assert recording.timeline is not None
    longer = tuple(2 * (kind.device_us or 0.0) for kind in recording.timeline.kinds)
    assert priced(recording, kinds=tuple(range(len(longer))), becomes_us=longer).saves_ms == 0.0


# --- changes of the setup ------------------------------------------------------------------------------

A, B, C = Change.QKV, Change.COMPILED, Change.INT8


def costed(**ms: float) -> Recording:
    """A call of 100 ms with alternatives: `qkv=90.0`, `qkv_compiled=60.0`."""
    names = {"qkv": A, "compiled": B, "int8": C, "half": Change.HALF, "blocks": Change.COMPILED_BLOCKS}
    found = [Alternative(changes=(), ms=100.0)]
    found += [Alternative(changes=tuple(names[n] for n in key.split("_")), ms=us) for key, us in ms.items()]
    return make_recording(timeline=gpu_bound().timeline(), setup=Setup(alternatives=tuple(found)))


def test_a_change_of_the_setup_saves_what_the_call_is_shorter_with_it() -> None:
    recording = costed(qkv=90.0, compiled=70.0, compiled_int8=63.0)
    assert priced(recording, change=A).saves_ms == pytest.approx(10.0)
    assert priced(recording, change=A).alone
    quantized = priced(recording, change=C)
    assert (quantized.saves_ms, quantized.compiled_ms) == (pytest.approx(7.0), 70.0)
    assert priced(costed(qkv=120.0), change=A).saves_ms == 0.0
    assert priced(costed(), change=A).saves_ms is None


@pytest.mark.parametrize(("half_ms", "built_on"), [(99.0, True), (97.0, False)])
def test_half_precision_that_saves_little_by_itself_is_told_of_the_compiled_call(
    half_ms: float, built_on: bool
) -> None:
    """A call that waits for launches gains nothing, and casts are launches too."""
    both = costed(half=half_ms, compiled=60.0, compiled_half=40.0)
    found = priced(both, change=Change.HALF)
    assert found.saves_ms == pytest.approx(20.0 if built_on else 100.0 - half_ms)
    assert (found.compiled_ms == 60.0) is built_on
    small = priced(costed(half=half_ms, compiled=60.0, compiled_half=56.0), change=Change.HALF)
    assert small.saves_ms == (None if built_on else pytest.approx(100.0 - half_ms))


def test_changes_that_were_not_costed_together_multiply() -> None:
    both = with_changes(costed(qkv=90.0, compiled=70.0), (A, B))
    assert both is not None
    assert both.ms == pytest.approx(63.0)
    together = with_changes(costed(qkv=90.0, compiled=70.0, qkv_compiled=66.0), (A, B))
    assert together is not None
    assert together.ms == 66.0
    assert with_changes(costed(qkv=90.0), (A, B)) is None


def test_waits_cost_what_they_do_after_the_change_that_saves_most() -> None:
    """Compiled, they cost more: by half precision's, a second change made the call longer."""
    recording = costed(half=97.0, blocks=50.0)
    assert recording.setup is not None
    assert recording.setup.alternatives is not None
    waits = {frozenset(): 10.0, frozenset({Change.HALF}): 10.0, frozenset({Change.COMPILED_BLOCKS}): 30.0}
    told = tuple(
        msgspec.structs.replace(each, without_waits_ms=each.ms - waits[frozenset(each.changes)])
        for each in recording.setup.alternatives
    )
    setup = msgspec.structs.replace(recording.setup, alternatives=told)
    both = with_changes(
        msgspec.structs.replace(recording, setup=setup), (Change.HALF, Change.COMPILED_BLOCKS)
    )
    assert both is not None
    assert both.ms == pytest.approx(48.5)
    assert both.without_waits_ms == pytest.approx(20.0 * 0.97)


def test_a_change_is_worth_what_it_saves_on_top_of_others_too() -> None:
    recording = costed(qkv=105.0, compiled=70.0, qkv_compiled=63.0)
    assert best_share(recording, A) == pytest.approx(0.1)
    assert best_share(recording, C) is None


def test_reports_are_priced_and_sorted_by_what_they_save() -> None:
    made = MadeTimeline().launch("add", 2.0, 40.0, times=20).wait(row=0).wait(row=1, host_us=200.0)
    report = make_report(recorded(made, make_sync(), make_sync("synchronize")))
    loop = [f for f in report.findings if f.in_loop]
    assert all(f.saves_ms is not None for f in loop)
    firsts = [report.findings[action.findings[0]].saves_ms or 0.0 for action in report.actions]
    assert firsts == sorted(firsts, reverse=True)
    assert loop[0].saves_ms == max(f.saves_ms or 0.0 for f in loop)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 80), st.integers(0, 80), st.sampled_from([-1, 0, 1, 2])), min_size=1),
    st.sets(st.integers(0, 2)),
)
def test_a_finding_never_costs_less_than_nothing(events: list[tuple[int, int, int]], rows: set[int]) -> None:
    made = MadeTimeline(steps=2)
    for host, device, sync in events:
        made.launch("k", float(device), float(host), sync=sync)
    recording = recorded(made, *(make_sync() for _ in range(3)))
    found = priced(recording, syncs=tuple(sorted(rows)))
    if found.saves_ms is not None:
        assert recording.timeline is not None
        assert 0 <= found.saves_ms <= replay(recording.timeline).total_us / 1e3


def test_findings_are_sorted_by_what_they_save() -> None:
    saves = (1.0, None, 5.0, 0.0)
    found = sorted((make_finding(saves_ms=ms) for ms in saves), key=sort_key)
    assert [finding.saves_ms for finding in found][:2] == [5.0, 1.0]
