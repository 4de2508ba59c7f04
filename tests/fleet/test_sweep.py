"""A sweep gives what predict gives, runs each pipeline once, and goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from diffprof.cli.app import app
from diffprof.fleet.gathering import Told
from diffprof.fleet.grid import Case, Grid, cases, content, grids_of, merged, pixels
from diffprof.fleet.store import Store
from diffprof.fleet.sweeping import sweep
from diffprof.model.errors import UsageError
from diffprof.model.sweep import SweepRow
from diffprof.scanning import predicting
from diffprof.scanning.predicting import predict
from diffprof.scanning.repeats import RUN_STEPS
from diffprof.targets import Options, Target
from tests.fleet.here import Here

pytest.importorskip("duckdb")

GRID = Grid(targets=("tiny-sdxl",), mode=("eager", "fp8"), batch=(1, 2), steps=(3, 30), price=2.0)
DEVICES = ("a10", "h100")


def plain(rows: tuple[SweepRow, ...]) -> list[SweepRow]:
    """Without what differs from one time to another."""
    return [msgspec.structs.replace(row, took_s=None, created="") for row in rows]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[SweepRow, ...]]:
    folder = tmp_path_factory.mktemp("sweep")
    return folder, sweep(cases(GRID, DEVICES), Store(folder / "diffprof.duckdb"), Here())


@pytest.mark.slow
def test_rows_are_those_of_predict(swept: tuple[Path, tuple[SweepRow, ...]]) -> None:
    figures = ("device", "mode", "batch", "steps", "seconds", "peak_gib", "waits", "bound", "per_thousand")
    expected = {
        tuple(getattr(row, name) for name in figures)
        for steps in (3, 30)
        for row in predict(
            "tiny-sdxl", devices=DEVICES, modes=GRID.mode, batches=(1, 2), steps=steps, price=2.0
        )
    }
    assert len(swept[1]) == 16
    assert {tuple(getattr(row, name) for name in figures) for row in swept[1]} == expected
    row = swept[1][0]
    assert row.seconds is not None
    assert row.cost == pytest.approx(row.seconds / 1800)
    assert {(row.status, row.reason) for row in swept[1] if row.mode == "fp8" and row.device == "a10"} == {
        ("unfit", "NVIDIA A10 has no units for fp8")
    }


@pytest.mark.slow
def test_each_pipeline_runs_once_for_all_devices_modes_and_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []
    run_call = predicting.run_call

    def counted(target: Target, options: Options, **more: Any) -> object:
        asked.append(options.steps)
        return run_call(target, options, **more)

    monkeypatch.setattr(predicting, "run_call", counted)
    grid = msgspec.structs.replace(GRID, steps=(20, 30, None), batch=(1,))
    rows = sweep(cases(grid, DEVICES), Store(tmp_path / "one.duckdb"), Here())
    assert len(rows) == 12
    assert asked == [RUN_STEPS, None]


@pytest.mark.slow
def test_stopped_and_begun_again_it_has_the_same_rows(
    swept: tuple[Path, tuple[SweepRow, ...]], tmp_path: Path
) -> None:
    store = Store(tmp_path / "diffprof.duckdb")
    with pytest.raises(KeyboardInterrupt):
        sweep(cases(GRID, DEVICES), store, Here(stop_after=1))
    assert len(store.keys("sweep", SweepRow)) == 8
    second = Here()
    rows = sweep(cases(GRID, DEVICES), store, second)
    assert second.begun == ["tiny-sdxl batch 2 at 2.0"]
    assert plain(rows) == plain(swept[1])
    assert store.rows("sweep", SweepRow)[0].key in {row.key for row in rows}


@pytest.mark.slow
def test_a_failure_is_a_row_with_its_reason_and_is_not_run_again(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("def make():\n    raise OSError('no weights here')\n")
    grid = Grid(targets=(f"{broken}:make", "tiny-sdxl"), scheduler=("", "NoSuch"))
    store, told = Store(tmp_path / "diffprof.duckdb"), list[Told]()
    clock = iter(range(0, 1000, 10))
    rows = sweep(cases(grid, ("h100",)), store, Here(), told=told.append, clock=lambda: next(clock))
    assert [row.status for row in rows] == ["failed", "failed", "ok", "failed"]
    assert "no weights here" in rows[0].reason
    assert rows[3].reason.startswith("diffusers ")
    assert [(now.done, now.total, now.failed) for now in told] == [(1, 4, 1), (2, 4, 2), (3, 4, 2), (4, 4, 3)]
    # The first row is written at once, for which the clock is asked once more; the others wait for the last.
    assert [now.left_s for now in told] == [30.0, 30.0, pytest.approx(40 / 3), 0.0]
    again = Here()
    sweep(cases(grid, ("h100",)), store, again)
    assert again.begun == []
    sweep(cases(grid, ("h100",)), store, again, again=True)
    assert len(again.begun) == 3
    broken.write_text("def make():\n    raise OSError('still none')\n")
    content.cache_clear()
    changed = Here()
    sweep(cases(grid, ("h100",)), store, changed)
    assert len(changed.begun) == 2


@pytest.mark.slow
def test_a_fix_is_applied_before_the_run(tmp_path: Path) -> None:
    fixes = ("", "host-timesteps", "no-such-fix", "sdpa")
    grid = Grid(targets=("tiny-sdxl",), scheduler=("DDIMScheduler",), fix=fixes)
    plain, fixed, unknown, idle = sweep(cases(grid, ("h100",)), Store(tmp_path / "d.duckdb"), Here())
    assert plain.waits_in_loop
    assert fixed.waits_in_loop == 0
    assert unknown.reason.startswith("There is no fix 'no-such-fix'.")
    assert idle.reason.startswith("The fix sdpa does not apply: nothing needs it.")


def test_cases_of_one_run_are_run_together() -> None:
    one = cases(Grid(targets=("sdxl",)), ("a10",))
    other = cases(Grid(targets=("sdxl",), mode=("int8",), steps=(20,)), ("h100",))
    (both,) = merged([*one, *other])
    assert (both.devices, both.modes, both.steps) == (("a10", "h100"), ("eager", "int8"), (None, 20))
    assert len({cell[3] for cell in both.cells()}) == 8
    assert one[0].without({cell[3] for cell in both.cells()}) is None


def test_sizes() -> None:
    assert pixels("") == (None, None)
    assert pixels("768") == (768, 768)
    assert pixels("768x1024") == (768, 1024)
    with pytest.raises(UsageError, match="is no size"):
        pixels("768:1024")


def test_the_configuration_may_hold_one_grid_or_several(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    inside = tmp_path / "deep" / "er"
    inside.mkdir(parents=True)
    file.write_text('[tool.diffprof.sweep]\ntargets = ["sdxl", "flux"]\nbatch = 4\nset = {num_frames = 9}\n')
    (grid,) = grids_of(inside)
    assert (grid.targets, grid.batch, grid.call) == (("sdxl", "flux"), (4,), {"num_frames": 9})
    file.write_text('[[tool.diffprof.sweep]]\ntargets = "sdxl"\n[[tool.diffprof.sweep]]\ntargets = "flux"\n')
    assert [grid.targets for grid in grids_of(tmp_path)] == [("sdxl",), ("flux",)]
    file.write_text('[tool.diffprof.sweep]\ntargets = "sdxl"\nbatches = 3\n')
    with pytest.raises(UsageError, match="unknown field `batches`") as refused:
        grids_of(tmp_path)
    assert "batch, size, steps" in refused.value.hint
    file.write_text("[tool]\n")
    with pytest.raises(UsageError, match="No target is given"):
        grids_of(tmp_path)


def test_a_run_is_named_by_all_that_goes_into_it() -> None:
    def case(**changes: object) -> Case:
        (one,) = cases(Grid(targets=("sdxl",)), ("a10",))
        return msgspec.structs.replace(one, **changes)

    changes: list[dict[str, object]] = [{}, {"batch": 2}, {"size": "64"}, {"scheduler": "DDIM"}]
    changes += [{"fix": "a"}, {"dtype": "float16"}, {"call": {"x": 1}}, {"target": "flux"}]
    assert len({case(**change).run for change in changes}) == len(changes)
    assert case(devices=("h100",)).run == case().run


@pytest.mark.slow
def test_the_command_answers_from_the_store(swept: tuple[Path, tuple[SweepRow, ...]]) -> None:
    def run(*args: str) -> str:
        done = CliRunner().invoke(app, ["sweep", *args, "--traces", str(swept[0])])
        assert done.exit_code == 0, done.output
        return done.stdout

    settings = ("tiny-sdxl", "--device", ",".join(DEVICES), "--mode", "eager,fp8", "--batch", "1,2")
    told = run(*settings, "--steps", "3,30", "--price", "2", "--format", "json", "--workers", "1")
    assert [row["key"] for row in json.loads(told)["rows"]] == [row.key for row in swept[1]]
    assert json.loads(run("--sql", "SELECT count(*) AS n FROM sweep", "--format", "json")) == [{"n": 16}]
    assert run("--sql", "SELECT batch FROM sweep ORDER BY batch LIMIT 1").split() == ["batch", "1"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("nowhere-at-all",), "There is no target 'nowhere-at-all'"),
        (("sdxl", "--mode", "fast"), "There is no mode 'fast'"),
        (("sdxl", "--device", "abacus"), "abacus"),
        (("sdxl", "--batch", "two"), "--batch 'two' is no list of numbers"),
        (("sdxl", "--size", "big"), "--size 'big' is no size"),
        (("sdxl", "--price", "much"), "--price 'much' is no price"),
        (("sdxl", "--show", "all"), "--show has no 'all'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(args: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["sweep", *args, "--traces", str(tmp_path / "t")])
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (tmp_path / "t").exists()
