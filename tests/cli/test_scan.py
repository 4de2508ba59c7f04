from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from diffprof.model.errors import DiffprofError, Stopped, TargetError, UsageError
from diffprof.model.report import load_report
from diffprof.targets.exits import ProcessExit
from tests import builders
from tests.cli.conftest import FakeScan, Run


def only_run() -> Path:
    (folder,) = Path("traces").iterdir()
    return folder


def test_prints_stores_and_exits_clean(run: Run, fake: FakeScan) -> None:
    result = run("scan", "sdxl")
    assert result.exit_code == 0
    assert result.stdout.startswith("sdxl (StableDiffusionXLPipeline) on ")
    assert "\nThe CPU waits for the GPU once per denoising step" in result.stdout
    assert result.stdout.endswith(f"Stored in traces/{only_run().name}\n")
    assert result.stderr == ""
    assert load_report(only_run()).findings == fake.report.findings


def test_options_reach_the_library(run: Run, fake: FakeScan) -> None:
    line = (
        "scan x.py --device sim:h100 --scheduler DDIMScheduler --steps 4 --height 512 --width 768 --batch 2 "
        "--dtype bfloat16 --guidance-scale 7.5 --set eta=0.5 --set output_type=latent --set sizes=(1,2) "
        "--set text=a=b --no-weights -- --their 1 -x"
    )
    assert run(*line.split()).exit_code == 0
    assert fake.called["spec"] == "x.py"
    assert fake.called["args"] == ("--their", "1", "-x")
    assert fake.called["device"] == "sim:h100"
    options = fake.called["options"]
    assert (options.scheduler, options.steps, options.height, options.width) == ("DDIMScheduler", 4, 512, 768)
    assert (options.batch, options.dtype, options.guidance_scale) == (2, "bfloat16", 7.5)
    assert options.call == {"eta": 0.5, "output_type": "latent", "sizes": (1, 2), "text": "a=b"}
    assert options.weights is False


def test_what_is_not_given_is_left_to_the_target(run: Run, fake: FakeScan) -> None:
    from diffprof.targets import Options

    run("scan", "sdxl")
    assert fake.called["options"] == Options()
    assert fake.called["device"] is None


@pytest.mark.parametrize("form", ["json", "markdown", "github"])
def test_stdout_is_pure_and_the_path_is_on_stderr(run: Run, fake: FakeScan, form: str) -> None:
    fake.prints = "what the script prints\n"
    result = run("scan", "sdxl", "--format", form)
    assert result.exit_code == 0
    assert "what the script prints" not in result.stdout
    assert result.stderr == f"what the script prints\nstored in traces/{only_run().name}\n"
    if form == "json":
        shown = json.loads(result.stdout)
        assert shown["path"] == f"traces/{only_run().name}"
        assert result.stdout == (only_run() / "report.json").read_text()


def test_traces_elsewhere(run: Run, fake: FakeScan, monkeypatch: pytest.MonkeyPatch) -> None:
    run("scan", "sdxl", "--traces", "a/b")
    assert list(Path("a/b").glob("*-sdxl/report.json"))
    monkeypatch.setenv("DIFFPROF_TRACES", "c")
    run("scan", "sdxl")
    assert list(Path("c").glob("*-sdxl/report.json"))
    assert not Path("traces").exists()


@pytest.mark.parametrize(
    ("fail_on", "code"),
    [("in-loop", 1), ("SYN001", 1), ("value-read", 1), ("SYN", 1), ("SYN003", 0), ("SYN003,SYN005", 1)],
)
def test_fail_on(run: Run, fake: FakeScan, fail_on: str, code: int) -> None:
    result = run("scan", "sdxl", "--fail-on", fail_on)
    assert result.exit_code == code
    assert only_run()


def test_fail_on_nothing_found(run: Run, fake: FakeScan) -> None:
    fake.report = builders.empty()
    assert run("scan", "sdxl", "--fail-on", "in-loop,SYN").exit_code == 0


@pytest.mark.parametrize("place", ["file", "file/traces"])
def test_a_file_for_the_runs_is_refused_before_the_scan(run: Run, fake: FakeScan, place: str) -> None:
    Path("file").write_text("mine")
    result = run("scan", "sdxl", "--traces", place)
    assert result.exit_code == 2
    assert "file is a file.\nName the folder that holds the runs with --traces." in result.stderr
    assert fake.called == {}
    assert Path("file").read_text() == "mine"


def test_a_wrong_fail_on_is_refused_before_the_scan(run: Run, fake: FakeScan) -> None:
    result = run("scan", "sdxl", "--fail-on", "value-reed")
    assert result.exit_code == 2
    assert "no rule is called 'value-reed'" in result.stderr
    assert "value-read" in result.stderr
    assert fake.called == {}


def test_a_gate_without_evidence_is_said(run: Run, fake: FakeScan) -> None:
    fake.report = builders.nothing_measured()
    result = run("scan", "sdxl", "--fail-on", "SYN001")
    assert result.exit_code == 4
    assert "--fail-on SYN001: not judged" in result.stderr
    assert "rests on SYN001 value-read, which was not checked: syncs not recorded" in result.stderr


def test_a_gate_on_a_call_that_was_not_seen_to_its_end_does_not_pass(run: Run, fake: FakeScan) -> None:
    recording = builders.make_recording(partial=True, failure="The trace is cut short: at an event.")
    whole = builders.make_report(recording=builders.make_recording())
    partial = builders.make_report(recording=recording)
    for fake.report in (partial, replace(whole, pipelines=(partial,))):
        assert run("scan", "sdxl").exit_code == 0
        result = run("scan", "sdxl", "--fail-on", "in-loop")
        assert result.exit_code == 4
        assert "not judged, for the report is partial: The trace is cut short" in result.stderr
    looped = builders.make_report(builders.make_finding(), recording=builders.make_recording())
    fake.report = replace(whole, pipelines=(looped,))
    assert run("scan", "sdxl", "--fail-on", "in-loop").exit_code == 1


@pytest.mark.parametrize("end", [SystemExit(0), SystemExit(), ProcessExit("os._exit(0)", 0)])
def test_what_ends_the_process_does_not_pass(run: Run, fake: FakeScan, end: BaseException) -> None:
    fake.error = end
    result = run("scan", "sdxl")
    assert result.exit_code == 3
    assert "The target ended the process with status 0." in result.stderr


def test_an_exception_of_no_kind_is_no_finding(run: Run, fake: FakeScan) -> None:
    fake.error = GeneratorExit("odd")
    assert run("scan", "sdxl").exit_code == 70


def test_a_name_that_the_system_refuses_is_no_bug(run: Run, stored: Path) -> None:
    for command in ("show", "fix", "view", "tensorboard", "scan"):
        result = run(command, "n" * 5_000)
        assert result.exit_code == 2, command
        assert len(result.stderr) < 1_000
    assert "File name too long" in run("show", "n" * 5_000).stderr


@pytest.mark.parametrize("pair", ["eta", "=1", "a b=1"])
def test_a_wrong_set_is_refused(run: Run, fake: FakeScan, pair: str) -> None:
    result = run("scan", "sdxl", "--set", pair)
    assert result.exit_code == 2
    assert "key=value" in result.stderr
    assert fake.called == {}


@pytest.mark.parametrize("option", [("--steps", "0"), ("--steps", "x"), ("--format", "yaml"), ("--nope",)])
def test_wrong_options_are_usage_errors(run: Run, fake: FakeScan, option: tuple[str, ...]) -> None:
    assert run("scan", "sdxl", *option).exit_code == 2
    assert fake.called == {}


def test_errors_have_their_hint_and_code(run: Run, fake: FakeScan) -> None:
    fake.error = UsageError("There is no target 'x'.", "Did you mean y?")
    result = run("scan", "x")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: There is no target 'x'.\nDid you mean y?\n"
    fake.error = TargetError("x.py failed: \x1b[31mboom.", "See it.")
    result = run("scan", "x.py")
    assert result.exit_code == 3
    assert result.stderr == "error: x.py failed: \\x1b[31mboom.\nSee it.\n"
    assert not Path("traces").exists()


@pytest.mark.parametrize(("error", "code"), [(TargetError("boom"), 3), (Stopped(), 130)])
def test_what_was_recorded_before_the_end_is_kept(
    run: Run, fake: FakeScan, error: DiffprofError | Stopped, code: int
) -> None:
    recording = builders.make_recording(builders.make_sync(), partial=True, failure="boom")
    error.report = builders.make_report(builders.make_finding(), recording=recording)
    fake.error = error
    result = run("scan", "sdxl", "--format", "json", "--fail-on", "in-loop")
    assert result.exit_code == code
    assert json.loads(result.stdout)["recording"]["partial"] is True
    assert f"stored, marked partial, in traces/{only_run().name}" in result.stderr
    assert load_report(only_run()).recording.partial


def test_ctrl_c_before_anything_was_recorded(run: Run, fake: FakeScan) -> None:
    fake.error = KeyboardInterrupt()
    result = run("scan", "sdxl")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == "error: stopped by Ctrl-C.\n"


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_loses_nothing(run: Run, fake: FakeScan) -> None:
    result = run("scan", "sdxl", "--format", "json")
    assert result.exit_code == 2
    shown = msgspec.json.decode(result.stdout)
    assert shown["path"] == fake.report.path
    assert len(shown["findings"]) == len(fake.report.findings)
    assert "No space left on device" in result.stderr
    assert "--traces" in result.stderr


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("option", [(), ("-v",)])
def test_what_is_not_stored_is_in_no_command(run: Run, fake: FakeScan, option: tuple[str, ...]) -> None:
    """A command that names no run is about the newest one, another than this."""
    fake.report = msgspec.structs.replace(builders.one_of_everything(), path=None)
    result = run("scan", "sdxl", *option)
    assert result.exit_code == 2
    assert fake.report.findings
    assert not re.search("diffprof (view|fix)", result.stdout)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_does_not_hide_that_the_target_failed(run: Run, fake: FakeScan) -> None:
    fake.error = TargetError("boom")
    fake.error.report = builders.empty()
    result = run("scan", "sdxl")
    assert result.exit_code == 3
    assert result.stdout.startswith("sdxl (StableDiffusionXLPipeline) on ")
    assert "No space left on device" in result.stderr
    assert "error: boom" in result.stderr


def test_a_bug_is_no_finding_and_shows_its_traceback_on_request(run: Run, fake: FakeScan) -> None:
    fake.error = ValueError("surprise")
    result = run("scan", "sdxl")
    assert result.exit_code == 70
    assert "diffprof itself failed: ValueError: surprise" in result.stderr
    assert "Traceback" not in result.stderr
    result = run("--debug", "scan", "sdxl")
    assert result.exit_code == 70
    assert "Traceback" in result.stderr


def test_debug_by_environment(run: Run, fake: FakeScan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFPROF_DEBUG", "1")
    fake.error = DiffprofError("what", "hint")
    assert "Traceback" in run("scan", "sdxl").stderr
