"""A log of TORCH_TRACE, in the lines that torch 2.13 wrote for a function with a branch on a tensor."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffprof.fleet.sources import sources
from diffprof.fleet.store import Store
from diffprof.fleet.torch_trace import compile_row
from diffprof.fleet.traces import import_logs
from diffprof.model.compiles import BreakLine, CompileRow, RecompileLine
from diffprof.views.compiles import render_compiles
from tests.fleet.here import Here

AT = "V1129 09:54:52.362000 12902 torch/_dynamo"
BREAK = AT + (
    '/symbolic_convert.py:5098] {"artifact": {"name": "dynamo_graph_break_reason", "encoding": "string"}, '
    '"frame_id": 0, "frame_compile_id": %d, "attempt": 0, "has_payload": "e2ae"}\n'
    "\tGraph break in user code at my/model.py:5\n"
    "\tGraph Break Reason: Data-dependent branching\n"
    "\t  Explanation: Detected data-dependent branching.\n"
)
METRICS = AT + (
    '/utils.py:2009] {"compilation_metrics": {"compile_id": "0/%d", "co_name": "f", '
    '"co_filename": "my/model.py", "co_firstlineno": 2, "entire_frame_compile_time_s": 1.0, '
    '"dynamo_cumulative_compile_time_us": 1000000, "aot_autograd_cumulative_compile_time_us": 700000, '
    '"inductor_cumulative_compile_time_us": 400000, '
    '"pytorch_version": "2.13.0+cpu"}, "frame_id": 0, "frame_compile_id": %d, "attempt": 0}\n'
)
RECOMPILE = AT + (
    '/guards.py:5400] {"artifact": {"name": "recompile_reasons", "encoding": "json"}, "frame_id": 0, '
    '"frame_compile_id": 1, "attempt": 0, "has_payload": "3759"}\n'
    "\t[\n"
    "\t\"0/1: tensor 'x' size mismatch at index 0. expected 4, actual 5\",\n"
    "\t\"0/0: tensor 'x' size mismatch at index 0. expected 4, actual 5\"\n"
    "\t]\n"
)
CACHE = AT + '/x.py:1] {"artifact": {"name": "fx_graph_cache_%s", "encoding": "json"}, "frame_id": 0}\n\t{}\n'
LOG = (
    BREAK % 0
    + CACHE % "miss"
    + METRICS % (0, 0)
    + RECOMPILE
    + BREAK % 1
    + CACHE % "hit"
    + CACHE % "miss"
    + METRICS % (1, 1)
)


def row_of(folder: Path, text: str) -> CompileRow:
    file = folder / "dedicated_log_torch_trace_9da4.log"
    file.write_text(text)
    (source,) = sources([str(folder)])
    return compile_row(source)


def test_a_log_is_a_row(tmp_path: Path) -> None:
    row = row_of(tmp_path, LOG)
    assert (row.compiles, row.seconds, row.torch, row.damaged) == (2, 2.0, "2.13.0+cpu", 0)
    assert row.phases == pytest.approx({"dynamo": 0.6, "aot_autograd": 0.6, "inductor": 0.8})
    assert row.cache == {"fx_graph_cache miss": 2, "fx_graph_cache hit": 1}
    assert row.breaks == (BreakLine(line="my/model.py:5", reason="Data-dependent branching", count=2),)
    guard = "tensor 'x' size mismatch at index 0. expected 4, actual 5"
    assert row.recompiles == (RecompileLine(function="f (my/model.py:2)", guard=guard, count=1),)
    assert sum(row.phases.values()) == pytest.approx(row.seconds)


def test_one_that_is_cut_short_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    row = row_of(tmp_path, LOG[: LOG.rindex('"pytorch_version"')] + "\n")
    assert (row.compiles, row.damaged) == (1, 1)
    assert row.breaks[0].count == 2


def test_logs_are_told_together_and_another_file_is_a_failed_row(tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    row_of(tmp_path, LOG)
    (tmp_path / "other.log").write_text("hello\n")
    rows = import_logs(sources([str(tmp_path)]), Store(tmp_path / "d.duckdb"), Here())
    text = render_compiles(rows, "text")
    assert text.startswith(
        "2 logs: 2 compiles, 2 s (measured): dynamo 0.6 s, aot_autograd 0.6 s, inductor 0.8 s\n"
    )
    assert "caches: fx_graph_cache miss 2, fx_graph_cache hit 1" in text
    assert "other.log is no log of TORCH_TRACE" in text
    assert "f (my/model.py:2)" in text
