from __future__ import annotations

import pytest
from msgspec.structs import replace

from diffprof.judge.judging import judge_again, make_report
from diffprof.judge.judging import make_report as judged
from diffprof.model.recording import CaptureRow, Grade, MemoryHolder, MemoryKind, MemoryUse, Unseen
from diffprof.model.report import load_report
from diffprof.model.units import place
from diffprof.views.memory import memory_table
from diffprof.views.verdict import folded, verdict
from tests import builders
from tests.builders import make_finding, make_recording, make_site, make_sync
from tests.samples import FOLDER


def test_the_loop_is_counted_by_steps_and_lines() -> None:
    other = make_site(line=449)
    rows = [
        make_sync(),
        make_sync("host-to-device"),
        make_sync(site=other, per_step=2.0, count=7, by_step=(2, 2, 2, 1)),
        make_sync(in_loop=False, count=3),
    ]
    top = verdict(make_report(make_recording(*rows)))
    assert top.headline == (
        "The CPU waits for the GPU 4 times per denoising step, at 2 lines, and 3 times outside the loop."
    )
    assert top.why.startswith("SYN")
    assert "scheduling_ddim.py:448, 449;" in top.why
    assert "diffprof explain SYN" in top.next


def test_a_clean_loop_is_said_before_what_lies_outside() -> None:
    top = verdict(make_report(make_recording(make_sync(in_loop=False, count=7))))
    assert top.headline == ("The CPU never waits for the GPU in the denoising loop, and 7 times outside it.")


def test_first_step_only() -> None:
    top = verdict(
        make_report(
            make_recording(make_sync(per_step=0.0, count=2, first_step_only=True, by_step=(2, 0, 0, 0)))
        )
    )
    assert top.headline.startswith("The CPU waits for the GPU twice in the denoising loop, at 1 line,")


def test_nothing_found_is_not_nothing_measured() -> None:
    assert verdict(builders.empty()).headline == "No operation makes the CPU wait for the GPU."
    nothing = verdict(builders.nothing_measured())
    assert nothing.headline == "Nothing was recorded that a rule could judge."
    assert "syncs not recorded" in nothing.why


def test_of_a_memory_snapshot_alone_the_peak_is_told() -> None:
    line = make_site(line=449)
    held = [
        MemoryHolder(kind=MemoryKind.OTHER, bytes=3 << 30, count=1820),
        MemoryHolder(kind=MemoryKind.ACTIVATIONS, bytes=1 << 30, count=1, site=line),
    ]
    memory = MemoryUse(grade=Grade.MEASURED, peak_bytes=4 << 30, at_peak=tuple(held))
    report = builders.nothing_measured()
    report = replace(report, recording=replace(report.recording, memory=memory))
    told = f"At most 4 GiB of memory in use; 1 GiB of it, the most of a line, by {place(line)}."
    assert verdict(report).headline == told
    table = memory_table(report.recording)
    assert table is not None
    assert [row[4] for row in table.rows] == ["1,820 blocks", ""]


def test_other_findings_are_counted_apart() -> None:
    recording = make_recording(make_sync())
    other = make_finding("SET001", "x", evidence=builders.Evidence())
    top = verdict(builders.make_report(make_finding(), other, recording=recording))
    assert top.headline.endswith("and never outside the loop. 1 other finding.")
    alone = verdict(builders.make_report(other, other, recording=make_recording(syncs=None)))
    assert alone.headline == "2 findings."


def test_a_partial_recording_says_why_and_first() -> None:
    recording = make_recording(partial=True, failure="RuntimeError: boom\nsecond line")
    top = verdict(builders.make_report(recording=recording))
    assert top.headline.startswith("Partial recording. ")
    assert top.why == "The run ended early: RuntimeError: boom"
    assert "scan again" in top.next


@pytest.mark.parametrize(
    ("ops", "said"), [(0, "No operation ran"), (9, "No operation made the CPU wait for the GPU")]
)
def test_a_partial_recording_without_a_wait_is_not_called_clean(ops: int, said: str) -> None:
    recording = make_recording(partial=True, failure="ValueError: height", ops=ops)
    headline = verdict(builders.make_report(recording=recording)).headline
    assert headline == f"Partial recording. {said} until it ended."


@pytest.mark.parametrize("failure", [None, "", "\n"])
def test_a_partial_recording_without_a_reason(failure: str | None) -> None:
    recording = make_recording(partial=True, failure=failure)
    assert verdict(builders.make_report(recording=recording)).headline.startswith("Partial")


def test_costs_carry_their_grade() -> None:
    top = verdict(builders.make_report(make_finding(blocked_ms=3.0, saves_ms=1.0)))
    assert "blocks the CPU 3 ms a call, saves about 1 ms a call (simulated)" in top.why


def test_components_that_were_captured_are_the_verdict_where_nothing_else_was_looked_at() -> None:
    rows = [CaptureRow(component=name, fullgraph_ready=True, graphs=1) for name in ("unet", "vae.decode")]
    top = verdict(judged(make_recording(syncs=None, captures=tuple(rows), graph_breaks=())))
    assert top.headline == "Fullgraph-ready: unet, vae.decode."
    assert top.why.startswith("Nothing was found in what was looked at; ")
    rows[1] = CaptureRow(component="vae.decode", graphs=2, breaks=1)
    broken = verdict(builders.make_report(recording=make_recording(syncs=None, captures=tuple(rows))))
    assert broken.headline == "Not one graph: vae.decode; fullgraph-ready: unet."


def test_folded_it_keeps_the_number_and_the_cure() -> None:
    top = folded(judge_again(load_report(FOLDER / "sdxl-ddim-a100")))
    assert top.headline == "539 ms an image (simulated); 372 ms safely, 365 ms with all."
    assert top.why == "SET011 not-compiled; saves about 147 ms a call (simulated)."
    assert top.next == "`diffprof fix --apply --select compile`"
    assert all(len(line) <= 67 for line in (top.headline, top.why, top.next)), "80 columns but for the label"


def test_folded_waits_are_their_number() -> None:
    report = make_report(make_recording(make_sync(), make_sync(in_loop=False, count=3)))
    assert folded(report).headline == "The CPU waits for the GPU once per denoising step."
    first = make_finding(blocked_ms=12.0, saves_ms=3.0)
    assert (
        folded(builders.make_report(first)).why
        == f"{first.rule} {first.name}; saves about 3 ms a call (simulated)."
    )
    clean = make_report(make_recording())
    assert folded(clean) == verdict(clean)


def test_what_was_left_out_stands_beside_the_answer() -> None:
    row = Unseen(what="quantization_config of X.from_pretrained", why="no weights", kind="left-out")
    recording = make_recording(unseen=(row, row, Unseen(what="a part", why="compiled")))
    headline = verdict(make_report(recording)).headline
    assert headline.endswith(" Left out (-v): quantization_config of X.from_pretrained.")
