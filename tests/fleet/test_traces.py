"""Many traces to rows, and what they say together: right figures, the same rows however they are read."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from diffprof.cli.app import app
from diffprof.fleet.engine import Engine, Processes
from diffprof.fleet.ray_engine import RayCluster
from diffprof.fleet.sources import Source, sources
from diffprof.fleet.store import Store
from diffprof.fleet.traces import import_traces, trace_row
from diffprof.judge.fleet import fleet, host_gaps, line_costs, outliers, rank_groups, trends
from diffprof.model.errors import UsageError
from diffprof.model.traces import TraceRow
from diffprof.views.traces import render_fleet
from tests.chrome_trace import generate
from tests.fleet.fleet_traces import loop, rank
from tests.fleet.here import Here

pytest.importorskip("duckdb")


def one(path: Path) -> Source:
    (source,) = sources([str(path)])
    return source


def plain(rows: tuple[TraceRow, ...]) -> list[TraceRow]:
    return [msgspec.structs.replace(row, took_s=None) for row in rows]


def test_a_row_has_the_figures_of_its_trace(tmp_path: Path) -> None:
    row = trace_row(one(loop(tmp_path / "host-7_123.456.pt.trace.json.gz")))
    assert (row.host, row.gpu, row.rank) == ("host-7", "NVIDIA A100-SXM4-80GB", None)
    assert row.created == "2026-10-01T12:17:06+00:00"
    assert row.step_us == (999.0,) * 4
    assert row.kernels == 8
    assert row.busy_us == pytest.approx(4 * 602)
    assert row.window_us is not None
    assert sum(row.idle_us.values()) == pytest.approx(row.window_us - row.busy_us, abs=1)
    (wait,) = row.waits
    assert (wait.line, wait.count) == ("diffusers/schedulers/scheduling_ddim.py:400", 4)
    assert wait.blocked_us == pytest.approx(4 * 100, rel=0.05)
    assert "SYN004" in {finding.rule for finding in row.findings}
    assert sum(row.families.values()) == pytest.approx(4 * 602)


def test_patterns_folders_and_addresses_name_files(tmp_path: Path) -> None:
    for name in ("a/x.json.gz", "a/b/y.json", "a/notes.txt"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    names = [source.name for source in sources([str(tmp_path / "**/*.json*"), str(tmp_path / "a")])]
    assert sorted(names) == ["x.json.gz", "y.json"]
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/run-1/z.json.gz", loop(tmp_path / "z.json.gz").read_bytes())
    (remote,) = sources(["memory://bucket/run-*/"])
    assert remote.url == "memory:///bucket/run-1/z.json.gz"
    assert trace_row(remote).kernels == 8
    with pytest.raises(UsageError, match="names no trace"):
        sources([str(tmp_path / "nothing-*")])
    with pytest.raises(UsageError, match="can't be opened"):
        sources(["nowhere://bucket/x.json"])


def test_what_was_read_is_not_read_again_and_a_changed_file_is(tmp_path: Path) -> None:
    first, second = loop(tmp_path / "a.json"), tmp_path / "b.json"
    second.write_text("no trace")
    store = Store(tmp_path / "diffprof.duckdb")
    rows = import_traces(sources([str(tmp_path)]), store, Here())
    assert [row.status for row in rows] == ["ok", "failed"]
    assert "b.json" in rows[1].reason
    again = Here()
    assert plain(import_traces(sources([str(tmp_path)]), store, again)) == plain(rows)
    assert again.begun == []
    import_traces(sources([str(tmp_path)]), store, again, again=True)
    assert len(again.begun) == 1
    loop(first, read_us=50.0)
    (changed, _) = import_traces(sources([str(tmp_path)]), store, Here())
    assert changed.key != rows[0].key


def test_stopped_it_keeps_what_was_read(tmp_path: Path) -> None:
    for name in "abc":
        loop(tmp_path / f"{name}.json")
    store = Store(tmp_path / "diffprof.duckdb")
    with pytest.raises(KeyboardInterrupt):
        import_traces(sources([str(tmp_path)]), store, Here(stop_after=2))
    assert len(store.keys("traces", TraceRow)) == 2


def test_a_line_costs_its_share_of_all(tmp_path: Path) -> None:
    paths = [loop(tmp_path / f"{n}.json", read_us=read) for n, read in enumerate((100.0, 200.0))]
    rows = [trace_row(one(path)) for path in paths]
    cost = next(each for each in line_costs(rows) if "scheduling_ddim" in each.line)
    window = sum(row.window_us or 0 for row in rows)
    assert (cost.traces, cost.count) == (2, 8)
    assert cost.blocked_share == pytest.approx((4 * 100 + 4 * 200) / window, rel=0.05)
    saves = sum(f.saves_us or 0 for row in rows for f in row.findings if f.line == cost.line)
    assert cost.saves_share == pytest.approx(saves / window)
    assert cost.rules == ("SYN004",)


def made(number: int, window_us: float, busy: float = 0.9) -> TraceRow:
    return TraceRow(
        key=str(number),
        path=f"{number}.json",
        folder="",
        bytes=1,
        gpu="H100",
        pipeline="sdxl",
        created=f"2026-01-01T{number:02}",
        window_us=window_us,
        busy_us=busy * window_us,
    )


def test_outliers_are_far_from_their_kind_and_a_little_scatter_is_none() -> None:
    rows = [made(n, 1000.0 + n) for n in range(10)]
    assert outliers(rows) == ()
    (slow,) = outliers([*rows, made(11, 1200.0)])
    assert (slow.path, slow.figure, slow.value, slow.median) == ("11.json", "window_us", 1200.0, 1005.0)
    (idle,) = outliers([*rows, made(11, 1000.0, busy=0.5)])
    assert (idle.figure, idle.value) == ("idle_share", 0.5)
    assert outliers([made(1, 1.0), made(2, 9.0)]) == ()


def test_a_trend_is_more_than_scatter() -> None:
    assert trends([made(n, 1000.0 + n % 3) for n in range(12)]) == ()
    (slower,) = trends([made(n, 1000.0 + n % 3 + 100 * (n > 5)) for n in range(12)])
    assert (slower.figure, slower.before, slower.after) == ("window_us", 1001.0, 1101.0)


def test_a_host_is_told_that_is_slower_than_the_others() -> None:
    def on(host: str, number: int, window_us: float) -> TraceRow:
        return msgspec.structs.replace(made(number, window_us), host=host)

    rows = [on("abc"[n % 3], n, 1000.0 + n % 4) for n in range(18)]
    assert host_gaps(rows) == ()
    slow = [*rows, *(on("d", n, 1200.0 + n % 4) for n in range(18, 23))]
    (gap,) = host_gaps(slow)
    assert (gap.host, gap.figure, gap.traces, gap.others) == ("d", "window_us", 5, 1001.0)
    assert gap.here == pytest.approx(1202.0, abs=1)
    assert host_gaps(slow[:-1]) == ()
    assert "by host\nhost" in render_fleet(fleet(slow), slow, "text")


LATE = (0.0, 0.0, 200.0, 50.0)


def test_ranks_of_one_run_are_reported_together(tmp_path: Path) -> None:
    rows = [trace_row(one(rank(tmp_path / f"r{n}.json", n, 5, late_us=us))) for n, us in enumerate(LATE)]
    (group,) = rank_groups(rows)
    assert (group.world_size, group.missing, group.stragglers) == (5, (4,), (2,))
    assert [each.step_us for each in group.ranks] == [1150.0] * 4
    # Of each of three all-reduces: 580 us on the ranks in time, 380 on the one that the others wait for.
    assert [each.communication_us for each in group.ranks] == pytest.approx([1740, 1740, 1140, 1590])
    assert [each.waits_us for each in group.ranks] == pytest.approx([600, 600, 0, 450])
    assert [each.overlap for each in group.ranks] == pytest.approx(
        [300 / 1740, 300 / 1740, 300 / 1140, 300 / 1590]
    )
    assert [each.computation_us for each in group.ranks] == pytest.approx([1500, 1500, 2100, 1650])
    text = render_fleet(fleet(rows), rows, "text")
    assert "4 of 5 ranks; the others wait for rank 2; missing: 4" in text
    assert rank_groups(rows[:1]) == ()


def test_overlap_is_that_of_holistic_trace_analysis(tmp_path: Path) -> None:
    pytest.importorskip("hta", reason="HolisticTraceAnalysis is not installed")
    from hta.trace_analysis import TraceAnalysis

    paths = {n: rank(tmp_path / f"r{n}.json.gz", n, 4, late_us=us) for n, us in enumerate(LATE)}
    theirs = TraceAnalysis({n: str(path) for n, path in paths.items()}, "", include_last_profiler_step=True)
    frame = theirs.get_comm_comp_overlap(visualize=False).set_index("rank")
    (group,) = rank_groups([trace_row(one(path)) for path in paths.values()])
    for each in group.ranks:
        assert each.overlap is not None
        assert 100 * each.overlap == pytest.approx(frame.loc[each.rank, "comp_comm_overlap_pctg"], abs=0.2)


def test_the_command_shows_what_they_say(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(3):
        loop(folder / f"{n}.json.gz", hour=n)

    def run(*args: str) -> str:
        command = ["import", str(folder / "*.gz"), "--traces", str(tmp_path / "out"), "--workers", "1", *args]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
        return done.stdout

    text = run("--store")
    assert text.startswith("3 traces, ")
    # A narrow column sets the folder in a line of its own, with the line's share.
    assert re.search(r"diffusers/schedulers/(scheduling_ddim\.py:400)?\s+10\.\d %.*SYN004", text)
    assert "scheduling_ddim.py:400" in text
    told = json.loads(run("--store", "--format", "json"))
    assert [row["path"].rpartition("/")[2] for row in told["rows"]] == ["0.json.gz", "1.json.gz", "2.json.gz"]
    assert told["fleet"]["traces"] == 3
    done = CliRunner().invoke(app, ["import", str(folder / "*.gz"), "--traces", str(tmp_path / "out")])
    assert (done.exit_code, "Add --store" in done.stderr) == (2, True)


def same_rows(folder: Path, made: Callable[[], Engine], into: Path) -> list[TraceRow]:
    return plain(import_traces(sources([str(folder)]), Store(into), made()))


@pytest.mark.nightly
def test_rows_are_the_same_in_processes_and_on_ray(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(40):
        loop(folder / f"{n}.json.gz", read_us=50.0 + n)
    generate.generate(folder / "large.json", 1 << 22)
    here = same_rows(folder, Here, tmp_path / "here.duckdb")
    assert same_rows(folder, lambda: Processes(workers=2), tmp_path / "processes.duckdb") == here
    if importlib.util.find_spec("ray") is not None:
        assert same_rows(folder, lambda: RayCluster(workers=2), tmp_path / "ray.duckdb") == here
