"""Whatever the file looks like: the same events, or one clear error."""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffprof.chrome_trace import stream
from diffprof.chrome_trace.events import (
    CallKind,
    CallPart,
    Trace,
    call_kind,
    copy_direction,
    kernel_family,
    parse_phase,
    phase_label,
)
from diffprof.chrome_trace.reader import read_trace
from diffprof.model.errors import UsageError
from tests.chrome_trace.generate import generate
from tests.chrome_trace.traces import call, frame, kernel, launch, note, op, span, write

EVENTS = [
    *launch(1, 100, 110, 20),
    *launch(2, 120, 130.5, 7.25),
    note("diffprof::denoise[0]", 90, 100),
    frame("a.py(3): f", 80, 200),
    op('odd "}, {" name ] \\ é', 160, 4),
]


def rows(trace: Trace) -> list[tuple[str, float, float]]:
    tables = (trace.ops, trace.calls, trace.work, trace.annotations, trace.frames)
    base = trace.origin_us
    return sorted(
        (trace.name(t, i), round(float(t.ts[i]) + base, 3), float(t.dur[i]))
        for t in tables
        for i in range(len(t))
    )


EXPECTED = sorted((e["name"], e["ts"], e["dur"]) for e in EVENTS)


def test_plain_and_gzip_read_the_same(tmp_path: Path) -> None:
    assert rows(read_trace(write(tmp_path / "a.json", EVENTS))) == EXPECTED
    assert rows(read_trace(write(tmp_path / "a.json.gz", EVENTS))) == EXPECTED


def test_a_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(gzip.compress(json.dumps({"traceEvents": EVENTS}).encode()))
    assert rows(read_trace(path)) == EXPECTED


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(EVENTS),
        json.dumps(EVENTS)[:-1],
        json.dumps(EVENTS)[:-1] + ",\n",
        "\ufeff" + json.dumps({"traceEvents": EVENTS}),
        json.dumps({"traceEvents": EVENTS, "traceName": "after"}, indent=3),
        json.dumps(
            {"a": '"traceEvents": [', "b": {"traceEvents": []}, "traceEvents": EVENTS, "c": [{"d": 1}]}
        ),
    ],
    ids=["array", "array without its end", "array with a comma", "BOM", "events first, indented", "decoys"],
)
def test_forms_of_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text, encoding="utf-8")
    trace = read_trace(path)
    assert rows(trace) == EXPECTED
    assert trace.truncated is None
    assert trace.damaged == 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(1, 900), indent=st.sampled_from([None, 1, 4]))
def test_chunks_of_any_size_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, indent: int | None
) -> None:
    path = tmp_path / "t.json"
    nested = span("cpu_op", "nest", 170, 1, inner=[{"a": 1}, {"b": [{"c": 2}, {"d": "}, {"}]}])
    text = json.dumps({"x": 1, "traceEvents": [*EVENTS, nested], "y": {"z": [{}, {}]}}, indent=indent)
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(stream, "CHUNK_BYTES", size)
    trace = read_trace(path)
    assert rows(trace) == sorted([*EXPECTED, ("nest", 170, 1)])
    assert trace.meta == {"x": 1, "y": {"z": [{}, {}]}}
    assert trace.truncated is None


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(60, 1400), size=st.integers(40, 400))
def test_a_cut_trace_is_read_as_far_as_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int, size: int
) -> None:
    data = json.dumps({"traceEvents": EVENTS}).encode()
    cut = min(cut, len(data) - 2)
    path = tmp_path / "t.json"
    path.write_bytes(data[:cut])
    monkeypatch.setattr(stream, "CHUNK_BYTES", size)
    whole = [event for event in EVENTS if json.dumps(event).encode() in data[:cut]]
    if not whole:
        with pytest.raises(UsageError, match="no events"):
            read_trace(path)
        return
    trace = read_trace(path)
    assert trace.truncated
    assert rows(trace) == sorted((e["name"], e["ts"], e["dur"]) for e in whole)


def test_a_cut_gzip_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json.gz", EVENTS * 300)
    path.write_bytes(path.read_bytes()[:-200])
    trace = read_trace(path)
    assert trace.truncated == "the gzip stream ends early"
    assert 0 < trace.events < len(EVENTS) * 300


def test_what_json_forbids_and_kineto_wrote(tmp_path: Path) -> None:
    text = json.dumps({"traceEvents": EVENTS})
    text = text.replace('"stream": 7', '"bandwidth": inf, "x": -nan, "stream": 7').replace(
        "a.py(3)", "a.py\t(3)"
    )
    path = tmp_path / "t.json"
    path.write_bytes(text.replace("\\u00e9", "é").encode("latin-1"))
    trace = read_trace(path)
    assert len(rows(trace)) == len(EVENTS)
    assert trace.damaged == 0
    assert trace.work.stream.tolist() == [7, 7]


def test_a_damaged_event_costs_only_itself(tmp_path: Path) -> None:
    text = json.dumps({"traceEvents": EVENTS})
    at = text.index('"ts": 130.5')
    path = tmp_path / "t.json"
    path.write_text(text[:at] + '"ts": oops' + text[at + len('"ts": 130.5') :])
    trace = read_trace(path)
    assert trace.damaged == 1
    assert len(rows(trace)) == len(EVENTS) - 1


def test_wrong_types_and_missing_fields(tmp_path: Path) -> None:
    odd = [
        {**call("cudaLaunchKernel", 1, 2, 5), "ts": "1.5"},
        {**kernel("k", 9, 2, 5), "dur": None},
        {"ph": "X", "cat": "kernel", "name": "no time"},
        {"ph": "X", "cat": "cpu_op", "ts": 3, "pid": "p", "tid": "t"},
        {**op("aten::add", 4, 1), "args": [1, 2]},
        {
            **kernel("huge", 20, 1),
            "args": {"stream": 2**70, "device": "0x0", "correlation": "17", "bytes": -1.5},
        },
        17,
    ]
    trace = read_trace(write(tmp_path / "t.json", odd))
    assert trace.damaged == 2
    assert trace.work.correlation.tolist() == [5, 17]
    assert trace.work.device.tolist() == [0, 0]
    assert trace.calls.ts[0] + trace.origin_us == 1.5
    assert trace.work.dur.tolist() == [0, 1]


def test_unsorted_events_are_sorted(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path / "t.json", EVENTS[::-1]))
    for table in (trace.ops, trace.calls, trace.work):
        assert (np.diff(table.ts) >= 0).all()
    assert rows(trace) == EXPECTED


def test_microseconds_since_1970_keep_their_decimals(tmp_path: Path) -> None:
    start = 1695835542514261
    text = json.dumps({"traceEvents": [op("a", 1, 2), op("b", 3, 4)]})
    path = tmp_path / "t.json"
    path.write_text(
        text.replace('"ts": 1', f'"ts": {start}.123').replace('"ts": 3', f'"ts": {start + 7}.129')
    )
    trace = read_trace(path)
    assert np.diff(trace.ops.ts).tolist() == pytest.approx([7.006], abs=1e-9)


def test_begin_and_end_pair_up(tmp_path: Path) -> None:
    def half(ph: str, name: str, ts: float) -> dict[str, object]:
        return {"ph": ph, "cat": "cpu_op", "name": name, "pid": 1, "tid": 1, "ts": ts}

    events = [
        half("B", "a", 1),
        half("B", "b", 2),
        half("E", "b", 5),
        half("E", "a", 9),
        half("B", "open", 10),
    ]
    trace = read_trace(write(tmp_path / "t.json", events))
    assert [(trace.name(trace.ops, i), trace.ops.dur[i]) for i in range(2)] == [("a", 8), ("b", 3)]
    assert trace.unclosed == 1


def test_arrows_link_what_has_no_correlation_id(tmp_path: Path) -> None:
    arrows = [
        {"ph": "s", "cat": "ac2g", "id": 4, "pid": 10, "tid": 10, "ts": 5.25},
        {"ph": "f", "cat": "ac2g", "id": 4, "pid": 0, "tid": 7, "ts": 11.5},
    ]
    trace = read_trace(
        write(tmp_path / "t.json", [call("cudaLaunchKernel", 5.25, 1), kernel("k", 11.5, 2), *arrows])
    )
    assert trace.calls.correlation.tolist() == [4]
    assert trace.work.correlation.tolist() == [4]


def test_frames_of_built_in_functions_are_left_out(tmp_path: Path) -> None:
    trace = read_trace(
        write(tmp_path / "t.json", [frame("a.py(1): f", 0, 9), frame("<built-in method x at 0x7f>", 1, 2)])
    )
    assert len(trace.frames) == 1
    assert not any("built-in" in name for name in trace.names)


def test_memory_is_a_chunk_and_the_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.json"
    facts = generate(path, 6_000_000)
    monkeypatch.setattr(stream, "CHUNK_BYTES", 1 << 17)
    tracemalloc.start()
    try:
        trace = read_trace(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.5 * path.stat().st_size
    assert trace.events == facts.events
    assert trace.work.dur.sum() == pytest.approx(facts.device_us)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"\x80\x04pickle", "is no trace: it starts with"),
        (b'{"traceEvents": []}', "holds no events"),
        (b'{"traceEvents": null}', "holds no events"),
        (b"[]", "holds no events"),
        (b'{"a": 1, "b": 2}', "no `traceEvents` beside a, b"),
        (b'{"a": 1, "b', "damaged before its first event"),
        (b'{"traceEvents": [{"ph": "X", "na', "holds no events: it ends in the middle"),
        (b'{"traceEvents": [{"ph": "X", "cat": "v8", "ts": 1, "dur": 2}]}', "event categories are v8"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (b"\x1f\x8bnonsense", "holds nothing readable"),
    ],
)
def test_what_is_no_trace_says_so(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        read_trace(path)
    assert what in caught.value.what
    assert str(path) in caught.value.what
    assert caught.value.hint


@pytest.mark.parametrize("place", ["missing.json", "."])
def test_what_cannot_be_opened_says_so(tmp_path: Path, place: str) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        read_trace(tmp_path / place)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cudaLaunchKernel", CallKind.LAUNCH),
        ("cudaLaunchKernelExC", CallKind.LAUNCH),
        ("cuLaunchKernelEx", CallKind.LAUNCH),
        ("cudaGraphLaunch", CallKind.LAUNCH),
        ("hipExtModuleLaunchKernel", CallKind.LAUNCH),
        ("hipModuleLaunchKernel", CallKind.LAUNCH),
        ("cudaMemcpyAsync", CallKind.COPY),
        ("cudaMemsetAsync", CallKind.COPY),
        ("cudaMemcpy", CallKind.BLOCKING_COPY),
        ("hipMemcpyWithStream", CallKind.BLOCKING_COPY),
        ("cuMemcpyDtoH_v2", CallKind.BLOCKING_COPY),
        ("cudaStreamSynchronize", CallKind.WAIT),
        ("cuStreamSynchronize_ptsz", CallKind.WAIT),
        ("hipDeviceSynchronize", CallKind.WAIT),
        ("cudaEventSynchronize", CallKind.WAIT),
        ("cudaFree", CallKind.FREE),
        ("cudaFreeAsync", CallKind.OTHER),
        ("cudaStreamWaitEvent", CallKind.OTHER),
        ("cudaEventQuery", CallKind.OTHER),
        ("cudaMalloc", CallKind.OTHER),
    ],
)
def test_runtime_calls(name: str, kind: CallKind) -> None:
    assert call_kind(name) is kind


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Memcpy HtoD (Pageable -> Device)", ("h2d", True)),
        ("Memcpy DtoH (Device -> Pinned)", ("d2h", False)),
        ("Memcpy HtoD (Host -> Device)", ("h2d", None)),
        ("Memcpy DtoD (Device -> Device)", ("d2d", None)),
        ("Memcpy PtoP (Device -> Device)", ("p2p", None)),
        ("Memset (Device)", ("set", None)),
    ],
)
def test_copies(name: str, expected: tuple[str, bool | None]) -> None:
    assert copy_direction(name) == expected


@pytest.mark.parametrize(
    ("name", "op_name", "family"),
    [
        ("void pytorch_flash::flash_fwd_kernel<...>", "", "attention"),
        ("fmha_cutlassF_f16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::Params)", "", "attention"),
        ("sm80_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc", "", "conv"),
        ("ampere_fp16_s16816gemm_fp16_128x128_ldg8", "", "gemm"),
        ("Cijk_Alik_Bljk_HHS_BH_MT64x64x32", "", "gemm"),
        ("void at::native::(anonymous namespace)::RowwiseMomentsCUDAKernel<c10::Half>", "", "norm"),
        ("void cudnn::ops::nchwToNhwcKernel<__half>", "", "copy"),
        ("void at::native::vectorized_elementwise_kernel<4, SiLU>", "", "pointwise"),
        ("triton_poi_fused_silu_0", "", "pointwise"),
        ("triton_red_fused_native_group_norm_1", "", "norm"),
        ("triton_tem_fused_addmm_gelu_3", "", "gemm"),
        ("triton_tem_fused_addmm_16", "", "gemm"),
        ("triton_mm", "", "gemm"),
        ("triton_poi_fused_addmm_gelu_7", "", "pointwise"),
        ("triton_poi_fused_convolution_silu_2", "", "pointwise"),
        ("triton_per_fused_mm_sum_4", "", "reduction"),
        ("triton_red_fused_addmm_native_layer_norm_5", "", "norm"),
        ("void cutlass::device_kernel<...f8f8bf16_rowwise...>", "", "gemm"),
        ("triton_tem_fused__scaled_mm_0", "", "gemm"),
        ("triton_tem_fused__int_mm_mul_1", "", "gemm"),
        ("triton_tem_fused_flex_attention_2", "", "attention"),
        ("triton_poi_fused__scaled_mm_1", "", "pointwise"),
        ("triton_red_fused__int_mm__to_copy_abs_amax_clamp_3", "", "reduction"),
        ("sm90_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize128x128x128_execute_kernel", "", "gemm"),
        ("nvjet_qqtst_128x128_128x6_1x2_h_bz_coopA_TNT", "", "gemm"),
        ("void marlin::Marlin<__nv_bfloat16, 256, 1, 8, 8, 4, 8>", "", "gemm"),
        ("void kDequantizeBlockwise<__nv_bfloat16, 512, 64, 8, 2>", "", "pointwise"),
        ("_kernel_quantize_fp8_row", "", "pointwise"),
        ("unknowable", "mslk::f8i4bf16_rowwise", "gemm"),
        ("unknowable", "mslk::bf16i4bf16_shuffled", "gemm"),
        ("unknowable", "mslk::f4f4bf16", "gemm"),
        ("unknowable", "aten::_scaled_grouped_mm_v2", "gemm"),
        ("unknowable", "aten::_scaled_mm", "gemm"),
        ("unknowable", "aten::addmm", "gemm"),
        ("unknowable", "aten::softmax", "reduction"),
        ("unknowable", "", "other"),
    ],
)
def test_families(name: str, op_name: str, family: str) -> None:
    assert kernel_family(name, op_name) == family


def test_every_template_of_inductor_has_its_family() -> None:
    """While it is tuned a template's kernel bears its name; fused, the operators'."""
    (root,) = importlib.util.find_spec("torch").submodule_search_locations  # type: ignore[union-attr]
    sources = [file.read_text() for file in Path(root).glob("_inductor/kernel/**/*.py")]
    names = {name for text in sources for name in re.findall(r'TritonTemplate\(\s*name="(\w+)"', text)}
    assert len(names) > 10
    for name in names:
        expected = "attention" if "flex" in name else "conv" if "conv" in name else "gemm"
        assert kernel_family(f"triton_{name}_4") == expected, name


@given(
    st.builds(
        CallPart,
        st.sampled_from(["encode", "denoise"]),
        st.none() | st.integers(0, 999),
        st.none() | st.sampled_from(["denoiser", "scheduler"]),
        st.none() | st.sampled_from(["prepare", "denoise.predict"]),
    )
)
def test_phase_labels_round_trip(phase: CallPart) -> None:
    assert parse_phase(phase_label(phase)) == phase
