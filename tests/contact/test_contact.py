"""The contact without a GPU: what is stored, what the report says of it, and that a kill loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from diffprof.contact import checks, planted
from diffprof.contact.agreement import summary
from diffprof.contact.conduct import _note_end
from diffprof.contact.parts import PARTS, ContactPart, Place
from diffprof.contact.report import write_report
from diffprof.contact.shapes import shapes
from diffprof.contact.store import Log, paired, read
from tests.fake_cuda import FakeCuda, installed

CPU = Place("cpu", "sim:a100-80gb", True)
GPU = Place("cuda", "sim:a100-80gb", False)

ENDS_IN_THE_THIRD = """
import os, sys
from pathlib import Path
from diffprof.contact.store import Log

def fails():
    raise ValueError("no such kernel")

def ends():
    os.kill(os.getpid(), 9)

items = [("one", lambda: {"x": 1}), ("two", fails), ("three", ends), ("four", lambda: {"x": 4})]
Log(Path(sys.argv[1]), "waits").run(items, lambda: 1.0)
"""


def test_a_process_that_is_killed_leaves_what_was_done(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", ENDS_IN_THE_THIRD, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    content = read(tmp_path / "parts" / "waits.json")
    assert content is not None
    assert [(item["key"], item["status"]) for item in content["items"]] == [("one", "ok"), ("two", "failed")]
    assert content["items"][0]["data"] == {"x": 1}
    assert "ValueError: no such kernel" in content["items"][1]["traceback"]
    assert content["running"] == "three"
    part = next(part for part in PARTS if part.key == "waits")
    _note_end(tmp_path, part, -9, True, 2.0)
    again = Log(tmp_path, "waits")
    again.run([(key, lambda: {"x": 0}) for key in ("one", "two", "three", "four")], lambda: 1.0)
    assert [(item["key"], item["status"]) for item in again.items] == [
        ("one", "ok"),
        ("two", "failed"),
        ("three", "ended"),
        ("four", "ok"),
    ]
    assert again.items[0]["data"] == {"x": 1}, "it was not done again"
    assert again.items[2]["error"] == "the process ended with -9"
    assert again.content["finished"] is True


def test_what_there_is_no_time_for_is_named(tmp_path: Path) -> None:
    left = iter([1.0, 0.0, 0.0])
    log = Log(tmp_path, "kernels")
    log.run([(key, dict) for key in ("one", "two", "three")], lambda: next(left))
    stored = read(log.path)
    assert stored is not None
    assert (stored["left_out"], stored["finished"]) == (["two", "three"], False)


def part(key: str, *items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"part": key, "items": [{"status": "ok", "seconds": 1.0, **item} for item in items], **more}


def test_agreement_is_counted_and_what_disagrees_is_named() -> None:
    line = "diffusers/schedulers/x.py"
    waits = {
        "simulator": [[f"{line}:1", "value-read", 3], [f"{line}:2", "value-read", 1]],
        "dispatch": [[f"{line}:1", "value-read", 3], [f"{line}:2", "value-read", 2]],
        "debug_mode": [[f"{line}:1", None, 3], [f"{line}:2", None, 1]],
        "profiler": [],
    }
    kernels = [
        {"family": "gemm", "op": "linear", "predicted_us": predicted, "us": 10.0}
        for predicted in (5.0, 6.0, 10.0)
    ]
    parts = {
        "waits": part("waits", {"key": "sdxl", "data": waits}),
        "kernels": part("kernels", {"key": "shapes 1 to 3", "data": {"rows": kernels}}),
        "ladder": part("ladder", {"key": "rung fp32", "data": {"seconds": paired(2.0, 1.0)}}),
        "graphs": part(
            "graphs",
            {"key": "break", "status": "failed", "error": "KeyError: 'x'"},
            {
                "key": "recompile",
                "data": {
                    "told": {"breaks": 0, "recompiles": 1},
                    "counted": {"breaks": 0, "graphs": 3, "frames": 3},
                },
            },
        ),
    }
    found = summary(parts, timed=True)
    assert found["figures"]["waits: sites and kinds on which simulator and device agree"] == [1, 2]
    family = "kernels, gemm: predicted / measured, median; median error; shapes"
    assert found["figures"][family] == [0.6, 0.4, 3]
    assert found["disagreements"] == [
        "graphs, break: failed: KeyError: 'x'",
        f"waits, sdxl: {line}:2 value-read: 1 by the simulator, 2 on the device",
        f"waits, sdxl: {line}:2: 2 by the dispatcher, 1 warnings of the sync debug mode",
        "graphs, recompile: 1 recompiles told, 2 counted",
        "ladder, rung fp32: 2 s predicted, 1 measured",
        "kernels, gemm: predicted 0.60 of the measured time (median of 3)",
    ]
    rehearsed = summary(parts, timed=False)
    assert not [line for line in rehearsed["disagreements"] if line.startswith(("ladder", "kernels"))]


def test_the_report_is_right_about_what_is_stored_and_shows_it_as_text(tmp_path: Path) -> None:
    error = {"status": "failed", "error": "Bad: <script>alert(1)</script>", "traceback": "<b>"}
    log = Log(tmp_path, "linears")
    log.content |= part("linears", {"key": "int8", **error}, title="Linears", seconds=3.0, left_out=["int4"])
    log.save()
    write_report(tmp_path, CPU)
    document = json.loads((tmp_path / "contact.json").read_text())
    assert document["rehearsal"] is True
    assert document["not_begun"] == [each.key for each in PARTS if each.key != "linears"]
    assert document["figures"]["linears: items done, failed, left out"] == [0, 1, 1]
    page = (tmp_path / "contact.html").read_text()
    assert "<script>" not in page
    assert "left out for want of time: int4" in page
    assert "Not begun: environment" in page


def test_kernels_are_kept_in_the_columns_of_the_tables(tmp_path: Path) -> None:
    rows = [
        {"family": "gemm", "op": "linear", "dtype": "bfloat16", "m": 1, "n": 2, "k": 3, "us": 4.5},
        {"family": "norm", "op": "rms_norm", "dtype": "bfloat16", "rows": 8, "width": 16, "us": 2.0},
        {"family": "gemm", "op": "linear", "dtype": "bfloat16", "m": 9, "n": 2, "k": 3, "us": None},
    ]
    for name, key, data in (
        ("kernels", "shapes 1 to 3", {"rows": rows}),
        ("environment", "software", {"packages": {"torch": "2.13.0"}}),
        ("environment ", "device", {"name": "NVIDIA H200"}),
    ):
        log = Log(tmp_path, name.strip())
        log.items.append({"key": key, "status": "ok", "seconds": 1.0, "data": data})
        log.save()
    write_report(tmp_path, GPU)
    gemm = (tmp_path / "kernels-gemm.csv").read_text().splitlines()
    assert gemm == [
        "gemm_dtype,framework,version,kernel_source,m,n,k,us",
        "bfloat16,PyTorch,2.13.0,linear,1,2,3,4.5",
    ]
    other = (tmp_path / "kernels-other.csv").read_text().splitlines()
    assert other[1] == "NVIDIA H200,norm,rms_norm,bfloat16,rows=8 width=16,2.0,2.13.0"


def test_there_are_some_four_hundred_shapes_and_each_has_a_key_of_its_own() -> None:
    every = shapes(short=False)
    assert 350 <= len(every) <= 450
    assert len({shape.key for shape in every}) == len(every)
    families = {shape.family for shape in every}
    assert families == {"gemm", "attention", "convolution", "pointwise", "norm", "copy"}
    assert {shape.family for shape in every[:6]} == families, "what a short time leaves is of every kind"
    assert {shape.family for shape in shapes(short=True)} == families


def test_all_parts_fit_into_their_time() -> None:
    first: ContactPart = PARTS[0]
    assert first.key == "environment"
    assert [each.key for each in PARTS][1:3] == ["checks", "waits"]
    assert all(0 < each.seconds <= 130 for each in PARTS)


@pytest.mark.nightly
def test_a_contact_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "diffprof.contact", str(tmp_path), "--device", "cpu"]
    command += ["--part", "environment", "--seconds", "500"]
    stored = tmp_path / "parts" / "environment.json"
    parent = subprocess.Popen(command)
    while len((read(stored) or {"items": ()})["items"]) < 1:
        assert parent.poll() is None
        time.sleep(0.05)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    time.sleep(2.0)
    before = read(stored)
    time.sleep(1.0)
    assert read(stored) == before, "the child went with its parent"
    assert subprocess.run(command, check=False).returncode == 0
    after = read(stored)
    assert after is not None
    assert before is not None
    assert after["items"][0] == before["items"][0]
    assert [item["key"] for item in after["items"]] == ["device", "driver", "software", "profiler"]
    document = json.loads((tmp_path / "contact.json").read_text())
    assert document["parts"]["environment"]["finished"] is True


FAKE = Place("cuda", "sim:a100-80gb", True)

NEEDS_A_DEVICE = {"both-witnesses"}
"""It looks where tensors lie; those of the fake are the CPU's."""


@pytest.mark.nightly
@pytest.mark.parametrize("which", PARTS, ids=lambda part: part.key)
def test_every_part_comes_to_its_end_on_the_fake(which: ContactPart, tmp_path: Path) -> None:
    log = Log(tmp_path, which.key)
    with installed(FakeCuda()):
        log.run(which.items(FAKE), lambda: 1.0)
    assert log.content["finished"]
    failed = {item["key"]: item["error"] for item in log.items if item["status"] != "ok"}
    assert failed.keys() <= NEEDS_A_DEVICE, failed


@pytest.mark.slow
def test_what_only_undoing_needs_leaves_the_fake() -> None:
    with installed(FakeCuda()):
        assert checks.parked(GPU) == {"saved_bytes": 4096 * 4096 * 2 + 4096 * 2}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("check", [*checks.CHECKS, *checks.CUDA_CHECKS])
def test_checks_hold_on_a_gpu(check: str) -> None:
    {**checks.CHECKS, **checks.CUDA_CHECKS}[check](GPU)


def outcome(**more: Any) -> dict[str, Any]:
    told = {"planned": True, "status": "kept", "why": "", "fix": "bfloat16", "promised_ms": 10.0}
    told |= {"promised_bytes": None, "before_ms": 50.0, "after_ms": 40.0, "before_bytes": 0, "after_bytes": 0}
    return {**told, **more}


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (outcome(), None),
        (outcome(after_ms=48.0), "fixes: bfloat16 promised 10 ms, saved 2"),
        (outcome(status="reverted", why="slower"), "fixes: bfloat16 reverted: slower"),
        ({"fix": "tf32", "planned": False}, None),
        (
            outcome(promised_bytes=512 << 20, before_bytes=1 << 30, after_bytes=1 << 30),
            "fixes: bfloat16 promised 512 MiB, saved 0",
        ),
        (outcome(promised_bytes=512 << 20, before_bytes=1 << 30, after_bytes=1 << 29), None),
    ],
)
def test_what_a_fix_promised_is_held_against_what_came_of_it(found: dict[str, Any], line: str | None) -> None:
    parts = {"fixes": part("fixes", {"key": "fix", "data": found})}
    assert summary(parts, timed=True)["disagreements"] == ([] if line is None else [line])


@pytest.mark.nightly
def test_the_planted_faults_are_found_and_mended() -> None:
    with installed(FakeCuda()):
        plan = planted.planned(FAKE)
        tried = planted.tried(FAKE, "host-timesteps")
    assert {"host-timesteps", "vae-untiled", "fuse-qkv"} <= set(plan["promised_ms"])
    assert tried["planned"]
    assert (tried["status"], tried["bit_equal"]) == ("kept", True)
