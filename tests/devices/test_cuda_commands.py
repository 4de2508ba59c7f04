"""Whole commands on CUDA devices that are none: see `tests.fake_cuda`."""

from __future__ import annotations

import functools
import gzip
import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from diffprof.analyzers.kernels.timing import clean_passes
from diffprof.devices import cuda_runtime, resolve_device, sheet_of
from diffprof.devices.borrow import lent, same_place
from diffprof.devices.stopwatches import MOST_FILLS, EventRunner
from diffprof.gpu import specs
from diffprof.gpu.specs import load_spec
from diffprof.model.errors import UsageError
from diffprof.model.ladder import RungResult
from diffprof.model.recording import Grade
from diffprof.tuning import trial
from diffprof.tuning.ladder import measured
from tests.fake_cuda import FILL_US, KERNEL_US, LAUNCH_US, TUNING_BYTES, FakeCuda, installed, micro

TARGET = f"{micro.__file__}:stable_diffusion"


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with installed(FakeCuda()) as fake:
        yield fake


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*args: str) -> Any:
    from diffprof.cli.app import app

    result = CliRunner().invoke(app, [*args, "-q"], prog_name="diffprof")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def leaves_called() -> int:
    """Modules without children that one call of the target calls."""
    pipe, kwargs = micro.stable_diffusion()
    called = 0

    def count(module: torch.nn.Module, given: Any) -> None:
        nonlocal called
        called += next(module.children(), None) is None

    hook = torch.nn.modules.module.register_module_forward_pre_hook(count)
    with torch.no_grad():
        pipe(**kwargs)
    hook.remove()
    return called


def stored(folder: Path, name: str) -> Any:
    (file,) = folder.glob(f"traces/*/{name}")
    return json.loads(file.read_text())


def weights_of(pipe: Any) -> int:
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return sum(p.numel() * p.element_size() for part in parts for p in part.parameters())


# --- devices ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["cuda:abc", "cuda:-1", "cuda:", "cuda:2", "cuda:1.0", "cuda:²", "cpu:0"])
def test_what_names_no_device_is_refused(cuda: FakeCuda, spec: str) -> None:
    with pytest.raises(UsageError, match="There is no"):
        resolve_device(spec)


def test_cuda_is_the_current_device(cuda: FakeCuda) -> None:
    assert [resolve_device(spec).spec for spec in ("cuda", "cuda:1", None)] == ["cuda:0", "cuda:1", "cuda:0"]
    cuda.index = 1
    assert resolve_device("cuda").spec == "cuda:1"


def test_a_prediction_for_cuda_takes_the_sheet_of_the_gpu_that_is_here(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = load_spec("h100")
    monkeypatch.setattr(
        specs, "spec_of_device", lambda *told: known if told[0] == cuda.properties(0).name else None
    )
    assert sheet_of("cuda:1") is known
    assert (sheet_of("sim:t4").key, sheet_of("l4").key) == ("t4", "l4")
    monkeypatch.setattr(specs, "spec_of_device", lambda *told: None)
    with pytest.raises(UsageError, match="no data sheet of"):
        sheet_of("cuda")
    with pytest.raises(UsageError, match="There is no CUDA device 7") as refused:
        sheet_of("cuda:7")
    assert "Name the GPU" in refused.value.hint


def test_devices_of_one_kind_are_told_apart(cuda: FakeCuda) -> None:
    """What is on cuda:1 is not measured as cuda:0: it is moved for the scan, and back after it."""
    first, second, current = (torch.device(name) for name in ("cuda:0", "cuda:1", "cuda"))
    assert [same_place(current, first), same_place(current, second)] == [True, False]
    cuda.index = 1
    assert [same_place(current, first), same_place(current, second)] == [False, True]
    moves: list[Any] = []
    pipe = types.SimpleNamespace(_execution_device=second, components={}, to=moves.append)
    device = types.SimpleNamespace(
        kind="cuda", gpu=None, torch_device=first, place=lambda thing: thing.to(first)
    )
    with lent(pipe, device):  # type: ignore[arg-type]
        assert moves == [first]
    assert moves == [first, second]
    device.torch_device = second
    with lent(pipe, device):  # type: ignore[arg-type]
        assert len(moves) == 2


def test_only_the_boundary_asks_torch_cuda() -> None:
    """What diffprof itself asks goes through one class; the others stand in for names in the user's code."""
    import ast

    import diffprof

    allowed = {
        *("devices/cuda_runtime.py", "devices/cuda.py", "devices/branches.py", "targets/redirect.py"),
        *("targets/pipeline_call.py", "analyzers/graph_breaks/probe.py", "devices/simulated"),
    }
    root = Path(diffprof.__file__).parent
    found = {
        str(file.relative_to(root))
        for file in root.rglob("*.py")
        if "cuda" in (text := file.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and node.attr == "cuda" and ast.unparse(node) == "torch.cuda"
    }
    assert {name for name in found if not name.startswith(tuple(allowed))} == set()


# --- timing of single layers -----------------------------------------------------------------------------


@pytest.mark.parametrize("host_us", [20.0, 500.0])
def test_events_time_kernels_however_long_the_host_takes(cuda: FakeCuda, host_us: float) -> None:
    """Eager torchao takes the host 200 to 500 us a layer: longer than one fill keeps the device busy."""
    runner = EventRunner(0)
    assert runner.microseconds(lambda: cuda.launch(30.0, host_us)) == 30.0
    assert runner.fills == (1 if host_us == 20.0 else 16)
    assert runner.fills * (FILL_US - LAUNCH_US) > host_us
    assert runner.host_bound == 0


def test_work_that_waits_for_the_device_is_counted_as_bound_by_the_host(cuda: FakeCuda) -> None:
    runner = EventRunner(1)

    def waits() -> None:
        cuda.synchronize(1)
        cuda.launch(30.0, 7.0)

    with cuda.made_current(1):
        taken = runner.microseconds(waits)
    assert (runner.fills, runner.host_bound) == (MOST_FILLS, 1)
    assert taken == 37.0


# --- whole commands --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_scan_measures_the_device_that_was_named(cuda: FakeCuda, here: Path) -> None:
    result = command("scan", TARGET, "--device", "cuda:1")
    assert result.exit_code == 0
    report = stored(here, "report.json")
    recording = report["recording"]
    assert (recording["device"]["spec"], recording["device"]["name"]) == ("cuda:1", "NVIDIA A100-SXM4-80GB")
    once = (LAUNCH_US + KERNEL_US * leaves_called()) / 1e6
    assert recording["timing"]["seconds"] == pytest.approx([once] * 3)
    assert recording["memory"]["weights_bytes"] <= recording["memory"]["peak_bytes"]
    assert recording["memory"]["capacity_bytes"] == 80 << 30
    assert {line.split()[-1] for line in cuda.log if line != "release"} == {"1"}
    (file,) = here.glob("traces/*/*.trace.json.gz")
    trace = json.loads(gzip.decompress(file.read_bytes()))
    kernels = [e for e in trace["traceEvents"] if e.get("cat") == "kernel"]
    assert sum(row["count"] for row in recording["kernels"]) == len(kernels) > 0
    assert sum(row["device_us"] for row in recording["kernels"]) == KERNEL_US * len(kernels)
    reads = [row for row in recording["syncs"] if row["kind"] == "value-read"]
    assert sum(row["count"] for row in reads) == 10  # DDIM: three table reads and two previous ones a step
    assert all(row["witnesses"] == ["dispatch", "set_sync_debug_mode"] for row in recording["syncs"])
    assert not [gap for gap in recording["unseen"] if gap["kind"] == "doubt"]


@pytest.mark.slow
def test_a_rung_that_runs_out_of_memory_leaves_the_others(cuda: FakeCuda, here: Path) -> None:
    calls: list[int] = []

    def fails(module: torch.nn.Module) -> None:
        if cuda.rate == 0.5 and isinstance(module, torch.nn.Conv2d):
            calls.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    cuda.fails = fails
    rungs = ("--rung", "bf16", "--rung", "compile", "--rung", "sdpa")
    result = command("ladder", TARGET, "--device", "cuda:1", "--steps", "2", *rungs)
    assert result.exit_code == 0
    assert "(failed: out of memory)" in " ".join(result.stdout.split())
    bf16, sdpa, compiled = stored(here, "ladder.json")["rungs"]
    half = (LAUNCH_US + KERNEL_US / 2 * leaves_called()) / 1e6
    # Modules without weights of their own do not get faster in half precision.
    assert half < bf16["seconds"] < 2 * half
    assert sdpa["seconds"] == pytest.approx(bf16["seconds"], rel=0.1)
    assert (compiled["seconds"], compiled["failed"]) == (None, "out of memory")
    assert len(calls) == 1
    assert cuda.log.count("release") == 2 * 3 + 2
    assert {line for line in cuda.log if line != "release"} == {"synchronize 1", "reset 1"}


CYCLE = """
from tests.fake_cuda import micro

def cyclic():
    pipe, kwargs = micro.stable_diffusion()
    object.__setattr__(pipe.unet, "pipe", pipe)  # freed by a collection alone
    return pipe, kwargs
"""


@pytest.mark.slow
def test_a_rung_begins_with_the_memory_that_the_first_began_with(cuda: FakeCuda, here: Path) -> None:
    (here / "own.py").write_text(CYCLE)
    held: list[int] = []
    cuda.release_cache = lambda: held.append(cuda.allocated_bytes(0))  # type: ignore[method-assign]
    rungs = ("--rung", "bf16", "--rung", "sdpa")
    result = command("ladder", "own.py:cyclic", "--device", "cuda", "--steps", "2", *rungs)
    assert result.exit_code == 0, result.stderr
    first, warm, end, second, again, last = held
    weights = weights_of(micro.stable_diffusion()[0]) / 2
    assert min(warm, again) - first > weights
    assert max(end, second, last) - first < weights / 10


def test_the_peak_of_a_rung_is_that_of_the_calls_that_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are tuned in every warm-up here, and once more in the first call after them."""
    tuning = [9, 9, 9, 7]
    peak, compiles = 0, 0

    def call() -> None:
        nonlocal peak, compiles
        compiles += bool(tuning)
        peak = max(peak, tuning.pop(0) if tuning else 2)

    def reset() -> None:
        nonlocal peak
        peak = 0

    allocator = types.SimpleNamespace(collect=lambda: None, reset_peak=reset, peak_bytes=lambda: peak * 2**30)
    device = types.SimpleNamespace(allocator=allocator, synchronize=lambda: None, clock=lambda: 0.0)
    rung = types.SimpleNamespace(compiled=True)
    pipeline_call = types.SimpleNamespace(run=call)
    timed = functools.partial(clean_passes, compiles=lambda: compiles)
    monkeypatch.setattr(measured, "clean_passes", timed)
    blank = RungResult(name="a", title="a", grade=Grade.MEASURED)
    found = measured._timed(pipeline_call, device, rung, blank)  # type: ignore[arg-type]
    assert found.memory_gb == 2.0


@pytest.mark.nightly
def test_the_peak_of_a_compiled_rung_leaves_tuning_out(cuda: FakeCuda, here: Path) -> None:
    rungs = ("--rung", "sdpa", "--rung", "compile")
    result = command("ladder", TARGET, "--device", "cuda", "--steps", "2", *rungs)
    assert result.exit_code == 0
    sdpa, compiled = stored(here, "ladder.json")["rungs"]
    assert 0 < compiled["memory_gb"] < TUNING_BYTES / (1 << 30)
    assert compiled["memory_gb"] == pytest.approx(sdpa["memory_gb"], rel=0.5)
    assert compiled["seconds"] < sdpa["seconds"]
    assert cuda.compiles == [{"mode": "max-autotune", "fullgraph": True}] * 2


@pytest.mark.slow
def test_a_ladder_of_which_no_rung_ran_is_no_success(cuda: FakeCuda, here: Path) -> None:
    def fails(module: torch.nn.Module) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    cuda.fails = fails
    result = command("ladder", TARGET, "--device", "cuda", "--steps", "2", "--rung", "sdpa")
    assert result.exit_code == 3
    assert "sdpa failed: out of memory" in result.stderr


@pytest.mark.slow
def test_what_saves_memory_is_kept_though_undoing_needs_the_old_weights(
    cuda: FakeCuda, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "ROUNDS", 1)
    assert command("scan", TARGET, "--device", "cuda").exit_code == 0
    choice = ("--goal", "memory", "--lossy", "--select", "bfloat16")
    result = command("fix", "--apply", *choice)
    assert result.exit_code == 0
    runs = [json.loads(file.read_text()) for file in here.glob("traces/*/report.json")]
    (outcome,) = [o for run in runs for o in run["outcomes"] or () if o["fix"] == "bfloat16"]
    assert outcome["status"] == "kept", outcome["why"]
    saved = outcome["memory_before_bytes"] - outcome["memory_after_bytes"]
    half = weights_of(micro.stable_diffusion()[0]) / 2
    assert 0 <= half - saved < 25_000  # outputs and tables on the host, which count here
    assert outcome["after_ms"] < outcome["before_ms"]


@pytest.mark.slow
def test_quantization_is_judged_by_the_time_of_kernels(cuda: FakeCuda, here: Path) -> None:
    result = command(
        *("quantize-table", TARGET, "--device", "cuda:1", "--no-cache", "--format", "json"),
    )
    assert result.exit_code == 0
    shapes = json.loads(result.stdout)["shapes"]
    timed = [t for row in shapes for t in row["timings"] or () if t["median_us"] is not None]
    int8 = [t for t in timed if t["scheme"] == "int8-weight-only"]
    assert {t["mode"] for t in int8} == {"eager", "compiled"}
    eager = [t for t in int8 if t["mode"] == "eager"]
    assert {(t["original_us"], t["median_us"]) for t in eager} == {(KERNEL_US, KERNEL_US / 2)}
    assert {line.split()[-1] for line in cuda.log if line != "release"} == {"1"}
    options = [each["options"] for each in cuda.compiles]
    assert options
    assert all(each["force_fuse_int_mm_with_mul"] and each["max_autotune"] for each in options)
    assert not any(each.get("triton.cudagraphs") for each in options)


def test_the_real_runtime_has_every_name_that_it_asks_for() -> None:
    """Without a GPU the boundary can't be run; its names can be looked up."""
    import ast
    import inspect

    tree = ast.parse(inspect.getsource(cuda_runtime))
    names = {
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch.cuda.")
    }
    assert len(names) > 10
    for name in names:
        assert callable(eval(name, {"torch": torch})), name
