from __future__ import annotations

import subprocess
import sys

import pytest

from diffprof.gpu.specs import GpuSpec, load_spec, spec_names, spec_of_device
from diffprof.model.errors import UsageError

EXPECTED = {
    "a10", "a100-40gb", "a100-80gb", "a100-pcie-80gb", "a100-sxm-40gb", "a10g", "a5000", "a6000", "b200",
    "gb200",
    "h100", "h100-nvl", "h100-pcie", "h20", "h200", "h800", "l20", "l4", "l40", "l40s", "mi300x",
    "rtx-pro-6000",
    "rtx2080ti", "rtx3090", "rtx4080", "rtx4090", "rtx5090", "t4", "v100",
}  # fmt: skip
FIGURES = {
    "peak",
    "bandwidth",
    "memory",
    "sms",
    "l2",
    "power",
    "link",
    "launch_latency",
    "sync_latency",
    "achievable",
    "achievable_fp32",
    "clock",
}


def test_all_gpus_are_there() -> None:
    assert set(spec_names()) >= EXPECTED


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_sheet_is_complete_and_every_figure_has_a_source(name: str) -> None:
    spec = load_spec(name)
    measured = {"attention"} if spec.flash2 or spec.efficient else set()
    measured |= {name for name, found in (("ramp", spec.ramp_us), ("rates", spec.rates)) if found}
    assert set(spec.sources) == FIGURES | measured
    assert all(source.strip() for source in spec.sources.values())
    assert spec.flops("fp16") >= spec.flops("fp32") > 1e12
    assert spec.flops("fp8") >= spec.flops("bf16")  # no units: the next wider type's speed
    assert spec.memory_bytes > 10 * 1024**3
    assert 0 < spec.launch_latency_us < 20
    assert spec.link_bytes_per_us < spec.bytes_per_us


def test_a_type_without_units_falls_back_to_the_next_wider() -> None:
    t4 = load_spec("t4")
    assert t4.flops("bf16") == t4.flops("tf32") == t4.flops("fp32") == 8.1e12
    assert load_spec("a100-80gb").flops("fp8") == 312e12


def test_sim_prefix_and_case_are_accepted() -> None:
    assert load_spec("sim:A100-80GB") == load_spec("a100-80gb")


@pytest.mark.parametrize(
    ("wrong", "near"), [("a100", "sim:a100-80gb"), ("rtx-4090", "sim:rtx4090"), ("h1000", "sim:h100")]
)
def test_a_wrong_name_says_what_was_meant(wrong: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_spec(wrong)
    assert near in caught.value.hint
    assert repr(wrong) in caught.value.what


def test_nothing_close_still_lists_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        load_spec("")
    assert "a100-80gb" in caught.value.hint
    assert "Did you mean" not in caught.value.hint


def test_specs_are_read_without_torch() -> None:
    code = (
        "import sys; from diffprof.gpu.specs import load_spec; load_spec('h100'); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_h200_is_an_h100_with_other_memory() -> None:
    h100, h200 = load_spec("h100"), load_spec("h200")
    assert isinstance(h200, GpuSpec)
    assert h100.peak == h200.peak
    assert h200.bandwidth_gb_s > h100.bandwidth_gb_s


@pytest.mark.parametrize(
    ("name", "gib", "key"),
    [
        ("NVIDIA A100-SXM4-80GB", 80, "a100-80gb"),
        ("NVIDIA A100-SXM4-40GB", 40, "a100-sxm-40gb"),
        ("NVIDIA A100-PCIE-40GB", 40, "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", 80, "a100-pcie-80gb"),
        ("NVIDIA A100-PG509-200", None, "a100-sxm-40gb"),
        ("NVIDIA H100 PCIe", 80, "h100-pcie"),
        ("NVIDIA H100 NVL", 94, "h100-nvl"),
        ("NVIDIA H100 80GB HBM3", 80, "h100"),
        ("NVIDIA L4", 24, "l4"),
        ("NVIDIA L40S", 48, "l40s"),
        ("NVIDIA GeForce RTX 4090", 24, "rtx4090"),
        ("Tesla V100-SXM2-32GB", 32, "v100"),
        ("AMD Instinct MI300X", 192, "mi300x"),
        ("NVIDIA L40", 48, "l40"),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", 10, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16, None),
        ("NVIDIA GeForce RTX 4090 D", 24, None),
        ("NVIDIA GeForce RTX 3090 Ti", 24, None),
        ("NVIDIA GH200 480GB", 96, None),
        ("NVIDIA H100 80GB HBM3", 40, None),
        ("AMD Radeon Graphics", None, None),
        ("no GPU events", None, None),
    ],
)
def test_a_real_device_has_its_data_sheet(name: str, gib: int | None, key: str | None) -> None:
    found = spec_of_device(name, gib and gib << 30)
    assert (found and found.key) == key


@pytest.mark.parametrize("processors", [None, 132, 114, 16])
def test_a_part_of_a_chip_is_not_the_chip(processors: int | None) -> None:
    """A slice keeps the name of its GPU where the driver is asked for the parent: its processors tell."""
    found = spec_of_device("NVIDIA H100 80GB HBM3", 80 << 30, processors)
    assert (found is not None) == (processors in (None, 132))


def test_a_sibling_has_tables() -> None:
    for name in spec_names():
        sibling = load_spec(name).sibling
        assert sibling is None or sibling.tables is not None


def test_half_rate_tensor_cores_are_told_by_the_sheet() -> None:
    """GeForce boards and those cut down like them sum 16-bit products at half rate."""
    half = {name for name in spec_names() if load_spec(name).half_rate}
    assert half >= {"rtx2080ti", "rtx3090", "rtx4080", "rtx4090", "rtx5090"}
    assert not half & {"a100-80gb", "h100", "l40s", "a6000", "t4", "v100", "b200"}
