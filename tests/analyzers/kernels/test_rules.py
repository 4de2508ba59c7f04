from __future__ import annotations

import dataclasses
import itertools

import msgspec
import pytest

from diffprof.analyzers.kernels.line_rules import MANY
from diffprof.analyzers.kernels.lines import LaunchLines, burst_rows
from diffprof.analyzers.kernels.loop import LoopTimes
from diffprof.analyzers.kernels.rules import CAST
from diffprof.cli import app as command_line
from diffprof.gpu.cost import CostModel
from diffprof.gpu.specs import load_spec
from diffprof.judge.judging import make_report
from diffprof.model.callsite import Place
from diffprof.model.finding import Finding, Severity
from diffprof.model.recording import Grade, LineRow, Recording, Setup, SetupPart
from diffprof.scanning.scan import scan_target
from diffprof.targets import Options
from tests.analyzers.kernels.examples import BAD, FLAT, MASK, MB, recorded, remembered, with_a_slow_start
from tests.analyzers.kernels.made_timeline import MadeTimeline, fed
from tests.builders import make_site, make_sync
from tests.devices.simulated.signatures import add


def found(code: str, recording: Recording | None = None) -> Finding:
    (finding,) = [f for f in make_report(recording or BAD[code]).findings if f.rule == code]
    return finding


def test_what_is_replayed_as_graphs_is_not_told_to_be() -> None:
    bound = BAD["KRN001"]
    graphs = msgspec.structs.replace(bound, timeline=msgspec.structs.replace(bound.timeline, graphs=True))
    finding = found("KRN001", graphs)
    assert "compile" in found("KRN001").fixes
    assert finding.fixes == ()
    assert "Compile" not in finding.advice
    assert finding.saves_ms == pytest.approx(found("KRN001").saves_ms, rel=0.01), "nothing waits there"


def test_launch_bound_says_what_a_faster_host_would_save() -> None:
    finding = found("KRN001")
    # Four steps of 50 kernels of 5 us that the host issues every 40 us.
    assert finding.saves_ms == pytest.approx(4 * 50 * 35 / 1e3, rel=0.02)
    assert "idles 87%" in finding.message


def test_sync_bubble_counts_waits_and_prices_them_together() -> None:
    finding = found("KRN002")
    assert (finding.count, finding.per_step) == (4, 1.0)
    assert finding.saves_ms is not None
    assert 0 < finding.saves_ms < 2


def waited() -> MadeTimeline:
    return MadeTimeline().launch("embed", 1.0, 300.0).launch("linear", 400.0, times=10, family="gemm").wait(0)


COPY = "Memcpy HtoD (Pageable -> Device)"


@pytest.mark.parametrize(
    ("code", "made", "named"),
    [
        ("KRN002", waited().wait(1).wait(0), "most of them at sched.py:7 (8)"),
        (
            "KRN003",
            fed().launch("solve", 1500.0, part="scheduler").wait(1),
            "most of its waits at pipe.py:3 (4)",
        ),
        (
            "KRN008",
            fed().launch(COPY, 150.0, family="copy", part="scheduler").wait(1),
            "most of them at pipe.py:3 (4)",
        ),
        ("KRN008", fed().launch(COPY, 150.0, family="copy", sync=0), "most of them at sched.py:7 (4)"),
    ],
)
def test_findings_that_waits_belong_to_name_the_lines_of_most(
    code: str, made: MadeTimeline, named: str
) -> None:
    rows = [make_sync(site=make_site("sched.py", 7)), make_sync(site=make_site("pipe.py", 3))]
    recording = msgspec.structs.replace(recorded(made), syncs=tuple(rows))
    finding = found(code, recording)
    assert finding.message.endswith(f", {named}.")
    assert ("SYN findings" in finding.advice) is (code == "KRN008")


def test_idle_time_names_the_lines_that_a_trace_has() -> None:
    rows = [msgspec.structs.replace(row, site=make_site("draw.py", 5)) for row in BAD["KRN014"].gaps or ()]
    recording = msgspec.structs.replace(BAD["KRN014"], gaps=tuple(rows))
    assert found("KRN014", recording).message.endswith(", most of it in draw.py:5 (100%).")


@pytest.mark.parametrize(("idle_us", "severity"), [(130.0, Severity.LOW), (60.0, None)])
def test_a_long_idle_stretch_behind_a_wait_is_told_however_long_the_loop(
    idle_us: float, severity: Severity | None
) -> None:
    """Of steps of 40 ms it is no hundredth; a tenth of a millisecond at one place is said all the same."""
    made = (
        MadeTimeline().launch("embed", 1.0, idle_us).launch("linear", 4000.0, times=10, family="gemm").wait()
    )
    findings = [f for f in make_report(recorded(made)).findings if f.rule == "KRN002"]
    assert [f.severity for f in findings] == ([severity] if severity else [])


def test_unfused_attention_keeps_its_arithmetic() -> None:
    finding = found("KRN004")
    # Softmax vanishes; each matmul takes its operations at the rate of the linears (8e10 in 400 us).
    assert finding.evidence.becomes_us == (0.0, pytest.approx(200.0), pytest.approx(200.0))
    assert finding.saves_ms == pytest.approx(4 * (900 + 500 + 500) / 1e3, rel=0.02)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_a_softmax_alone_is_no_attention(name: str) -> None:
    made = fed().launch(name, 900.0, family="reduction")
    if name == "log_softmax":
        made.launch("bmm", 50.0, family="gemm")
    recording = msgspec.structs.replace(BAD["KRN004"], timeline=made.timeline())
    assert "KRN004" not in {f.rule for f in make_report(recording).findings}


def test_tf32_is_no_faster_than_memory() -> None:
    (becomes,) = found("KRN005").evidence.becomes_us
    assert becomes == pytest.approx(900 * 19.5 / 156)
    made = fed().launch("sgemm", 900.0, family="gemm", dtype="float32", flops=1e10, bytes=1e9)
    slow = msgspec.structs.replace(BAD["KRN005"], timeline=made.timeline())
    assert found("KRN005", slow).evidence.becomes_us == (pytest.approx(1e9 / 2039e3),)


def test_layout_conversions_are_counted_per_step() -> None:
    finding = found("KRN006")
    assert (finding.count, finding.per_step, finding.in_loop) == (8, 2.0, True)
    assert finding.saves_ms == pytest.approx(4.0, rel=0.02)


def test_python_between_steps_is_priced_by_leaving_it_out() -> None:
    finding = found("KRN010")
    # A step: 0.1 ms to issue 4 ms of kernels, then 6 ms of Python. Without it the kernels follow each other:
    # 4 * 4 ms instead of 4 * 6.1 ms.
    assert finding.saves_ms == pytest.approx(4 * (6.1 - 4.0), rel=0.02)


def test_memory_growth_is_told_per_step() -> None:
    assert "40 MiB" in found("KRN009").message


def test_headroom_ends_where_a_larger_batch_gains_nothing() -> None:
    message = found("KRN011").message
    # 30 ms of launches, then 80 ms of kernels in the loop. Per image with a batch of 1, 2, 4, 8: 110, 95,
    # 87.5, 83.8 ms. 2 GiB of activations and 7 of weights: memory alone would hold 32 times as many.
    assert "idle 26% of the call" in message
    assert "With 4 times the batch" in message
    assert "each image takes at least 20% less time; twice that gains less than 5% more" in message


def test_headroom_ends_where_memory_does() -> None:
    # 7 GiB of weights, 90 % of 80 GiB: 25 GiB of activations fit twice, not four times.
    message = found("KRN011", with_a_slow_start(FLAT, peak=32 << 30)).message
    assert "With 2 times the batch" in message
    assert message.endswith("14% less time; memory holds no more.")


def test_a_busy_device_has_no_headroom() -> None:
    report = make_report(with_a_slow_start(FLAT, launches=30))
    assert "KRN011" not in {finding.rule for finding in report.findings}


def test_headroom_of_a_launch_bound_call_is_no_thousandfold() -> None:
    timeline = MadeTimeline().launch("add", 5.0, 40.0, times=50).timeline()
    tiny = remembered((7 << 30,) * 4, (7 << 30) + MB, timeline)
    # Eight times 5 us are the 40 us that the host takes for a launch.
    assert "With 8 times the batch" in found("KRN011", tiny).message


def test_a_loop_without_steps_is_empty() -> None:
    loop = LoopTimes(MadeTimeline(steps=0).timeline())
    assert (loop.steps, loop.length_us, loop.idle_us("launch")) == (0, 0.0, 0)
    assert loop.part_share("scheduler") is None


def test_the_scheduler_s_share_leaves_out_what_it_waits_for() -> None:
    waiting = fed().wait(host_us=20.0)
    share = LoopTimes(waiting.timeline()).part_share("scheduler")
    assert share is not None
    assert share < 0.01


def without_steps(code: str) -> Recording:
    """A recording as a trace has it that tells no denoising steps."""
    timeline = BAD[code].timeline
    assert timeline is not None
    return msgspec.structs.replace(BAD[code], timeline=msgspec.structs.replace(timeline, phases=()))


@pytest.mark.parametrize("code", ["KRN001", "KRN002", "KRN010"])
def test_a_trace_without_steps_is_judged_as_a_whole(code: str) -> None:
    finding = found(code, without_steps(code))
    assert not finding.in_loop
    assert finding.per_step == 0.0
    assert "step" not in finding.message
    assert finding.saves_ms is not None
    assert 0 < finding.saves_ms <= 1.05 * (found(code).saves_ms or 0.0)


def test_time_before_the_first_kernel_is_not_what_a_faster_host_saves() -> None:
    """Loading libraries in the first call of a trace takes seconds."""
    timeline = without_steps("KRN001").timeline
    assert timeline is not None
    slow = msgspec.structs.replace(timeline, host_us=(5e6, *timeline.host_us[1:]))
    finding = found("KRN001", msgspec.structs.replace(BAD["KRN001"], timeline=slow))
    assert finding.saves_ms == pytest.approx(found("KRN001").saves_ms, rel=0.05)


def test_one_upload_of_little_weight_is_not_blamed_where_steps_are_unknown() -> None:
    light = without_steps("KRN008")
    assert "KRN008" not in {f.rule for f in make_report(light).findings}
    made = fed().launch("Memcpy HtoD (Pageable -> Device)", 900.0, family="copy")
    heavy = msgspec.structs.replace(light, timeline=msgspec.structs.replace(made.timeline(), phases=()))
    finding = found("KRN008", heavy)
    assert (finding.in_loop, finding.count) == (False, 4)
    assert "3.6 ms" in finding.message


def unchecked(code: str, recording: Recording) -> str:
    report = make_report(recording)
    assert code not in {f.rule for f in report.findings}
    (why,) = [each.why for each in report.unchecked if each.rule == code]
    return why


def test_a_simulated_call_cannot_tell_python_between_steps() -> None:
    assert "no clock for Python" in unchecked("KRN010", BAD["KRN001"])


def test_fp32_on_a_gpu_without_a_data_sheet_is_not_called_clean() -> None:
    device = msgspec.structs.replace(BAD["KRN005"].device, name="Some GPU", details={})
    assert "Some GPU" in unchecked("KRN005", msgspec.structs.replace(BAD["KRN005"], device=device))


@pytest.mark.parametrize(
    ("name", "fires"), [("ampere_sgemm_128x64_tn", True), ("ampere_s1688gemm_tf32_128x64", False)]
)
def test_a_real_kernel_tells_by_its_name_whether_it_uses_tf32(name: str, fires: bool) -> None:
    made = fed().launch(name, 900.0, family="gemm", dtype="float32", flops=1e10, bytes=1e6)
    timeline = msgspec.structs.replace(made.timeline(), grade=Grade.MEASURED)
    recording = msgspec.structs.replace(BAD["KRN005"], timeline=timeline)
    assert ("KRN005" in {f.rule for f in make_report(recording).findings}) is fires


def test_a_compiled_call_needs_the_eager_one_beside_it() -> None:
    timeline = BAD["KRN012"].timeline
    assert timeline is not None
    alone = msgspec.structs.replace(timeline, eager_kernels=None)
    assert "eagerly" in unchecked("KRN012", msgspec.structs.replace(BAD["KRN012"], timeline=alone))


def test_a_line_that_launches_one_by_one_is_named_with_its_cost() -> None:
    recording = BAD["KRN015"]
    finding = found("KRN015", recording)
    assert "1,200 operations" in finding.message
    assert "mask.py:130 (1,200)" in finding.message
    assert (finding.site, finding.in_loop) == (MASK.site, True)
    assert len(finding.evidence.events) == 1200
    few = msgspec.structs.replace(MASK, count=30, device_us=1.0)
    small = msgspec.structs.replace(recording, bursts=(few,))
    assert not [each for each in make_report(small).findings if each.rule == "KRN015"], "0.3 ms of 40"


def test_operations_in_a_row_from_one_function_are_a_row_of_its_line() -> None:
    mask, other, copy = ("m.py", 7, "masked"), ("m.py", 8, "masked"), ("n.py", 7, "copied")
    one = add(8)
    model = CostModel(load_spec("h100"))
    launched = [*[(one, mask), (one, other)] * MANY, (one, copy), *[(one, mask)] * (MANY - 1), (one, copy)]
    rows = burst_rows([launched], model)
    assert [(row.site.line, row.count) for row in rows] == [(7, MANY), (8, MANY)]


def test_copies_over_the_link_are_no_operations_in_a_row() -> None:
    line, other = ("m.py", 7, "moved"), add(8)
    upload = dataclasses.replace(other, direction="h2d")
    model = CostModel(load_spec("h100"))
    assert burst_rows([[(upload, line)] * MANY], model) == ()
    (row,) = burst_rows([[(upload, line), (other, line)] * MANY], model)
    assert row.count == MANY


def test_copies_in_a_row_are_no_evidence_of_operations_in_a_row() -> None:
    timeline = BAD["KRN015"].timeline
    assert timeline is not None
    kinds = tuple(msgspec.structs.replace(k, name=f"Memcpy HtoD of {k.name}") for k in timeline.kinds)
    copies = msgspec.structs.replace(BAD["KRN015"], timeline=msgspec.structs.replace(timeline, kinds=kinds))
    assert found("KRN015").evidence.events
    assert found("KRN015", copies).evidence.events == ()


@pytest.mark.parametrize(
    ("code", "made"),
    [("KRN002", waited()), ("KRN008", fed().launch(COPY, 150.0, family="copy", sync=0))],
)
def test_weights_that_offloading_moves_are_told_by_their_own_rule(code: str, made: MadeTimeline) -> None:
    for offload in (False, True):
        recording = msgspec.structs.replace(recorded(made), syncs=(make_sync(offload=offload),))
        assert any(f.rule == code for f in make_report(recording).findings) is not offload


def test_a_line_is_that_of_the_nearest_code_of_a_person_each_time() -> None:
    lines = LaunchLines()

    def run_in(file: str, source: str) -> list[Place | None]:
        found: list[Place | None] = []
        exec(compile(source, file, "exec"), {"here": lines.here, "found": found})
        return found

    asks = "def launch():\n    found.append(here())\n"
    (twice, other, again) = run_in("m.py", f"{asks}    found.append(here())\nlaunch()\nfound.append(here())")
    assert (twice, other, again) == (("m.py", 2, "launch"), ("m.py", 3, "launch"), ("m.py", 5, "<module>"))
    past = run_in("<string>", asks + "for _ in '12': launch()")
    assert [place and place[0] for place in past] == [__file__, __file__]
    assert run_in(command_line.__file__, asks + "for _ in '12': launch()") == [None, None]


def test_a_stay_in_a_function_goes_on_over_stretches_that_come_again() -> None:
    mask, other, copy = ("m.py", 7, "masked"), ("m.py", 8, "masked"), ("n.py", 7, "copied")
    one = add(8)
    half = [(one, mask)] * (MANY // 2)
    around = [*half, (one, copy), *[(one, other)] * MANY, (one, copy), *half]
    stretches = [half, around, [], around, around, half, half, [(one, copy)], half]
    model = CostModel(load_spec("h100"))
    whole = burst_rows([list(itertools.chain(*stretches))], model)
    assert burst_rows(stretches, model) == whole
    apart = [[(add(n), mask)] * MANY + [(one, copy)] for n in range(8, 40)]
    assert burst_rows(apart, model) == burst_rows(apart[::-1], model), "in any order, to the last digit"
    assert {row.site.line: row.count for row in whole} == {7: 9 * MANY // 2, 8: 3 * MANY}


def casting(*rows: tuple[int, str, float]) -> Recording:
    """The bad example with these lines: (line, its code, device time in microseconds)."""
    casts = [
        LineRow(site=make_site("m.py", line, excerpt=((line, code),)), count=4, device_us=us)
        for line, code, us in rows
    ]
    return msgspec.structs.replace(BAD["KRN007"], casts=tuple(casts))


def test_casts_name_the_lines_that_most_comes_from() -> None:
    rotary, norm, product = (7, "x = x.float()", 600.0), (8, "y.to(t)", 250.0), (9, "self.proj(x)", 150.0)
    written = found("KRN007", casting(rotary, norm, product))
    assert written.message.endswith(", most of it at m.py:7 (60%).")
    assert written.advice.startswith("The code of the model asks for these casts")
    both = found("KRN007", casting((9, "self.proj(x)", 450.0), norm, (10, "z.half()", 300.0)))
    assert both.message.endswith(", most of it at m.py:9 (45%) and m.py:10 (30%).")
    assert both.advice.startswith("The code of the model asks")
    spread = found("KRN007", casting(*((n, "x.float()", 100.0 - n) for n in range(1, 10))))
    assert spread.message.endswith(", above all at m.py:1 (12%), m.py:2 (11%) and m.py:3 (11%).")
    assert found("KRN007", casting((9, "self.proj(x)", 600.0), norm)).advice.startswith("Load all components")
    assert "most of it" not in found("KRN007").message


def test_casts_of_a_simulated_call_have_their_lines_in_replayed_steps_too() -> None:
    options = Options(steps=4)
    recording = scan_target("corpus:flux", device="sim", analyzers=("kernels",), options=options).recording
    assert recording.casts
    assert recording.timeline is not None
    first = recording.casts[0]
    assert first.site.file == "diffusers/models/embeddings.py"
    assert ".float()" in dict(first.site.excerpt)[first.site.line]
    of_casts = {n for n, kind in enumerate(recording.timeline.kinds) if CAST.search(kind.name)}
    columns = zip(recording.timeline.kind, recording.timeline.device_us, strict=True)
    spent = [us for kind, us in columns if kind in of_casts]
    assert sum(row.count for row in recording.casts) == len(spent)
    assert sum(row.device_us for row in recording.casts) == pytest.approx(sum(spent))


def test_conversions_of_volumes_need_the_layout_of_volumes() -> None:
    volumes = Setup(parts=(SetupPart(name="vae", role="vae", convs=0),))
    finding = found("KRN006", msgspec.structs.replace(BAD["KRN006"], setup=volumes))
    assert "channels_last_3d" in finding.advice
    assert finding.fixes == (), "no model with two-dimensional convolutions is there"


def test_kernels_outside_of_the_loop_are_of_the_phase_that_they_run_in() -> None:
    decoding = MadeTimeline(steps=1).launch("nchwToNhwc", 900.0, family="copy")
    timeline = decoding.timeline()
    spans = tuple(msgspec.structs.replace(each, name="decode", step=None) for each in timeline.phases)
    finding = found("KRN006", recorded(decoding, phases=spans))
    assert (finding.phase, finding.in_loop) == ("decode", False)
