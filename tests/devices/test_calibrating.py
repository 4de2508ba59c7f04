"""Calibration: rehearsed on the CPU and against the fake, stored, used, taken elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from diffprof.cli.app import app
from diffprof.devices.calibrating import REHEARSAL, Measuring
from diffprof.gpu import calibration
from diffprof.gpu.attention import Backend, Shape, attention
from diffprof.gpu.calibration import Calibration, file_of, lent_sheet, load, save
from diffprof.gpu.matmul import matmul
from diffprof.gpu.pointwise import Addressing, streaming
from diffprof.gpu.pricing import Origin, Time
from diffprof.gpu.specs import GpuSpec, load_spec
from diffprof.model.errors import UsageError
from diffprof.scanning import calibrating
from diffprof.scanning.predicting import predict
from tests.fake_cuda import FakeCuda, installed


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (calibration, calibrating):
        monkeypatch.setattr(module, "folder", lambda: tmp_path / "data")
    calibration.forget()
    yield
    calibration.forget()


class Constant:
    """A device on which everything takes so many microseconds."""

    def __init__(self, us: float) -> None:
        self.us = us

    def microseconds(self, work: Callable[[], object]) -> float:
        work()
        return self.us


def measuring(us: float = 50.0, left: Callable[[], float] = lambda: 1.0) -> Calibration:
    return Measuring(
        spec=load_spec("a100-80gb"),
        device=torch.device("cpu"),
        runner=Constant(us),
        grid=REHEARSAL,
        synchronize=lambda: None,
        left_s=left,
    ).run()


def test_everything_is_measured_in_the_format_of_the_tables() -> None:
    found = measuring()
    assert set(found.tables) == {"matmul.bf16", "attention.flash2"}, "the CPU has no other kernels"
    axes, us = found.tables["matmul.bf16"]
    assert axes == ((16.0, 32.0), (32.0, 64.0), (32.0, 64.0))
    assert us == pytest.approx(np.full((2, 2, 2), 50.0))
    assert found.rates["CONTIGUOUS"] == pytest.approx(2**12 / 50.0 / load_spec("a100-80gb").cycles_per_us)
    assert {"achievable", "achievable_fp32", "bandwidth_gb_s", "launch_latency_us"} <= set(found.sheet)
    assert found.about["repeat"] == "0.0%"


def test_what_there_is_no_time_for_is_left_to_the_model() -> None:
    left = iter([1.0] * 12 + [0.0] * 200)
    found = measuring(left=lambda: next(left))
    assert np.isfinite(found.tables["matmul.bf16"][1]).all(), "a grid is whole"
    assert "attention.flash2" not in found.tables
    assert "attention" not in found.about["parts"]


def test_a_stored_one_is_used_for_its_gpu_and_marked_measured() -> None:
    before = load_spec("rtx4090")
    plain = matmul(before, 1, 1024, 1280, 1280, "bf16", 2)
    square = Shape(24, 1024, 1024, 64, 64)
    flash = attention(before, Backend.FLASH2, square, "bf16", 2)
    axes = ((512.0, 2048.0), (1280.0, 5120.0), (1280.0, 5120.0))
    us = [
        [[matmul(before, 1, int(m), int(n), int(k), "bf16", 2).us for k in axes[2]] for n in axes[1]]
        for m in axes[0]
    ]
    tables = {
        "matmul.bf16": (axes, 1.5 * np.array(us)),
        "attention.flash2": (((24.0,), (1024.0,), (64.0,)), np.full((1, 1, 1), 2 * flash.us)),
    }
    save(Calibration("rtx4090", {"link_gb_s": 11.0}, {"CONTIGUOUS": 0.5}, tables), file_of("rtx4090"))
    spec = load_spec("rtx4090")
    assert spec.link_gb_s == 11.0
    there = matmul(spec, 1, 1024, 1280, 1280, "bf16", 2)
    assert there.us == pytest.approx(1.5 * plain.us, rel=0.01)
    assert there.origin is Origin.MEASURED
    found = attention(spec, Backend.FLASH2, square._replace(queries=512, keys=2048), "bf16", 2)
    assert found.origin is Origin.MEASURED
    assert found.us > 1.8 * flash.us
    assert streaming(spec, 4e6, 1e6, Addressing.CONTIGUOUS).origin is Origin.MEASURED
    assert streaming(spec, 4e6, 1e6, Addressing.BROADCAST).origin is Origin.MODELLED
    assert matmul(spec, 1, 1024, 1280, 1280, "fp32", 4).origin is Origin.MODELLED
    assert matmul(load_spec("l4"), 1, 1024, 1280, 1280, "bf16", 2).origin is not Origin.MEASURED


def test_what_was_measured_on_one_gpu_prices_its_architecture_elsewhere(tmp_path: Path) -> None:
    """An A10's products take half as long again as they are modelled: so do those of an RTX 3090."""
    plain = load_spec("a10")
    axes = ((512.0, 2048.0), (1280.0, 5120.0), (1280.0, 5120.0))
    us = [
        [[matmul(plain, 1, int(m), int(n), int(k), "bf16", 2).us for k in axes[2]] for n in axes[1]]
        for m in axes[0]
    ]
    file = tmp_path / "a10.npz"
    tables = {"matmul.bf16": (axes, 1.5 * np.array(us))}
    save(Calibration("a10", {"convolution": 1.2}, {"CONTIGUOUS": 0.5}, tables), file)

    def product(spec: GpuSpec) -> Time:
        return matmul(spec, 1, 1024, 1280, 1280, "bf16", 2)

    mine, theirs = lent_sheet(plain, file), lent_sheet(load_spec("rtx3090"), file)
    assert mine is not None
    assert theirs is not None
    assert product(mine).us == pytest.approx(1.5 * product(plain).us, rel=0.01)
    assert product(theirs).us == pytest.approx(1.5 * product(load_spec("rtx3090")).us, rel=0.01)
    assert product(mine).origin is Origin.MEASURED
    assert product(theirs).origin is Origin.SIBLING
    assert streaming(theirs, 4e6, 1e6, Addressing.CONTIGUOUS).origin is Origin.SIBLING
    assert theirs.convolution == 1.2
    assert lent_sheet(load_spec("h100"), file) is None
    assert load_spec("rtx3090").calibration is None, "nothing was stored"
    with pytest.raises(UsageError, match="another architecture"):
        predict("tiny-sdxl", devices=("h100",), measured_from=file, steps=1)


def test_a_table_of_its_own_is_worth_more_than_another_gpu_s_measurement(tmp_path: Path) -> None:
    file = tmp_path / "l4.npz"
    save(
        Calibration(
            "l4", {}, {}, {"matmul.bf16": (((1024.0,), (1280.0,), (1280.0,)), np.full((1, 1, 1), 1e4))}
        ),
        file,
    )
    l40s = lent_sheet(load_spec("l40s"), file)
    assert l40s is not None
    there = matmul(l40s, 1, 1024, 1280, 1280, "bf16", 2)
    assert there == matmul(load_spec("l40s"), 1, 1024, 1280, 1280, "bf16", 2)


@pytest.mark.slow
def test_the_fake_s_measurement_predicts_another_gpu(tmp_path: Path) -> None:
    out = tmp_path / "a100.npz"
    with installed(FakeCuda()):
        assert run("--short")[0] == 0
    assert run("--export", str(out))[0] == 0
    assert run("--forget")[0] == 0
    called = ["predict", "tiny-sdxl", "--device", "a100-pcie-80gb", "--steps", "2", "--dtype", "bfloat16"]
    stored = ["-q", "--format", "json", "--traces", str(tmp_path / "traces")]
    plain, lent = (
        CliRunner().invoke(app, [*called, *stored, *given]) for given in ([], ["--from", str(out)])
    )
    assert lent.exit_code == 0, lent.output
    before, after = (json.loads(each.stdout)["rows"][0] for each in (plain, lent))
    assert after["seconds"] != before["seconds"]
    assert after["origin"].keys() <= {"sibling", "modelled"}


def run(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["calibrate", *args, "-q"], prog_name="diffprof")
    return result.exit_code, result.output


def test_the_command_measures_exports_takes_and_forgets(tmp_path: Path) -> None:
    with installed(FakeCuda()):
        code, said = run("--short")
    assert code == 0, said
    assert "A100" in said
    assert load_spec("a100-80gb").calibration == file_of("a100-80gb")
    out = tmp_path / "a100.npz"
    assert run("--export", str(out))[0] == 0
    assert run("--forget")[0] == 0
    assert load_spec("a100-80gb").calibration is None
    code, said = run("--from", str(out))
    assert code == 0, said
    assert load_spec("a100-80gb").calibration is not None
    assert load(out).gpu == "a100-80gb"


def test_bad_files_and_devices_are_told_in_a_sentence(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.npz"
    wrong.write_bytes(b"no archive")
    for call in (lambda: calibrating.take(wrong), lambda: calibrating.export(wrong), calibrating.forget):
        with pytest.raises(UsageError):
            call()
    code, said = run("--device", "cpu")
    assert code == 2
    assert "is no GPU" in said
