"""Measured kernel tables: what they hold, what they say between points, how they are built."""

from __future__ import annotations

import csv
import gzip
import itertools
import math
import zlib
from pathlib import Path

import numpy as np
import pytest

from diffprof.gpu import build_tables
from diffprof.gpu.kriging import filled
from diffprof.gpu.specs import load_spec, spec_names
from diffprof.gpu.tables import FOLDER, STEPS, KernelTable, load_table, packed, table_names, unpacked


def grid(values: np.ndarray) -> KernelTable:
    return KernelTable(((1.0, 2.0, 4.0), (8.0, 16.0), (32.0, 64.0)), values)


def test_what_is_stored_comes_back_to_a_tenth_of_a_percent() -> None:
    log_us = np.random.default_rng(0).uniform(0.0, 14.0, (5, 4, 3))
    assert np.abs(unpacked(packed(log_us)) - log_us).max() <= 0.5 / STEPS + 1e-12


def test_a_measured_point_is_what_was_measured() -> None:
    values = np.random.default_rng(1).uniform(1.0, 9.0, (3, 2, 2))
    assert grid(values).us(2.0, 16.0, 32.0) == pytest.approx(math.exp(values[1, 1, 0]))


def test_between_points_a_power_law_is_exact() -> None:
    axes = ((1.0, 2.0, 4.0), (8.0, 16.0), (32.0, 64.0))
    values = np.array([[[math.log(m * n**0.5 * k**2) for k in axes[2]] for n in axes[1]] for m in axes[0]])
    assert grid(values).us(3.0, 11.0, 50.0) == pytest.approx(3.0 * 11.0**0.5 * 50.0**2)


def test_steps_stay_where_they_are() -> None:
    """Waves of tiles: interpolated over its trend, a staircase comes out as a staircase."""
    axes = ((1.0, 4.0), (1.0, 2.0), (1.0, 2.0))

    def stairs(m: float, n: float, k: float) -> float:
        return math.ceil(m / 2) * n * k

    values = np.array([[[math.log(stairs(m, n, k)) for k in axes[2]] for n in axes[1]] for m in axes[0]])
    table = KernelTable(axes, values)
    assert table.us(2.0, 1.5, 1.5, trend=stairs) == pytest.approx(2.25)
    assert table.us(3.0, 1.5, 1.5, trend=stairs) == pytest.approx(4.5)


def test_outside_is_the_edge() -> None:
    table = grid(np.arange(12.0).reshape(3, 2, 2))
    assert table.us(100.0, 100.0, 1.0) == pytest.approx(math.exp(10.0))
    assert table.nearest(100.0, 12.0, 1.0) == (4.0, 12.0, 32.0)
    assert table.covers(3.0, 12.0, 40.0)
    assert not table.covers(5.0, 12.0, 40.0)


def test_holes_are_filled_from_what_lies_around_them() -> None:
    axes = [np.log(np.array([2.0**n for n in range(6)]))] * 3
    whole = axes[0][:, None, None] + 0.5 * axes[1][None, :, None] + 2.0 * axes[2][None, None, :]
    holed = whole.copy()
    holed[2, 3, 2] = holed[4, 1, 3] = np.nan
    found = filled(holed, axes, (2.0, 4.0, 8.0), 0.2)
    assert found[2, 3, 2] == pytest.approx(whole[2, 3, 2], abs=0.02)
    assert found[4, 1, 3] == pytest.approx(whole[4, 1, 3], abs=0.02)
    assert (found == whole).sum() == whole.size - 2


def test_rows_that_resemble_each_other_are_learned() -> None:
    """Every second row follows a pattern of its own, as products of odd rows do."""
    draw = np.random.default_rng(7)
    patterns = draw.normal(size=(2, 10, 10))
    whole = np.stack([patterns[row % 2] for row in range(30)]) + 0.01 * draw.normal(size=(30, 10, 10))
    holes = draw.random(whole.shape) < 0.2
    axes = [np.arange(size, dtype=float) for size in whole.shape]
    found = filled(np.where(holes, np.nan, whole), axes, (2.0, 4.0, 8.0), 0.2)
    assert np.sqrt(np.mean((found - whole)[holes] ** 2)) < 0.4 * whole.std()


def test_a_disturbed_measurement_spoils_no_hole_beside_it() -> None:
    axes = [np.arange(8, dtype=float)] * 3
    draw = np.random.default_rng(3)
    whole = sum(np.meshgrid(*axes, indexing="ij")) / 4 + 0.01 * draw.normal(size=(8, 8, 8))
    holed = whole.copy()
    holed[4, 4, 4] = np.nan
    holed[3, 4, 4] += 2.0
    assert filled(holed, axes, (2.0, 4.0, 8.0), 0.2)[4, 4, 4] == pytest.approx(whole[4, 4, 4], abs=0.1)


def test_the_shipped_tables_are_whole_and_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.glob("*.npz")) < 4 * 2**20
    named = {spec.tables for spec in map(load_spec, spec_names()) if spec.tables}
    assert named == {file.stem for file in FOLDER.glob("*.npz")} == set(build_tables.GPUS)
    for gpu in named:
        assert "matmul.bf16" in table_names(gpu)
        for name in table_names(gpu):
            table = load_table(gpu, name)
            assert table is not None
            assert np.isfinite(table.log_us).all()
            assert table.log_us.shape == tuple(map(len, table.axes))
            assert all(list(axis) == sorted(set(axis)) for axis in table.axes)


@pytest.mark.parametrize(
    ("gpu", "name", "place", "us"),
    [
        ("h100_sxm", "matmul.bf16", (4096.0, 3072.0, 12288.0), 382.5),
        ("l40s", "matmul.fp8", (4096.0, 3072.0, 3072.0), 263.2),
        ("b200_sxm", "matmul.bf16", (1024.0, 3072.0, 3072.0), 15.6),
    ],
)
def test_published_points_are_in_the_tables(gpu: str, name: str, place: tuple[float, ...], us: float) -> None:
    table = load_table(gpu, name)
    assert table is not None
    assert table.us(*place) == pytest.approx(us, rel=0.005)


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    with gzip.open(path, "wt", newline="") as text:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_tables_are_built_from_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = (64, 128, 256, 512)
    rows = [
        {"gemm_dtype": "bfloat16", "framework": "VLLM", "m": m, "n": n, "k": k, "us": m * n * k / 1e5}
        for m in sizes
        for n in sizes
        for k in sizes
        if (m, n, k) != (128, 256, 128)
    ]
    write_rows(tmp_path / "l40s-gemm.csv.gz", rows)
    attention = [
        {
            "causal": 0,
            "kernel_source": "vit_flash_attn_fa2",
            "batch_size": 1,
            "num_heads": heads,
            "tokens": tokens,
            "head_dim": size,
            "attn_dtype": "bfloat16",
            "us": heads * tokens * tokens * size / 1e6,
        }
        for heads in (2, 4)
        for tokens in (256, 512, 1024)
        for size in (64, 72)
    ]
    write_rows(tmp_path / "l40s-attention.csv.gz", attention)
    monkeypatch.setattr(build_tables, "GPUS", {"l40s": ("vllm/0.24.0",)})
    out = tmp_path / "out"
    build_tables.main([str(tmp_path), "--out", str(out)])
    with np.load(out / "l40s.npz") as archive:
        times = np.exp(unpacked(archive["matmul.bf16.us"]))
        assert times[1, 2, 1] == pytest.approx(128 * 256 * 128 / 1e5, rel=0.05)  # the hole
        assert times[3, 3, 3] == pytest.approx(512**3 / 1e5, rel=0.001)
        assert tuple(archive["attention.fa2.2"]) == (64, 72)


def test_left_out_points_come_back_from_the_shipped_tables() -> None:
    """A fifth of the shapes, chosen by a hash; the accuracy page has all tables."""
    table = load_table("h100_sxm", "matmul.bf16")
    assert table is not None
    part = table.log_us[40:60, 6:16, 6:16]
    axes = [
        np.array(axis[low:high])
        for axis, (low, high) in zip(table.axes, ((40, 60), (6, 16), (6, 16)), strict=True)
    ]
    places = itertools.product(*(axis.tolist() for axis in axes))
    left_out = np.array([zlib.crc32(f"{m:.0f},{n:.0f},{k:.0f}".encode()) % 5 == 0 for m, n, k in places])
    left_out = left_out.reshape(part.shape)
    found = build_tables.complete("h100_sxm", "matmul.bf16", axes, np.where(left_out, np.nan, part))
    error = np.abs(np.exp(found - part) - 1.0)[left_out]
    assert left_out.sum() > 300
    assert np.median(error) < 0.03
    assert np.percentile(error, 90) < 0.10
