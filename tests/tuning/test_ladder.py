from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diffprof.model.errors import UsageError
from diffprof.model.recording import Grade
from diffprof.tuning.ladder import (
    RUNGS,
    Ladder,
    Rung,
    RungResult,
    choose_rungs,
    climb,
    comparable,
    published,
    published_for,
)
from diffprof.views.ladder import render_ladder

FAST = ("sd15", "ssd-1b", "sdxl")


def options(**more: Any) -> Any:
    from diffprof.targets import Options

    return Options(**{"steps": 30, **more})


@pytest.fixture(scope="module")
def ladders() -> dict[str, Ladder]:
    """The three published ladders as predicted; one process-wide run for all tests here."""
    from diffprof.devices import resolve_device
    from diffprof.targets import resolve

    device = resolve_device("sim:a100-80gb")
    return {name: climb(resolve(name), device, options()) for name in FAST}


def by_name(ladder: Ladder) -> dict[str, RungResult]:
    return {rung.name: rung for rung in ladder.rungs}


@pytest.mark.nightly
@pytest.mark.parametrize("target", FAST)
def test_predictions_hold_against_the_published_runs(ladders: dict[str, Ladder], target: str) -> None:
    for rung in ladders[target].rungs:
        assert rung.skipped is None
        assert rung.grade is Grade.SIMULATED
        assert rung.error is not None
        assert rung.memory_error is not None
        assert abs(rung.error) < 0.15, rung
        assert abs(rung.memory_error) < 0.15, rung


@pytest.mark.nightly
@pytest.mark.parametrize("target", FAST)
def test_the_order_of_the_rungs_is_the_published_one(ladders: dict[str, Ladder], target: str) -> None:
    rungs = [r for r in ladders[target].rungs if r.seconds is not None and r.published_seconds is not None]
    predicted = [r.name for r in sorted(rungs, key=lambda r: r.seconds or 0.0)]
    measured = [r.name for r in sorted(rungs, key=lambda r: r.published_seconds or 0.0)]
    assert predicted == measured


@pytest.mark.nightly
@pytest.mark.parametrize("target", FAST)
def test_the_page_prints_what_is_predicted(ladders: dict[str, Ladder], target: str) -> None:
    readme = (Path(__file__).parents[2] / "diffprof/docs/ladder.md").read_text(encoding="utf-8")
    printed = readme.partition(f"<!-- ladder: {target} -->\n")[2].partition("<!-- end -->")[0]
    assert printed.strip() == render_ladder(ladders[target], "markdown").strip()


def test_the_page_counts_the_fitted_constants() -> None:
    """Each is marked where it stands."""
    root = Path(__file__).parents[2]
    marked = [
        text.count("[FIT]")
        for kind in ("*.py", "*/*.toml")
        for file in (root / "diffprof/gpu").glob(kind)
        for text in [file.read_text(encoding="utf-8")]
    ]
    assert sum(marked) == 5
    assert "five constants" in (root / "diffprof/docs/ladder.md").read_text(encoding="utf-8")


@pytest.mark.nightly
def test_the_ladders_are_within_eight_percent(ladders: dict[str, Ladder]) -> None:
    """What the model was set to: a worse fit means that a change of a rate or of the simulator did harm."""
    for ladder in ladders.values():
        assert all(abs(rung.error or 1.0) < 0.08 for rung in ladder.rungs)


@pytest.mark.nightly
def test_extrapolated_steps_are_exact() -> None:
    from diffprof.devices import resolve_device
    from diffprof.judge.steps import with_steps
    from diffprof.targets import resolve
    from diffprof.targets.baseline import tf32_matmuls
    from diffprof.tuning.ladder.predicted import PredictedRungs

    rung = RUNGS[2]
    with tf32_matmuls():
        few = PredictedRungs(resolve("tiny-sdxl"), resolve_device("sim:a100-80gb"), options(steps=9))
        run = few._run(rung, 4)
        all_of_them = few._run(rung, 9)
        longer, whole = with_steps(few._timeline(run, rung), 9), few._timeline(all_of_them, rung)
    assert longer is not None
    assert len(longer.kind) == len(whole.kind)
    assert longer.host_us == whole.host_us
    assert [(s.name, s.step, s.first) for s in longer.phases] == [
        (s.name, s.step, s.first) for s in whole.phases
    ]
    # The schedule that is uploaded before the loop is longer, by some nanoseconds.
    assert longer.device_us == pytest.approx(whole.device_us, rel=1e-3)


def test_a_pipeline_without_a_switch_skips_the_rung() -> None:
    from diffprof.targets.baseline import Inapplicable, prepare

    class Bare:
        def __init__(self) -> None:
            self.components: dict[str, Any] = {}

        def __call__(self) -> None: ...

    with pytest.raises(Inapplicable, match="SDPA"):
        prepare(Bare(), RUNGS[0])
    with pytest.raises(Inapplicable, match="fuse_qkv_projections"):
        prepare(Bare(), RUNGS[4])
    prepare(Bare(), RUNGS[1] if RUNGS[1].sdpa else Rung("plain", "plain", "bfloat16"))


def test_published_figures_are_complete() -> None:
    conditions, entries = published()
    assert conditions == {"gpu": "a100-80gb", "steps": 30}
    for entry in entries.values():
        assert set(entry.seconds) == set(entry.memory_gib) == {rung.name for rung in RUNGS}
        assert entry.source.startswith("https://")
    assert entries["sdxl"].seconds["sdpa"] == 3.315
    assert published_for("segmind/SSD-1B") == published_for("ssd-1b")
    assert published_for("tiny-sdxl") is None


@pytest.mark.parametrize(
    "changed", [{"steps": 20}, {"height": 512}, {"batch": 2}, {"guidance_scale": 1.0}, {"call": {"eta": 1.0}}]
)
def test_other_conditions_are_not_compared(changed: dict[str, Any]) -> None:
    assert comparable("sim:a100-80gb", options())
    assert not comparable("sim:a100-80gb", options(**changed))
    assert not comparable("sim:h100", options())


def test_rungs_by_name_in_the_ladder_s_order() -> None:
    assert [r.name for r in choose_rungs(["qkv", "fp32"])] == ["fp32", "qkv"]
    assert choose_rungs([]) == RUNGS
    with pytest.raises(UsageError, match="'fast'") as caught:
        choose_rungs(["fast"])
    assert "bf16" in caught.value.hint


LADDER = Ladder(
    target="sdxl",
    device="sim:a100-80gb",
    steps=30,
    source="https://example.org/figures.csv",
    rungs=(
        RungResult(
            name="bf16",
            title="bfloat16",
            grade=Grade.SIMULATED,
            seconds=4.0,
            memory_gb=8.8,
            published_seconds=5.0,
            published_memory_gb=8.0,
            error=-0.2,
            memory_error=0.1,
        ),
        RungResult(name="qkv", title="+ fused", grade=Grade.SIMULATED, skipped="X has no switch"),
    ),
)


def test_text_shows_prediction_published_and_error() -> None:
    text = render_ladder(LADDER, "text", width=100)
    line = text.splitlines()[1].split()
    assert line == ["bfloat16", "4.000", "5.000", "-20.0%", "8.80", "8.00", "+10.0%"]
    assert "skipped: X has no switch" in text
    assert "simulated" in text
    assert "example.org" in text


def test_json_has_the_promised_fields() -> None:
    (rung, skipped) = json.loads(render_ladder(LADDER, "json"))["rungs"]
    wanted = {"name", "seconds", "memory_gb", "grade", "published_seconds", "published_memory_gb", "error"}
    assert wanted <= set(rung)
    assert (rung["grade"], rung["error"]) == ("simulated", -0.2)
    assert skipped["seconds"] is None


def test_without_published_figures_their_columns_are_left_out() -> None:
    import msgspec

    bare = tuple(
        msgspec.structs.replace(
            r, published_seconds=None, published_memory_gb=None, error=None, memory_error=None
        )
        for r in LADDER.rungs
    )
    text = render_ladder(msgspec.structs.replace(LADDER, rungs=bare, source=None), "text")
    assert "published" not in text
    assert "error" not in text


def test_the_command_shows_help_without_torch() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from diffprof.cli.app import app; "
        "r = CliRunner().invoke(app, ['ladder', '--help']); "
        "sys.exit(r.exit_code or ('torch' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_table_the_fix_and_the_ladder_compile_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA graphs apart, which a table of single layers does without."""
    import torch
    import torch._inductor.config as inductor

    from diffprof.analyzers.quantization.timing import kernel_options
    from diffprof.analyzers.setup.compiling import compile_whole
    from diffprof.tuning.ladder.measured import compiled
    from tests.analyzers.setup.examples import denoiser, recorded
    from tests.fake_cuda import micro

    def config(options: dict[str, Any]) -> dict[str, Any]:
        with inductor.patch(options):
            return {k: v for k, v in inductor.get_config_copy().items() if k != "triton.cudagraphs"}

    ladder: list[dict[str, Any]] = []

    def compile_(model: Any = None, *, mode: str, fullgraph: bool) -> Any:
        ladder.append(config(torch._inductor.list_mode_options(mode)))
        return model

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **more: compile_(self, **more))
    with compiled(micro.stable_diffusion()[0], int8=True):
        pass
    code = compile_whole(recorded(denoiser(compiled=None)), ())
    held: dict[str, Any] = {"torch": torch}
    exec(code.definitions, held)  # type: ignore[union-attr]
    table, fix = config(kernel_options()), config(held["_OPTIONS"])
    assert len(ladder) == 2
    assert table == fix == ladder[0] == ladder[1]
    assert table != config({})
