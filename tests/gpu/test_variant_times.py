"""The lengths that variants of a call are told by are those of its timeline."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

import pytest

from diffprof.gpu import assembly
from diffprof.gpu.assembly import Assembly, Call, LaunchedWait, Queue, assembled, stretches
from diffprof.gpu.cost import CostModel
from diffprof.gpu.mode import Mode
from diffprof.gpu.specs import load_spec
from diffprof.gpu.variant_times import VariantTimes
from diffprof.judge.timeline import Without, events_of_syncs, total_us
from tests.devices.simulated.signatures import add, linear, meta, op

A100 = load_spec("a100-80gb")
OPS = [linear(4096, 1280, 1280), add(64, 64), add(4096, 5120), linear(16, 320, 320)]
DOWNLOAD = op("_to_copy", [meta(64)], meta(64, device="cpu"), direction="d2h", nbytes=128)
ROWS = {"read": 0, "copy": 1}


def call_of(seed: int) -> Call:
    draw = random.Random(seed)
    items, modules, phases = [], [], []
    for step in range(3):
        phases.append((len(items), "denoise", step, "denoiser", None))
        for n in range(draw.randint(1, 60)):
            items.append(draw.choice(OPS))
            modules.append(f"unet.blocks.{n % 3}")
        phases.append((len(items), "denoise", step, "scheduler", None))
        items += [
            OPS[1],
            LaunchedWait("read", draw.randint(1, 2)),
            DOWNLOAD,
            LaunchedWait("copy", 1),
            DOWNLOAD,
        ]
        modules += [None] * 5
    return Call(items, modules, phases)


def length(call: Call, parts: Assembly, times: VariantTimes, waits: set[int], reads: set[int]) -> float:
    return times.total_us(parts.columns(stretches(call)), frozenset(waits), frozenset(reads))


@pytest.mark.parametrize("mode", [Mode(), Mode(compiled=("unet",)), Mode(compiled=("unet",), graphs=False)])
@pytest.mark.parametrize("limit", [3, 20, 1024])
def test_a_call_is_as_long_as_its_timeline(mode: Mode, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "PENDING_LIMIT", limit)
    model = CostModel(replace(A100, launch_latency_us=3.0, sync_latency_us=7.0), mode)
    for seed in range(12):
        call = call_of(seed)
        timeline = assembled(call, model, ROWS)
        parts = Assembly(model, Queue(mode.compiled, model.host, ROWS))
        told = partial(length, call, parts, VariantTimes(parts))

        assert told(set(), set()) == pytest.approx(total_us(timeline), rel=1e-9)
        waits = Without(waits=frozenset({0, 1}))
        assert told({0, 1}, set()) == pytest.approx(total_us(timeline, waits), rel=1e-9)
        events = Without(waits=frozenset({0}), events=frozenset(events_of_syncs(timeline, [0])))
        assert told({0}, {0}) == pytest.approx(total_us(timeline, events), rel=1e-9)
        assert told({0, 1}, set()) < told(set(), set())
