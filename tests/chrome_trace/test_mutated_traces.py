"""Damaged and hostile traces through every command that takes one or its report: an answer or one clear
error, never a bug, a hang, or an output in which the trace acts. More of them are tried by
`python -m tests.chrome_trace.test_mutated_traces FIRST LAST`."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from diffprof.cli.app import app
from tests.chrome_trace.test_hostile import events
from tests.chrome_trace.traces import write
from tests.mutations import CANARY, mutated

SECONDS_A_MEGABYTE = 10.0
SHORT = 10
"""Tried with the suite; the slow form tries forty times as many."""


def imports(trace: Path, place: Path) -> Iterator[list[str]]:
    """Commands that read the trace."""
    for form in ("text", "markdown", "html", "github"):
        yield ["import", str(trace), "-q", "--traces", str(place), "--format", form]


def readers(run: Path, other: Path) -> Iterator[list[str]]:
    """Commands that read what is stored of it."""
    yield from (["show", str(run), "--format", form] for form in ("text", "json", "sarif"))
    yield ["show", str(run), "-v"]
    yield ["compare", str(run), str(other)]
    yield ["compare", str(other), str(run), "--format", "json"]
    yield ["fix", str(run)]
    yield ["runs", "--traces", str(run.parent)]
    yield ["tensorboard", str(run), "--no-serve", "-q"]


def whole() -> bytes:
    """A trace with one of everything that the reader looks at."""
    properties = [{"id": 0, "name": "NVIDIA A100-SXM4-80GB", "totalGlobalMem": 84_000_000_000}]
    return json.dumps({"schemaVersion": 1, "deviceProperties": properties, "traceEvents": events()}).encode()


def acts(command: list[str], result: Result) -> str:
    """What in the output would be taken for more than text; empty where nothing is."""
    out = result.stdout
    if any(char in out for char in "\x1b\x07\x00\u202e"):
        return "a control character"
    if "html" in command and re.search(rf"<img[^>]*{CANARY}", out):
        return "an element of a page"
    if re.search(rf"^\s*::error::{CANARY}", out, re.M):
        return "a command of a CI log"
    return ""


def tried(command: list[str], size: int) -> tuple[int, list[str]]:
    """(exit status, what went wrong)."""
    begun = time.process_time()
    result = CliRunner().invoke(app, command, prog_name="diffprof")
    took = time.process_time() - begun
    name, wrong = " ".join(command), []
    if result.exit_code not in (0, 1, 2, 3) or not isinstance(result.exception, SystemExit | None):
        wrong.append(f"{name}: exit {result.exit_code}: {result.stderr[:300]!r}")
    if took > SECONDS_A_MEGABYTE * max(1.0, size / 1e6):
        wrong.append(f"{name}: {took:.0f} s for {size / 1e6:.1f} MB")
    if act := acts(command, result):
        wrong.append(f"{name}: {act} in its output")
    return result.exit_code, wrong


def all_tried(folder: Path, seeds: range) -> tuple[int, list[str]]:
    """(traces that a report could be made of, what went wrong)."""
    write(folder / "good.json", events())
    CliRunner().invoke(app, ["import", str(folder / "good.json"), "-q", "--traces", str(folder / "good")])
    (other,) = (folder / "good").iterdir()
    text, wrong, read = whole(), [], 0
    for seed in seeds:
        trace, place = folder / f"{seed}.json", folder / f"runs{seed}"
        trace.write_bytes(data := mutated(text, seed))
        for command in imports(trace, place):
            code, found = tried(command, len(data))
            wrong += [f"{seed}: {each}" for each in found]
            if code == 2:
                break
        run = next((each for each in sorted(place.glob("*")) if each.is_dir()), None)
        read += run is not None
        for command in readers(run, other) if run is not None else ():
            wrong += [f"{seed}: {each}" for each in tried(command, len(data))[1]]
        trace.unlink()
    return read, wrong


@pytest.mark.slow
def test_mutated_traces(tmp_path: Path) -> None:
    read, wrong = all_tried(tmp_path, range(SHORT))
    assert wrong == []
    assert read > SHORT // 2, "most can be read"


@pytest.mark.parametrize("seed", [137, 340], ids=["nested too deeply", "a length that is a text"])
def test_what_the_plugin_s_copy_stumbled_over(tmp_path: Path, seed: int) -> None:
    assert all_tried(tmp_path, range(seed, seed + 1))[1] == []


@pytest.mark.nightly
def test_many_mutated_traces(tmp_path: Path) -> None:
    assert all_tried(tmp_path, range(SHORT, 1000))[1] == []


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        count, found = all_tried(Path(place), range(int(sys.argv[1]), int(sys.argv[2])))
    print("\n".join(found) or f"nothing went wrong; {count} were read")
    sys.exit(bool(found))
