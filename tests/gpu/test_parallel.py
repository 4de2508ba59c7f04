"""Several GPUs: what one of them launches, and what its collectives take."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from diffusers import ContextParallelConfig

from diffprof.gpu.assembly import Call, assembled
from diffprof.gpu.cost import CostModel
from diffprof.gpu.hosts import chosen_host
from diffprof.gpu.mode import Mode
from diffprof.gpu.nccl import collective_us, table_of
from diffprof.gpu.offload import ModelWeights
from diffprof.gpu.parallel import (
    ASKED,
    CHUNK_OPS,
    COLLECTIVE_OPS,
    MODES,
    SHARE_OPS,
    Split,
    heads_left,
    held_by_ring,
    split_call,
    token_counts,
)
from diffprof.gpu.pricing import Origin
from diffprof.gpu.signatures import OpSignature
from diffprof.gpu.specs import load_spec
from diffprof.model.errors import UsageError
from diffprof.model.prediction import Prediction
from diffprof.scanning.fitting import Played
from diffprof.scanning.parallel import _row, predict_parallel
from diffprof.scanning.recipes import Decoding
from diffprof.targets import Options
from tests.devices.simulated.signatures import attention, meta, op

H100 = load_spec("h100")
LINEAR = op("linear", [meta(1, 4096, 3072), meta(3072, 3072)], meta(1, 4096, 3072))
ATTENTION = attention(24, 4096, 4096, 128)
CALL = Call(
    [LINEAR, ATTENTION, LINEAR], ["dit.to_q", "dit.attn", "vae.to_q"], [(0, "denoise", 0, "denoiser", None)]
)


def launched(split: Split) -> list[tuple[str, tuple[int, ...]]]:
    made = split_call(CALL, ("dit",), split)
    return [
        (item.name.removeprefix("aten::"), tuple(item.inputs[0].shape))
        for item in made.items
        if isinstance(item, OpSignature)
    ]


def test_tokens_are_told_from_features() -> None:
    wide = op("linear", [meta(1, 512, 4096), meta(3072, 4096)], meta(1, 512, 3072))
    call = Call([*CALL.items, wide], [*CALL.modules, "dit.text"], CALL.phases)
    assert token_counts(call, ("dit",)) == {4096, 512}
    made = split_call(call, ("dit",), Split(ulysses=4))
    assert made.items[-1].inputs[0].shape == (1, 128, 4096)
    assert made.items[-1].inputs[1].shape == (3072, 4096)


def test_text_that_is_not_divided_is_whole_and_attended_to_without_sending() -> None:
    """As Wan's `_cp_plan` has it."""
    wide = op("linear", [meta(1, 512, 4096), meta(3072, 4096)], meta(1, 512, 3072))
    items, modules = (
        [*CALL.items, wide, attention(24, 4096, 512, 128)],
        [*CALL.modules, "dit.text", "dit.cross"],
    )
    call = Call(items, modules, CALL.phases)
    assert token_counts(call, ("dit",), text=False) == {4096}
    for split in (Split(ulysses=4), Split(ring=4)):
        made = split_call(call, ("dit",), split, text=False)
        assert made.items[-2] is wide
        assert [each.shape[-2] for each in made.items[-1].inputs[:3]] == [1024, 512, 512]
        assert held_by_ring(call, ("dit",), split, text=False)[-1] == 0
        assert len(made.items) < len(split_call(call, ("dit",), split).items)


def test_heads_that_can_not_be_divided_are_told() -> None:
    """As Wan 2.1 1.3B's on eight GPUs."""
    call = Call([attention(12, 4096, 4096, 128)], ["dit.attn"], CALL.phases)
    left = [
        heads_left(call, ("dit",), split) for split in (Split(ulysses=4), Split(ulysses=8), Split(ring=8))
    ]
    assert left == [0, 12, 0]
    row = split_row(call, Split(ulysses=8))
    assert row.seconds
    assert row.why == "12 heads can't be divided by 8: with ulysses_anything=True"


def split_row(call: Call, split: Split, *, text: int = 512) -> Prediction:
    parts = (ModelWeights("dit", "denoiser", (), (), {}),)
    divided = frozenset({("hidden_states", 4096), ("encoder_hidden_states", text)})
    calls = {Decoding.WHOLE: (call, [0] * len(call.items))}
    return _row(
        Played(calls, parts, None, compilable=True, images=1, divided=divided),
        CostModel(H100),
        "eager",
        split,
    )


def test_tokens_that_can_not_be_divided_are_told_with_what_deals_them_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Qwen-Image's text: diffusers asserts that each divided input divides; its `_anything` takes one of
    any length, and knows none for a ring of several."""
    left = "19 text tokens can't be divided by 4"
    assert split_row(CALL, Split(ulysses=4)).why == ""
    for split in (Split(ulysses=4), Split(ring=4)):
        even, odd = split_row(CALL, split), split_row(CALL, split, text=19)
        assert odd.why == f"{left}: with {split.name}_anything=True"
        assert (odd.seconds or 0) > (even.seconds or 0)
    refused = split_row(CALL, Split(2, 2), text=19)
    assert (refused.seconds, refused.fits, refused.why) == (None, False, f"{left}: diffusers raises")
    monkeypatch.delattr(ContextParallelConfig, "ring_anything")
    assert split_row(CALL, Split(ring=4), text=19).why == f"{left}: diffusers raises"


def test_shares_of_unequal_size_are_asked_for_before_they_are_sent() -> None:
    """`gather_size_by_comm`: before each of the four exchanges of Ulysses, once in a ring."""
    for split, times in ((Split(ulysses=4), 4), (Split(ring=4), 1)):
        even, odd = (split_call(CALL, ("dit",), each) for each in (split, split._replace(anything=True)))
        waits = [n for n, item in enumerate(odd.items) if item == ASKED]
        assert len(waits) == times
        assert all(odd.items[n - 1].name == "aten::all_gather" for n in waits)
        assert len(odd.items) == len(even.items) + 2 * times


def test_ulysses_shares_heads_and_sends_four_times() -> None:
    found = launched(Split(ulysses=4))
    assert found[0] == ("linear", (1, 1024, 3072))
    assert found[-1] == ("linear", (1, 4096, 3072))
    assert [name for name, _ in found].count("alltoall") == 4
    assert ("scaled_dot_product_attention", (2, 6, 4096, 128)) in found
    assert ("alltoall", (2, 24, 1024, 128)) in found


def test_a_ring_gathers_once_and_merges_each_turn() -> None:
    found = launched(Split(ring=4))
    names = [name for name, _ in found]
    assert names.count("all_gather") == 1
    assert names.count("scaled_dot_product_attention") == 4
    assert names.count("_to_copy") == 5  # each turn's to float32, the result back
    assert names.count("clone") == 4 * 5  # query, keys, values; result and log-sum-exp
    assert names.count("sigmoid") == names.count("log_sigmoid_forward") == 3
    assert names.count("sub") == 3 * 5
    assert ("scaled_dot_product_attention", (2, 24, 1024, 128)) in found
    assert [name for name, _ in launched(Split(2, 2))].count("alltoall") == 4


def test_a_ring_holds_the_keys_and_values_of_all() -> None:
    """`kv_buffer` of TemplatedRingAttention: two of 2 x 24 x 4096 x 128, and four results in float32."""
    all_keys, share = 2 * 24 * 4096 * 128, 2 * 24 * 1024 * 128
    assert held_by_ring(CALL, ("dit",), Split(ring=4)) == [0, 2 * 2 * all_keys + 4 * 4 * share, 0]
    assert held_by_ring(CALL, ("dit",), Split(2, 2)) == [0, 2 * 2 * all_keys // 2 + 4 * 4 * share, 0]
    assert held_by_ring(CALL, ("dit",), Split(ulysses=4)) == [0, 0, 0]
    call, parts = (CALL, [0, 1 << 30, 0]), (ModelWeights("dit", "denoiser", (), (), {}),)
    played = Played({Decoding.WHOLE: call}, parts, None, compilable=True, images=1)
    ulysses, ring = (
        (_row(played, CostModel(H100), "eager", split).peak_gib or 0) * 2**30
        for split in (Split(ulysses=4), Split(ring=4))
    )
    assert (ulysses, ring - ulysses) == (2**28, 4 * all_keys + 16 * share)
    small = replace(H100, capacity_gib=0.2)
    assert _row(played, CostModel(small), "eager", Split(ulysses=4)).why == (
        "does not fit: 0.0 GiB more than the 0.2 there are"
    )


def test_collectives_grow_with_bytes_and_are_never_fused() -> None:
    times = [collective_us(H100, "alltoall", 4, size)[0] for size in (1 << 10, 1 << 20, 1 << 26, 1 << 32)]
    assert times == sorted(times)
    assert times[-1] / times[-2] == pytest.approx(64, rel=0.2)
    assert 0.4 < 3 / 4 * (1 << 26) / times[2] / 450e3 < 1.0  # of NVLink's 450 GB/s
    compiled = CostModel(H100, Mode(compiled=("dit",), graphs=False))
    timeline = assembled(split_call(CALL, ("dit",), Split(ulysses=2)), compiled)
    assert sum(timeline.kinds[kind].name == "alltoall" for kind in timeline.kind if kind >= 0) == 4


@pytest.mark.parametrize("compiled", [(), ("dit",)])
def test_a_collective_keeps_the_host_and_in_eager_mode_so_does_what_it_gathered(
    compiled: tuple[str, ...],
) -> None:
    model = CostModel(H100, Mode(compiled=compiled, graphs=False))

    def spent(split: Split, **scalars: int) -> float:
        """Host time of that many of these operations, in those of any."""
        made = split_call(CALL, ("dit",), split)
        plain = [
            replace(item, scalars={**item.scalars, **scalars}) if isinstance(item, OpSignature) else item
            for item in made.items
        ]
        calls = (made, Call(plain, made.modules, made.phases))
        most, least = (sum(assembled(call, model).host_us) for call in calls)
        return (most - least) / chosen_host().op_us

    assert spent(Split(ulysses=2), host_ops=0) == pytest.approx(4 * COLLECTIVE_OPS)
    shares = 0 if compiled else 3 * 2 * (SHARE_OPS - 1) + CHUNK_OPS
    assert spent(Split(ring=4), eager_ops=0) == pytest.approx(shares)
    assert spent(Split(ulysses=4), eager_ops=0) == 0


@pytest.mark.nightly
def test_what_it_takes_to_cut_a_share_out_of_what_was_gathered() -> None:
    """In a process of its own: as many operations as are told, on this machine, within a half."""
    told = subprocess.run(
        [sys.executable, "-c", _CUTTING], capture_output=True, text=True, check=True, timeout=600
    )
    share, chunk, plain = map(float, told.stdout.split()[-3:])
    assert share == pytest.approx(SHARE_OPS, rel=0.5)
    assert chunk == pytest.approx(CHUNK_OPS, rel=0.5)
    assert plain < 3


_CUTTING = """
import time, warnings, torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from torch.testing._internal.distributed.fake_pg import FakeStore
from diffprof.gpu.this_host import measured_op_us
warnings.simplefilter("ignore")
torch.set_num_threads(1)
dist.init_process_group("fake", rank=0, world_size=4, store=FakeStore())
key = torch.ones(1, 8, 8, 8, dtype=torch.bfloat16)
kv = torch.cat([key.flatten(), key.flatten()])
gathered = funcol.all_gather_tensor(kv, gather_dim=0, group=dist.group.WORLD)
def share(of):
    return of[: key.numel()].reshape_as(key).transpose(1, 2).contiguous()
def least(call):
    best = 1.0
    for _ in range(2000):
        before = time.thread_time()
        call()
        best = min(best, time.thread_time() - before)
    return best
one = gathered.chunk(4)[1]
with torch.no_grad():
    found = [least(call) for call in (lambda: share(one), lambda: gathered.chunk(4), lambda: share(kv))]
op = measured_op_us(3.0) / 1e6
print(*(each / op for each in found), flush=True)
"""


def test_whose_table_holds() -> None:
    assert table_of(H100) == ("h100_sxm", Origin.MEASURED, 1.0)
    assert table_of(load_spec("h800")) == ("h100_sxm", Origin.SIBLING, 1.0)
    assert table_of(load_spec("l40s")) == ("l40s", Origin.MEASURED, 1.0)
    with pytest.raises(UsageError, match="measured neither on"):
        table_of(load_spec("v100"))
    with pytest.raises(UsageError, match="3 GPUs was not measured"):
        collective_us(H100, "alltoall", 3, 1.0)
    assert MODES["unified"](2) is None


def test_boards_that_share_pcie_alone_take_the_times_of_a_measured_one() -> None:
    """An RTX 4090's link is half of an RTX PRO 6000's; an H100 for PCIe has no part in NVLink."""
    for name, scale in (("rtx4090", 2.0), ("t4", 4.0), ("h100-pcie", 1.0)):
        expected = ("rtx_pro_6000_server", Origin.MODELLED, pytest.approx(scale, rel=0.02))
        assert table_of(load_spec(name)) == expected
    measured, _ = collective_us(load_spec("rtx-pro-6000"), "alltoall", 4, 1 << 24)
    assert collective_us(load_spec("t4"), "alltoall", 4, 1 << 24) == (4 * measured, Origin.MODELLED)
    assert measured > 3 * collective_us(H100, "alltoall", 4, 1 << 24)[0]


@pytest.mark.slow
def test_rows_for_each_degree_and_way() -> None:
    rows = predict_parallel("tiny-flux", gpus=(2, 4), steps=3)
    assert [(row.gpus, row.parallel) for row in rows] == [
        (1, None),
        (2, "ulysses"),
        (2, "ring"),
        (4, "ulysses"),
        (4, "ring"),
        (4, "unified"),
    ]
    assert all(row.seconds and row.images_per_s == 1 / row.seconds for row in rows)
    assert {row.makes for row in rows} == {"image"}
    assert all(row.range and row.range[0] < (row.seconds or 0) and row.bound for row in rows)
    odd = predict_parallel("tiny-flux", gpus=(4,), steps=3, options=Options(call={"max_sequence_length": 30}))
    assert [row.why.partition(":")[0] for row in odd[1:]] == ["30 text tokens can't be divided by 4"] * 3
    with pytest.raises(UsageError, match="number of GPUs 3"):
        predict_parallel("tiny-flux", gpus=(3,))
    with pytest.raises(UsageError, match=r"no plan .* to divide the tokens of UNet2DConditionModel"):
        predict_parallel("tiny-sdxl", gpus=(2,), steps=3)
