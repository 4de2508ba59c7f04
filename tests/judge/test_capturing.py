"""Whether the steps can be one CUDA graph, and which line says no."""

from __future__ import annotations

from msgspec.structs import replace

from diffprof.judge.capturing import capturable_said
from diffprof.judge.plan import Choice, make_plan
from tests.builders import make_recording, make_report, make_site, make_sync


def said(*rows: object, steps: int | None = 4) -> list[str]:
    recording = make_recording(*rows)  # type: ignore[arg-type]
    return list(capturable_said(replace(recording, target=replace(recording.target, steps=steps))))


def row(line: int, by_step: tuple[int, ...], **more: object) -> object:
    site = make_site(file="diffusers/x.py", line=line)
    more = {"kind": "value-read", "in_loop": True, **more}
    return make_sync(site=site, by_step=by_step, count=sum(by_step), **more)


def test_a_loop_without_waits_can_be_captured() -> None:
    outside = row(3, (), in_loop=False)
    assert said(outside) == ["4 steps as one CUDA graph: capturable, no line in the loop makes the CPU wait."]


def test_the_line_of_most_steps_is_named() -> None:
    rows = [row(7, (9, 0, 0, 0)), row(8, (1, 1, 1, 1), kind="staged-copy"), row(8, (2, 0, 0, 0))]
    (text,) = said(*rows)
    assert text.startswith(
        "4 steps as one CUDA graph: not capturable, because of diffusers/x.py:8 (staged-copy)"
    )
    assert text.endswith(", and 1 line more.")


def test_nothing_is_said_of_what_was_not_recorded() -> None:
    assert said(row(7, (1,)), steps=None) == []
    assert list(capturable_said(replace(make_recording(), syncs=None))) == []


def test_a_plan_against_all_waits_says_it() -> None:
    recording = make_recording(row(7, (1, 1)))  # type: ignore[arg-type]
    report = make_report(recording=replace(recording, target=replace(recording.target, steps=2)))
    assert any("CUDA graph" in note for note in make_plan(report, Choice(goal="no-waits")).notes)
    assert make_plan(report).notes == ()
